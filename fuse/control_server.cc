#include "fuse/control_server.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>

#include <spdlog/spdlog.h>

#include "fuse/control_client.h"

namespace daxcow {

namespace {

constexpr std::size_t kRequestMaximum = 1 << 20;

bool is_root(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == 0;
}

// A directory that somebody else could write to would let him pose as the daemon.
Result<> make_directory() {
  if (::mkdir(kControlDirectory, 0700) != 0 && errno != EEXIST)
    return std::unexpected(Error::from_errno(errno, std::string("cannot make ") + kControlDirectory));
  struct stat status;
  if (::lstat(kControlDirectory, &status) != 0) return std::unexpected(Error::from_errno(errno, kControlDirectory));
  if (!S_ISDIR(status.st_mode) || status.st_uid != 0 || (status.st_mode & 022) != 0)
    return fail(ErrorCode::kPermission,
                std::string(kControlDirectory) + " must be a directory that only root can write to");
  return {};
}

}  // namespace

ControlServer::ControlServer(std::string path, FileDescriptor listener, Serve serve)
    : path_(std::move(path)), listener_(std::move(listener)), serve_(std::move(serve)) {
  accepting_ = std::thread([this] { accept_connections(); });
}

Result<std::unique_ptr<ControlServer>> ControlServer::create(const std::string& path, Serve serve) {
  TRY(make_directory());
  FileDescriptor listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listener) return std::unexpected(Error::from_errno(errno, "socket"));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ::unlink(path.c_str());
  const mode_t mask = ::umask(0177);
  const int bound = ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int problem = errno;
  ::umask(mask);
  if (bound != 0) return std::unexpected(Error::from_errno(problem, "cannot make " + path));
  if (::listen(listener.get(), 64) != 0) return std::unexpected(Error::from_errno(errno, "listen"));
  return std::unique_ptr<ControlServer>(new ControlServer(path, std::move(listener), std::move(serve)));
}

ControlServer::~ControlServer() {
  ::unlink(path_.c_str());
  ::shutdown(listener_.get(), SHUT_RDWR);  // wakes accept
  accepting_.join();
  {
    std::lock_guard lock(mutex_);
    for (const auto& connection : connections_)
      if (!connection.done) ::shutdown(connection.socket, SHUT_RD);  // a reply under way may still be sent
  }
  for (auto& connection : connections_) connection.thread.join();
}

void ControlServer::accept_connections() {
  for (;;) {
    FileDescriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
        ::usleep(100'000);
        continue;
      }
      return;
    }
    constexpr timeval kSendTime{.tv_sec = 30, .tv_usec = 0};  // who does not read must not keep a request from its end
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kSendTime, sizeof kSendTime);
    join_finished();
    if (!is_root(socket.get())) {
      spdlog::warn("refused a connection to the control socket that is not root's");
      continue;
    }
    std::lock_guard lock(mutex_);
    auto& connection = connections_.emplace_back();
    connection.socket = socket.get();
    connection.thread =
        std::thread([this, &connection, channel = LineChannel(std::move(socket), kRequestMaximum)]() mutable {
          serve_(channel);
          std::lock_guard done(mutex_);  // the socket is closed after this, with the lambda
          connection.done = true;
        });
  }
}

void ControlServer::join_finished() {
  std::list<Connection> finished;
  {
    std::lock_guard lock(mutex_);
    for (auto at = connections_.begin(); at != connections_.end();) {
      const auto next = std::next(at);
      if (at->done) finished.splice(finished.end(), connections_, at);
      at = next;
    }
  }
  for (auto& connection : finished) connection.thread.join();
}

}  // namespace daxcow
