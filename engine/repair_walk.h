// Walks over trees that may be damaged: what makes no sense is passed over, what is met is bounded by the levels.
#pragma once

#include <cstdint>
#include <string_view>

#include "engine/block.h"
#include "engine/format.h"
#include "engine/function_ref.h"
#include "engine/inode_table.h"
#include "engine/map.h"
#include "engine/repair_pool.h"

namespace daxcow::repairer {

// Where a reference is.
struct SlotPlace {
  BlockNumber source;
  format::BlockType type{};
  std::uint64_t slot = 0;
};

// Visits the metadata leaves of a fork whose root begins at `root` (block, and slot of its first entry) in order, map
// nodes before what is below them (`node`: true). When visit returns false, what is below is not visited.
using VisitLeaf = FunctionRef<bool(const SlotPlace& place, MapEntry entry, bool node, FileBlock at)>;
void for_each_leaf(BlockReader& reader, SlotPlace root, const Fork& fork, VisitLeaf visit);

// The place of a root slot of an inode.
inline SlotPlace root_place(BlockNumber inode_block, std::uint64_t index, bool attributes) {
  return {inode_block, format::BlockType::kInodes,
          index * format::kSlotsPerInode + (attributes ? format::kRootSlots : 0)};
}
inline SlotPlace volume_zero_place() { return {format::kRootsBlock, format::BlockType::kRoots, 0}; }

// Replaces the entry in a slot, in place.
Result<> set_slot(RawEditor& editor, const SlotPlace& place, std::uint64_t raw);

// All volumes, volume 0 first: its number, and the fork of its inode table with the place of that.
struct TableOfVolume {
  VolumeNumber number;
  SlotPlace place;
  Fork table;
};
std::vector<TableOfVolume> volume_tables(RepairPool& pool);

}  // namespace daxcow::repairer
