#include "engine/repair_walk.h"

#include <unordered_set>

#include "engine/check_trees.h"

namespace daxcow::repairer {

using format::BlockType;
using format::InodeRecord;
using format::LeafKind;

namespace {

void walk(BlockReader& reader, SlotPlace place, std::span<const std::uint64_t> entries, std::uint8_t log512,
          FileBlock base, VisitLeaf visit) {
  for (std::uint64_t i = 0; i < entries.size(); ++i) {
    const MapEntry entry{entries[i]};
    if (!entry.present() || (log512 == 0) == entry.is_node()) continue;
    const FileBlock at = base + i * blocks_spanned(log512);
    const SlotPlace slot{place.source, place.type, place.slot + i};
    if (!visit(slot, entry, entry.is_node(), at) || !entry.is_node()) continue;
    const auto node = reader.read(entry.block(), BlockType::kMapNode);
    if (!node) continue;
    // A copy: visit may change the block that it was read from.
    const format::MapNode below = (*node)->as<format::MapNode>();
    walk(reader, {entry.block(), BlockType::kMapNode, 0}, below, static_cast<std::uint8_t>(log512 - 1), at, visit);
  }
}

}  // namespace

void for_each_leaf(BlockReader& reader, SlotPlace root, const Fork& fork, VisitLeaf visit) {
  walk(reader, root, fork.slots, static_cast<std::uint8_t>(fork.level - 1), FileBlock(0), visit);
}

Result<> set_slot(RawEditor& editor, const SlotPlace& place, std::uint64_t raw) {
  Block* block = TRY(editor.edit(place.source, place.type));
  if (place.type == BlockType::kMapNode || place.type == BlockType::kGraveyard) {
    block->as<format::MapNode>()[place.slot] = raw;
    return {};
  }
  InodeRecord& inode = place.type == BlockType::kRoots
                           ? block->as<format::Roots>().volume_zero
                           : block->as<format::InodeBlock>().inodes[place.slot / format::kSlotsPerInode];
  const std::uint64_t slot = place.slot % format::kSlotsPerInode;
  (slot < format::kRootSlots ? inode.data[slot] : inode.attributes[slot - format::kRootSlots]) = raw;
  return {};
}

std::vector<TableOfVolume> volume_tables(RepairPool& pool) {
  std::vector<TableOfVolume> volumes;
  const auto roots = pool.editor.read(format::kRootsBlock, BlockType::kRoots);
  if (!roots) return volumes;
  const InodeRecord& zero = (*roots)->as<format::Roots>().volume_zero;
  if (zero.mode == 0 || !has_valid_levels(zero)) return volumes;
  volumes.push_back({kVolumeZero, volume_zero_place(), data_fork(zero, LeafKind::kInodes)});
  const Fork table = volumes[0].table;  // a copy: the list grows while this is walked
  std::unordered_set<std::uint64_t> met;
  for_each_leaf(
      pool.editor, volume_zero_place(), table, [&](const SlotPlace&, MapEntry entry, bool, FileBlock at) {
        if (!pool.metadata.is_described(entry.block()) || !met.insert(entry.block().value).second) return false;
        if (entry.is_node()) return true;
        const auto block = pool.editor.read(entry.block(), BlockType::kInodes);
        if (!block) return false;
        for (std::uint64_t i = 0; i < format::kInodesPerBlock; ++i) {
          const InodeRecord& inode = (*block)->as<format::InodeBlock>().inodes[i];
          const InodeNumber number(at.value * format::kInodesPerBlock + i);
          if (inode.mode == 0 || !has_valid_levels(inode) || !checker::has_flag(inode, format::InodeFlag::kVolume) ||
              number < format::kFirstInode)
            continue;
          volumes.push_back({number, root_place(entry.block(), i, false), data_fork(inode, LeafKind::kInodes)});
        }
        return true;
      });
  return volumes;
}

}  // namespace daxcow::repairer
