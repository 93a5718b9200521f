// What the filesystem at hand can do.
#pragma once

#include <cstdint>
#include <string>

namespace daxcow::exercise {

struct Features {
  std::uint64_t block_bytes = 4096;
  std::uint64_t direct_alignment = 0;  // of offsets, lengths and memory; 0: no O_DIRECT
  bool punch = false, zero_range = false, allocate = false, copy = false, sparse = false, exchange = false;
  bool mapped_times = true;    // a store through a mapping changes the times of the file
  bool allocate_times = true;  // so does fallocate, whatever it does
  bool fuse = false;
  bool late_writes = false;  // st_blocks does not count what was written until it is synced: FUSE with writeback_cache
  bool daxcow = false;
  bool exact_blocks = false;  // it allocates what it is told to, and nothing else
  std::string pool;         // if it is daxcow
  std::string below_mount;  // the directory, as seen from the root of the mount
};

// Tries everything on a file in the directory. Throws Failure if it cannot be made.
Features probe(const std::string& directory);

}  // namespace daxcow::exercise
