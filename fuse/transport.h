// What passes between libfuse and the kernel.
//
// libfuse 3.18.3 passes on all that daxcow needs, and serves by io_uring on request: there is nothing to do here but to give it the
// device. Four things the versions before do not let through, for which daxcow reads and writes in their place:
//
//   - their reply to INIT leaves out flags that they were told to set (3.14). Without PARALLEL_DIROPS the kernel sends one lookup
//     or readdir of a directory at a time; without HANDLE_KILLPRIV_V2 it asks for security.capability before every write.
//     The reply is completed here, with flags that the kernel has offered.
//   - writes that shall clear set-id bits say so in a field that handlers do not see (FUSE_WRITE_KILL_SUIDGID). It is kept for the
//     thread that handles the request.
//   - TMPFILE, which 3.14 does not know, is a CREATE without a name, and comes to the handler as that.
//   - other requests that they do not know (fuse/statx_request.h, fuse/remap_request.h) are answered before they see them.
//
// The wire format is the kernel's (linux/fuse.h), which never changes incompatibly.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "engine/result.h"
#include "fuse/library.h"
#include "fuse/operations.h"

namespace daxcow {

// Makes `session` talk to the kernel through `device` (an open /dev/fuse), in place of fuse_session_mount(). The
// session then closes it.
Result<> attach_transport(fuse_session* session, int device);

// Whether the CREATE that this thread handles is for a file without a name (O_TMPFILE; the name is to be ignored). libfuse 3.14
// does not know TMPFILE, whose request and reply are those of CREATE: it gets it as that.
bool request_is_unnamed();

// Whether the libfuse that runs, and the one that daxcow was built with, are 3.18.3 or later.
bool library_is_complete();
// Whether the write that this thread handles, of this open file, asks for set-id bits to be cleared. True only with
// HANDLE_KILLPRIV_V2; a kernel without it clears them itself, by a setattr.
bool write_kills_set_id(const fuse_file_info& file);

// --- io_uring -----------------------------------------------------------------------------------------------------------
// Of each core, one thread serves the ring on which requests from that core come, and answers what it serves, here and now:
//
//   - Who answers for another thread becomes the one in whose name the kernel fills that place of the ring again, and if it then
//     waits for a page of this mount, whose write may be that very request, both wait for ever. (libfuse 3.18.3 also has its ring's
//     queue used by both threads without a lock.) So what must wait for pages answers first, or is asked again: see
//     fuse/reflink_protocol.h.
//   - Each place in a ring has buffers of max_write bytes. A longer request (a large attribute, say) is not refused: the ring's thread
//     ends in the kernel, and whoever waits for it waits until the machine is restarted (Linux 6.18). Hence the least max_write.
//   - libfuse copies what is answered. What may be bad memory is copied by daxcow, into the request's own buffer.

// Why requests cannot come by io_uring to such a mount, for people; nothing if they can.
std::optional<std::string> no_io_uring_because(const MountBehaviour& behaviour);
// Whether a request did.
bool came_by_ring(fuse_req_t request);
// The buffer to which the answer to such a request can be written, and then be given to fuse_reply_buf(). Empty for all others.
std::span<std::byte> ring_buffer(fuse_req_t request);

}  // namespace daxcow
