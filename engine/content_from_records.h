// The content of a block that is lost in both copies, from the reverse map: a record says which slots of its source led
// where, and as what. So the references of a map node, a graveyard block, an inode block and the roots block can be had
// back whole; the rest of an inode block (owners, times, targets of short symlinks) cannot.
#pragma once

#include <span>

#include "engine/block.h"
#include "engine/format.h"
#include "engine/function_ref.h"
#include "engine/map.h"
#include "engine/types.h"

namespace daxcow {

// Fills in what the kTree records whose source is the lost block say of it; others are passed over. `descriptor` is the
// lost block's. Returns the number of slots that lead somewhere. What records say is not trusted: the references that
// come out of it stay within the block, where they lead is the caller's to check.
std::uint64_t content_from_records(const format::BlockDescriptor& descriptor,
                                   std::span<const format::ReverseRecord> records, Block& content);

// Makes inodes of what content_from_records() left in an inode block: mode from what the forks lead to, levels, sizes
// from what is mapped, the attributes' length from the attributes; safe defaults for the rest. `describe` says what a
// metadata block is. Link counts, entry counts and parents are left to the checks of names; generations to the caller
// (they are 0).
void complete_inodes(BlockReader& reader, FunctionRef<format::BlockDescriptor(BlockNumber)> describe,
                     format::InodeBlock& inodes);
// The end of the last mapped block of a fork: found from behind, whatever the map repeats before.
std::uint64_t mapped_end(BlockReader& reader, const Fork& fork);
// An inode of this type without content; also what complete_inodes() starts from.
void make_default_inode(format::InodeRecord& inode, std::uint32_t type);

}  // namespace daxcow
