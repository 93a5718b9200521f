// Files of a mount by their numbers, for who is asked about them by the daemon or by the kernel and has no path.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/file_descriptor.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

struct MountedInode {
  InodeNumber inode;
  std::uint64_t generation;
};

// Opens a regular file for reading. `root`: any open directory of the mount. Closed if the inode is another one by now (errno
// says why). Needs CAP_DAC_READ_SEARCH; not for a thread that answers the mount's requests.
FileDescriptor open_mounted(int root, MountedInode file);

// Has the kernel write what programs changed through mappings and in its cache, and waits until that has arrived at the
// daemon. `written`: what is open for writing there. syncfs(2) alone does not do: of FUSE the kernel does not wait for the
// pages that it has sent, or for the sending. The same thread and privilege as open_mounted().
Result<> write_back(int root, const std::vector<MountedInode>& written);

}  // namespace daxcow
