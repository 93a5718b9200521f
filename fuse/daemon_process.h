// Turning a process into the daemon of a pool.
#pragma once

#include <functional>
#include <optional>

#include "engine/result.h"
#include "fuse/daemon.h"

namespace daxcow {

// Forks a daemon and returns when it serves the pool's control socket, or its reason not to. It logs to syslog. For a
// process with one thread.
Result<> start_daemon(const DaemonOptions& options);

// Makes this process the daemon, logging to standard error (to syslog if that leads to systemd's journal), with every
// detail if `debug`. Calls `ready` once the control socket is served. Returns whether there ever was a mount. For a
// process with one thread.
Result<bool> run_daemon_here(const DaemonOptions& options, bool debug, const std::function<void()>& ready);

}  // namespace daxcow
