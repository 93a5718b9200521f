// Files of a mount by their numbers, for who is asked about them by the daemon or by the kernel and has no path.
#pragma once

#include <cstdint>

#include "engine/file_descriptor.h"
#include "engine/types.h"

namespace daxcow {

struct MountedInode {
  InodeNumber inode;
  std::uint64_t generation;
};

// Opens a regular file for reading. `root`: any open directory of the mount. Closed if the inode is another one by now (errno
// says why). Needs CAP_DAC_READ_SEARCH; not for a thread that answers the mount's requests.
FileDescriptor open_mounted(int root, MountedInode file);

}  // namespace daxcow
