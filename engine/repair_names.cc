// What can only be said of a volume as a whole: every entry leads to an inode in use, every inode with links has as
// many entries, knows them as its parents, and can be reached from the root; the others are listed as orphans. By
// ordinary transactions: the pool can be opened by now. What volumes share is made exclusive first, as by any other
// change.
//
// First the shape: entries that cannot stay go, inodes without an entry get one in lost+found. Then, from a second
// look, the counts and the links upwards, which follow from the shape. A crash in between leaves counts to the next
// run.
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <set>

#include "engine/borrowed_medium.h"
#include "engine/check_paths.h"
#include "engine/check_trees.h"
#include "engine/repair_pool.h"
#include "engine/volume_state.h"

namespace daxcow::repairer {

using checker::has_flag;
using format::BlockType;
using format::DirectoryEntry;
using format::InodeFlag;
using format::InodeRecord;
using format::LeafKind;

namespace {

constexpr std::uint8_t type_bits(std::uint32_t mode) { return static_cast<std::uint8_t>((mode & S_IFMT) >> 12); }
constexpr std::uint8_t kDirectoryType = type_bits(S_IFDIR);
constexpr std::uint64_t kOrphansPerBlock = kBlockBytes / sizeof(std::uint64_t);
constexpr const char* kLostAndFound = "lost+found";

struct Link {
  std::uint64_t directory = 0;
  DirectoryPosition cookie = 0;
  friend auto operator<=>(const Link&, const Link&) = default;
};

struct Inode {
  std::uint32_t link_count = 0;
  std::uint8_t type = 0;
  bool is_volume = false;
  Link parent;
  std::vector<Link> further;  // sorted
  std::vector<Link> entries;  // that lead to it, sorted
  std::uint64_t subdirectories = 0;
  bool listed = false;  // as an orphan
  bool reached = false;
  bool is_directory() const { return type == kDirectoryType && !is_volume; }
  bool has_one_name() const { return is_directory() || is_volume; }
};

struct Entry {
  DirectoryPosition cookie;
  std::uint64_t inode;
  std::uint8_t type;
};

class VolumeRepair {
 public:
  VolumeRepair(PoolServices& services, VolumeNumber volume, Actions& actions)
      : services_(services), state_(services, volume, false), volume_(volume), actions_(actions) {}

  Result<> repair_shape() {
    TRY(add_reserved(format::kRootInode, S_IFDIR | 0700));
    TRY(add_reserved(format::kOrphansInode, S_IFREG | 0600));
    if (volume_ == kVolumeZero) TRY(add_reserved(format::kGraveyardInode, S_IFREG | 0600));
    TRY(collect());
    TRY(correct_entries());
    TRY(break_circles());
    return place_orphans();
  }

  Result<> repair_counts() {
    TRY(collect());
    for (const auto& [number, inode] : inodes_) TRY(correct_counts(number, inode));
    return {};
  }

 private:
  BlockReader& reader() { return services_.store.metadata(); }
  static bool is_reserved(std::uint64_t number) { return number < format::kFirstInode.value; }
  std::string where(std::uint64_t inode) {
    return actions_.has_room() ? checker::Paths(reader()).describe(volume_, InodeNumber(inode)) : "";
  }
  void add(std::uint64_t inode, std::string what) { actions_.add(BlockNumber(0), where(inode), std::move(what)); }

  template <class Body>
  Result<> change(TransactionClass transaction_class, Body body) {
    const LockGuard guard(services_.store.mutex);
    return services_.store.run_locked(transaction_class,
                                      [&](Transaction& transaction) -> Result<Step> { return body(transaction); });
  }

  // --- looking -------------------------------------------------------------------------------------------------------

  Result<> for_each_block(const Fork& fork, BlockType type, FunctionRef<Result<>(FileBlock, const Block&)> visit) {
    Result<> outcome;
    TRY(for_each_segment(
        reader(), fork, {FileBlock(0), std::min(fork.capacity(), kMaximumFileBlocks - 1)}, [&](const Segment& segment) {
          for (std::uint64_t i = 0; segment.entry.present() && i < segment.range.count && outcome; ++i) {
            const auto block = reader().read(segment.entry.block() + i, type);
            outcome = block ? visit(segment.range.first + i, **block) : Result<>(std::unexpected(block.error()));
          }
          return outcome.has_value();
        }));
    return outcome;
  }

  Result<> collect() {
    inodes_.clear();
    directories_.clear();
    const Fork table = TRY(InodeTable::root(reader(), volume_));
    TRY(for_each_block(table, BlockType::kInodes, [&](FileBlock at, const Block& block) -> Result<> {
      for (std::uint64_t i = 0; i < format::kInodesPerBlock; ++i) {
        const InodeRecord& record = block.as<format::InodeBlock>().inodes[i];
        if (record.mode != 0) TRY(collect_inode(at.value * format::kInodesPerBlock + i, record));
      }
      return {};
    }));
    for (auto& [number, entries] : directories_) {
      const InodeRecord record = TRY(state_.table.read(reader(), InodeNumber(number)));
      TRY(for_each_block(
          data_fork(record, LeafKind::kDirectory), BlockType::kDirectory,
          [&](FileBlock at, const Block& block) -> Result<> {
            TRY(for_each_entry(block, 0, [&](std::uint64_t granule, const DirectoryEntry& entry, std::string_view) {
              entries.push_back({at.value * format::kGranulesPerBlock + granule, entry.inode, entry.type});
              return true;
            }));
            return {};
          }));
      for (const Entry& entry : entries)
        if (Inode* inode = find(entry.inode)) inode->entries.push_back({number, entry.cookie});
    }
    for (auto& [number, inode] : inodes_) {
      std::ranges::sort(inode.entries);
      if (!inode.is_directory()) continue;
      for (const Link& link : inode.entries)
        if (Inode* parent = find(link.directory)) ++parent->subdirectories;
    }
    return collect_orphans();
  }

  Result<> collect_inode(std::uint64_t number, const InodeRecord& record) {
    Inode inode;
    inode.link_count = record.link_count;
    inode.type = type_bits(record.mode);
    inode.is_volume = has_flag(record, InodeFlag::kVolume);
    inode.parent = {record.parent, record.parent_cookie};
    if (record.attribute_bytes != 0) {
      const AttributeList list = TRY(AttributeList::read(reader(), record));
      for (const auto& item : list.items()) {
        if (item.space != format::AttributeSpace::kParent || item.name.size() != 16) continue;
        const auto [directory, cookie] = AttributeList::parse_parent(item.name);
        inode.further.push_back({directory, cookie});
      }
      std::ranges::sort(inode.further);
    }
    if (inode.is_directory()) directories_[number];
    inodes_.emplace(number, std::move(inode));
    return {};
  }

  Inode* find(std::uint64_t number) {
    const auto it = inodes_.find(number);
    return it == inodes_.end() ? nullptr : &it->second;
  }

  // The list, cleared of what does not belong there.
  Result<> collect_orphans() {
    TRY(state_.load_orphans());
    const InodeRecord list = TRY(state_.table.read(reader(), format::kOrphansInode));
    std::vector<std::uint64_t> wrong;
    TRY(for_each_block(data_fork(list, LeafKind::kOrphans), BlockType::kOrphans,
                       [&](FileBlock at, const Block& block) -> Result<> {
                         for (std::uint64_t i = 0; i < kOrphansPerBlock; ++i) {
                           const std::uint64_t number = block.as<format::MapNode>()[i];
                           if (number == 0) continue;
                           Inode* inode = find(number);
                           if (inode == nullptr || is_reserved(number) || inode->listed || !inode->entries.empty() ||
                               inode->link_count != 0)
                             wrong.push_back(at.value * kOrphansPerBlock + i);
                           else
                             inode->listed = true;
                         }
                         return {};
                       }));
    for (const std::uint64_t index : wrong)
      TRY(change(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
        if (TRY(state_.own_leaf(transaction, format::kOrphansInode, FileBlock(index / kOrphansPerBlock)))) return Step::kAgain;
        InodeRecord* record = TRY(state_.table.edit(transaction, format::kOrphansInode));
        Block* block = TRY(edit_leaf(transaction, edit_data_fork(*record, LeafKind::kOrphans),
                                     FileBlock(index / kOrphansPerBlock), services_.graveyard));
        block->as<format::MapNode>()[index % kOrphansPerBlock] = 0;
        return Step::kDone;
      }));
    if (wrong.empty()) return {};
    add(format::kOrphansInode.value,
        std::to_string(wrong.size()) + " inodes that are none were taken from the orphan list");
    state_.orphan_index.clear();
    state_.orphan_gaps.clear();
    return state_.load_orphans();
  }

  // --- shape ---------------------------------------------------------------------------------------------------------

  Result<> add_reserved(InodeNumber number, std::uint32_t mode) {
    const auto present = state_.table.read(reader(), number);
    if (present || present.error().code != ErrorCode::kStale)
      return present ? Result<>{} : Result<>(std::unexpected(present.error()));
    TRY(change(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(state_.own_inode(transaction, number))) return Step::kAgain;
      InodeRecord* record = TRY(state_.table.occupy(transaction, number));
      record->mode = mode;
      record->link_count = S_ISDIR(mode) ? 2 : 1;
      services_.store.mutex.assert_held();
      record->generation = TRY(next_generation(transaction));
      for (const TimeIndex which : {kAccess, kModification, kChange, kBirth}) set_time(*record, which, current_time());
      TRY(state_.table.note_used(transaction, number));
      return Step::kDone;
    }));
    actions_.add_loss(BlockNumber(0), where(number.value), "was lost: made anew, empty");
    return {};
  }

  // Of the entries of a directory or volume one stays: that which its parent link names, unless it lies below itself by that.
  void choose_entries() {
    std::map<std::uint64_t, Link> found;  // by a search from the root
    std::vector<std::uint64_t> pending{format::kRootInode.value};
    for (std::size_t i = 0; i < pending.size(); ++i) {
      const auto entries = directories_.find(pending[i]);
      if (entries == directories_.end()) continue;
      for (const Entry& entry : entries->second) {
        const Inode* child = find(entry.inode);
        if (child == nullptr || !child->is_directory() || is_reserved(entry.inode)) continue;
        if (found.try_emplace(entry.inode, Link{pending[i], entry.cookie}).second) pending.push_back(entry.inode);
      }
    }
    for (auto& [number, inode] : inodes_) {
      if (!inode.has_one_name() || inode.entries.size() < 2) continue;
      const auto way = found.find(number);
      Link keep = way == found.end() ? inode.entries.front() : way->second;
      if (std::ranges::find(inode.entries, inode.parent) != inode.entries.end() &&
          leads_to_root(inode.parent.directory, number, found))
        keep = inode.parent;
      inode.entries = {keep};
    }
  }

  static bool leads_to_root(std::uint64_t from, std::uint64_t without, const std::map<std::uint64_t, Link>& found) {
    while (from != format::kRootInode.value) {
      const auto way = found.find(from);
      if (from == without || way == found.end()) return false;
      from = way->second.directory;
    }
    return true;
  }

  Result<> correct_entries() {
    choose_entries();
    for (const auto& [directory, entries] : directories_) {
      for (const Entry& entry : entries) {
        Inode* inode = find(entry.inode);
        const Link here{directory, entry.cookie};
        if (inode == nullptr || is_reserved(entry.inode)) {
          TRY(remove_entry(here));
          actions_.add_loss(
              BlockNumber(0), where(directory),
              "an entry was removed: it led to inode " + std::to_string(entry.inode) + ", which is not in use");
          continue;
        }
        if (inode->has_one_name() && std::ranges::find(inode->entries, here) == inode->entries.end()) {
          TRY(remove_entry(here));
          add(directory, "an entry was removed: " + std::string(inode->is_volume ? "volume " : "directory ") +
                             std::to_string(entry.inode) + " had several");
          continue;
        }
        if (entry.type != inode->type) {
          TRY(correct_type(here, entry.inode, inode->type));
          add(directory, "the type in the entry of inode " + std::to_string(entry.inode) + " was corrected");
        }
      }
    }
    return {};
  }

  Result<> edit_entry(const Link& at, FunctionRef<Result<>(Transaction&, InodeRecord&)> edit) {
    return change(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
      const InodeNumber directory(at.directory);
      if (TRY(state_.own_inode(transaction, directory)) ||
          TRY(state_.own_directory_block(transaction, directory, at.cookie)))
        return Step::kAgain;
      TRY(edit(transaction, *TRY(state_.table.edit(transaction, directory))));
      return Step::kDone;
    });
  }
  Result<> remove_entry(const Link& at) {
    return edit_entry(at, [&](Transaction& transaction, InodeRecord& directory) {
      return erase_entry(transaction, directory, at.cookie, services_.graveyard);
    });
  }
  Result<> correct_type(const Link& at, std::uint64_t inode, std::uint8_t type) {
    return edit_entry(at, [&](Transaction& transaction, InodeRecord& directory) {
      return retarget_entry(transaction, directory, at.cookie, InodeNumber(inode), type, services_.graveyard);
    });
  }

  // Directories that only directories below them lead to.
  Result<> break_circles() {
    reach(format::kRootInode.value);
    for (auto& [number, inode] : inodes_)
      if (inode.is_directory() && inode.entries.empty()) reach(number);  // from lost+found, soon
    for (auto& [number, inode] : inodes_) {
      if (!inode.is_directory() || inode.reached) continue;
      for (const Link& link : inode.entries) TRY(remove_entry(link));
      inode.entries.clear();
      add(number, "it was in a circle of directories");
      reach(number);
    }
    return {};
  }

  void reach(std::uint64_t from) {
    std::vector<std::uint64_t> pending{from};
    while (!pending.empty()) {
      const std::uint64_t number = pending.back();
      pending.pop_back();
      Inode* inode = find(number);
      if (inode == nullptr || inode->reached) continue;
      inode->reached = true;
      const auto entries = directories_.find(number);
      if (entries == directories_.end()) continue;
      for (const Entry& entry : entries->second) {
        const Inode* child = find(entry.inode);
        // Only by the one entry that stays.
        if (child != nullptr && child->is_directory() &&
            std::ranges::find(child->entries, Link{number, entry.cookie}) != child->entries.end())
          pending.push_back(entry.inode);
      }
    }
  }

  Result<> place_orphans() {
    for (auto& [number, inode] : inodes_) {
      if (is_reserved(number) || !inode.entries.empty() || inode.listed) continue;
      if (inode.link_count == 0 && !inode.is_directory() && !inode.is_volume) {
        TRY(list_orphan(number));
      } else {
        TRY(give_name(number, inode));
      }
    }
    return {};
  }

  // It was deleted: the next mount frees it.
  Result<> list_orphan(std::uint64_t number) {
    Volume::State::OrphanChange listed;
    TRY(change(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(state_.own_orphan_place(transaction, InodeNumber(number)))) return Step::kAgain;
      listed = TRY(state_.add_orphan(transaction, InodeNumber(number)));
      return Step::kDone;
    }));
    state_.note_orphan(listed);
    add(number, "it has no name and no links: listed as an orphan");
    return {};
  }

  Result<> give_name(std::uint64_t number, const Inode& inode) {
    std::string name = "#" + std::to_string(number);
    InodeNumber directory = format::kRootInode;
    if (volume_ == kVolumeZero)
      name = "recovered-" + std::to_string(number);
    else
      directory = TRY(lost_and_found());
    const InodeRecord record = TRY(state_.table.read(reader(), directory));
    if (!index_) index_ = TRY(DirectoryIndex::build(reader(), record));
    while (TRY(find_entry(reader(), record, *index_, name))) name += "_";
    TRY(add_entry(directory, *index_, name, number, inode.type));
    add(number,
        "it had no name: found again as " + std::string(volume_ == kVolumeZero ? "volume " : "/lost+found/") + name);
    return {};
  }

  Result<> add_entry(InodeNumber directory, DirectoryIndex& index, const std::string& name, std::uint64_t inode,
                     std::uint8_t type) {
    const DirectoryPosition position = index.find_room(granules_for(name.size()));
    TRY(change(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(state_.own_inode(transaction, directory)) ||
          TRY(state_.own_directory_block(transaction, directory, position)))
        return Step::kAgain;
      InodeRecord* record = TRY(state_.table.edit(transaction, directory));
      TRY(write_entry(transaction, *record, position, name, InodeNumber(inode), type, services_.graveyard));
      return Step::kDone;
    }));
    index.insert(name_hash(name), position, granules_for(name.size()));
    return {};
  }

  Result<InodeNumber> lost_and_found() {
    if (lost_and_found_.value != 0) return lost_and_found_;
    const InodeRecord root = TRY(state_.table.read(reader(), format::kRootInode));
    const auto index = TRY(DirectoryIndex::build(reader(), root));
    std::string name = kLostAndFound;
    while (const auto found = TRY(find_entry(reader(), root, *index, name))) {
      const Inode* inode = find(found->inode.value);
      if (inode != nullptr && inode->is_directory()) {
        lost_and_found_ = found->inode;
        return lost_and_found_;
      }
      name += "_";
    }
    const DirectoryPosition position = index->find_room(granules_for(name.size()));
    InodeNumber made;
    TRY(change(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(state_.own_inode(transaction, format::kRootInode)) ||
          TRY(state_.own_directory_block(transaction, format::kRootInode, position)))
        return Step::kAgain;
      made = TRY(state_.table.find_free(transaction));
      if (TRY(state_.own_inode(transaction, made))) return Step::kAgain;
      InodeRecord* record = TRY(state_.table.occupy(transaction, made));
      record->mode = S_IFDIR | 0700;
      record->link_count = 2;
      services_.store.mutex.assert_held();
      record->generation = TRY(next_generation(transaction));
      for (const TimeIndex which : {kAccess, kModification, kChange, kBirth}) set_time(*record, which, current_time());
      record->parent = format::kRootInode.value;
      record->parent_cookie = position;
      TRY(state_.table.note_used(transaction, made));
      InodeRecord* parent = TRY(state_.table.edit(transaction, format::kRootInode));
      TRY(write_entry(transaction, *parent, position, name, made, kDirectoryType, services_.graveyard));
      ++parent->link_count;
      return Step::kDone;
    }));
    lost_and_found_ = made;
    return made;
  }

  // --- counts and links upwards --------------------------------------------------------------------------------------

  Result<> correct_counts(std::uint64_t number, const Inode& inode) {
    if (is_reserved(number) && number != format::kRootInode.value) return {};
    const bool root = number == format::kRootInode.value;
    const std::uint64_t links =
        inode.is_directory() && (root || !inode.entries.empty()) ? 2 + inode.subdirectories : inode.entries.size();
    Link parent = inode.parent;
    std::vector<Link> further;
    if (!root && !inode.entries.empty()) {
      if (std::ranges::find(inode.entries, parent) == inode.entries.end()) parent = inode.entries.front();
      if (!inode.is_directory())
        std::ranges::copy_if(inode.entries, std::back_inserter(further),
                             [&](const Link& link) { return link != parent; });
    }
    if (inode.link_count == links && parent == inode.parent && further == inode.further) return {};
    TRY(change(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(state_.own_inode(transaction, InodeNumber(number))) ||
          TRY(state_.own_attributes(transaction, InodeNumber(number))))
        return Step::kAgain;
      InodeRecord* record = TRY(state_.table.edit(transaction, InodeNumber(number)));
      record->link_count = static_cast<std::uint32_t>(links);
      record->parent = parent.directory;
      record->parent_cookie = parent.cookie;
      if (further == inode.further) return Step::kDone;
      AttributeList list = TRY(AttributeList::read(transaction, *record));
      for (const Link& link : inode.further)
        list.remove(format::AttributeSpace::kParent, AttributeList::parent_name(link.directory, link.cookie));
      for (const Link& link : further)
        list.set(format::AttributeSpace::kParent, AttributeList::parent_name(link.directory, link.cookie), {});
      TRY(list.write(transaction, *record, services_.graveyard));
      return Step::kDone;
    }));
    if (inode.link_count != links)
      add(number, "link count corrected from " + std::to_string(inode.link_count) + " to " + std::to_string(links));
    if (parent != inode.parent || further != inode.further) add(number, "the links to its directories were corrected");
    return {};
  }

  PoolServices& services_;
  Volume::State state_;
  const VolumeNumber volume_;
  Actions& actions_;
  std::map<std::uint64_t, Inode> inodes_;
  std::map<std::uint64_t, std::vector<Entry>> directories_;
  InodeNumber lost_and_found_;
  std::shared_ptr<DirectoryIndex> index_;  // of the directory that found inodes go to
};

Result<std::vector<VolumeNumber>> all_volumes(Store& store) {
  std::vector<VolumeNumber> volumes{kVolumeZero};
  BlockReader& reader = store.metadata();
  const Fork table = TRY(InodeTable::root(reader, kVolumeZero));
  Result<> outcome;
  TRY(for_each_segment(
      reader, table, {FileBlock(0), std::min(table.capacity(), kMaximumFileBlocks - 1)}, [&](const Segment& segment) {
        for (std::uint64_t i = 0; segment.entry.present() && i < segment.range.count; ++i) {
          const auto block = reader.read(segment.entry.block() + i, BlockType::kInodes);
          if (!block) {
            outcome = std::unexpected(block.error());
            return false;
          }
          for (std::uint64_t k = 0; k < format::kInodesPerBlock; ++k) {
            const InodeNumber number((segment.range.first.value + i) * format::kInodesPerBlock + k);
            const InodeRecord& record = (*block)->as<format::InodeBlock>().inodes[k];
            if (record.mode != 0 && number >= format::kFirstInode && has_flag(record, InodeFlag::kVolume))
              volumes.push_back(number);
          }
        }
        return true;
      }));
  TRY(outcome);
  return volumes;
}

// Data that the device lists as bad and the ledger does not know: entered, so that nobody reads it as if it were good.
Result<> enter_bad_data(Store& store, Actions& actions) {
  const auto ranges = store.medium().bad_ranges();
  if (!ranges) return {};  // not every medium has a list
  std::map<std::uint64_t, std::uint8_t> masks;
  constexpr std::size_t kMaximumBlocks = 1'000'000;
  const std::uint64_t end = store.superblock().pool_bytes;
  for (const BadRange& range : *ranges)
    for (std::uint64_t at = range.offset_bytes;
         at < std::min(end, range.offset_bytes + range.length_bytes) && masks.size() < kMaximumBlocks;
         at += kSectorBytes)
      masks[at / kBlockBytes] |= static_cast<std::uint8_t>(1u << (at % kBlockBytes / kSectorBytes));
  const LockGuard guard(store.mutex);
  for (const auto& [block, mask] : masks) {
    const BlockNumber at(block);
    if (!store.holds_data({at, 1}) || (store.ledger().mask(at) & mask) == mask) continue;
    if (TRY(store.reverse_map().count_references(store.metadata(), at, 1)) == 0) continue;
    const auto all = static_cast<std::uint8_t>(store.ledger().mask(at) | mask);
    TRY(store.run_locked(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
      TRY(transaction.set_ledger(at, all));
      return Step::kDone;
    }));
    actions.add_loss(at, "data", "the device lists it as bad: entered into the ledger");
  }
  return {};
}

}  // namespace

Result<> repair_names(Medium& medium, Actions& actions) {
  const auto store = TRY(Store::open(std::make_unique<BorrowedMedium>(medium), {}));
  TRY(enter_bad_data(*store, actions));
  PoolGraveyard graveyard(*store);
  constexpr std::uint64_t kDirectoryBytes = 256ull << 20;
  PoolServices services{*store, graveyard, {}, false, {}, {}, kDirectoryBytes};
  for (const bool shape : {true, false}) {
    for (const VolumeNumber volume : TRY(all_volumes(*store))) {
      VolumeRepair repair(services, volume, actions);
      TRY(shape ? repair.repair_shape() : repair.repair_counts());
    }
  }
  return {};
}

}  // namespace daxcow::repairer
