// The volumes: what can only be said of a volume as a whole, such as that links and entries match.
//
// Content that several volumes share is checked once: an inode block at the same place of their tables says the same.
// Links, parents and orphans are facts of each volume and are counted for each.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "engine/check_context.h"
#include "engine/check_directory.h"
#include "engine/check_trees.h"

namespace daxcow::checker {

class VolumeChecks {
 public:
  VolumeChecks(Context& context, const TreeWalk& trees);

  void run();  // all volumes, volume 0 first

 private:
  friend class VolumeCheck;
  struct Counts {
    std::uint64_t inodes = 0, directories = 0;
  };
  // True if nobody looked at this inode block at this place yet.
  bool is_new(BlockNumber block, FileBlock at);

  Context& context_;
  const TreeWalk& trees_;
  LeafWalk leaves_;
  std::vector<std::uint64_t> checked_at_;  // inode blocks: where in a table they were checked last
  // Tables that were checked: an unchanged snapshot has its volume's.
  std::map<std::pair<std::array<std::uint64_t, format::kRootSlots>, std::uint8_t>, Counts> tables_;
};

}  // namespace daxcow::checker
