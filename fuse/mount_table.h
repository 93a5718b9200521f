// The kernel's table of mounts (/proc/self/mountinfo), as far as daxcow needs it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "engine/result.h"

namespace daxcow {

inline constexpr const char* kFilesystemType = "fuse.daxcow";

struct MountEntry {
  dev_t device = 0;    // st_dev of its files
  std::string source;  // the pool
  std::string mount_point;
};

// The daxcow mounts in this mount namespace whose files have that st_dev, in the order in which they were made: there are
// several where the mount, a directory or a file of it is mounted elsewhere too (mount --bind).
Result<std::vector<MountEntry>> find_mounts(dev_t device);
// The last of them.
Result<std::optional<MountEntry>> find_mount(dev_t device);
// The daxcow mount at this directory (the uppermost, with a canonical path).
Result<std::optional<MountEntry>> find_mount(const std::string& mount_point);
// The daxcow mount that the path is on by its words alone: symbolic links are not followed. For a mount whose files
// cannot be looked at any more.
Result<std::optional<MountEntry>> find_mount_above(const std::string& path);

}  // namespace daxcow
