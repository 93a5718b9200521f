// The mount program's part of a mount: finds or starts the pool's daemon, and makes the mount in its own mount
// namespace. The conversation is described in fuse/daemon.h.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "engine/result.h"
#include "fuse/control_client.h"
#include "fuse/mount_options.h"

namespace daxcow {

struct MountRequest {
  std::string pool_path;  // absolute and canonical, as the directory
  std::string directory;
  MountOptions options;
  bool debug = false;
};

// How long a mount waits for a daemon that is about to end: umount returns before the daemon has closed the pool.
inline constexpr std::chrono::seconds kDaemonEndTime{20};

// Mounts, and returns lines that the user should see. Without a daemon it calls `start`, which makes one or fails;
// kBusy means that another process has the pool, and is tried again for kDaemonEndTime.
Result<std::vector<std::string>> mount_pool(const MountRequest& request, const std::function<Result<>()>& start);

// Changes the flags of a mount.
Result<> remount(const MountRequest& request);

}  // namespace daxcow
