#include "fuse/reflink_client.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "fuse/reflink_protocol.h"

namespace daxcow {

namespace {

constexpr unsigned kQuickRepetitions = 10;  // each is a request, which takes its time
constexpr int kAttempts = 10;  // with tickets that somebody else's offers have displaced

// Other filesystems are not asked what they do not know.
bool is_fuse(int file) {
  struct statfs status {};
  return ::fstatfs(file, &status) == 0 && status.f_type == FUSE_SUPER_MAGIC;
}

// ENOTTY for what is not daxcow's.
int request_ticket(int source, ReflinkTicket& ticket) {
  if (!is_fuse(source)) return ENOTTY;
  if (::ioctl(source, kReflinkOffer, &ticket) != 0) return errno == EBADF ? EBADF : ENOTTY;
  return ticket.magic == kReflinkMagic ? 0 : ENOTTY;
}

struct Shared : ReflinkDone {
  bool kernel_keeps_size = false;
};

std::expected<Shared, int> share(int source, int target, ReflinkMode mode, const ReflinkRange& range) {
  ReflinkCall call{};
  call.from_offset = range.from_offset;
  call.to_offset = range.to_offset;
  call.length = range.length;
  call.mode = static_cast<std::uint64_t>(mode);
  for (int attempt = 1;; ++attempt) {
    if (const int problem = request_ticket(source, call.source); problem != 0) return std::unexpected(problem);
    int result = ::ioctl(target, kReflinkCall, &call);
    for (unsigned again = 1; result != 0 && errno == EINPROGRESS; ++again) {
      if (again > kQuickRepetitions) std::this_thread::sleep_for(std::chrono::microseconds(std::min(again * 10, 1000u)));
      result = ::ioctl(target, kReflinkCall, &call);
    }
    if (result == 0) return Shared{{call.done_bytes, call.new_bytes}, call.kernel_keeps_size != 0};
    if (errno != EAGAIN || attempt == kAttempts) return std::unexpected(errno);
  }
}

std::expected<ReflinkDone, int> in_pieces(int source, int target, ReflinkMode mode, const ReflinkRange& range) {
  ReflinkDone done;
  while (done.bytes < range.length) {
    const std::uint64_t length = std::min(kDedupeAtOnceBytes, range.length - done.bytes);
    const auto step = share(source, target, mode, {range.from_offset + done.bytes, range.to_offset + done.bytes, length});
    if (!step) return std::unexpected(step.error());
    done.bytes += step->bytes;
    done.new_bytes += step->new_bytes;
    if (step->bytes != length) break;
  }
  return done;
}

// The kernel goes by the size that it knows, also for appends and faults of mappings, until somebody asks for another. Where it
// believes nobody but itself it has to be told; who truncates the file at this very moment is lost there.
int refresh_size(int target, ReflinkMode mode, std::uint64_t end, bool kernel_keeps_size) {
  struct stat status {};
  if (::fstat(target, &status) != 0) return errno;
  if (!kernel_keeps_size) return 0;
  const auto size = static_cast<std::uint64_t>(status.st_size);
  const bool wrong = mode == ReflinkMode::kReplace ? size != end : size < end;
  return wrong && ::ftruncate(target, static_cast<off_t>(end)) != 0 ? errno : 0;
}

}  // namespace

bool is_on_daxcow(int file) {
  ReflinkTicket ticket{};
  const int problem = request_ticket(file, ticket);
  return problem == 0 || problem == EBADF;
}

std::expected<ReflinkDone, int> reflink_files(int source, int target, ReflinkMode mode, const ReflinkRange& range) {
  if (!is_fuse(source) || !is_fuse(target)) return std::unexpected(ENOTTY);
  if (::fsync(source) != 0 || ::fsync(target) != 0) return std::unexpected(errno);  // what was changed through mappings
  if (mode == ReflinkMode::kDedupe || mode == ReflinkMode::kCompare) return in_pieces(source, target, mode, range);
  const auto done = share(source, target, mode, range);
  if (!done) return std::unexpected(done.error());
  const std::uint64_t end = (mode == ReflinkMode::kReplace ? 0 : range.to_offset) + done->bytes;
  if (const int problem = done->bytes != 0 || mode == ReflinkMode::kReplace ? refresh_size(target, mode, end, done->kernel_keeps_size) : 0; problem != 0)
    return std::unexpected(problem);
  return *done;
}

}  // namespace daxcow
