// How much space files, trees and volumes take, and how much of it would come free without them.
//
// What comes free is what nobody else refers to: found from the top down. Holders are taken level by level; a block is exclusive
// when as many references come from exclusive holders of the set as the reverse map has in all. So blocks that files of the set
// share only with each other are counted as theirs, once.
//
// Each look is at one moment, but between two of them the pool may change: the figures are exact while nothing is written.
#pragma once

#include <cstdint>
#include <span>

#include "engine/pool.h"
#include "engine/result.h"
#include "engine/types.h"
#include "engine/volume.h"

namespace daxcow {

// In blocks of 4 KiB, each block once. Metadata is what belongs to the files (inodes, maps, directories, attributes), without its
// mirror; inodes only of whole volumes.
struct SpaceUsage {
  std::uint64_t files = 0;  // inodes, directories too; not counted for volumes
  std::uint64_t data_blocks = 0;
  std::uint64_t exclusive_data_blocks = 0;
  std::uint64_t metadata_blocks = 0;
  std::uint64_t exclusive_metadata_blocks = 0;
};

// Of these inodes and all that is below those which are directories. A file of which the set does not have all names is not
// exclusive. kStale.
Result<SpaceUsage> space_of_trees(Pool& pool, Volume& volume, std::span<const InodeNumber> tops);

// Of a whole volume, mounted or not.
Result<SpaceUsage> space_of_volume(Pool& pool, VolumeNumber volume);

}  // namespace daxcow
