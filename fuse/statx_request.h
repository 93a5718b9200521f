// FUSE_STATX (Linux 6.6): the kernel sends it to who asks for the time of birth. libfuse before 3.18 does not know it.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <span>
#include <vector>

#include "fuse/operations.h"

namespace daxcow {

// What the inode is now, told to `process`.
Result<struct statx> status_with_birth(MountContext& mount, InodeNumber inode, pid_t process);

// Whether a request, as it came from the kernel, is one.
bool is_statx_request(std::span<const char> request);
// The reply that the kernel is to get. `request` must be one.
std::vector<char> answer_statx_request(MountContext& mount, std::span<const char> request);

}  // namespace daxcow
