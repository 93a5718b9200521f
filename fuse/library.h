// libfuse3's low-level API at the version that daxcow is written for: 3.14 and everything later.
#pragma once

#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 14)
#include <fuse_lowlevel.h>

static_assert(FUSE_VERSION >= FUSE_MAKE_VERSION(3, 14), "libfuse 3.14 or later is needed");

namespace daxcow {

// Version 3.18.3 lets everything through that daxcow needs of the protocol, and can serve it by io_uring; see fuse/transport.h.
// FUSE_VERSION has no patch level: what came with it tells.
template <class Info>
concept TellsWhatWriteClears = requires(const Info& info) { info.kill_suidgid; };
inline constexpr bool kLibraryIsComplete = FUSE_VERSION >= FUSE_MAKE_VERSION(3, 18) && TellsWhatWriteClears<fuse_file_info>;

}  // namespace daxcow
