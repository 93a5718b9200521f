// Names for people: the path of an inode, found by climbing its parents through whatever can be read. Nothing here is
// trusted and nothing fails: what cannot be found out is left away.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/block.h"
#include "engine/format.h"
#include "engine/inode_table.h"
#include "engine/map.h"
#include "engine/types.h"

namespace daxcow::checker {

class Paths {
 public:
  explicit Paths(BlockReader& reader) : reader_(reader) {}

  // "volume main"
  std::string describe(VolumeNumber volume);
  // "volume main, /a/b (inode 17)"
  std::string describe(VolumeNumber volume, InodeNumber inode);

 private:
  std::optional<std::string> path_of(VolumeNumber volume, InodeNumber inode);
  std::optional<std::string> name_in(VolumeNumber volume, InodeNumber directory, std::uint64_t cookie,
                                     InodeNumber inode);

  BlockReader& reader_;
};

// A name as it can be shown: bytes that would upset a terminal are replaced.
std::string printable(std::string_view name);

}  // namespace daxcow::checker
