// How a tool reaches a pool: through the daemon when one serves it, else by opening it. Both ways end in execute()
// (fuse/control_commands.h), so that a request means the same with and without a mount.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "engine/medium_pmem2.h"
#include "engine/pool.h"
#include "engine/result.h"
#include "fuse/control_client.h"

namespace daxcow::tools {

// The path of the pool that a person means by `name`: itself when it is a device, or a file with a pool in it or outside of
// daxcow mounts; the source of the daxcow mount when it is a mount point or anything else within one. kNotFound, kIsDirectory.
Result<std::string> resolve_pool(const std::string& name);

// An error of the engine, which does not know the path, as one about this pool.
Error about_pool(const std::string& path, const Error& error);

// Opens the medium of a pool that must not be mounted. The daemon ends a moment after the last umount has returned, so
// this waits a little for a pool that is in use; not if it is mounted, which the error then says.
Result<std::unique_ptr<Medium>> open_unmounted(const std::string& path, const Pmem2OpenOptions& options);

class PoolAccess {
 public:
  enum class Need {
    kRead,    // opened read-only when no daemon serves it
    kWrite,   //
    kDaemon,  // makes no sense without one
  };
  // kBusy when another program than a daemon has the pool.
  static Result<PoolAccess> open(const std::string& name, Need need);

  // As fuse/control_commands.h describes requests and replies. Goes on without the daemon when that ends meanwhile,
  // unless the need was for one.
  Result<nlohmann::json> call(const nlohmann::json& request, const CommandProgress& progress = {});
  const std::string& path() const { return path_; }
  bool has_daemon() const { return client_.has_value(); }
  // Whether the last call failed because the daemon ended; it ends with the last mount.
  bool daemon_gone() const { return client_ && client_->daemon_gone(); }

 private:
  // Finds the daemon, or opens the pool.
  Result<> reach();

  std::string path_;
  Need need_ = Need::kRead;
  std::optional<ControlClient> client_;
  std::unique_ptr<Pool> pool_;  // without a daemon
};

}  // namespace daxcow::tools
