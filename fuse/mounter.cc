#include "fuse/mounter.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <fstream>
#include <optional>
#include <thread>

#include <fmt/format.h>

#include "engine/file_descriptor.h"
#include "fuse/mount_table.h"

namespace daxcow {

namespace {

using nlohmann::json;
using Notes = std::vector<std::string>;

json to_json(const MountRequest& request) {
  const auto& options = request.options;
  const auto& behaviour = options.behaviour;
  return {{"op", "mount"},
          {"volume", options.volume},
          {"read_only", options.read_only},
          {"directory", request.directory},
          {"attr_timeout", behaviour.attribute_timeout_seconds},
          {"entry_timeout", behaviour.entry_timeout_seconds},
          {"keep_cache", behaviour.keep_cache},
          {"rescue", behaviour.rescue},
          {"writeback_cache", behaviour.writeback_cache},
          {"access_time", behaviour.access_time},
          {"directory_access_time", behaviour.directory_access_time},
          {"access_lists", behaviour.access_lists},
          {"max_write", behaviour.maximum_write_bytes},
          {"threads", options.threads},
          {"io_uring", options.io_uring},
          {"cache", options.cache_bytes},
          {"relaxed", options.relaxed},
          {"hooks", options.hooks_directory},
          {"scrub", options.scrub_bytes_per_second},
          {"debug", request.debug}};
}

Result<FileDescriptor> open_fuse() {
  FileDescriptor device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (device) return device;
  const auto problem = Error::from_errno(errno, "cannot open /dev/fuse");
  return fail(problem.code,
              problem.message + " (is the kernel module fuse loaded, and is this container allowed to use it?)");
}

Result<> call_mount(const MountRequest& request, int device) {
  const std::string data = fmt::format("fd={},rootmode={:o},user_id=0,group_id=0,default_permissions{}", device,
                                       S_IFDIR, request.options.allow_other ? ",allow_other" : "");
  if (::mount(request.pool_path.c_str(), request.directory.c_str(), kFilesystemType, request.options.kernel_flags,
              data.c_str()) != 0)
    return std::unexpected(Error::from_errno(errno, fmt::format("cannot mount on {}", request.directory)));
  return {};
}

// The kernel takes 128 KiB for every FUSE mount, and lets the daemon ask for less only. Where sysfs is not to be had it stays so.
void set_read_ahead(dev_t device, const std::string& directory, std::uint64_t bytes) {
  struct statfs status {};
  (void)::statfs(directory.c_str(), &status);  // answered when the kernel has taken the daemon's reply, which sets it too
  std::ofstream file(fmt::format("/sys/class/bdi/{}:{}/read_ahead_kb", major(device), minor(device)));
  file << bytes / 1024;
}

// Tells the daemon which mount it is to serve.
Result<> start_session(ControlClient& daemon, const MountRequest& request) {
  const auto mounted = TRY(find_mount(request.directory));
  if (!mounted) return fail(ErrorCode::kNotFound, fmt::format("the mount on {} is gone again", request.directory));
  TRY(daemon.call({{"op", "mounted"}, {"major", major(mounted->device)}, {"minor", minor(mounted->device)}}));
  set_read_ahead(mounted->device, request.directory, request.options.read_ahead_bytes);
  return {};
}

// Nothing if the daemon was about to end.
Result<std::optional<Notes>> try_mount(ControlClient& daemon, const MountRequest& request) {
  const auto device = TRY(open_fuse());
  const auto prepared = daemon.call(to_json(request), {}, device.get());
  if (!prepared) {
    if (daemon.daemon_gone()) return std::optional<Notes>();
    return std::unexpected(prepared.error());
  }
  TRY(call_mount(request, device.get()));
  if (const auto started = start_session(daemon, request); !started) {
    ::umount2(request.directory.c_str(), MNT_DETACH);
    if (daemon.daemon_gone()) return std::optional<Notes>();
    return std::unexpected(started.error());
  }
  Notes notes;
  for (const auto& note : (*prepared).value("notes", json::array())) notes.push_back(note);
  return notes;
}

}  // namespace

Result<std::vector<std::string>> mount_pool(const MountRequest& request, const std::function<Result<>()>& start) {
  TRY(open_fuse());  // no daemon is started for nothing
  const auto deadline = std::chrono::steady_clock::now() + kDaemonEndTime;
  Error problem{ErrorCode::kIo, "the daemon ended before the mount was made"};
  for (;;) {
    auto daemon = ControlClient::connect(request.pool_path);
    if (daemon) {
      if (auto notes = TRY(try_mount(*daemon, request))) return *std::move(notes);
    } else if (daemon.error().code != ErrorCode::kNotFound) {
      return std::unexpected(daemon.error());
    } else if (auto started = start(); started) {
      continue;
    } else if (started.error().code != ErrorCode::kBusy) {
      return std::unexpected(started.error());
    } else {
      problem = started.error();
    }
    if (std::chrono::steady_clock::now() >= deadline) return std::unexpected(problem);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

Result<> remount(const MountRequest& request) {
  const auto mounted = TRY(find_mount(request.directory));
  if (!mounted) return fail(ErrorCode::kInvalid, fmt::format("{} is not a daxcow mount", request.directory));
  nlohmann::json command{{"op", "remount"},
                         {"major", major(mounted->device)},
                         {"minor", minor(mounted->device)},
                         {"read_only", request.options.read_only}};
  unsigned long access_times = 0;  // without a word about them, the kernel and the daemon keep what they have
  if (request.options.names_access_times) {
    command["access_time"] = request.options.behaviour.access_time;
    command["directory_access_time"] = request.options.behaviour.directory_access_time;
    if (request.options.behaviour.access_time == AccessTime::kRelative) access_times = MS_RELATIME;
  }
  const auto tell = [&]() -> Result<> {
    const auto told = TRY(call_daemon(mounted->source, command));
    if (!told) return fail(ErrorCode::kNotFound, fmt::format("no daemon serves {} any more", mounted->source));
    return {};
  };
  if (!request.options.read_only) TRY(tell());
  if (::mount("none", request.directory.c_str(), nullptr, MS_REMOUNT | access_times | request.options.kernel_flags, nullptr) != 0)
    return std::unexpected(Error::from_errno(errno, fmt::format("cannot remount {}", request.directory)));
  return request.options.read_only ? tell() : Result<>{};
}

}  // namespace daxcow
