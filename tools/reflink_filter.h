// The system call filter of daxcow run: of all system calls only those ioctls are held up that clone or deduplicate, for a
// supervisor to answer (seccomp_unotify(2)). The kernel decides for every other system call without running the filter.
#pragma once

#include <linux/fs.h>
#include <sys/ioctl.h>

#include "engine/file_descriptor.h"
#include "engine/result.h"

namespace daxcow::tools {

// A supervisor of daxcow run answers this with 1, whatever the file; nobody else knows it.
inline constexpr unsigned kSupervisorProbe = _IO(0xda, 0);

// Whether this process runs under daxcow run.
bool is_supervised();

// Puts this process, and all that come from it, under the filter, for good. Returns where the notifications arrive. Without
// CAP_SYS_ADMIN the process loses the possibility to gain privileges (no_new_privs). kBusy: another supervisor has the place.
Result<FileDescriptor> install_reflink_filter();

}  // namespace daxcow::tools
