// Directories as POSIX sees them: look-up, creation, links, removal, renaming, listing.
#include <sys/stat.h>

#include <algorithm>
#include <bit>

#include "engine/check.h"
#include "engine/pool.h"
#include "engine/volume.h"
#include "engine/volume_state.h"

namespace daxcow {

using format::InodeRecord;
using format::LeafKind;
using State = Volume::State;

namespace {

constexpr std::uint32_t kMaximumLinks = 1u << 31;
constexpr std::uint8_t type_bits(std::uint32_t mode) { return static_cast<std::uint8_t>((mode & S_IFMT) >> 12); }

Result<> check_name(std::string_view name) {
  if (name.empty() || name == "." || name == "..") return fail(ErrorCode::kInvalid);
  if (name.size() > format::kMaximumNameBytes) return fail(ErrorCode::kNameTooLong);
  if (name.find('/') != std::string_view::npos || name.find('\0') != std::string_view::npos) return fail(ErrorCode::kInvalid);
  return {};
}

// The user's inodes: what is reserved has no name and cannot be reached.
bool reserved(InodeNumber inode) { return inode < format::kFirstInode && inode != format::kRootInode; }

// A directory that is still part of the tree.
Result<InodeRecord*> edit_directory(State& state, Transaction& transaction, InodeNumber inode) {
  InodeRecord* record = TRY(state.table.edit(transaction, inode));
  if (!is_directory(*record)) return fail(ErrorCode::kNotDirectory);
  if (record->link_count == 0) return fail(ErrorCode::kNotFound);
  return record;
}

void touch(State& state, Transaction& transaction, InodeState& directory, InodeRecord& record, Timestamp now) {
  state.take_times(transaction, directory, record);
  set_time(record, kModification, now);
  set_time(record, kChange, now);
}

// The inode at `inode` has lost a name. Its own record is at hand; an orphan is listed when nothing names it any more.
struct Removal {
  InodeNumber inode;
  bool last_name = false;
  State::OrphanChange orphan;
};

Result<Removal> drop_name(State& state, Transaction& transaction, InodeNumber inode, InodeNumber directory, DirectoryPosition position,
                          Timestamp now) {
  InodeRecord* record = TRY(state.table.edit(transaction, inode));
  if (record->link_count == 0) return fail(ErrorCode::kDamaged, "a directory entry leads to an inode without links");
  if (const auto held = state.inodes.find(inode)) state.take_times(transaction, *held, *record);
  TRY(state.remove_parent(transaction, *record, directory, position));
  record->link_count = is_directory(*record) ? 0 : record->link_count - 1;
  set_time(*record, kChange, now);
  Removal removal{inode, record->link_count == 0, {}};
  if (removal.last_name) removal.orphan = TRY(state.add_orphan(transaction, inode));
  return removal;
}

// After the commit: nobody holds it, so it goes at once; otherwise forget() or the next mount does it.
void finish_removal(State& state, const Removal& removal) {
  if (!removal.last_name || state.inodes.is_remembered(removal.inode)) return;
  (void)state.reclaim({&removal.inode, 1});
}

class TwoLocks {  // of two inodes, which may be the same, in ascending order
 public:
  TwoLocks(InodeState& a, InodeState& b) {
    InodeState* first = a.number <= b.number ? &a : &b;
    InodeState* second = first == &a ? &b : &a;
    first_ = std::unique_lock(first->lock);
    if (first != second) second_ = std::unique_lock(second->lock);
  }

 private:
  std::unique_lock<SharedMutex> first_, second_;
};

}  // namespace

// --- index -------------------------------------------------------------------------------------------------------------

void State::charge_index(InodeState& state) {
  const std::uint64_t bytes = state.index->memory_bytes();
  state.index_total = &services.index_bytes;
  services.index_bytes += bytes - state.index_charged;
  state.index_charged = bytes;
  if (services.index_bytes.load() <= services.directory_bytes) return;
  for (const auto& other : inodes.all()) {
    if (services.index_bytes.load() <= services.directory_bytes) return;
    // Those that nobody is using now.
    if (other.get() == &state || !other->lock.try_lock()) continue;
    services.index_bytes -= other->index_charged;
    other->index_charged = 0;
    other->index.reset();
    other->lock.unlock();
  }
}

Result<std::shared_ptr<DirectoryIndex>> State::index_of(InodeState& state) {
  const LockGuard guard(state.index_mutex);
  if (!state.index) {
    state.index = TRY(store.read_consistent([&](BlockReader& reader) -> Result<std::shared_ptr<DirectoryIndex>> {
      const InodeRecord record = TRY(table.read(reader, state.number));
      if (!is_directory(record)) return fail(ErrorCode::kNotDirectory);
      return DirectoryIndex::build(reader, record);
    }));
    charge_index(state);
  }
  return state.index;
}

// --- look-up and listing -----------------------------------------------------------------------------------------------

Result<Attributes> Volume::lookup(InodeNumber directory, std::string_view name) {
  State& state = *state_;
  if (name.size() > format::kMaximumNameBytes) return fail(ErrorCode::kNameTooLong);
  const State::Operation operation(state);
  if (name == "." || name == "..") {
    if (reserved(directory)) return fail(ErrorCode::kStale);
    InodeRecord record = TRY(state.read_record(directory));
    if (name == "..") {
      if (!is_directory(record)) return fail(ErrorCode::kNotDirectory);
      if (directory != format::kRootInode) directory = InodeNumber(record.parent);
    }
    return state.attributes_of(directory);
  }
  const auto held = state.inodes.get(directory);
  const std::shared_lock lock(held->lock);
  const auto index = TRY(state.index_of(*held));
  const InodeNumber inode = TRY(state.store.read_consistent([&](BlockReader& reader) -> Result<InodeNumber> {
    const InodeRecord parent = TRY(state.table.read(reader, directory));
    if (!is_directory(parent)) return fail(ErrorCode::kNotDirectory);
    const auto found = TRY(find_entry(reader, parent, *index, name));
    if (!found) return fail(ErrorCode::kNotFound);
    return found->inode;
  }));
  auto attributes = state.attributes_of(inode);  // its name cannot go: that needs the directory's lock
  if (!attributes && attributes.error().code == ErrorCode::kStale) return fail(ErrorCode::kDamaged, "a directory entry leads nowhere");
  return attributes;
}

Result<> Volume::read_directory(InodeNumber directory, std::uint64_t cookie, const std::function<bool(const DirectoryItem&)>& visit,
                                AccessTime access_time) {
  State& state = *state_;
  const State::Operation operation(state);
  const auto held = state.inodes.get(directory);
  const std::shared_lock lock(held->lock);
  // Cookies: 1 is ".", 2 is "..", then position + 3.
  constexpr std::uint64_t kFirstEntryCookie = 3;
  const InodeRecord record = TRY(state.read_record(directory));
  if (!is_directory(record)) return fail(ErrorCode::kNotDirectory);
  state.note_access(*held, record, access_time);
  if (cookie < 1 && !visit({".", directory, S_IFDIR, 1})) return {};
  const InodeNumber parent = directory == format::kRootInode || record.parent == 0 ? directory : InodeNumber(record.parent);
  if (cookie < 2 && !visit({"..", parent, S_IFDIR, 2})) return {};

  // One block at a time: what is visited is copied out of a consistent look, and the visitor runs outside of it.
  struct Entry {
    std::string name;
    InodeNumber inode;
    std::uint32_t type;
    std::uint64_t cookie;
  };
  DirectoryPosition next = cookie < kFirstEntryCookie ? 0 : cookie - kFirstEntryCookie + 1;
  const std::uint64_t blocks = TRY(directory_blocks(record));
  while (block_of(next).value < blocks) {
    std::vector<Entry> entries;
    FileBlock next_block;
    TRY(state.store.read_consistent([&](BlockReader& reader) -> Result<> {
      entries.clear();
      const InodeRecord now = TRY(state.table.read(reader, directory));
      const Fork fork = data_fork(now, LeafKind::kDirectory);
      const MapEntry at = TRY(entry_at(reader, fork, block_of(next)));
      next_block = block_of(next) + 1;
      if (!at.present()) {  // a hole may be long
        const Segment hole = TRY(first_segment(reader, fork, {block_of(next), blocks - block_of(next).value}));
        next_block = std::max(next_block, hole.range.end());
        return {};
      }
      const BlockPtr block = TRY(reader.read(at.block(), format::BlockType::kDirectory));
      const std::uint64_t base = block_of(next).value * format::kGranulesPerBlock;
      TRY(for_each_entry(*block, next % format::kGranulesPerBlock,
                         [&](std::uint64_t granule, const format::DirectoryEntry& entry, std::string_view name) {
                           entries.push_back({std::string(name), InodeNumber(entry.inode), static_cast<std::uint32_t>(entry.type) << 12,
                                              base + granule + kFirstEntryCookie});
                           return true;
                         }));
      // There are none, but in a hostile image the same one may be there again and again.
      if (entries.empty() && next % format::kGranulesPerBlock == 0) return fail(ErrorCode::kDamaged, "a directory block is empty");
      return {};
    }));
    for (const Entry& entry : entries)
      if (!visit({entry.name, entry.inode, entry.type, entry.cookie})) return {};
    next = next_block.value * format::kGranulesPerBlock;
  }
  return {};
}

Result<std::string> Volume::read_link(InodeNumber inode, AccessTime access_time) {
  State& state = *state_;
  const State::Operation operation(state);
  InodeRecord record;
  auto target = state.store.read_consistent([&](BlockReader& reader) -> Result<std::string> {
    record = TRY(state.table.read(reader, inode));
    if (!S_ISLNK(record.mode)) return fail(ErrorCode::kInvalid);
    if (record.flags & static_cast<std::uint32_t>(format::InodeFlag::kInlineSymlink)) {
      if (record.size_bytes > sizeof record.data) return fail(ErrorCode::kDamaged);
      return std::string(reinterpret_cast<const char*>(record.data.data()), record.size_bytes);
    }
    if (record.size_bytes > kBlockBytes) return fail(ErrorCode::kDamaged);
    const MapEntry at = TRY(entry_at(reader, data_fork(record, LeafKind::kSymlink), FileBlock(0)));
    if (!at.present()) return fail(ErrorCode::kDamaged);
    const BlockPtr block = TRY(reader.read(at.block(), format::BlockType::kSymlink));
    return std::string(reinterpret_cast<const char*>(block->bytes), record.size_bytes);
  });
  if (target) state.note_access(*state.inodes.get(inode), record, access_time);
  return target;
}

// --- creation ----------------------------------------------------------------------------------------------------------

namespace {

Result<> write_symlink(State& state, Transaction& transaction, InodeRecord& record, std::string_view target) {
  record.size_bytes = target.size();
  if (target.size() <= sizeof record.data) {
    record.flags |= static_cast<std::uint32_t>(format::InodeFlag::kInlineSymlink);
    std::copy(target.begin(), target.end(), reinterpret_cast<char*>(record.data.data()));
    return {};
  }
  Block* block = TRY(edit_leaf(transaction, edit_data_fork(record, LeafKind::kSymlink), FileBlock(0), state.services.graveyard));
  std::copy(target.begin(), target.end(), reinterpret_cast<char*>(block->bytes));
  return {};
}

// Fills the free inode `made`, which belongs to the transaction already. It gets its name, and its link to that, by the caller.
Result<InodeRecord*> make_inode(State& state, Transaction& transaction, InodeNumber made, const NewInode& wanted, const InodeRecord& parent,
                                Timestamp now) {
  InodeRecord* record = TRY(state.table.occupy(transaction, made));
  record->mode = wanted.mode;
  record->uid = wanted.uid;
  record->gid = wanted.gid;
  if (parent.mode & S_ISGID) {
    record->gid = parent.gid;
    if (S_ISDIR(wanted.mode)) record->mode |= S_ISGID;
  }
  record->link_count = S_ISDIR(wanted.mode) ? 2 : 1;
  record->device = S_ISBLK(wanted.mode) || S_ISCHR(wanted.mode) ? wanted.device : 0;
  record->generation = TRY(next_generation(transaction));
  for (const TimeIndex which : {kAccess, kModification, kChange, kBirth}) set_time(*record, which, now);
  if (S_ISLNK(wanted.mode)) TRY(write_symlink(state, transaction, *record, wanted.symlink_target));
  TRY(state.table.note_used(transaction, made));
  return record;
}

Result<Attributes> create_once(State& state, InodeNumber directory, std::string_view name, const NewInode& wanted) {
  const State::Operation operation(state);
  const auto held = state.inodes.get(directory);
  const std::unique_lock lock(held->lock);
  const auto index = TRY(state.index_of(*held));
  const Timestamp now = current_time();
  const std::uint8_t granules = granules_for(name.size());
  const DirectoryPosition position = index->find_room(granules);

  InodeNumber made;
  InodeRecord result;
  TRY(state.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
    if (TRY(state.own_inode(transaction, directory)) || TRY(state.own_directory_block(transaction, directory, position)))
      return Step::kAgain;
    InodeRecord* parent = TRY(edit_directory(state, transaction, directory));
    if (TRY(find_entry(transaction, *parent, *index, name))) return fail(ErrorCode::kExists);
    if (S_ISDIR(wanted.mode) && parent->link_count >= kMaximumLinks) return fail(ErrorCode::kTooManyLinks);
    made = TRY(state.table.find_free(transaction));
    if (TRY(state.own_inode(transaction, made))) return Step::kAgain;
    InodeRecord* record = TRY(make_inode(state, transaction, made, wanted, *parent, now));
    TRY(state.add_parent(transaction, *record, directory, position));
    TRY(write_entry(transaction, *parent, position, name, made, type_bits(wanted.mode), state.services.graveyard));
    if (S_ISDIR(wanted.mode)) ++parent->link_count;
    touch(state, transaction, *held, *parent, now);
    result = *record;
    return Step::kDone;
  }));
  index->insert(name_hash(name), position, granules);
  state.charge_index(*held);
  return State::attributes_of(made, result, {});
}

Result<Attributes> create_unnamed_once(State& state, InodeNumber directory, const NewInode& wanted) {
  const State::Operation operation(state);
  InodeNumber made;
  InodeRecord result;
  State::OrphanChange orphan;
  const LockGuard guard(state.store.mutex);
  TRY(state.store.run_locked(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
    const InodeRecord parent = TRY(state.table.read(transaction, directory));
    if (!is_directory(parent)) return fail(ErrorCode::kNotDirectory);
    if (parent.link_count == 0) return fail(ErrorCode::kNotFound);
    made = TRY(state.table.find_free(transaction));
    if (TRY(state.own_inode(transaction, made)) || TRY(state.own_orphan_place(transaction, made))) return Step::kAgain;
    InodeRecord* record = TRY(make_inode(state, transaction, made, wanted, parent, current_time()));
    record->link_count = 0;
    result = *record;
    orphan = TRY(state.add_orphan(transaction, made));
    return Step::kDone;
  }));
  state.note_orphan(orphan);
  state.unnamed.insert(made.value);
  state.inodes.remember(made, 1);  // not a moment later: nothing else keeps it
  return State::attributes_of(made, result, {});
}

}  // namespace

Result<Attributes> Volume::create_unnamed(InodeNumber directory, const NewInode& wanted) {
  State& state = *state_;
  TRY(state.writable());
  if (!S_ISREG(wanted.mode)) return fail(ErrorCode::kInvalid);
  return state.with_space([&] { return create_unnamed_once(state, directory, wanted); });
}

Result<Attributes> Volume::create(InodeNumber directory, std::string_view name, const NewInode& wanted) {
  State& state = *state_;
  TRY(state.writable());
  TRY(check_name(name));
  if (S_ISLNK(wanted.mode) && (wanted.symlink_target.empty() || wanted.symlink_target.size() >= kBlockBytes))
    return fail(wanted.symlink_target.empty() ? ErrorCode::kNotFound : ErrorCode::kNameTooLong);
  return state.with_space([&] { return create_once(state, directory, name, wanted); });
}

namespace {

Result<Attributes> link_once(State& state, InodeNumber inode, InodeNumber directory, std::string_view name) {
  const State::Operation operation(state);
  const auto held = state.inodes.get(directory);
  const std::unique_lock lock(held->lock);
  const auto index = TRY(state.index_of(*held));
  const Timestamp now = current_time();
  const std::uint8_t granules = granules_for(name.size());
  const DirectoryPosition position = index->find_room(granules);
  {
    const LockGuard guard(state.store.mutex);
    State::OrphanChange orphan;
    TRY(state.store.run_locked(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
      orphan = {};
      if (TRY(state.own_inode(transaction, directory)) || TRY(state.own_directory_block(transaction, directory, position)) ||
          TRY(state.own_inode(transaction, inode)) || TRY(state.own_attributes(transaction, inode)) ||
          (state.unnamed.contains(inode.value) && TRY(state.own_orphan_place(transaction, inode))))
        return Step::kAgain;
      InodeRecord* parent = TRY(edit_directory(state, transaction, directory));
      if (TRY(find_entry(transaction, *parent, *index, name))) return fail(ErrorCode::kExists);
      InodeRecord* record = TRY(state.table.edit(transaction, inode));
      if (is_directory(*record)) return fail(ErrorCode::kPermission);
      if (record->link_count >= kMaximumLinks) return fail(ErrorCode::kTooManyLinks);
      if (record->link_count == 0) {
        if (!state.unnamed.contains(inode.value)) return fail(ErrorCode::kNotFound);
        orphan = TRY(state.remove_orphan(transaction, inode));
      }
      ++record->link_count;
      if (const auto target = state.inodes.find(inode)) state.take_times(transaction, *target, *record);
      set_time(*record, kChange, now);
      TRY(state.add_parent(transaction, *record, directory, position));
      TRY(write_entry(transaction, *parent, position, name, inode, type_bits(record->mode), state.services.graveyard));
      touch(state, transaction, *held, *parent, now);
      return Step::kDone;
    }));
    state.note_orphan(orphan);
  }
  index->insert(name_hash(name), position, granules);
  state.charge_index(*held);
  return state.attributes_of(inode);
}

}  // namespace

Result<Attributes> Volume::link(InodeNumber inode, InodeNumber directory, std::string_view name) {
  State& state = *state_;
  TRY(state.writable());
  TRY(check_name(name));
  if (reserved(inode)) return fail(ErrorCode::kPermission);
  return state.with_space([&] { return link_once(state, inode, directory, name); });
}

// --- removal -----------------------------------------------------------------------------------------------------------

namespace {

enum class RemoveKind { kFile, kDirectory };

Result<> remove_entry(State& state, InodeNumber directory, std::string_view name, RemoveKind kind) {
  TRY(state.writable());
  if (name.size() > format::kMaximumNameBytes) return fail(ErrorCode::kNameTooLong);
  if (name == ".") return fail(ErrorCode::kInvalid);
  if (name == "..") return fail(ErrorCode::kNotEmpty);
  const State::Operation operation(state);
  const auto held = state.inodes.get(directory);
  Removal removal;
  {
    const std::unique_lock lock(held->lock);
    const auto index = TRY(state.index_of(*held));
    const Timestamp now = current_time();
    FoundEntry entry;
    const LockGuard guard(state.store.mutex);
    TRY(state.store.run_locked(TransactionClass::kRemoving, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(state.own_inode(transaction, directory))) return Step::kAgain;
      InodeRecord* parent = TRY(edit_directory(state, transaction, directory));
      const auto found = TRY(find_entry(transaction, *parent, *index, name));
      if (!found) return fail(ErrorCode::kNotFound);
      entry = *found;
      const InodeRecord victim = TRY(state.table.read(transaction, entry.inode));
      if (kind == RemoveKind::kFile && is_directory(victim)) return fail(ErrorCode::kIsDirectory);
      if (kind == RemoveKind::kDirectory && !is_directory(victim)) return fail(ErrorCode::kNotDirectory);
      if (kind == RemoveKind::kDirectory && victim.entry_count != 0) return fail(ErrorCode::kNotEmpty);
      if (TRY(state.own_directory_block(transaction, directory, entry.position)) || TRY(state.own_inode(transaction, entry.inode)) ||
          TRY(state.own_attributes(transaction, entry.inode)) || TRY(state.own_orphan_place(transaction, entry.inode)))
        return Step::kAgain;
      TRY(erase_entry(transaction, *parent, entry.position, state.services.graveyard));
      if (kind == RemoveKind::kDirectory) --parent->link_count;
      touch(state, transaction, *held, *parent, now);
      removal = TRY(drop_name(state, transaction, entry.inode, directory, entry.position, now));
      return Step::kDone;
    }));
    state.note_orphan(removal.orphan);
    index->erase(name_hash(name), entry.position, granules_for(name.size()));
  }
  finish_removal(state, removal);
  return {};
}

}  // namespace

Result<> Volume::unlink(InodeNumber directory, std::string_view name) {
  return state_->with_space([&] { return remove_entry(*state_, directory, name, RemoveKind::kFile); });
}

Result<> Volume::remove_directory(InodeNumber directory, std::string_view name) {
  return state_->with_space([&] { return remove_entry(*state_, directory, name, RemoveKind::kDirectory); });
}

// --- renaming ----------------------------------------------------------------------------------------------------------

namespace {

// True if `directory` is `ancestor` or lies below it. A circle is noticed when one of the directories passed, each the
// first after twice as many steps, comes up again (R. P. Brent, "An improved Monte Carlo factorization algorithm", 1980).
Result<bool> lies_below(State& state, BlockReader& reader, InodeNumber directory, InodeNumber ancestor) {
  InodeNumber passed;
  for (std::uint64_t step = 0; directory.value != 0 && directory != passed; ++step) {
    if (directory == ancestor) return true;
    if (directory == format::kRootInode) return false;
    if (std::has_single_bit(step)) passed = directory;
    directory = InodeNumber(TRY(state.table.read(reader, directory)).parent);
  }
  return fail(ErrorCode::kDamaged, "the parents of a directory run in a circle");
}

struct RenameSide {
  InodeNumber directory;
  std::string_view name;
  std::shared_ptr<InodeState> held;
  std::shared_ptr<DirectoryIndex> index;
  std::optional<FoundEntry> entry;
};

class Rename {
 public:
  Rename(State& state, RenameSide& from, RenameSide& to, RenameMode mode, const NewInode* whiteout)
      : state_(state), from_(from), to_(to), mode_(mode), whiteout_(whiteout) {}

  Result<> run() {
    room_ = to_.index->find_room(granules_for(to_.name.size()));
    {
      const LockGuard guard(state_.store.mutex);
      TRY(state_.store.run_locked(TransactionClass::kNormal, [&](Transaction& transaction) { return step(transaction); }));
      state_.note_orphan(removal_.orphan);
    }
    if (nothing_ || mode_ == RenameMode::kExchange) return {};
    if (whiteout_ == nullptr) from_.index->erase(name_hash(from_.name), from_.entry->position, granules_for(from_.name.size()));
    if (!to_.entry) to_.index->insert(name_hash(to_.name), room_, granules_for(to_.name.size()));
    return {};
  }
  const Removal& removal() const { return removal_; }
  Volume::Renamed renamed() const {
    if (nothing_) return {};
    return {from_.entry->inode, to_.entry ? to_.entry->inode : InodeNumber()};
  }

 private:
  Result<Step> step(Transaction& transaction) {
    nothing_ = false;
    removal_ = {};
    if (TRY(state_.own_inode(transaction, from_.directory)) || TRY(state_.own_inode(transaction, to_.directory))) return Step::kAgain;
    InodeRecord* from_parent = TRY(edit_directory(state_, transaction, from_.directory));
    InodeRecord* to_parent = TRY(edit_directory(state_, transaction, to_.directory));
    from_.entry = TRY(find_entry(transaction, *from_parent, *from_.index, from_.name));
    to_.entry = TRY(find_entry(transaction, *to_parent, *to_.index, to_.name));
    TRY(check(transaction));
    if (nothing_) return Step::kDone;
    if (TRY(own_all(transaction))) return Step::kAgain;
    const Timestamp now = current_time();
    touch(state_, transaction, *from_.held, *from_parent, now);
    touch(state_, transaction, *to_.held, *to_parent, now);
    if (mode_ == RenameMode::kExchange) {
      TRY(exchange(transaction, *from_parent, *to_parent, now));
    } else {
      TRY(move(transaction, *from_parent, *to_parent, now));
    }
    return Step::kDone;
  }

  Result<> check(Transaction& transaction) {
    if (!from_.entry) return fail(ErrorCode::kNotFound);
    if (mode_ == RenameMode::kExchange && !to_.entry) return fail(ErrorCode::kNotFound);
    if (mode_ == RenameMode::kNoReplace && to_.entry) return fail(ErrorCode::kExists);
    const InodeRecord moved = TRY(state_.table.read(transaction, from_.entry->inode));
    moved_directory_ = is_directory(moved);
    if (moved_directory_ && TRY(lies_below(state_, transaction, to_.directory, from_.entry->inode))) return fail(ErrorCode::kInvalid);
    if (!to_.entry) return {};
    if (to_.entry->inode == from_.entry->inode) {
      nothing_ = true;  // two names of one inode: POSIX asks for no change
      return {};
    }
    const InodeRecord target = TRY(state_.table.read(transaction, to_.entry->inode));
    target_directory_ = is_directory(target);
    if (mode_ == RenameMode::kExchange) {
      if (target_directory_ && TRY(lies_below(state_, transaction, from_.directory, to_.entry->inode))) return fail(ErrorCode::kInvalid);
      return {};
    }
    if (moved_directory_ && !target_directory_) return fail(ErrorCode::kNotDirectory);
    if (!moved_directory_ && target_directory_) return fail(ErrorCode::kIsDirectory);
    if (target_directory_ && target.entry_count != 0) return fail(ErrorCode::kNotEmpty);
    return {};
  }

  Result<bool> own_all(Transaction& transaction) {
    if (TRY(state_.own_directory_block(transaction, from_.directory, from_.entry->position))) return true;
    if (TRY(state_.own_directory_block(transaction, to_.directory, to_.entry ? to_.entry->position : room_))) return true;
    if (TRY(state_.own_inode(transaction, from_.entry->inode)) || TRY(state_.own_attributes(transaction, from_.entry->inode))) return true;
    if (whiteout_ != nullptr) {
      made_ = TRY(state_.table.find_free(transaction));
      if (TRY(state_.own_inode(transaction, made_))) return true;
    }
    if (!to_.entry) return false;
    if (TRY(state_.own_inode(transaction, to_.entry->inode)) || TRY(state_.own_attributes(transaction, to_.entry->inode))) return true;
    return mode_ != RenameMode::kExchange && TRY(state_.own_orphan_place(transaction, to_.entry->inode));
  }

  // The inode has its entry in another place now.
  Result<> reparent(Transaction& transaction, InodeNumber inode, InodeNumber old_directory, DirectoryPosition old_position,
                    InodeNumber new_directory, DirectoryPosition new_position, Timestamp now) {
    InodeRecord* record = TRY(state_.table.edit(transaction, inode));
    if (const auto held = state_.inodes.find(inode)) state_.take_times(transaction, *held, *record);
    set_time(*record, kChange, now);
    if (record->parent == old_directory.value && record->parent_cookie == old_position) {
      record->parent = new_directory.value;
      record->parent_cookie = new_position;
      return {};
    }
    TRY(state_.remove_parent(transaction, *record, old_directory, old_position));
    return state_.add_parent(transaction, *record, new_directory, new_position);
  }

  Result<> exchange(Transaction& transaction, InodeRecord& from_parent, InodeRecord& to_parent, Timestamp now) {
    Graveyard& graveyard = state_.services.graveyard;
    const FoundEntry a = *from_.entry, b = *to_.entry;
    TRY(retarget_entry(transaction, from_parent, a.position, b.inode, b.type, graveyard));
    TRY(retarget_entry(transaction, to_parent, b.position, a.inode, a.type, graveyard));
    TRY(reparent(transaction, a.inode, from_.directory, a.position, to_.directory, b.position, now));
    TRY(reparent(transaction, b.inode, to_.directory, b.position, from_.directory, a.position, now));
    if (moved_directory_ != target_directory_) {
      (moved_directory_ ? from_parent : to_parent).link_count -= 1;
      (moved_directory_ ? to_parent : from_parent).link_count += 1;
    }
    return {};
  }

  Result<> move(Transaction& transaction, InodeRecord& from_parent, InodeRecord& to_parent, Timestamp now) {
    Graveyard& graveyard = state_.services.graveyard;
    const FoundEntry moved = *from_.entry;
    const DirectoryPosition position = to_.entry ? to_.entry->position : room_;
    if (to_.entry) {
      removal_ = TRY(drop_name(state_, transaction, to_.entry->inode, to_.directory, position, now));
      if (target_directory_) --to_parent.link_count;
      TRY(retarget_entry(transaction, to_parent, position, moved.inode, moved.type, graveyard));
    } else {
      TRY(write_entry(transaction, to_parent, position, to_.name, moved.inode, moved.type, graveyard));
    }
    if (whiteout_ != nullptr) {
      InodeRecord* record = TRY(make_inode(state_, transaction, made_, *whiteout_, from_parent, now));
      TRY(state_.add_parent(transaction, *record, from_.directory, moved.position));
      TRY(retarget_entry(transaction, from_parent, moved.position, made_, type_bits(whiteout_->mode), graveyard));
    } else {
      TRY(erase_entry(transaction, from_parent, moved.position, graveyard));
    }
    TRY(reparent(transaction, moved.inode, from_.directory, moved.position, to_.directory, position, now));
    if (moved_directory_) {
      --from_parent.link_count;
      ++to_parent.link_count;
    }
    return {};
  }

  State& state_;
  RenameSide& from_;
  RenameSide& to_;
  RenameMode mode_;
  const NewInode* whiteout_;  // what takes the old name; null for nothing
  InodeNumber made_;          // its inode
  DirectoryPosition room_ = 0;
  bool moved_directory_ = false, target_directory_ = false, nothing_ = false;
  Removal removal_;
};

Result<Volume::Renamed> rename_once(State& state, InodeNumber directory, std::string_view name, InodeNumber new_directory, std::string_view new_name,
                                    RenameMode mode, const NewInode* whiteout) {
  const State::Operation operation(state);
  RenameSide from{directory, name, state.inodes.get(directory), nullptr, std::nullopt};
  RenameSide to{new_directory, new_name, state.inodes.get(new_directory), nullptr, std::nullopt};
  Volume::Renamed renamed;
  Removal removal;
  {
    const TwoLocks locks(*from.held, *to.held);
    from.index = TRY(state.index_of(*from.held));
    to.index = TRY(state.index_of(*to.held));
    Rename rename(state, from, to, mode, whiteout);
    TRY(rename.run());
    renamed = rename.renamed();
    removal = rename.removal();
  }
  finish_removal(state, removal);
  return renamed;
}

}  // namespace

Result<Volume::Renamed> Volume::rename(InodeNumber directory, std::string_view name, InodeNumber new_directory, std::string_view new_name,
                                       RenameMode mode, const NewInode* whiteout) {
  State& state = *state_;
  TRY(state.writable());
  if (mode == RenameMode::kExchange && whiteout != nullptr) return fail(ErrorCode::kInvalid);
  if (name.size() > format::kMaximumNameBytes) return fail(ErrorCode::kNameTooLong);
  TRY(check_name(name));
  TRY(check_name(new_name));
  return state.with_space([&] { return rename_once(state, directory, name, new_directory, new_name, mode, whiteout); });
}

}  // namespace daxcow
