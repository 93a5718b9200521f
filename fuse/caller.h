// What the process that made a request may do, where the kernel leaves that to the filesystem. (It is the caller and not the request
// that is asked for: the request may have been answered.)
#pragma once

#include <cstdint>

#include "engine/volume.h"
#include "fuse/library.h"

namespace daxcow {

// Whether the caller is root (of the machine: in a user namespace it would be somebody else to us) and has not given up this
// capability (capabilities(7)). Reads /proc of the caller: for rare cases.
bool caller_has(const fuse_ctx& caller, unsigned capability);

// Whether the caller has the group, as its own or as a supplementary one. Reads /proc of the caller: for rare cases.
bool caller_is_in_group(const fuse_ctx& caller, std::uint32_t gid);

// The set-id bits that an inode loses when this caller writes to it, truncates it or changes its owner: S_ISUID, and S_ISGID
// if it is group-executable or the caller neither has CAP_FSETID nor is in its group (the kernel's setattr_should_drop_suidgid()).
std::uint32_t lost_set_id_bits(const fuse_ctx& caller, const Attributes& attributes);

}  // namespace daxcow
