#include "fuse/control_client.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <thread>

#include <fmt/format.h>

#include "engine/file_descriptor.h"
#include "fuse/control_protocol.h"
#include "fuse/mount_table.h"

namespace daxcow {

namespace {

constexpr std::size_t kReplyMaximum = 1ull << 30;

// A daemon that does not answer (it may have been stopped) must not keep those of other pools from being found.
constexpr time_t kAnswerSeconds = 3;

// How long a receive may take; 0: for ever.
void wait_at_most(int socket, time_t seconds) {
  const timeval time{.tv_sec = seconds, .tv_usec = 0};
  (void)::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
}

Error dead_mount(const std::string& path, const MountEntry& mount) {
  return {
      ErrorCode::kIo,
      fmt::format("{}: the daemon of this mount is gone (killed or crashed); umount -l {} and mount it again, which "
                  "keeps what was completed; fsck.daxcow {} checks it",
                  path, mount.mount_point, mount.source)};
}

Result<MountedFile> find_on_mount(const struct stat& status, const std::string& path) {
  const auto mount = TRY(find_mount(status.st_dev));
  if (!mount) return fail(ErrorCode::kUnsupported, path + " is not on a daxcow mount");
  const auto reply = TRY(call_daemon(mount->source, {{"op", "mounts"}}));
  if (!reply) return std::unexpected(dead_mount(path, *mount));
  for (const auto& entry : (*reply)["mounts"]) {
    if (entry["major"] != major(status.st_dev) || entry["minor"] != minor(status.st_dev)) continue;
    return MountedFile{mount->source, entry["volume"], InodeNumber(status.st_ino), S_ISREG(status.st_mode)};
  }
  return std::unexpected(dead_mount(path, *mount));  // there is another daemon by now
}

}  // namespace

Result<std::string> control_socket_path(const std::string& pool_path) {
  struct stat status;
  if (::stat(pool_path.c_str(), &status) != 0) return std::unexpected(Error::from_errno(errno, pool_path));
  if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode))
    return fmt::format("{}/device-{}-{}.sock", kControlDirectory, major(status.st_rdev), minor(status.st_rdev));
  return fmt::format("{}/file-{:x}-{:x}.sock", kControlDirectory, status.st_dev, status.st_ino);
}

ControlClient::ControlClient(std::unique_ptr<LineChannel> channel) : channel_(std::move(channel)) {}
ControlClient::ControlClient(ControlClient&&) noexcept = default;
ControlClient& ControlClient::operator=(ControlClient&&) noexcept = default;
ControlClient::~ControlClient() = default;

Result<ControlClient> ControlClient::connect(const std::string& pool_path) {
  const auto socket = control_socket_path(pool_path);
  if (socket) return connect_socket(*socket, pool_path);
  // The node of a device that was disabled is gone, a file may have been moved: their daemon lives on.
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(kControlDirectory, ignored)) {
    if (entry.path().extension() != ".sock") continue;
    auto client = connect_socket(entry.path(), pool_path);
    if (!client) continue;
    wait_at_most(client->channel_->socket(), kAnswerSeconds);
    const auto reply = client->call({{"op", "mounts"}});
    wait_at_most(client->channel_->socket(), 0);
    if (reply && reply->value("pool", "") == pool_path) return client;
  }
  return std::unexpected(socket.error());
}

Result<ControlClient> ControlClient::connect_socket(const std::string& path, const std::string& pool_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return std::unexpected(Error::from_errno(errno, "socket"));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == ENOENT || errno == ECONNREFUSED)
      return fail(ErrorCode::kNotFound, fmt::format("no daemon serves {}", pool_path));
    return std::unexpected(
        Error::from_errno(errno, fmt::format("cannot reach the daemon of {} ({})", pool_path, path)));
  }
  return ControlClient(std::make_unique<LineChannel>(std::move(socket), kReplyMaximum));
}

Result<nlohmann::json> ControlClient::call(const nlohmann::json& request, const CommandProgress& progress,
                                           int descriptor) {
  daemon_gone_ = true;  // unless it answers
  TRY(channel_->send(request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), descriptor));
  for (;;) {
    const auto line = TRY(channel_->receive());
    if (!line) return fail(ErrorCode::kIo, "the daemon has ended");
    auto reply = nlohmann::json::parse(*line, nullptr, false);
    if (reply.is_discarded()) return fail(ErrorCode::kIo, "the daemon's reply cannot be understood");
    if (reply.is_object() && reply.contains("ending")) return fail(ErrorCode::kBusy, "the daemon is ending");
    if (reply.is_object() && reply.contains("progress")) {
      const auto& step = reply["progress"];
      if (progress) progress(step.value("done", std::uint64_t{0}), step.value("total", std::uint64_t{0}));
      continue;
    }
    daemon_gone_ = false;
    return checked_reply(std::move(reply));
  }
}

Result<std::optional<nlohmann::json>> call_daemon(const std::string& pool_path, const nlohmann::json& request,
                                                  const CommandProgress& progress) {
  const bool exists = ::access(pool_path.c_str(), F_OK) == 0;
  for (;;) {
    auto client = ControlClient::connect(pool_path);
    if (!client) {
      if (exists && client.error().code == ErrorCode::kNotFound) return std::optional<nlohmann::json>();
      return std::unexpected(client.error());
    }
    auto reply = client->call(request, progress);
    if (reply) return std::optional(*std::move(reply));
    if (!client->daemon_gone()) return std::unexpected(std::move(reply).error());
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

Error path_error(int error_number, const std::string& path) {
  if (error_number == ENOTCONN || error_number == ECONNABORTED)
    if (const auto mount = find_mount_above(path); mount && *mount) return dead_mount(path, **mount);
  return Error::from_errno(error_number, path);
}

Result<MountedFile> find_mounted_file(const std::string& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) return std::unexpected(path_error(errno, path));
  return find_on_mount(status, path);
}

Result<MountedFile> find_mounted_file(int descriptor) {
  struct stat status;
  if (::fstat(descriptor, &status) != 0) return std::unexpected(Error::from_errno(errno, "fstat"));
  return find_on_mount(status, "this file");
}

}  // namespace daxcow
