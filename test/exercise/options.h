// What the user of daxcow_exercise wants.
#pragma once

#include <cstdint>
#include <string>

namespace daxcow::exercise {

// How one file is shared by all processes: each owns every n-th stripe of it, and never changes the others.
enum class Sharing {
  kNone,
  kBytes,  // stripes that do not fit pages: what one process stores is beside what others do, in one page
  kPages,  // of whole pages, so that everything that works on pages can be done too
};

struct Options {
  std::string directory;
  std::uint64_t seed = 0;
  unsigned processes = 1;
  int only_process = -1;
  std::uint64_t operations = 100'000;  // of each process; 0: no limit
  unsigned seconds = 0;                // 0: no limit
  unsigned files = 4;                  // of each process
  std::uint64_t maximum_bytes = 256 * 1024;
  std::uint64_t longest_bytes = 64 * 1024;  // of one operation
  Sharing sharing = Sharing::kNone;
  bool mapped = true, direct = true, copy = true, allocate = true, sparse = true, names = true;
  bool times = true, blocks = true;
  std::uint64_t snapshot_every = 0, clone_every = 0;  // operations; 0: never
  std::string volume = "main";
  std::string tools;  // where daxcow and mount.daxcow are
  bool keep = false;
  unsigned stuck_seconds = 300;
};

}  // namespace daxcow::exercise
