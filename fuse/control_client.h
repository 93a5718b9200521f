// The way from a tool to the daemon that serves a pool: a Unix socket under /run/daxcow, for root only, named after the
// pool's identity (device and inode, or the device number of a devdax), so that every path of one pool leads to one
// daemon.
//
// The protocol is one JSON object a line each way; requests and replies are described in fuse/control_commands.h. A
// request may carry a file descriptor (SCM_RIGHTS).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "engine/result.h"
#include "engine/types.h"
#include "fuse/control_commands.h"

namespace daxcow {

class LineChannel;

inline constexpr const char* kControlDirectory = "/run/daxcow";

// The socket of the daemon for this pool, whether there is one or not. kNotFound if there is no such pool.
Result<std::string> control_socket_path(const std::string& pool_path);

class ControlClient {
 public:
  // kNotFound: no daemon serves this pool (it is then the caller's to open), or there is no such pool: the message says
  // which. kPermission for anyone but root. A daemon whose pool is no longer at its path is found too.
  static Result<ControlClient> connect(const std::string& pool_path);
  ControlClient(ControlClient&& other) noexcept;
  ControlClient& operator=(ControlClient&& other) noexcept;
  ~ControlClient();

  // Sends a request, with a copy of `descriptor` unless negative, and waits for its reply. An error in the reply
  // becomes an Error. If the daemon went away or is about to, daemon_gone() is true afterwards and the client is
  // useless.
  Result<nlohmann::json> call(const nlohmann::json& request, const CommandProgress& progress = {}, int descriptor = -1);
  bool daemon_gone() const { return daemon_gone_; }

 private:
  explicit ControlClient(std::unique_ptr<LineChannel> channel);
  static Result<ControlClient> connect_socket(const std::string& path, const std::string& pool_path);
  std::unique_ptr<LineChannel> channel_;
  bool daemon_gone_ = false;
};

// Sends the request to the daemon that serves the pool; null if there is none, and the pool is the caller's to open. (A
// daemon that has just ended may hold the pool for a moment: opening it is then kBusy.)
Result<std::optional<nlohmann::json>> call_daemon(const std::string& pool_path, const nlohmann::json& request,
                                                  const CommandProgress& progress = {});

// Why a system call on a path failed. Of a mount whose daemon is gone it says what to do.
Error path_error(int error_number, const std::string& path);

// A file on a daxcow mount, in the terms of its daemon.
struct MountedFile {
  std::string pool_path;
  std::string volume;
  InodeNumber inode;
  bool regular = false;
};
// Finds the mount, the daemon and the volume of the file at `path` (symbolic links are followed). kNotFound if there is
// no such file, kUnsupported if it is not on a daxcow mount.
Result<MountedFile> find_mounted_file(const std::string& path);
// The same for an open file.
Result<MountedFile> find_mounted_file(int descriptor);

}  // namespace daxcow
