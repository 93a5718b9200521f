// What an inode's own record and forks say: facts that follow from the content alone, whichever volumes share it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/check_context.h"
#include "engine/check_trees.h"
#include "engine/format.h"

namespace daxcow::checker {

struct InodeInTable {
  VolumeNumber volume;
  InodeNumber number;
  BlockNumber block;  // of the table
  const format::InodeRecord& record;
};

// Fields, sizes, block count, attributes, symlink target. `trees` has walked the inode's forks.
void check_inode(Context& context, const TreeWalk& trees, const InodeInTable& inode);

// The further parents that the attribute fork lists: directory and cookie. Empty if the fork cannot be read.
std::vector<std::pair<std::uint64_t, std::uint64_t>> further_parents(Context& context, const format::InodeRecord& record);

// Reports the ranges of the file whose blocks are bad, up to a bound.
void report_lost(Context& context, const TreeWalk& trees, const InodeInTable& inode);

}  // namespace daxcow::checker
