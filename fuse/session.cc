#include "fuse/session.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <memory>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "fuse/transport.h"

namespace daxcow {

namespace {

// Interrupts a session's main thread, which sleeps in libfuse; see stop().
constexpr int kWakeSignal = SIGUSR2;

void install_wake_handler() {
  struct sigaction action {};
  action.sa_handler = [](int) {};  // without SA_RESTART: sem_wait returns
  sigaction(kWakeSignal, &action, nullptr);
}

struct LoopConfig {
  fuse_loop_config* config = fuse_loop_cfg_create();
  ~LoopConfig() { fuse_loop_cfg_destroy(config); }
};

}  // namespace

Session::Session(std::shared_ptr<Volume> volume, SessionOptions options)
    : options_(std::move(options)),
      context_{.volume = std::move(volume),
               .behaviour = options_.behaviour,
               .access_time = options_.behaviour.access_time,
               .directory_access_time = options_.behaviour.directory_access_time,
               .reflink_sources = options_.reflink_sources},
      volume_number_(context_.volume->number()),
      volume_name_(context_.volume->name()) {
  context_.read_only = context_.volume->read_only();
}

Result<std::shared_ptr<Session>> Session::create(std::shared_ptr<Volume> volume, FileDescriptor device,
                                                 SessionOptions options) {
  std::shared_ptr<Session> session(new Session(std::move(volume), std::move(options)));
  fuse_args arguments = FUSE_ARGS_INIT(0, nullptr);
  fuse_opt_add_arg(&arguments, "daxcow");
  if (session->options_.debug) fuse_opt_add_arg(&arguments, "-odebug");
  if (session->options_.io_uring && !no_io_uring_because(session->options_.behaviour)) fuse_opt_add_arg(&arguments, "-oio_uring");
  session->session_ = fuse_session_new(&arguments, &operations(), sizeof(fuse_lowlevel_ops), &session->context_);
  fuse_opt_free_args(&arguments);
  if (session->session_ == nullptr) return fail(ErrorCode::kIo, "libfuse could not make a session");
  session->context_.session = session->session_;
  const int owned = ::fcntl(device.get(), F_DUPFD_CLOEXEC, 0);  // the session closes it
  if (owned < 0) return std::unexpected(Error::from_errno(errno, "cannot duplicate a descriptor"));
  if (auto attached = attach_transport(session->session_, owned); !attached) {
    ::close(owned);
    return std::unexpected(attached.error());
  }
  return session;
}

Session::~Session() {
  if (thread_.joinable()) {
    stop();
    finish();
  }
  if (session_ != nullptr) fuse_session_destroy(session_);
}

void Session::start(dev_t st_dev, std::function<void()> ended) {
  install_wake_handler();
  context_.worker.open();
  thread_ = std::thread([this, ended = std::move(ended)] { run(ended); });
  st_dev_ = st_dev;  // from now on others may stop it
}

void Session::run(const std::function<void()>& ended) {
  LoopConfig loop;
  fuse_loop_cfg_set_max_threads(loop.config, options_.threads);
  fuse_loop_cfg_set_idle_threads(loop.config, options_.threads);
  const int result = fuse_session_loop_mt(session_, loop.config);
  context_.worker.close();
  if (result < 0)
    spdlog::error("the session of {} ended: {}", options_.directory, Error::from_errno(-result, "libfuse").message);
  ended();
  ended_ = true;  // stop() returns to who reaps
}

void Session::stop() {
  {
    std::lock_guard lock(page_mutex_);
    stopping_ = true;
  }
  context_.worker.close();  // while the session still answers what the kernel asks meanwhile
  fuse_session_exit(session_);
  // libfuse 3.14 looks at the flag only when something wakes it. The signal may come before it sleeps: try again.
  while (thread_.joinable() && !ended_) {
    pthread_kill(thread_.native_handle(), kWakeSignal);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

void Session::finish() {
  if (thread_.joinable()) thread_.join();
  std::shared_ptr<Volume> volume;
  {
    std::lock_guard lock(volume_mutex_);
    volume.swap(context_.volume);
  }
  if (volume != nullptr) volume->forget_all();
}

std::shared_ptr<Volume> Session::volume() const {
  std::lock_guard lock(volume_mutex_);
  return context_.volume;
}

bool Session::is_connected() const {
  pollfd device{fuse_session_fd(session_), POLLIN, 0};
  return ::poll(&device, 1, 0) >= 0 && (device.revents & (POLLERR | POLLHUP | POLLNVAL)) == 0;
}

FileDescriptor Session::open_root(const std::string& path) const {
  FileDescriptor root(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat status;
  if (root && (::fstat(root.get(), &status) != 0 || status.st_dev != device())) root.reset();
  return root;
}

std::vector<MountedInode> Session::files_open_for_writing() const {
  std::vector<MountedInode> files;
  const auto volume = this->volume();
  if (volume == nullptr) return files;
  for (const InodeNumber inode : volume->files_open_for_writing())
    if (const auto attributes = volume->attributes(inode)) files.push_back({inode, attributes->generation});
  return files;
}

Result<> Session::remount(bool read_only, std::optional<AccessTime> access_time, std::optional<AccessTime> directory_access_time) {
  const std::lock_guard lock(remount_mutex_);
  auto& wanted = options_.behaviour;
  wanted.access_time = access_time.value_or(wanted.access_time);
  wanted.directory_access_time = directory_access_time.value_or(wanted.directory_access_time);
  context_.read_only = read_only;
  context_.access_time = read_only ? AccessTime::kKeep : wanted.access_time;
  context_.directory_access_time = read_only ? AccessTime::kKeep : wanted.directory_access_time;
  const auto volume = this->volume();
  return read_only && volume != nullptr ? volume->sync_all() : Result<>{};
}

// FUSE_NOTIFY_RETRIEVE would be the way made for this, but it hands out every page that is in the cache, also one that
// a read has failed to fill or a write has filled in part, and does not say which they are. A read through the mount
// takes what is up to date, and asks us for all else, which we refuse.
std::uint64_t Session::read_cached(InodeNumber inode, std::uint64_t offset, std::span<std::byte> to) {
  const std::shared_lock lock(page_mutex_);
  const auto volume = this->volume();
  if (stopping_ || volume == nullptr || !context_.behaviour.rescue) return 0;
  const FileDescriptor root = open_root(directory());
  if (!root) return 0;
  const auto attributes = volume->attributes(inode);
  if (!attributes || !S_ISREG(attributes->mode)) return 0;

  context_.page_reader = ::gettid();
  const FileDescriptor file = open_mounted(root.get(), {inode, attributes->generation});
  std::uint64_t bytes = 0;
  if (file) {
    (void)::posix_fadvise(file.get(), 0, 0, POSIX_FADV_RANDOM);  // this page and no other
    const auto count = ::pread(file.get(), to.data(), to.size(), static_cast<off_t>(offset));
    if (count > 0) bytes = static_cast<std::uint64_t>(count);
  }
  context_.page_reader = 0;
  return is_connected() ? bytes : 0;  // else what was read may be of another mount, with the same st_dev
}

void Session::invalidate(InodeNumber inode, std::uint64_t offset, std::uint64_t length) {
  const std::shared_lock lock(page_mutex_);  // dirty pages are written by requests
  if (stopping_) return;
  const int result =
      fuse_lowlevel_notify_inval_inode(session_, inode.value, static_cast<off_t>(offset), static_cast<off_t>(length));
  // The kernel may have forgotten the inode, or the mount may be gone.
  if (result != 0 && result != -ENOENT && result != -ENOTCONN && result != -ENODEV)
    spdlog::warn("cannot invalidate inode {} of volume {}: {}", inode.value, volume_name_,
                 Error::from_errno(-result, "notification").message);
}

}  // namespace daxcow
