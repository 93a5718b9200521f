// Blocks that are lost in both copies. What refers is rebuilt from the reverse map; inodes get defaults for what that
// does not say, and inodes without any reference (empty files, say) their type from their directory entries. What
// cannot be rebuilt is given back here; whoever led to it loses it in the next step.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "engine/check_trees.h"
#include "engine/content_from_records.h"
#include "engine/directory.h"
#include "engine/repair_walk.h"

namespace daxcow::repairer {

using format::BlockDescriptor;
using format::BlockType;
using format::InodeRecord;
using format::LeafKind;
using format::ReverseRecord;

namespace {

constexpr std::uint64_t kMaximumRecords = 50'000'000;  // of lost blocks; a pool with more lost than that is lost

class LostBlocks {
 public:
  explicit LostBlocks(RepairPool& pool) : pool_(pool) {}

  Result<> run() {
    find();
    if (lost_.empty()) return {};
    collect_records();
    // Inode blocks last, and all with one commit: their completion looks at all that is below.
    for (const auto& [block, descriptor] : lost_)
      if (descriptor.type != BlockType::kInodes) TRY(rebuild(BlockNumber(block), descriptor));
    TRY(pool_.editor.commit());
    for (const auto& [block, descriptor] : lost_)
      if (descriptor.type == BlockType::kInodes) TRY(rebuild(BlockNumber(block), descriptor));
    TRY(add_inodes_with_names());
    return pool_.editor.commit();
  }

 private:
  void find() {
    pool_.for_each_block([&](BlockNumber block, const BlockDescriptor& descriptor) {
      if (descriptor.type == BlockType::kFree) return;
      if (!pool_.metadata.read_copy(block, Copy::kPrimary) && !pool_.metadata.read_copy(block, Copy::kMirror))
        lost_[block.value] = descriptor;
    });
  }

  void collect_records() {
    std::uint64_t count = 0;
    pool_.for_each_record([&](BlockNumber, const ReverseRecord& record) {
      if (record.kind != format::RecordKind::kTree || !lost_.contains(record.source)) return true;
      records_[record.source].push_back(record);
      return ++count < kMaximumRecords;
    });
  }

  Result<> rebuild(BlockNumber block, const BlockDescriptor& descriptor) {
    Block content{};
    const std::uint64_t found =
        holds_references(descriptor.type) ? content_from_records(descriptor, records_[block.value], content) : 0;
    // Without its table there is nothing to be had; nothing leads to an empty map node or inode block.
    const bool keep = found != 0 || descriptor.type == BlockType::kInodes || descriptor.type == BlockType::kRoots;
    if (!keep) {
      pool_.editor.release(block);
      const bool records = descriptor.type == BlockType::kReverseLeaf;
      if (records)
        pool_.actions.add(block, block_place(descriptor.type, block),
                          "lost in both copies: its records are made anew from the trees, and its bad blocks known "
                          "again as far as the device lists them");
      else
        pool_.actions.add_loss(block, block_place(descriptor.type, block),
                               "lost in both copies, and nothing says what was in it: given back");
      return pool_.commit_if_large();
    }
    if (descriptor.type == BlockType::kRoots) complete_roots(content.as<format::Roots>());
    if (descriptor.type == BlockType::kInodes) {
      complete_inodes(
          pool_.editor, [&](BlockNumber of) { return pool_.editor.descriptor(of); }, content.as<format::InodeBlock>());
      inode_blocks_.insert(block.value);
    }
    pool_.editor.put(block, {descriptor.type, descriptor.level, descriptor.leaf_kind, 0, 0}, content);
    const std::string what =
        "lost in both copies: " + std::to_string(found) + " references were rebuilt from the reverse map";
    if (descriptor.type == BlockType::kMapNode || descriptor.type == BlockType::kGraveyard) {
      pool_.actions.add(block, block_place(descriptor.type, block), what);
      return pool_.commit_if_large();
    }
    pool_.actions.add_loss(block, block_place(descriptor.type, block),
                           what + "; owners, permissions, times and counters have defaults");
    return {};
  }

  // As Pool::format makes it. A generation_limit of 0 says that it is not known (repair_trees.cc).
  static void complete_roots(format::Roots& roots) {
    InodeRecord& zero = roots.volume_zero;
    const auto data = zero.data;
    const std::uint8_t level = zero.data_level;
    make_default_inode(zero, S_IFREG);
    zero.data = data;
    zero.data_level = std::max<std::uint8_t>(level, 1);
    zero.flags = static_cast<std::uint32_t>(format::InodeFlag::kVolume);
  }

  // --- inodes that only their names tell of --------------------------------------------------------------------------

  Result<> add_inodes_with_names() {
    if (inode_blocks_.empty()) return {};
    for (const TableOfVolume& volume : volume_tables(pool_)) {
      if (volume.number == kVolumeZero) continue;  // volumes without a table are none
      missing_.clear();
      directories_.clear();
      met_.clear();
      for_each_leaf(pool_.editor, volume.place, volume.table,
                    [&](const SlotPlace&, MapEntry entry, bool node, FileBlock at) {
                      if (!met_.insert(entry.block().value).second) return false;
                      if (!node) look_at_inodes(entry.block(), at, volume.number);
                      return true;
                    });
      if (missing_.empty()) continue;
      for (const auto& [fork, place] : directories_) look_at_directory(fork, place);
      for (const auto& [number, found] : missing_) {
        if (found.type == 0) continue;
        Block* block = TRY(pool_.editor.edit(found.block, BlockType::kInodes));
        InodeRecord& inode = block->as<format::InodeBlock>().inodes[number % format::kInodesPerBlock];
        if (inode.mode == 0) make_default_inode(inode, found.type);
      }
    }
    return {};
  }

  void look_at_inodes(BlockNumber block, FileBlock at, VolumeNumber volume) {
    const auto content = pool_.editor.read(block, BlockType::kInodes);
    if (!content) return;
    for (std::uint64_t i = 0; i < format::kInodesPerBlock; ++i) {
      const InodeRecord& inode = (*content)->as<format::InodeBlock>().inodes[i];
      const InodeNumber number(at.value * format::kInodesPerBlock + i);
      if (inode.mode == 0 && inode_blocks_.contains(block.value) && number >= format::kFirstInode)
        missing_[number.value] = {block, 0};
      if (inode.mode != 0 && has_valid_levels(inode) && checker::data_kind(inode, number, volume) == LeafKind::kDirectory)
        directories_.emplace_back(data_fork(inode, LeafKind::kDirectory), root_place(block, i, false));
    }
  }

  void look_at_directory(const Fork& fork, const SlotPlace& place) {
    for_each_leaf(pool_.editor, place, fork, [&](const SlotPlace&, MapEntry entry, bool node, FileBlock) {
      if (!met_.insert(entry.block().value).second) return false;
      if (node) return true;
      const auto content = pool_.editor.read(entry.block(), BlockType::kDirectory);
      if (!content) return false;
      (void)for_each_entry(**content, 0, [&](std::uint64_t, const format::DirectoryEntry& found, std::string_view) {
        const std::uint32_t type = static_cast<std::uint32_t>(found.type) << 12;
        // A device's number and a short symlink's target are gone; such names go too.
        const bool possible = type == S_IFREG || type == S_IFDIR || type == S_IFIFO || type == S_IFSOCK;
        if (const auto it = missing_.find(found.inode); it != missing_.end() && possible) it->second.type = type;
        return true;
      });
      return true;
    });
  }

  struct Missing {
    BlockNumber block;
    std::uint32_t type = 0;
  };

  RepairPool& pool_;
  std::map<std::uint64_t, BlockDescriptor> lost_;
  std::unordered_map<std::uint64_t, std::vector<ReverseRecord>> records_;  // by source
  std::unordered_set<std::uint64_t> inode_blocks_;                         // rebuilt
  std::unordered_map<std::uint64_t, Missing> missing_;  // numbers of a volume that may have been in use
  std::vector<std::pair<Fork, SlotPlace>> directories_;
  std::unordered_set<std::uint64_t> met_;
};

}  // namespace

Result<> repair_blocks(RepairPool& pool) { return LostBlocks(pool).run(); }

}  // namespace daxcow::repairer
