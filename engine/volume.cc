// Looking at inodes, changing their attributes, and their life from creation to reclaim.
#include "engine/volume.h"

#include <sys/stat.h>

#include <algorithm>
#include <ctime>

#include "engine/check.h"
#include "engine/paths.h"
#include "engine/pool.h"
#include "engine/volume_state.h"

namespace daxcow {

using format::BlockType;
using format::InodeRecord;
using format::LeafKind;

Timestamp current_time() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return {now.tv_sec, static_cast<std::uint32_t>(now.tv_nsec)};
}

void set_time(InodeRecord& inode, TimeIndex which, Timestamp time) {
  inode.seconds[which] = time.seconds;
  inode.nanoseconds[which] = time.nanoseconds;
}

Timestamp time_of(const InodeRecord& inode, TimeIndex which) { return {inode.seconds[which], inode.nanoseconds[which]}; }

bool is_directory(const InodeRecord& inode) { return S_ISDIR(inode.mode); }
bool is_regular(const InodeRecord& inode) { return S_ISREG(inode.mode); }

LeafKind leaf_kind_of(const InodeRecord& inode) {
  if (inode.flags & static_cast<std::uint32_t>(format::InodeFlag::kVolume)) return LeafKind::kInodes;
  if (S_ISDIR(inode.mode)) return LeafKind::kDirectory;
  if (S_ISLNK(inode.mode)) return LeafKind::kSymlink;
  return LeafKind::kData;
}

Volume::Volume(Pool&, VolumeNumber number, std::string name, bool read_only)
    : name_(std::move(name)), number_(number), read_only_(read_only) {}

Volume::~Volume() = default;

Result<> Volume::State::writable() const {
  if (read_only) return fail(ErrorCode::kReadOnly);
  return {};
}

LazyTimes Volume::State::kept_times(InodeNumber inode) {
  const auto state = inodes.find(inode);
  if (!state) return {};
  const LockGuard guard(state->times_mutex);
  return state->times;
}

Attributes Volume::State::attributes_of(InodeNumber inode, const InodeRecord& record, const LazyTimes& kept) {
  Attributes attributes;
  attributes.inode = inode;
  attributes.generation = record.generation;
  attributes.mode = record.mode;
  attributes.link_count = record.link_count;
  attributes.uid = record.uid;
  attributes.gid = record.gid;
  attributes.device = record.device;
  attributes.size_bytes = record.size_bytes;
  attributes.block_count = record.block_count;
  attributes.access = kept.access.value_or(time_of(record, kAccess));
  attributes.modification = kept.modification.value_or(time_of(record, kModification));
  attributes.change = kept.change.value_or(time_of(record, kChange));
  attributes.birth = time_of(record, kBirth);
  return attributes;
}

Result<Attributes> Volume::State::attributes_of(InodeNumber inode) {
  for (;;) {
    const LazyTimes before = kept_times(inode);
    const InodeRecord record = TRY(read_record(inode));
    const LazyTimes after = kept_times(inode);
    // A time that is no longer kept back is in a newer record than this one perhaps, which has an older time.
    const auto gone = [](const auto& then, const auto& now) { return then && !now; };
    if (!gone(before.access, after.access) && !gone(before.modification, after.modification) && !gone(before.change, after.change))
      return attributes_of(inode, record, after);
  }
}

Result<Attributes> Volume::attributes(InodeNumber inode) {
  const State::Operation operation(*state_);
  return state_->attributes_of(inode);
}

namespace {

Result<Attributes> set_attributes_once(Volume::State& state, InodeNumber inode, const AttributeChange& change) {
  using State = Volume::State;
  const State::Operation operation(state);
  const auto held = state.inodes.get(inode);
  const std::unique_lock lock(held->lock);
  const Timestamp now = current_time();
  const auto apply = [&](InodeRecord& record) {
    if (change.mode) record.mode = (record.mode & S_IFMT) | (*change.mode & 07777);
    if (change.uid) record.uid = *change.uid;
    if (change.gid) record.gid = *change.gid;
    if (!is_directory(record)) record.mode &= ~(change.clear_mode & (S_ISUID | S_ISGID));
    if (change.access) set_time(record, kAccess, *change.access);
    if (change.modification) set_time(record, kModification, *change.modification);
    if (!change.size_bytes) set_time(record, kChange, now);
  };
  if (change.size_bytes) {
    // Which sets the times of a truncation, that of the change too; they are newer than those that were kept back.
    TRY(state.truncate_locked(*held, *change.size_bytes, [&](Transaction&, InodeRecord& record) { apply(record); }));
  } else {
    TRY(state.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(state.own_inode(transaction, inode))) return Step::kAgain;
      InodeRecord* record = TRY(state.table.edit(transaction, inode));
      state.take_times(transaction, *held, *record);
      apply(*record);
      return Step::kDone;
    }));
  }
  return state.attributes_of(inode);
}

}  // namespace

Result<Attributes> Volume::set_attributes(InodeNumber inode, const AttributeChange& change) {
  State& state = *state_;
  TRY(state.writable());
  return state.with_space([&] { return set_attributes_once(state, inode, change); });
}

// --- paths to what shall be changed ------------------------------------------------------------------------------------

Result<bool> Volume::State::own_data(Transaction& transaction, InodeNumber inode, FileRange range, Unshare what) {
  const InodeRecord record = TRY(table.read(transaction, inode));
  const LeafKind kind = inode == format::kOrphansInode ? LeafKind::kOrphans : leaf_kind_of(record);
  return unshare(transaction, data_fork(record, kind), range, kind == LeafKind::kData ? what : Unshare::kLeaves,
                 [&]() -> Result<ForkEdit> { return edit_data_fork(*TRY(table.edit(transaction, inode)), kind); });
}

Result<bool> Volume::State::own_leaf(Transaction& transaction, InodeNumber inode, FileBlock block) {
  const Leaf leaf{inode, block};
  Leaf& known = exclusive_leaves[(inode.value * 31 + block.value) % exclusive_leaves.size()];
  if (known == leaf) return false;
  // The inode first: a leaf has one reference also where the inode that refers to it is shared.
  if (TRY(own_inode(transaction, inode)) || TRY(own_data(transaction, inode, {block, 1}))) return true;
  known = leaf;
  return false;
}

Result<bool> Volume::State::own_attributes(Transaction& transaction, InodeNumber inode) {
  const InodeRecord record = TRY(table.read(transaction, inode));
  if (record.attribute_bytes == 0) return false;
  return unshare(transaction, attribute_fork(record), {FileBlock(0), blocks_for(format::kMaximumAttributeForkBytes)}, Unshare::kLeaves,
                 [&]() -> Result<ForkEdit> { return edit_attribute_fork(*TRY(table.edit(transaction, inode))); });
}

// --- times -------------------------------------------------------------------------------------------------------------

bool Volume::State::note_access(InodeState& state, const InodeRecord& record, AccessTime rule) {
  if (read_only || rule == AccessTime::kKeep) return false;
  const Timestamp now = current_time();
  const LockGuard guard(state.times_mutex);
  const Timestamp access = state.times.access.value_or(time_of(record, kAccess));
  const Timestamp modification = state.times.modification.value_or(time_of(record, kModification));
  const Timestamp change = state.times.change.value_or(time_of(record, kChange));
  constexpr std::int64_t kDay = 24 * 60 * 60;
  if (rule == AccessTime::kRelative && access > modification && access > change && access.seconds + kDay >= now.seconds) return false;
  state.times.access = now;
  return true;
}

Result<bool> Volume::note_access(InodeNumber inode, AccessTime access_time) {
  State& state = *state_;
  if (access_time == AccessTime::kKeep) return false;
  const State::Operation operation(state);
  const InodeRecord record = TRY(state.read_record(inode));
  return state.note_access(*state.inodes.get(inode), record, access_time);
}

void Volume::State::take_times(Transaction& transaction, InodeState& state, InodeRecord& record) {
  LazyTimes times;
  {
    const LockGuard guard(state.times_mutex);
    times = state.times;
  }
  if (times.empty()) return;
  if (times.access) set_time(record, kAccess, *times.access);
  if (times.modification) set_time(record, kModification, *times.modification);
  if (times.change) set_time(record, kChange, *times.change);
  // They are looked up in the state until the record has them.
  transaction.on_commit([held = state.shared_from_this(), times] {
    const LockGuard guard(held->times_mutex);
    if (held->times.access == times.access) held->times.access.reset();
    if (held->times.modification == times.modification) held->times.modification.reset();
    if (held->times.change == times.change) held->times.change.reset();
  });
}

Result<> Volume::State::commit_times(InodeState& state) {
  if (read_only) return {};
  {
    const LockGuard guard(state.times_mutex);
    if (state.times.empty()) return {};
  }
  auto done = store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
    if (TRY(own_inode(transaction, state.number))) return Step::kAgain;
    take_times(transaction, state, *TRY(table.edit(transaction, state.number)));
    return Step::kDone;
  });
  if (!done && done.error().code == ErrorCode::kStale) return {};
  return done;
}

Result<> Volume::State::commit_all_times() {
  Result<> all;  // one that cannot be committed, for want of room say, keeps no other back
  for (const auto& state : inodes.all())
    if (auto done = commit_times(*state); !done && all) all = std::move(done);
  return all;
}

// --- orphans -----------------------------------------------------------------------------------------------------------

namespace {
constexpr std::size_t kMaximumGaps = 100'000;  // a list with more of them is long enough to grow at its end
constexpr std::uint64_t kOrphansPerBlock = kBlockBytes / sizeof(std::uint64_t);
FileBlock orphan_block(std::uint64_t index) { return FileBlock(index / kOrphansPerBlock); }
}  // namespace

std::uint64_t Volume::State::orphan_place(InodeNumber inode) const {
  if (const auto it = orphan_index.find(inode.value); it != orphan_index.end()) return it->second;
  return orphan_gaps.empty() ? orphan_end : *orphan_gaps.begin();
}

Result<bool> Volume::State::own_orphan_place(Transaction& transaction, InodeNumber inode) {
  return own_leaf(transaction, format::kOrphansInode, orphan_block(orphan_place(inode)));
}

Result<Volume::State::OrphanChange> Volume::State::add_orphan(Transaction& transaction, InodeNumber inode) {
  const std::uint64_t index = orphan_place(inode);
  InodeRecord* list = TRY(table.edit(transaction, format::kOrphansInode));
  Block* block = TRY(edit_leaf(transaction, edit_data_fork(*list, LeafKind::kOrphans), orphan_block(index), services.graveyard));
  block->as<std::array<std::uint64_t, kOrphansPerBlock>>()[index % kOrphansPerBlock] = inode.value;
  list->size_bytes = std::max(list->size_bytes, byte_offset(orphan_block(index) + 1));
  return OrphanChange{inode.value, index, true};
}

Result<Volume::State::OrphanChange> Volume::State::remove_orphan(Transaction& transaction, InodeNumber inode) {
  const auto it = orphan_index.find(inode.value);
  if (it == orphan_index.end()) return fail(ErrorCode::kDamaged, "an inode without a name is not in the orphan list");
  InodeRecord* list = TRY(table.edit(transaction, format::kOrphansInode));
  Block* block = TRY(edit_leaf(transaction, edit_data_fork(*list, LeafKind::kOrphans), orphan_block(it->second), services.graveyard));
  block->as<std::array<std::uint64_t, kOrphansPerBlock>>()[it->second % kOrphansPerBlock] = 0;
  return OrphanChange{inode.value, it->second, false};
}

void Volume::State::note_orphan(const OrphanChange& change) {
  if (change.inode == 0) return;
  const LockGuard guard(orphans_mutex);
  if (change.add) {
    orphan_index[change.inode] = change.index;
    orphan_gaps.erase(change.index);
    orphan_end = std::max(orphan_end, change.index + 1);
  } else {
    orphan_index.erase(change.inode);
    unnamed.erase(change.inode);
    orphan_gaps.insert(change.index);
  }
}

Result<> Volume::State::load_orphans() {
  const InodeRecord list = TRY(read_record(format::kOrphansInode));
  const Fork fork = data_fork(list, LeafKind::kOrphans);
  const std::uint64_t blocks = std::min<std::uint64_t>(blocks_for(list.size_bytes), fork.capacity());
  if (blocks > (1u << 13)) return fail(ErrorCode::kDamaged, "the orphan list is too large");
  const LockGuard guard(store.mutex), orphans_guard(orphans_mutex);
  orphan_end = blocks * kOrphansPerBlock;
  for (std::uint64_t b = 0; b < blocks; ++b) {
    const MapEntry entry = TRY(entry_at(store.metadata(), fork, FileBlock(b)));
    BlockPtr block;
    if (entry.present()) block = TRY(store.metadata().read(entry.block(), BlockType::kOrphans));
    for (std::uint64_t i = 0; i < kOrphansPerBlock; ++i) {
      const std::uint64_t inode = block ? block->as<std::array<std::uint64_t, kOrphansPerBlock>>()[i] : 0;
      if (inode != 0)
        orphan_index[inode] = b * kOrphansPerBlock + i;
      else if (orphan_gaps.size() < kMaximumGaps)
        orphan_gaps.insert(b * kOrphansPerBlock + i);
    }
  }
  return {};
}

Result<> Volume::State::process_orphans() {
  std::vector<InodeNumber> orphans;
  {
    const LockGuard guard(store.mutex);
    for (const auto& [inode, index] : orphan_index) orphans.push_back(InodeNumber(inode));
  }
  reclaim_each(orphans);
  return {};
}

// One that cannot be reclaimed now must not keep the others, or the volume, from their use.
void Volume::State::reclaim_each(std::span<const InodeNumber> each) {
  for (const InodeNumber& inode : each)
    if (auto done = reclaim({&inode, 1}); !done) store.log("reclaiming inode " + std::to_string(inode.value) + ": " + describe(done.error()));
}

bool Volume::State::reclaim_let_go(Patience patience) {
  constexpr std::size_t kAtOnce = 16;
  std::unique_lock pass(let_go_mutex, std::defer_lock);
  if (patience == Patience::kWaits) {
    pass.lock();
  } else if (!pass.try_lock()) {
    services.wake_background();  // who is at it may have taken its files already
    return true;
  }
  std::vector<InodeNumber> all;
  {
    const LockGuard guard(orphans_mutex);
    all.assign(let_go.begin(), let_go.end());
    let_go.clear();
  }
  for (std::span<const InodeNumber> left(all); !left.empty();) {
    auto operation = Operation::try_begin(*this);
    if (!operation && patience == Patience::kWaitsForNobody) {
      {
        const LockGuard guard(orphans_mutex);
        let_go.insert(left.begin(), left.end());
      }
      services.wake_background();
      return true;
    }
    if (!operation) operation.emplace(*this);
    const auto several = left.first(std::min(left.size(), kAtOnce));
    left = left.subspan(several.size());
    if (!reclaim(several)) reclaim_each(several);  // one is damaged, or together they are too much for one transaction
  }
  return !all.empty();
}

Result<> Volume::State::reclaim(std::span<const InodeNumber> wanted) {
  if (read_only) return {};
  bool buried = false;
  {
    const LockGuard guard(store.mutex);
    // Whoever saw one forgotten may come late: by now somebody may have opened it again and taken its last name away, or the
    // number may be that of a new file. Then the next to forget it comes here.
    std::vector<InodeNumber> gone;
    for (const InodeNumber inode : wanted)
      if (orphan_index.contains(inode.value) && !inodes.is_remembered(inode)) gone.push_back(inode);
    if (gone.empty()) return {};
    std::vector<OrphanChange> changes;
    TRY(store.run_locked(TransactionClass::kFreeing, [&](Transaction& transaction) -> Result<Step> {
      changes.clear();
      for (const InodeNumber inode : gone)
        if (TRY(own_inode(transaction, inode)) || TRY(own_orphan_place(transaction, inode))) return Step::kAgain;
      for (const InodeNumber inode : gone) {
        InodeRecord* record = TRY(table.edit(transaction, inode));
        if (record->link_count != 0) return fail(ErrorCode::kDamaged, "an inode with a name is in the orphan list");
        buried |= std::ranges::any_of(record->data, [](std::uint64_t raw) { return MapEntry{raw}.present() && MapEntry{raw}.is_node(); });
        if ((record->flags & static_cast<std::uint32_t>(format::InodeFlag::kInlineSymlink)) == 0)
          TRY(services.graveyard.bury_fork(transaction, edit_data_fork(*record, leaf_kind_of(*record))));
        TRY(services.graveyard.bury_fork(transaction, edit_attribute_fork(*record)));
        changes.push_back(TRY(remove_orphan(transaction, inode)));
        TRY(table.free(transaction, inode));
      }
      return Step::kDone;
    }));
    for (const OrphanChange& change : changes) note_orphan(change);
    // Before anybody can get the number again: its next file must not begin with this lock and these memos, and lose them
    // to those who come later; nor with times that somebody is about to commit.
    for (const InodeNumber inode : gone) {
      if (const auto held = inodes.find(inode)) {
        const LockGuard times_guard(held->times_mutex);
        held->times = {};
      }
      inodes.drop(inode);
      forget_zeroed(inode);
    }
  }
  if (buried && services.wake_background) services.wake_background();
  return {};
}

// --- parents -----------------------------------------------------------------------------------------------------------

Result<> Volume::State::add_parent(Transaction& transaction, InodeRecord& record, InodeNumber directory, DirectoryPosition position) {
  if (record.parent == 0) {
    record.parent = directory.value;
    record.parent_cookie = position;
    return {};
  }
  AttributeList list = TRY(AttributeList::read(transaction, record));
  list.set(format::AttributeSpace::kParent, AttributeList::parent_name(directory.value, position), {});
  if (list.stream_bytes() > format::kMaximumAttributeForkBytes) return fail(ErrorCode::kTooManyLinks);
  return list.write(transaction, record, services.graveyard);
}

Result<> Volume::State::remove_parent(Transaction& transaction, InodeRecord& record, InodeNumber directory, DirectoryPosition position) {
  if (record.parent == directory.value && record.parent_cookie == position) {
    record.parent = record.parent_cookie = 0;
    if (is_directory(record) || record.attribute_bytes == 0) return {};
    AttributeList list = TRY(AttributeList::read(transaction, record));
    for (const auto& item : list.items()) {
      if (item.space != format::AttributeSpace::kParent || item.name.size() != 16) continue;
      std::tie(record.parent, record.parent_cookie) = AttributeList::parse_parent(item.name);
      list.remove(format::AttributeSpace::kParent, std::string(item.name));
      return list.write(transaction, record, services.graveyard);
    }
    return {};
  }
  AttributeList list = TRY(AttributeList::read(transaction, record));
  if (!list.remove(format::AttributeSpace::kParent, AttributeList::parent_name(directory.value, position))) return {};
  return list.write(transaction, record, services.graveyard);
}

// --- the kernel's references -------------------------------------------------------------------------------------------

void Volume::remember(InodeNumber inode, std::uint64_t count) { state_->inodes.remember(inode, count); }

void Volume::open_for_writing(InodeNumber inode) { state_->inodes.open_for_writing(inode); }
void Volume::close_for_writing(InodeNumber inode) { state_->inodes.close_for_writing(inode); }
bool Volume::is_open_for_writing(InodeNumber inode) const {
  const auto pages = state_->inodes.page_trust(inode);
  return pages && pages->writers != 0;
}
std::vector<InodeNumber> Volume::files_open_for_writing() const { return state_->inodes.open_for_writing(); }
void Volume::note_change_behind_pages(InodeNumber inode) { state_->inodes.note_change_behind_pages(inode); }
void Volume::note_failed_write(InodeNumber inode) { state_->inodes.note_failed_write(inode); }

bool Volume::is_remembered(InodeNumber inode) const { return state_->inodes.is_remembered(inode); }

void Volume::forget(InodeNumber inode, std::uint64_t count) { state_->forget(inode, count); }

void Volume::State::forget(InodeNumber inode, std::uint64_t count) {
  if (!inodes.forget(inode, count) || read_only) return;
  const Operation operation(*this);
  const auto held = inodes.find(inode);
  bool orphan, left = false;
  {
    const LockGuard guard(orphans_mutex);
    orphan = orphan_index.contains(inode.value);
    if (orphan && services.leaves_reclaiming && let_go.size() < kMaximumLetGo) left = let_go.insert(inode).second;
  }
  if (left) {
    services.wake_background();
  } else if (orphan) {
    reclaim_each({&inode, 1});
  } else if (held) {
    if (auto done = commit_times(*held); !done) store.log("committing times: " + describe(done.error()));
  }
}

void Volume::forget_all() {
  state_->inodes.forget_all();
  if (state_->read_only) return;
  const State::Operation operation(*state_);
  (void)state_->process_orphans();
  (void)state_->commit_all_times();
}

Result<> Volume::sync(InodeNumber inode, Sync what) {
  const State::Operation operation(*state_);
  if (const auto held = state_->inodes.find(inode); held && what == Sync::kAll) TRY(state_->commit_times(*held));
  return state_->store.medium().drain();
}

Result<> Volume::sync_all() {
  const State::Operation operation(*state_);
  TRY(state_->commit_all_times());
  return state_->store.medium().drain();
}

// --- the volume as a whole ---------------------------------------------------------------------------------------------

Result<VolumeStatistics> Volume::statistics() {
  State& state = *state_;
  state.wait_for_deletions();
  VolumeStatistics statistics;
  const LockGuard guard(state.store.mutex);
  state.store.reclaim();
  const std::uint64_t metadata_free = state.store.metadata().free_count();
  const std::uint64_t usable = metadata_free > Store::kReserveBlocks ? metadata_free - Store::kReserveBlocks : 0;
  statistics.blocks = state.store.pool_blocks();
  statistics.available_blocks = state.store.space().free_blocks() + state.store.retired_blocks();
  statistics.free_blocks = statistics.available_blocks + state.store.spare_blocks();  // as the checker counts
  // Inodes are made on demand: half of the free space as chunks with their mirrors would hold this many.
  statistics.free_inodes = (usable + statistics.available_blocks / 4) * format::kInodesPerBlock;
  statistics.inodes = statistics.free_inodes + state.store.metadata().block_count() * format::kInodesPerBlock;
  statistics.name_bytes = format::kMaximumNameBytes;
  return statistics;
}

Result<std::vector<std::string>> Volume::paths_of(InodeNumber inode, std::size_t limit) {
  const State::Operation operation(*state_);
  return state_->store.read_consistent([&](BlockReader& reader) { return daxcow::paths_of(reader, number_, inode, limit); });
}

Result<std::string> Volume::path_of(InodeNumber inode) {
  auto paths = TRY(paths_of(inode, 1));
  if (paths.empty()) return "inode " + std::to_string(inode.value);
  return std::move(paths.front());
}

Result<Attributes> Volume::find(std::string_view path) {
  Attributes at = TRY(attributes(format::kRootInode));
  while (!path.empty()) {
    const std::size_t slash = path.find('/');
    const std::string_view name = path.substr(0, slash);
    path = slash == std::string_view::npos ? std::string_view{} : path.substr(slash + 1);
    if (!name.empty()) at = TRY(lookup(at.inode, name));
  }
  return at;
}

}  // namespace daxcow
