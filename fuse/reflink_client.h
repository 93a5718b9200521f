// Sharing blocks between two open files on mounts of one pool, as fuse/reflink_protocol.h describes it: for anybody who has
// them open.
#pragma once

#include <cstdint>
#include <expected>

#include "engine/volume.h"

namespace daxcow {

// Whether the file is on a mount of daxcow, as far as this process can tell: it must be an open regular file.
bool is_on_daxcow(int file);

// Clones, deduplicates or replaces; kCopy may end early, at whatever it answers (0 at the end of the source). Returns the bytes
// done, or an errno: those of ioctl_ficlonerange(2) and ioctl_fideduperange(2); EBADE where the ranges differ; EXDEV for files of
// two pools; ENOTTY if a file is not on a mount of daxcow. Thread-safe.
std::expected<std::uint64_t, int> reflink_files(int source, int target, ReflinkMode mode, const ReflinkRange& range = {});

}  // namespace daxcow
