#include "tools/pool_access.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <iostream>
#include <thread>

#include "engine/file_descriptor.h"
#include "engine/format.h"
#include "fuse/mount_table.h"

namespace daxcow::tools {

namespace {

// How long to wait for another process to let go of the pool: three seconds.
constexpr int kAttempts = 30;
constexpr auto kPause = std::chrono::milliseconds(100);

Result<std::unique_ptr<Pool>> open_here(const std::string& path, bool read_only) {
  auto medium = TRY(open_pmem2_medium(path, {.read_only = read_only}));
  PoolOptions options;
  options.read_only = read_only;
  options.background = !read_only;
  options.log = [](const std::string& line) { std::cerr << line << '\n'; };
  auto pool = Pool::open(std::move(medium), std::move(options));
  if (!pool) return std::unexpected(about_pool(path, pool.error()));
  return pool;
}

// Whether either superblock of a file is there: a pool may lie in a file on a daxcow mount too.
bool begins_a_pool(const std::string& path, std::uint64_t size_bytes) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  for (const std::uint64_t at : {std::uint64_t{0}, (std::max(size_bytes, kBlockBytes) / kBlockBytes - 1) * kBlockBytes}) {
    std::uint64_t magic = 0;
    if (::pread(file.get(), &magic, sizeof magic, static_cast<off_t>(at)) == sizeof magic && magic == format::kSuperblockMagic)
      return true;
  }
  return false;
}

}  // namespace

Error about_pool(const std::string& path, const Error& error) { return {error.code, path + ": " + describe(error)}; }

Result<std::string> resolve_pool(const std::string& name) {
  struct stat status {};
  if (::stat(name.c_str(), &status) != 0) {
    const Error error = path_error(errno, name);
    return ControlClient::connect(name) ? Result<std::string>(name) : std::unexpected(error);  // its node may be gone
  }
  if (S_ISREG(status.st_mode) && begins_a_pool(name, static_cast<std::uint64_t>(status.st_size))) return name;
  auto file = find_mounted_file(name);
  if (file) return std::move(file->pool_path);
  if (file.error().code != ErrorCode::kUnsupported) return std::unexpected(std::move(file).error());
  if (S_ISDIR(status.st_mode))
    return fail(ErrorCode::kIsDirectory, fmt::format("{}: neither a pool nor a directory on a daxcow mount", name));
  return name;
}

Result<std::unique_ptr<Medium>> open_unmounted(const std::string& path, const Pmem2OpenOptions& options) {
  for (int attempt = 0;; ++attempt) {
    auto medium = open_pmem2_medium(path, options);
    if (medium || medium.error().code != ErrorCode::kBusy || attempt == kAttempts) return medium;
    auto reply = call_daemon(path, {{"op", "mounts"}});
    if (!reply) return medium;  // no permission to ask
    // The daemon may not know yet that a mount is gone; the kernel does.
    for (const nlohmann::json& mount : *reply ? (**reply)["mounts"] : nlohmann::json::array())
      if (auto entry = find_mount(makedev(mount.value("major", 0u), mount.value("minor", 0u))); entry && *entry)
        return fail(ErrorCode::kBusy,
                    fmt::format("{} is in use: mounted at {}; unmount it first", path, (*entry)->mount_point));
    std::this_thread::sleep_for(kPause);
  }
}

Result<PoolAccess> PoolAccess::open(const std::string& name, Need need) {
  PoolAccess access;
  access.path_ = TRY(resolve_pool(name));
  access.need_ = need;
  TRY(access.reach());
  return access;
}

Result<> PoolAccess::reach() {
  // A daemon that is just starting or ending has the pool but does not answer: give it a moment.
  for (int attempt = 0;; ++attempt) {
    auto client = ControlClient::connect(path_);
    if (client) {
      client_ = std::move(*client);
      return {};
    }
    const ErrorCode why = client.error().code;
    // Without permission to ask there may still be permission to open.
    if (why != ErrorCode::kNotFound && why != ErrorCode::kPermission) return std::unexpected(std::move(client).error());
    if (need_ == Need::kDaemon) {
      if (why == ErrorCode::kPermission) return std::unexpected(std::move(client).error());
      return fail(ErrorCode::kNotFound, fmt::format("{}: not mounted, so no daemon serves it", path_));
    }
    auto pool = open_here(path_, need_ == Need::kRead);
    if (pool) {
      pool_ = std::move(*pool);
      return {};
    }
    if (pool.error().code != ErrorCode::kBusy || attempt == kAttempts) return std::unexpected(std::move(pool).error());
    if (why == ErrorCode::kPermission) return std::unexpected(std::move(client).error());
    std::this_thread::sleep_for(kPause);
  }
}

Result<nlohmann::json> PoolAccess::call(const nlohmann::json& request, const CommandProgress& progress) {
  while (client_) {
    auto reply = client_->call(request, progress);
    if (reply || !daemon_gone() || need_ == Need::kDaemon) return reply;
    client_.reset();
    TRY(reach());
  }
  return checked_reply(execute(*pool_, request, nullptr, progress));
}

}  // namespace daxcow::tools
