#include "tools/reflink_supervisor.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <vector>

#include "fuse/reflink_client.h"
#include "tools/reflink_filter.h"
#include "tools/supervised_thread.h"

namespace daxcow::tools {

namespace {

struct Answer {
  bool by_kernel = false;  // the call goes on as if nobody had looked at it
  int error = 0;
  std::int64_t value = 0;
};
constexpr Answer kLeaveToKernel{.by_kernel = true};
constexpr Answer failed(int error) { return {.error = error}; }

struct File {
  FileDescriptor descriptor;
  struct stat status {};
  int flags = 0;
  bool readable() const { return (flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_WRONLY; }
  bool writable() const { return (flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_RDONLY; }
};

class Request {
 public:
  Request(int listener, const seccomp_notif& notification, SupervisedThread& thread)
      : listener_(listener), notification_(notification), thread_(thread), arguments_(notification.data.args) {}

  Answer answer() {
    switch (static_cast<unsigned>(arguments_[1])) {
      case FICLONE:
        return clone({.src_fd = static_cast<int>(arguments_[2]), .src_offset = 0, .src_length = 0, .dest_offset = 0});
      case FICLONERANGE: {
        file_clone_range range{};
        return thread_.read(arguments_[2], &range, sizeof range) ? clone(range) : kLeaveToKernel;
      }
      case FIDEDUPERANGE:
        return dedupe();
      default:
        return kLeaveToKernel;
    }
  }

 private:
  // The thread still waits: its files and its memory were its own when they were looked at, and nobody else's by now.
  bool still_waits() const { return ::ioctl(listener_, SECCOMP_IOCTL_NOTIF_ID_VALID, &notification_.id) == 0; }

  bool open(std::int64_t number, File& file) const {
    file.descriptor = thread_.file(static_cast<int>(number));
    if (!file.descriptor || ::fstat(file.descriptor.get(), &file.status) != 0) return false;
    file.flags = ::fcntl(file.descriptor.get(), F_GETFL);
    return file.flags >= 0;
  }

  Answer clone(const file_clone_range& range) {
    File source, target;
    if (!open(static_cast<std::int64_t>(arguments_[0]), target) || !open(range.src_fd, source)) return kLeaveToKernel;
    if (!S_ISREG(source.status.st_mode) || !S_ISREG(target.status.st_mode)) return kLeaveToKernel;
    if (!source.readable() || !target.writable() || (target.flags & O_APPEND) != 0) return kLeaveToKernel;
    const std::uint64_t limit = thread_.file_size_limit();
    if (!still_waits() || !is_on_daxcow(source.descriptor.get())) return kLeaveToKernel;
    if (const int problem = check_size_limit(limit, range, source); problem != 0) return failed(problem);
    const ActingAs identity(thread_.identity());
    if (!identity.is_good()) return kLeaveToKernel;
    const auto done = reflink_files(source.descriptor.get(), target.descriptor.get(), ReflinkMode::kClone,
                                    {range.src_offset, range.dest_offset, range.src_length});
    if (done) return {};
    return done.error() == ENOTTY || done.error() == EXDEV ? kLeaveToKernel : failed(done.error());
  }

  // RLIMIT_FSIZE, as in the kernel's generic_write_check_limits(): a clone is never shortened.
  int check_size_limit(std::uint64_t limit, const file_clone_range& range, const File& source) const {
    const auto size = static_cast<std::uint64_t>(source.status.st_size);
    if (limit == RLIM_INFINITY || range.src_offset >= size) return 0;
    if (range.src_offset % kBlockBytes != 0 || range.dest_offset % kBlockBytes != 0) return 0;  // wrong before that
    const std::uint64_t length = range.src_length != 0 ? range.src_length : size - range.src_offset;
    if (range.dest_offset >= limit) {
      thread_.signal(SIGXFSZ);
      return EFBIG;
    }
    return length > limit - range.dest_offset ? EINVAL : 0;
  }

  Answer dedupe() {
    constexpr std::uint64_t kMaximumBytes = 1 << 30;  // the kernel's
    file_dedupe_range header{};
    if (!thread_.read(arguments_[2], &header, sizeof header)) return kLeaveToKernel;
    File source;
    if (!open(static_cast<std::int64_t>(arguments_[0]), source)) return kLeaveToKernel;
    if (!source.readable() || !S_ISREG(source.status.st_mode)) return kLeaveToKernel;
    std::vector<file_dedupe_range_info> targets(header.dest_count);
    const std::size_t bytes = targets.size() * sizeof targets[0];
    if (sizeof header + bytes > static_cast<std::size_t>(::sysconf(_SC_PAGESIZE))) return kLeaveToKernel;
    if (!thread_.read(arguments_[2] + sizeof header, targets.data(), bytes)) return kLeaveToKernel;
    thread_.hold_memory();
    if (!still_waits() || !is_on_daxcow(source.descriptor.get())) return kLeaveToKernel;

    const auto size = static_cast<std::uint64_t>(source.status.st_size);
    if (header.reserved1 != 0 || header.reserved2 != 0) return failed(EINVAL);
    if (header.src_offset > size || header.src_length > size - header.src_offset) return failed(EINVAL);
    const std::uint64_t length = std::min<std::uint64_t>(header.src_length, kMaximumBytes);
    const ActingAs identity(thread_.identity());
    if (!identity.is_good()) return kLeaveToKernel;
    for (file_dedupe_range_info& target : targets) target.bytes_deduped = 0, target.status = FILE_DEDUPE_RANGE_SAME;
    for (file_dedupe_range_info& target : targets) {
      const int problem = dedupe_one(source, target, header.src_offset, length);
      if (problem == 0) target.bytes_deduped = length;
      target.status = problem == EBADE ? FILE_DEDUPE_RANGE_DIFFERS : -problem;
      if (!still_waits()) return {};  // killed
    }
    return thread_.write(arguments_[2] + sizeof header, targets.data(), bytes) ? Answer{} : failed(EFAULT);
  }

  int dedupe_one(const File& source, const file_dedupe_range_info& wanted, std::uint64_t offset, std::uint64_t length) const {
    File target;
    struct statvfs filesystem {};
    if (!open(wanted.dest_fd, target) || (target.flags & O_PATH) != 0) return EBADF;
    if (wanted.reserved != 0) return EINVAL;
    if (::fstatvfs(target.descriptor.get(), &filesystem) == 0 && (filesystem.f_flag & ST_RDONLY) != 0) return EROFS;
    if (S_ISDIR(target.status.st_mode)) return target.status.st_dev == source.status.st_dev ? EISDIR : EXDEV;
    if (!S_ISREG(target.status.st_mode)) return target.status.st_dev == source.status.st_dev ? EINVAL : EXDEV;
    if (length == 0) return 0;
    const ReflinkRange range{offset, wanted.dest_offset, length};
    auto done = reflink_files(source.descriptor.get(), target.descriptor.get(), ReflinkMode::kDedupe, range);
    if (!done && done.error() == EPERM) {
      // Who may write to it may do so without having opened it for that.
      const FileDescriptor again(
          ::open(fmt::format("/proc/self/fd/{}", target.descriptor.get()).c_str(), O_WRONLY | O_CLOEXEC | O_NONBLOCK));
      if (again) done = reflink_files(source.descriptor.get(), again.get(), ReflinkMode::kDedupe, range);
    }
    if (done) return 0;
    return done.error() == ENOTTY ? EXDEV : done.error();
  }

  const int listener_;
  const seccomp_notif& notification_;
  SupervisedThread& thread_;
  const __u64* const arguments_;
};

}  // namespace

std::optional<seccomp_notif> ReflinkSupervisor::receive() const {
  for (;;) {
    seccomp_notif notification{};
    if (::ioctl(listener_, SECCOMP_IOCTL_NOTIF_RECV, &notification) == 0) return notification;
    if (errno != EINTR && errno != ENOENT) return std::nullopt;  // ENOENT: the thread was killed before it was named
    pollfd waiting{listener_, POLLIN, 0};
    if (errno == ENOENT && ::poll(&waiting, 1, -1) == 1 && (waiting.revents & POLLHUP) != 0) return std::nullopt;
  }
}

void ReflinkSupervisor::answer(const seccomp_notif& notification, bool may_wait) const {
  Answer answer = kLeaveToKernel;
  if (static_cast<unsigned>(notification.data.args[1]) == kSupervisorProbe) {
    answer = {.value = 1};
  } else if (auto thread = may_wait ? SupervisedThread::open(static_cast<pid_t>(notification.pid)) : std::nullopt) {
    answer = Request(listener_, notification, *thread).answer();
  }
  seccomp_notif_resp response{};
  response.id = notification.id;
  response.val = answer.value;
  response.error = -answer.error;
  if (answer.by_kernel) response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  (void)::ioctl(listener_, SECCOMP_IOCTL_NOTIF_SEND, &response);  // ENOENT: the thread was killed meanwhile
}

}  // namespace daxcow::tools
