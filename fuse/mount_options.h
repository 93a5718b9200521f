// The options of mount.daxcow's -o: those of mount(2), those of daxcow, and those that mount(8) and fstab leave in.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/result.h"
#include "fuse/hooks.h"
#include "fuse/operations.h"

namespace daxcow {

struct MountOptions {
  std::string volume = "main";
  unsigned long kernel_flags = 0;  // MS_RDONLY, ...
  bool read_only = false;
  bool allow_other = true;
  bool remount = false;
  bool names_access_times = false;  // one of relatime, noatime, ... was among them
  MountBehaviour behaviour;
  unsigned threads = 4;
  bool io_uring = false;
  std::uint64_t read_ahead_bytes = 256 << 10;  // 0: none
  // Of the whole pool; the first mount decides.
  std::uint64_t cache_bytes = 256ull << 20;
  bool relaxed = false;
  std::string hooks_directory = kHooksDirectory;
  std::uint64_t scrub_bytes_per_second = 0;
};

// Adds the options of a comma-separated list. kInvalid, with a line that names the option, for one that is unknown or
// has a value that makes no sense; `sloppy` ignores unknown ones.
Result<> parse_mount_options(std::string_view list, MountOptions& options, bool sloppy = false);

// "64M", "1G", "1048576": bytes, with K, M, G or T for powers of 1024.
Result<std::uint64_t> parse_size(std::string_view text);

// The options for --help, a line each.
const char* mount_options_help();

}  // namespace daxcow
