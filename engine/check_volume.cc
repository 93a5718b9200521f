#include "engine/check_volume.h"

#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>

#include "engine/inode_table.h"

namespace daxcow::checker {

using format::DirectoryEntry;
using format::InodeFlag;
using format::InodeRecord;
using format::kInodesPerBlock;
using format::LeafKind;

namespace {

constexpr std::uint8_t type_bits(std::uint32_t mode) { return static_cast<std::uint8_t>((mode & S_IFMT) >> 12); }
constexpr std::uint8_t kDirectoryType = type_bits(S_IFDIR);

// Inodes without names, by nature.
bool is_reserved(std::uint64_t number) {
  return number < format::kFirstInode.value && number != format::kRootInode.value;
}

}  // namespace

// One volume.
class VolumeCheck {
 public:
  VolumeCheck(VolumeChecks& shared, const VolumeRoot& volume)
      : shared_(shared),
        context_(shared.context_),
        trees_(shared.trees_),
        number_(volume.number),
        table_(volume.table) {}

  VolumeChecks::Counts run() {
    shared_.leaves_.start_volume();
    collect_inodes();
    if (!find(format::kRootInode.value)) add(FindingKind::kVolume, format::kRootInode, "there is no root directory");
    read_orphans();
    read_directories();
    match_further_parents();
    for (const Inode& inode : inodes_) check_links(inode);
    check_circles();
    return counts_;
  }

 private:
  // What has to be known of an inode while entries are met in any order.
  struct Inode {
    std::uint64_t number = 0, parent = 0, parent_cookie = 0;
    std::uint32_t link_count = 0;
    std::uint32_t entries = 0;         // that lead to it
    std::uint32_t subdirectories = 0;  // of a directory
    std::uint8_t type = 0;
    bool is_volume = false;
    bool parent_found = false;  // the entry that `parent` names leads here
    bool listed = false;        // as an orphan
    enum class Climb : std::uint8_t { kUnknown, kUnderWay, kDone } climb = Climb::kUnknown;
  };
  struct TableBlock {
    std::uint64_t at;
    BlockNumber block;
    std::size_t first;  // of its inodes in inodes_
    bool thorough;
  };
  struct Link {  // a place of an inode's name that its record does not hold
    std::uint64_t inode, directory, cookie;
    friend auto operator<=>(const Link&, const Link&) = default;
  };

  void add(FindingKind kind, InodeNumber inode, std::string what, std::optional<Remedy> remedy = {}) {
    context_.findings.add(kind, Severity::kRepairable, block_of(inode), Place{number_, inode, {}}, std::move(what),
                          remedy);
  }

  // --- inodes --------------------------------------------------------------------------------------------------------

  void collect_inodes() {
    shared_.leaves_.for_each(
        table_, Place{number_, {}, {}}, [&](BlockNumber block, FileBlock at, const Block& content) {
          const bool thorough = shared_.is_new(block, at);
          blocks_.push_back({at.value, block, inodes_.size(), thorough});
          for (std::uint64_t i = 0; i < kInodesPerBlock; ++i) {
            const InodeRecord& record = content.as<format::InodeBlock>().inodes[i];
            if (record.mode != 0)
              collect({number_, InodeNumber(at.value * kInodesPerBlock + i), block, record}, thorough);
          }
        });
  }

  void collect(const InodeInTable& inode, bool thorough) {
    const InodeRecord& record = inode.record;
    Inode fact;
    fact.number = inode.number.value;
    fact.parent = record.parent;
    fact.parent_cookie = record.parent_cookie;
    fact.link_count = record.link_count;
    fact.type = type_bits(record.mode);
    fact.is_volume = has_flag(record, InodeFlag::kVolume);
    inodes_.push_back(fact);
    if (!is_reserved(fact.number)) {
      ++counts_.inodes;
      counts_.directories += fact.type == kDirectoryType;
    }
    if (!fact.is_volume && number_ == kVolumeZero && inode.number >= format::kFirstInode)
      add(FindingKind::kVolume, inode.number, "an inode of the volume table is no volume");
    if (fact.is_volume && number_ != kVolumeZero)
      add(FindingKind::kVolume, inode.number, "an inode outside of the volume table has a volume's flag");
    if (thorough) check_inode(context_, trees_, inode);
    if ((thorough || record.attribute_bytes != 0) && owns_attributes(inode))
      for (const auto& [directory, cookie] : check_attributes(context_, trees_, inode, thorough))
        declared_.push_back({fact.number, directory, cookie});
    if (!context_.bad.empty() && data_kind(record, inode.number, number_) == LeafKind::kData)
      report_lost(context_, trees_, inode);
  }

  bool owns_attributes(const InodeInTable& inode) {
    return shared_.leaves_.for_each(attribute_fork(inode.record), Place{number_, inode.number, {}},
                                    [](BlockNumber, FileBlock, const Block&) {});
  }

  const TableBlock* table_block(std::uint64_t inode) const {
    const auto it = std::ranges::lower_bound(blocks_, inode / kInodesPerBlock, {}, &TableBlock::at);
    return it != blocks_.end() && it->at == inode / kInodesPerBlock ? &*it : nullptr;
  }
  BlockNumber block_of(InodeNumber inode) const {
    const TableBlock* block = table_block(inode.value);
    return block ? block->block : BlockNumber(0);
  }
  Inode* find(std::uint64_t number) {
    const TableBlock* block = table_block(number);
    if (block == nullptr) return nullptr;
    const std::size_t end = std::min(inodes_.size(), block->first + kInodesPerBlock);
    for (std::size_t i = block->first; i < end; ++i)
      if (inodes_[i].number == number) return &inodes_[i];
    return nullptr;
  }

  // --- orphans -------------------------------------------------------------------------------------------------------

  void read_orphans() {
    const auto record = InodeTable::read(context_.metadata, number_, format::kOrphansInode);
    if (!record) {
      if (record.error().code == ErrorCode::kStale)
        add(FindingKind::kVolume, format::kOrphansInode, "there is no orphan list");
      return;
    }
    std::uint64_t end = 0;
    shared_.leaves_.for_each(data_fork(*record, LeafKind::kOrphans), Place{number_, format::kOrphansInode, {}},
                             [&](BlockNumber, FileBlock at, const Block& content) {
                               end = at.value + 1;
                               for (const std::uint64_t inode : content.as<format::MapNode>())
                                 if (inode != 0) note_orphan(inode);
                             });
    if (end > blocks_for(record->size_bytes))
      add(FindingKind::kOrphan, format::kOrphansInode, "the orphan list has blocks beyond its size");
  }

  void note_orphan(std::uint64_t number) {
    Inode* inode = find(number);
    if (inode == nullptr || is_reserved(number))
      add(FindingKind::kOrphan, InodeNumber(number), "the orphan list names an inode that is not in use");
    else if (inode->listed)
      add(FindingKind::kOrphan, InodeNumber(number), "the orphan list names it twice");
    else
      inode->listed = true;
  }

  // --- directories ---------------------------------------------------------------------------------------------------

  void read_directories() {
    for (const TableBlock& table_block : blocks_) {
      const auto content = context_.metadata.read(table_block.block, format::BlockType::kInodes);
      if (!content) continue;
      for (std::uint64_t i = 0; i < kInodesPerBlock; ++i) {
        const InodeRecord& record = (*content)->as<format::InodeBlock>().inodes[i];
        const InodeNumber number(table_block.at * kInodesPerBlock + i);
        if (record.mode == 0 || data_kind(record, number, number_) != LeafKind::kDirectory) continue;
        const InodeInTable directory{number_, number, table_block.block, record};
        check_directory(
            context_, shared_.leaves_, directory, table_block.thorough,
            [&](std::uint64_t cookie, const DirectoryEntry& entry) { note_entry(number.value, cookie, entry); });
      }
    }
  }

  void note_entry(std::uint64_t directory, std::uint64_t cookie, const DirectoryEntry& entry) {
    Inode* inode = find(entry.inode);
    const auto entry_name = [&] {
      return "its entry at " + std::to_string(cookie) + " leads to inode " + std::to_string(entry.inode);
    };
    if (inode == nullptr) {
      // An inode that cannot be read is not free.
      const auto read = InodeTable::read(context_.metadata, number_, InodeNumber(entry.inode));
      if (!read && read.error().code == ErrorCode::kStale)
        add(FindingKind::kDirectory, InodeNumber(directory), entry_name() + ", which is not in use", Remedy::kRemove);
      return;
    }
    if (is_reserved(entry.inode) || entry.inode == format::kRootInode.value)
      return add(FindingKind::kDirectory, InodeNumber(directory), entry_name() + ", which has no name by nature",
                 Remedy::kRemove);
    if (entry.type != inode->type)
      add(FindingKind::kDirectory, InodeNumber(directory), entry_name() + ", which is of another type");
    ++inode->entries;
    if (inode->parent == directory && inode->parent_cookie == cookie)
      inode->parent_found = true;
    else if (inode->type != kDirectoryType)
      met_.push_back({entry.inode, directory, cookie});
    if (inode->type == kDirectoryType && !inode->is_volume)
      if (Inode* parent = find(directory)) ++parent->subdirectories;
  }

  // The further parents in attribute forks against the entries that are not an inode's first.
  void match_further_parents() {
    std::ranges::sort(declared_);
    std::ranges::sort(met_);
    auto a = declared_.begin();
    auto b = met_.begin();
    while (a != declared_.end() || b != met_.end()) {
      if (a != declared_.end() && b != met_.end() && *a == *b) {
        ++a, ++b;
      } else if (b == met_.end() || (a != declared_.end() && *a < *b)) {
        add(FindingKind::kParent, InodeNumber(a->inode),
            "a further parent leads to no entry: directory " + std::to_string(a->directory));
        ++a;
      } else {
        add(FindingKind::kParent, InodeNumber(b->inode),
            "an entry is not among its parents: directory " + std::to_string(b->directory));
        ++b;
      }
    }
  }

  // --- links ---------------------------------------------------------------------------------------------------------

  void check_links(const Inode& inode) {
    const InodeNumber number(inode.number);
    if (is_reserved(inode.number)) return;
    const bool directory = inode.type == kDirectoryType && !inode.is_volume;
    if (inode.link_count == 0 && !inode.listed)
      add(FindingKind::kOrphan, number, "it has no links and is not in the orphan list");
    if (inode.link_count != 0 && inode.listed)
      add(FindingKind::kOrphan, number, "it has links and is in the orphan list");
    if (number == format::kRootInode) {
      if (inode.link_count != 2 + inode.subdirectories) report_links(inode, 2 + std::uint64_t{inode.subdirectories});
      return;
    }
    if ((directory || inode.is_volume) && inode.entries > 1)
      add(FindingKind::kLinkCount, number,
          std::string(directory ? "a directory" : "a volume") + " has " + std::to_string(inode.entries) + " entries",
          Remedy::kRemove);
    if (inode.entries == 0 && inode.link_count != 0 && !inode.listed)
      add(FindingKind::kOrphan, number, "no directory has an entry for it", Remedy::kLostAndFound);
    const std::uint64_t expected =
        directory && inode.entries != 0 ? 2 + std::uint64_t{inode.subdirectories} : inode.entries;
    if (inode.entries != 0 && inode.link_count != expected) report_links(inode, expected);
    if (inode.entries != 0 && !inode.parent_found)
      add(FindingKind::kParent, number, "its parent link leads to no entry for it");
  }

  void report_links(const Inode& inode, std::uint64_t expected) {
    add(FindingKind::kLinkCount, InodeNumber(inode.number),
        "it counts " + std::to_string(inode.link_count) + " links and has " + std::to_string(expected));
  }

  // Directories that have entries, but in each other: every count is right and no path leads there.
  void check_circles() {
    std::vector<Inode*> path;
    for (Inode& start : inodes_) {
      if (start.type != kDirectoryType || start.climb != Inode::Climb::kUnknown) continue;
      path.clear();
      Inode* at = &start;
      while (at != nullptr && at->climb == Inode::Climb::kUnknown) {
        at->climb = Inode::Climb::kUnderWay;
        path.push_back(at);
        at = at->number == format::kRootInode.value || !at->parent_found ? nullptr : find(at->parent);
      }
      if (at != nullptr && at->climb == Inode::Climb::kUnderWay)
        add(FindingKind::kOrphan, InodeNumber(at->number),
            "it lies in a circle of directories that the root does not reach", Remedy::kLostAndFound);
      for (Inode* inode : path) inode->climb = Inode::Climb::kDone;
    }
  }

  VolumeChecks& shared_;
  Context& context_;
  const TreeWalk& trees_;
  const VolumeNumber number_;
  const Fork table_;
  std::vector<Inode> inodes_;       // ascending
  std::vector<TableBlock> blocks_;  // ascending
  std::vector<Link> declared_, met_;
  VolumeChecks::Counts counts_;
};

VolumeChecks::VolumeChecks(Context& context, const TreeWalk& trees)
    : context_(context), trees_(trees), leaves_(context), checked_at_(context.described.size(), ~0ull) {}

bool VolumeChecks::is_new(BlockNumber block, FileBlock at) {
  std::uint64_t& checked = checked_at_[context_.described.index(block)];
  return std::exchange(checked, at.value) != at.value;
}

void VolumeChecks::run() {
  if (const auto& zero = trees_.volume_zero())
    check_inode(context_, trees_, {kVolumeZero, InodeNumber(0), format::kRootsBlock, *zero});
  for (const VolumeRoot& volume : trees_.volumes()) {
    const bool user_volume = volume.number != kVolumeZero;
    const std::pair key(volume.table.slots, volume.table.level);
    auto known = tables_.find(key);
    // With bad blocks about, every owner is to be named.
    if (known == tables_.end() || !context_.bad.empty())
      known = tables_.insert_or_assign(key, VolumeCheck(*this, volume).run()).first;
    if (!user_volume) continue;
    ++context_.report.volumes;
    context_.report.inodes += known->second.inodes;
    context_.report.directories += known->second.directories;
  }
}

}  // namespace daxcow::checker
