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

// Fields, sizes, block count, symlink target. `trees` has walked the inode's forks.
void check_inode(Context& context, const TreeWalk& trees, const InodeInTable& inode);

// The attribute fork, which must be the inode's own. Checks it when `thorough`; returns the further parents that it
// lists (directory and cookie), none if it cannot be read.
std::vector<std::pair<std::uint64_t, std::uint64_t>> check_attributes(Context& context, const TreeWalk& trees,
                                                                      const InodeInTable& inode, bool thorough);

// Reports the ranges of the file whose blocks are bad, up to a bound.
void report_lost(Context& context, const TreeWalk& trees, const InodeInTable& inode);

}  // namespace daxcow::checker
