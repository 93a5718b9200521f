#include "tools/rescue.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <thread>

#include "engine/file_descriptor.h"
#include "engine/types.h"
#include "fuse/control_client.h"

namespace daxcow::tools {

using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t kReadBytes = 1 << 20;
constexpr auto kSaveInterval = 5s;
constexpr auto kRetryPause = 200ms;  // what was found bad only now is known to the sector soon after

std::unexpected<Error> failure(const std::string& path) { return std::unexpected(path_error(errno, path)); }

// Whether the file is lost here, and not gone altogether.
bool is_loss(int error_number) { return error_number == EIO || error_number == EHWPOISON || error_number == ENODATA; }

class Rescue {
 public:
  explicit Rescue(const RescueOptions& options) : options_(options) {}

  Result<RescueReport> run() {
    TRY(open_source());
    TRY(open_target());
    // Everything that can be read at once; then what failed, by halves; then what was lost, sector by sector, again.
    TRY(pass(RescueState::kNotTried, kReadBytes));
    TRY(pass(RescueState::kFailed, kReadBytes));
    for (unsigned i = 0; i < options_.retries && !report_.interrupted && map().bytes_in(RescueState::kLost) != 0; ++i) {
      std::this_thread::sleep_for(kRetryPause);
      TRY(pass(RescueState::kLost, kSectorBytes));
    }
    TRY(save());
    return std::move(report_);
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  RescueMap& map() { return report_.map; }

  Result<> open_source() {
    const char* const path = options_.source.c_str();
    source_ = FileDescriptor(::open(path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK));
    if (!source_ && errno == EINVAL) source_ = FileDescriptor(::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat status;
    if (!source_ || ::fstat(source_.get(), &status) != 0) return failure(options_.source);
    if (S_ISDIR(status.st_mode)) return fail(ErrorCode::kIsDirectory, options_.source + ": is a directory");
    if (!S_ISREG(status.st_mode)) return fail(ErrorCode::kInvalid, options_.source + ": not a regular file");
    // What programs changed through mappings may lie where the filesystem still has a hole.
    static_cast<void>(::fsync(source_.get()));
    mode_ = status.st_mode & 0777;
    size_ = static_cast<std::uint64_t>(status.st_size);
    buffer_.reset(std::aligned_alloc(kBlockBytes, kReadBytes));
    if (!buffer_) return fail(ErrorCode::kIo, "out of memory");
    return {};
  }

  Result<> open_target() {
    std::error_code ignored;
    std::ifstream kept(options_.map_path);
    if (kept) {
      std::stringstream text;
      text << kept.rdbuf();
      auto parsed = RescueMap::parse(text.str());
      if (!parsed)
        return fail(ErrorCode::kInvalid,
                    fmt::format("{}: no map of a rescue: {}", options_.map_path, describe(parsed.error())));
      map() = *std::move(parsed);
      report_.resumed = true;
    } else {
      map() = RescueMap(size_);
    }
    const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (report_.resumed || options_.force ? 0 : O_EXCL);
    target_ = FileDescriptor(::open(options_.target.c_str(), flags, mode_));
    if (!target_ && errno == EEXIST)
      return fail(ErrorCode::kExists,
                  fmt::format("{}: is there already, and {} is not, to go on with; remove it, or use --force",
                              options_.target, options_.map_path));
    struct stat source, target;
    if (!target_ || ::fstat(target_.get(), &target) != 0) return failure(options_.target);
    if (!S_ISREG(target.st_mode)) return fail(ErrorCode::kInvalid, options_.target + ": not a regular file");
    if (::fstat(source_.get(), &source) == 0 && source.st_dev == target.st_dev && source.st_ino == target.st_ino)
      return fail(ErrorCode::kInvalid, fmt::format("{} and {} are the same file", options_.source, options_.target));
    // What the map calls copied must be there.
    if (report_.resumed && (map().size_bytes() != size_ || static_cast<std::uint64_t>(target.st_size) != size_)) {
      if (map().bytes_in(RescueState::kCopied) != 0)
        return fail(ErrorCode::kInvalid,
                    fmt::format("{}: is of a file of {} bytes, but {} has {} and {} has {}; remove it to begin anew",
                                options_.map_path, map().size_bytes(), options_.source, size_, options_.target,
                                target.st_size));
      map() = RescueMap(size_);
    }
    if (!report_.resumed && target.st_size != 0 && ::ftruncate(target_.get(), 0) != 0) return failure(options_.target);
    if (::ftruncate(target_.get(), static_cast<off_t>(size_)) != 0) return failure(options_.target);
    return save();
  }

  // Tries everything that is in this state when it is reached, in reads of this size.
  Result<> pass(RescueState state, std::uint64_t read_bytes) {
    const std::uint64_t total = size_;
    for (std::uint64_t at = 0; !report_.interrupted;) {
      const auto run = map().next(at, state);
      if (run.length == 0) return {};
      position_ = run.offset;
      const auto data = TRY(find_data(run));
      at = data.offset;
      if (data.offset > run.offset) {
        TRY(leave_hole(run.offset, data.offset - run.offset));
      } else {
        const std::uint64_t length = std::min(data.length, read_bytes - data.offset % read_bytes);
        at = data.offset + length;
        if (state == RescueState::kNotTried)
          TRY(copy_or_put_off(data.offset, length));
        else
          TRY(copy_by_halves(data.offset, length));
      }
      if (options_.progress) options_.progress(map().bytes_in(RescueState::kCopied), total);
      if (Clock::now() - saved_ > kSaveInterval) TRY(save());
      if (options_.interrupted && options_.interrupted()) report_.interrupted = true;
    }
    return {};
  }

  // The first data of the run; at its end if all of it is a hole. Where holes cannot be asked for, everything is data.
  Result<RescueMap::Run> find_data(RescueMap::Run run) {
    const off_t data = ::lseek(source_.get(), static_cast<off_t>(run.offset), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return RescueMap::Run{run.end(), 0, run.state};
    if (data < 0) return run;
    const auto start = std::min(static_cast<std::uint64_t>(data), run.end());
    const off_t hole = ::lseek(source_.get(), static_cast<off_t>(start), SEEK_HOLE);
    const auto end = hole < 0 ? run.end() : std::min(static_cast<std::uint64_t>(hole), run.end());
    return RescueMap::Run{start, start < run.end() ? end - start : 0, run.state};
  }

  // The target may have something there from an earlier attempt.
  Result<> leave_hole(std::uint64_t offset, std::uint64_t length) {
    if (report_.resumed &&
        ::fallocate(target_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                    static_cast<off_t>(length)) != 0 &&
        errno != EOPNOTSUPP)
      return failure(options_.target);
    map().set(offset, length, RescueState::kCopied);
    return {};
  }

  // False if it is lost, in part at least.
  Result<bool> copy(std::uint64_t offset, std::uint64_t length) {
    auto* const bytes = static_cast<char*>(buffer_.get());
    // O_DIRECT wants whole sectors; the end of the file makes the read short.
    const std::uint64_t wanted = (length + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
    for (std::uint64_t done = 0; done < length;) {
      const ssize_t got = ::pread(source_.get(), bytes + done, wanted - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && is_loss(errno)) return false;
      if (got < 0) return failure(options_.source);
      if (got == 0) return fail(ErrorCode::kIo, options_.source + ": has become shorter meanwhile");
      done += static_cast<std::uint64_t>(got);
      if (done < length && done % kSectorBytes != 0)
        return fail(ErrorCode::kIo, options_.source + ": has become shorter meanwhile");
    }
    for (std::uint64_t done = 0; done < length;) {
      const ssize_t put = ::pwrite(target_.get(), bytes + done, length - done, static_cast<off_t>(offset + done));
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) return failure(options_.target);
      done += static_cast<std::uint64_t>(put);
    }
    map().set(offset, length, RescueState::kCopied);
    return true;
  }

  Result<> copy_or_put_off(std::uint64_t offset, std::uint64_t length) {
    if (!TRY(copy(offset, length))) map().set(offset, length, RescueState::kFailed);
    return {};
  }

  Result<> copy_by_halves(std::uint64_t offset, std::uint64_t length) {
    if (TRY(copy(offset, length))) return {};
    if (length <= kSectorBytes) {
      map().set(offset, length, RescueState::kLost);
      return {};
    }
    const std::uint64_t sectors = (length + kSectorBytes - 1) / kSectorBytes;
    const std::uint64_t half = sectors / 2 * kSectorBytes;
    TRY(copy_by_halves(offset, half));
    return copy_by_halves(offset + half, length - half);
  }

  // The map, in one piece, after what it tells of.
  Result<> save() {
    if (::fdatasync(target_.get()) != 0) return failure(options_.target);
    const std::string temporary = options_.map_path + ".new";
    const std::string text = map().text(options_.comments, position_);
    FileDescriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!file || ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        ::fsync(file.get()) != 0 || ::rename(temporary.c_str(), options_.map_path.c_str()) != 0)
      return failure(options_.map_path);
    saved_ = Clock::now();
    return {};
  }

  const RescueOptions& options_;
  RescueReport report_;
  FileDescriptor source_, target_;
  mode_t mode_ = 0;
  std::uint64_t size_ = 0, position_ = 0;
  std::unique_ptr<void, Free> buffer_;
  Clock::time_point saved_;
};

}  // namespace

Result<RescueReport> rescue(const RescueOptions& options) { return Rescue(options).run(); }

}  // namespace daxcow::tools
