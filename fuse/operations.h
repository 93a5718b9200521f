// The handlers of one mount's FUSE requests: decode, call the engine, reply. They run in many threads at a time and
// never wait for anything but the engine.
//
// A node id is an inode number; (inode number, generation) is never reused, so NFS handles stay unambiguous. The kernel
// is told to cache as long as it likes: every change comes through this mount, or is announced by
// Session::invalidate().
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "engine/volume.h"
#include "fuse/library.h"
#include "fuse/reflink_sources.h"
#include "fuse/request_worker.h"
#include "fuse/told_directories.h"

namespace daxcow {

struct MountBehaviour {
  double attribute_timeout_seconds = 86400;
  double entry_timeout_seconds = 86400;  // of names, also of names that do not exist
  bool keep_cache = true;                // cached pages stay when a file is opened again
  bool writeback_cache = false;          // the kernel gathers writes
  bool rescue = true;                    // lost data is taken from the kernel's pages, if it is still there
  AccessTime access_time = AccessTime::kRelative;            // of reads that reach the daemon
  AccessTime directory_access_time = AccessTime::kRelative;  // the same, or kKeep
  bool access_lists = true;              // POSIX ACLs
  std::uint32_t maximum_write_bytes = 1 << 20;
};

// What a session's handlers work with: the userdata of the fuse_session.
struct MountContext {
  std::shared_ptr<Volume> volume;
  MountBehaviour behaviour;
  // Those of the behaviour, until a remount says something else.
  std::atomic<AccessTime> access_time = AccessTime::kRelative, directory_access_time = AccessTime::kRelative;
  std::atomic<bool> read_only = false;   // the mount, at the moment
  fuse_session* session = nullptr;
  std::atomic<pid_t> page_reader = 0;  // the daemon's own thread that looks for a page; see Session::read_cached()
  ReflinkSources* reflink_sources = nullptr;  // of the daemon
  RequestWorker worker{};
  ToldDirectories told_directories{};
};

const fuse_lowlevel_ops& operations();

}  // namespace daxcow
