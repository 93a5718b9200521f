// Corrections of what follows from an inode and its blocks alone, whoever shares them: fields, directory blocks,
// attribute streams, targets of symlinks. References were pruned before, so all that is below can be read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/format.h"
#include "engine/repair_walk.h"

namespace daxcow::repairer {

struct InodePlace {
  VolumeNumber volume;
  InodeNumber number;
  BlockNumber block;
  std::uint64_t index = 0;  // in the block
};

// Forks of this kind have no leaf from this file block on.
std::uint64_t leaf_limit(format::LeafKind kind);

// What the inode's data fork leads to, as far as its blocks say; kNothing if it is empty or says nothing.
enum class Evidence { kNothing, kData, kInodes, kDirectory, kSymlink, kOther };
Evidence evidence_of(RepairPool& pool, const format::InodeRecord& inode);

// Mode, flags, levels: what has to be right before the forks can be looked at. False if it cannot be any inode that
// belongs there: it is to be dropped. `confirmed` says whether the reverse map agrees with where the inode's slots
// lead: asked when mode or level do not fit that, to know which of the two is wrong. `changes` says what was changed.
bool correct_kind(RepairPool& pool, const InodePlace& place, format::InodeRecord& inode, FunctionRef<bool()> confirmed,
                  std::string& changes);

// The rest, once the forks hold what they say: `leaves` are below the data fork. False if it is to be dropped.
Result<bool> correct_inode(RepairPool& pool, const InodePlace& place, format::InodeRecord& inode, std::uint64_t leaves,
                           std::string& changes);

// A block of a directory: entries that make no sense are mended where the name's hash allows it, or removed. Returns
// the names that are left, with their places.
struct NameAt {
  std::string name;
  std::uint64_t granule = 0;
};
std::vector<NameAt> correct_directory_block(Block& content, std::string& changes);

}  // namespace daxcow::repairer
