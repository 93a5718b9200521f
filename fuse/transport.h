// What passes between libfuse and the kernel, for the four things that libfuse 3.14 does not let through:
//
//   - its reply to INIT leaves out flags that it was told to set. Without PARALLEL_DIROPS the kernel sends one lookup
//     or readdir of a directory at a time; without HANDLE_KILLPRIV_V2 it asks for security.capability before every write.
//     The reply is completed here, with flags that the kernel has offered.
//   - requests that shall clear set-id bits say so in a field that handlers do not see (FUSE_WRITE_KILL_SUIDGID,
//     FATTR_KILL_SUIDGID). It is kept for the thread that handles the request.
//   - TMPFILE, which it does not know, is a CREATE without a name, and comes to the handler as that.
//   - other requests that it does not know (fuse/statx_request.h, fuse/remap_request.h) are answered before it sees them.
//
// Later versions of libfuse set the flags themselves; then nothing is left to do here. The wire format is the kernel's
// (linux/fuse.h), which never changes incompatibly.
#pragma once

#include "engine/result.h"
#include "fuse/library.h"

namespace daxcow {

// Makes `session` talk to the kernel through `device` (an open /dev/fuse), in place of fuse_session_mount(). The
// session then closes it.
Result<> attach_transport(fuse_session* session, int device);

// Whether the CREATE that this thread handles is for a file without a name (O_TMPFILE; the name is to be ignored). libfuse 3.14
// does not know TMPFILE, whose request and reply are those of CREATE: it gets it as that.
bool request_is_unnamed();

// Whether the request that this thread handles asks for set-id bits to be cleared. True only with HANDLE_KILLPRIV_V2; a
// kernel without it clears them itself, by a setattr.
bool request_kills_set_id();

}  // namespace daxcow
