// Names of inodes, for people: by following parent links upwards, without a scan.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "engine/block.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

// Complete paths from the volume's root ("/a/b"), one for each name, at most `limit`. Empty for an inode without a name.
Result<std::vector<std::string>> paths_of(BlockReader& reader, VolumeNumber volume, InodeNumber inode, std::size_t limit);

}  // namespace daxcow
