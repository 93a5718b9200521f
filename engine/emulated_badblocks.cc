#include "engine/emulated_badblocks.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <system_error>

#include "engine/badblocks.h"
#include "engine/guarded_copy.h"

namespace daxcow {

namespace {

namespace fs = std::filesystem;

// Each run of poisoned pages splits the mapping in two more, and a process has 65530 of them by default
// (vm.max_map_count).
constexpr std::size_t kMaximumRuns = 16384;
// Where inotify is not to be had, the lists are looked at this often.
constexpr int kPollMilliseconds = 1000;

std::unexpected<Error> system_failure(const std::string& what) {
  return std::unexpected(Error::from_errno(errno, what));
}

std::string listed_path_of(const std::string& pool_path) { return pool_path + ".badblocks"; }
std::string injected_path_of(const std::string& pool_path) { return pool_path + ".injected"; }

// The file itself and not a link to it, so that every way to name a pool leads to the same lists.
Result<std::string> canonical_path(const std::string& pool_path) {
  std::error_code error;
  std::string path = fs::canonical(pool_path, error);
  if (error) return std::unexpected(Error::from_errno(error.value(), "cannot find " + pool_path));
  return path;
}

Result<> lock_file(int fd, int operation, const std::string& path) {
  while (flock(fd, operation) != 0) {
    if (errno != EINTR) return system_failure("cannot lock " + path);
  }
  return {};
}

Result<std::string> read_whole(int fd, const std::string& path) {
  std::string text;
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t got = pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(text.size()));
    if (got == 0) return text;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_failure("cannot read " + path);
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

Result<> write_whole(int fd, const std::string& text, const std::string& path) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = pwrite(fd, text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return system_failure("cannot write " + path);
    done += static_cast<std::size_t>(written);
  }
  if (ftruncate(fd, static_cast<off_t>(text.size())) != 0) return system_failure("cannot truncate " + path);
  return {};
}

// A list that does not exist is empty.
Result<BadRanges> read_list(const std::string& path) {
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file && errno == ENOENT) return BadRanges{};
  if (!file) return system_failure("cannot open " + path);
  TRY(lock_file(file.get(), LOCK_SH, path));
  Result<std::string> text = read_whole(file.get(), path);
  if (!text) return std::unexpected(std::move(text).error());
  return parse_badblocks(*text);
}

Result<BadRanges> read_both_lists(const std::string& listed_path, const std::string& injected_path) {
  BadRanges listed = TRY(read_list(listed_path));
  const BadRanges injected = TRY(read_list(injected_path));
  return unite(std::move(listed), injected);
}

// Opens and locks the file that has this name now; it may be replaced by a rename between the two steps.
Result<FileDescriptor> open_locked(const std::string& path, mode_t mode) {
  for (;;) {
    FileDescriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, mode));
    if (!file) return system_failure("cannot open " + path + " to change the list of bad blocks");
    TRY(lock_file(file.get(), LOCK_EX, path));
    struct stat locked = {};
    struct stat named = {};
    if (fstat(file.get(), &locked) == 0 && stat(path.c_str(), &named) == 0 && locked.st_dev == named.st_dev &&
        locked.st_ino == named.st_ino) {
      return file;
    }
  }
}

Result<> change_list(const std::string& path, mode_t mode, const std::function<BadRanges(BadRanges)>& change) {
  const Result<FileDescriptor> file = open_locked(path, mode);
  if (!file) return std::unexpected(file.error());
  const Result<std::string> text = read_whole(file->get(), path);
  if (!text) return std::unexpected(text.error());
  const BadRanges before = parse_badblocks(*text);
  const BadRanges after = change(before);
  if (before == after) return {};
  return write_whole(file->get(), format_badblocks(after), path);
}

// Lists belong to whom the pool belongs to, as far as the mode goes.
mode_t list_mode(int pool_fd) {
  struct stat status = {};
  return fstat(pool_fd, &status) == 0 ? status.st_mode & 0666 : 0600;
}

std::string too_many_runs(const std::string& pool_path) {
  return pool_path + ".badblocks and .injected have more than " + std::to_string(kMaximumRuns) +
         " separate runs, too many to emulate; clear some";
}

}  // namespace

bool is_dax_file(int fd) {
  struct statx status = {};
  return statx(fd, "", AT_EMPTY_PATH, 0, &status) == 0 && (status.stx_attributes & STATX_ATTR_DAX) != 0;
}

EmulatedBadblocks::EmulatedBadblocks(std::string listed_path, std::string injected_path, Mapping mapping)
    : listed_path_(std::move(listed_path)), injected_path_(std::move(injected_path)), mapping_(mapping) {}

Result<std::unique_ptr<EmulatedBadblocks>> EmulatedBadblocks::open(const std::string& pool_path, Mapping mapping) {
  const Result<std::string> path = canonical_path(pool_path);
  if (!path) return std::unexpected(path.error());
  std::unique_ptr<EmulatedBadblocks> badblocks(
      new EmulatedBadblocks(listed_path_of(*path), injected_path_of(*path), mapping));
  TRY(badblocks->start(fs::path(*path).parent_path()));
  return badblocks;
}

Result<> EmulatedBadblocks::start(const std::string& directory) {
  empty_file_ = FileDescriptor(memfd_create("daxcow-poison", MFD_CLOEXEC));
  if (!empty_file_) return system_failure("cannot create an empty file in memory");

  // Watched before it is read, or a change in between would go unseen.
  notification_ = FileDescriptor(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  constexpr std::uint32_t kEvents = IN_CLOSE_WRITE | IN_MODIFY | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE;
  if (notification_ && inotify_add_watch(notification_.get(), directory.c_str(), kEvents) < 0) notification_.reset();

  LockGuard guard(mutex_);
  TRY(refresh_locked());
  const BadRanges all = TRY(read_both_lists(listed_path_, injected_path_));
  if (whole_blocks(clip(all, 0, mapping_.size_bytes)).size() > kMaximumRuns) {
    return fail(ErrorCode::kUnsupported, too_many_runs(fs::path(listed_path_).replace_extension()));
  }
  return {};
}

Result<BadRanges> EmulatedBadblocks::listed() {
  LockGuard guard(mutex_);
  TRY(refresh_locked());
  return clip(TRY(read_list(listed_path_)), 0, mapping_.size_bytes);
}

bool EmulatedBadblocks::is_poisoned(BlockNumber block) {
  LockGuard guard(mutex_);
  return overlaps(poisoned_, range_of({block, 1}));
}

Result<> EmulatedBadblocks::map_poison(const BadRange& range) {
  // The same offset as in the pool, so that neighbouring pages become one mapping.
  if (mmap(mapping_.address + range.offset_bytes, range.length_bytes, PROT_READ | (mapping_.writable ? PROT_WRITE : 0),
           MAP_SHARED | MAP_FIXED | MAP_NORESERVE, empty_file_.get(),
           static_cast<off_t>(range.offset_bytes)) == MAP_FAILED) {
    return system_failure("cannot emulate bad blocks of " + listed_path_);
  }
  return {};
}

Result<> EmulatedBadblocks::map_file(const BadRange& range) {
  if (mmap(mapping_.address + range.offset_bytes, range.length_bytes, PROT_READ | (mapping_.writable ? PROT_WRITE : 0),
           MAP_SHARED | MAP_FIXED, mapping_.file, static_cast<off_t>(range.offset_bytes)) == MAP_FAILED) {
    return system_failure("cannot map a cleared block of the pool of " + listed_path_);
  }
  return {};
}

Result<> EmulatedBadblocks::refresh_locked() {
  const BadRanges all = TRY(read_both_lists(listed_path_, injected_path_));
  BadRanges wanted = whole_blocks(clip(all, 0, mapping_.size_bytes));
  // Beyond the limit blocks are listed without faulting, which is better than to lose the mapping.
  if (wanted.size() > kMaximumRuns) wanted.resize(kMaximumRuns);
  // What was mapped is noted even when a later mapping fails.
  Result<> result;
  BadRanges restored, poisoned;
  for (const BadRange& range : subtract(poisoned_, wanted)) {
    if (result = map_file(range); !result) break;
    restored.push_back(range);
  }
  for (const BadRange& range : subtract(wanted, poisoned_)) {
    if (!result || !(result = map_poison(range))) break;
    poisoned.push_back(range);
  }
  poisoned_ = unite(subtract(std::move(poisoned_), restored), poisoned);
  return result;
}

Result<> EmulatedBadblocks::read_sectors(std::uint64_t offset, std::span<std::byte> to) {
  LockGuard guard(mutex_);
  const std::uint64_t first = offset / kSectorBytes * kSectorBytes;
  const std::uint64_t end = (offset + to.size() + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
  if (overlaps(TRY(read_both_lists(listed_path_, injected_path_)), {first, end - first}))
    return fail(ErrorCode::kPoisoned);
  if (pread(mapping_.file, to.data(), to.size(), static_cast<off_t>(offset)) != static_cast<ssize_t>(to.size()))
    return system_failure("cannot read the pool of " + listed_path_);
  return {};
}

Result<> EmulatedBadblocks::note_fault(BlockNumber block) {
  LockGuard guard(mutex_);
  const BadRanges latent = intersect(TRY(read_list(injected_path_)), {range_of({block, 1})});
  if (latent.empty()) return {};
  return change_list(listed_path_, list_mode(mapping_.file),
                     [&](BadRanges listed) { return unite(std::move(listed), latent); });
}

Result<> EmulatedBadblocks::clear(BlockRun run) {
  LockGuard guard(mutex_);
  TRY(refresh_locked());
  const BadRanges bad = intersect(poisoned_, {range_of(run)});
  if (bad.empty()) return {};

  // Zeroes first: if this ends half way, the blocks are still listed and are cleared again.
  const std::array<std::byte, kBlockBytes> zeros = {};
  for (const BadRange& range : bad) {
    for (std::uint64_t done = 0; done < range.length_bytes; done += kBlockBytes) {
      const auto at = static_cast<off_t>(range.offset_bytes + done);
      if (pwrite(mapping_.file, zeros.data(), zeros.size(), at) != static_cast<ssize_t>(zeros.size())) {
        return system_failure("cannot clear bad blocks listed in " + listed_path_);
      }
    }
  }
  if (fdatasync(mapping_.file) != 0) return system_failure("cannot clear bad blocks listed in " + listed_path_);
  const auto without_bad = [&](BadRanges list) { return subtract(std::move(list), bad); };
  for (const std::string& path : {injected_path_, listed_path_}) {
    if (!TRY(read_list(path)).empty()) TRY(change_list(path, list_mode(mapping_.file), without_bad));
  }
  TRY(refresh_locked());

  std::array<std::byte, kBlockBytes> content;
  for (const BadRange& range : bad) {
    for (std::uint64_t done = 0; done < range.length_bytes; done += kBlockBytes) {
      if (!guarded_copy(content.data(), mapping_.address + range.offset_bytes + done, kBlockBytes) ||
          content != zeros) {
        return fail(ErrorCode::kPoisoned, "block " + std::to_string((range.offset_bytes + done) / kBlockBytes) +
                                              " is still bad after clearing");
      }
    }
  }
  return {};
}

Result<bool> EmulatedBadblocks::wait_change(int stop_fd) {
  const std::string listed_name = fs::path(listed_path_).filename();
  const std::string injected_name = fs::path(injected_path_).filename();
  bool changed = false;
  while (!changed) {
    pollfd entries[2] = {{.fd = stop_fd, .events = POLLIN, .revents = 0},
                         {.fd = notification_.get(), .events = POLLIN, .revents = 0}};  // a negative one is skipped
    if (poll(entries, 2, notification_ ? -1 : kPollMilliseconds) < 0) {
      if (errno == EINTR) continue;
      return system_failure("cannot wait for changes of " + listed_path_);
    }
    if (entries[0].revents != 0) return false;
    if (!notification_) break;

    alignas(inotify_event) std::array<char, 4096> buffer;
    const ssize_t got = read(notification_.get(), buffer.data(), buffer.size());
    if (got < 0 && errno != EAGAIN && errno != EINTR) return system_failure("cannot read changes of " + listed_path_);
    for (ssize_t at = 0; at < got;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
      const std::string name = event->len > 0 ? event->name : "";
      changed = changed || name == listed_name || name == injected_name || (event->mask & IN_Q_OVERFLOW) != 0;
    }
  }
  LockGuard guard(mutex_);
  TRY(refresh_locked());
  return true;
}

namespace emulated_device {

namespace {

struct Target {
  std::string path;
  std::uint64_t size_bytes = 0;
  mode_t mode = 0;
};

Result<Target> find_target(const std::string& pool_path) {
  const Result<std::string> path = canonical_path(pool_path);
  if (!path) return std::unexpected(path.error());
  // Without O_NONBLOCK a named pipe would hang here.
  const FileDescriptor pool(::open(path->c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!pool) return system_failure("cannot open " + *path);
  struct stat status = {};
  if (fstat(pool.get(), &status) != 0) return system_failure("cannot look at " + *path);
  if (!S_ISREG(status.st_mode) || is_dax_file(pool.get())) {
    return fail(ErrorCode::kUnsupported, *path + " is not emulated; use ndctl inject-error on its namespace");
  }
  const auto size_bytes = static_cast<std::uint64_t>(status.st_size);
  return Target{*path, size_bytes - size_bytes % kBlockBytes, status.st_mode & 0666};
}

Result<BadRange> sector_range(const Target& target, std::uint64_t sector, std::uint64_t count) {
  const std::uint64_t sectors = target.size_bytes / kSectorBytes;
  if (count == 0) return fail(ErrorCode::kInvalid, "the count of sectors must not be zero");
  if (sector >= sectors || count > sectors - sector) {
    return fail(ErrorCode::kInvalid, "sectors " + std::to_string(sector) + " to " + std::to_string(sector + count - 1) +
                                         " are not in " + target.path + ", which has " + std::to_string(sectors) +
                                         " sectors of 512 bytes");
  }
  return BadRange{sector * kSectorBytes, count * kSectorBytes};
}

}  // namespace

Result<> inject(const std::string& pool_path, std::uint64_t sector, std::uint64_t count, bool notify) {
  const Target target = TRY(find_target(pool_path));
  const BadRange range = TRY(sector_range(target, sector, count));
  const BadRanges others = TRY(read_both_lists(listed_path_of(target.path), injected_path_of(target.path)));
  if (whole_blocks(unite(others, {range})).size() > kMaximumRuns) {
    return fail(ErrorCode::kUnsupported, too_many_runs(target.path));
  }
  const auto add = [&](BadRanges list) { return unite(std::move(list), {range}); };
  TRY(change_list(injected_path_of(target.path), target.mode, add));
  if (notify) TRY(change_list(listed_path_of(target.path), target.mode, add));
  return {};
}

Result<> uninject(const std::string& pool_path, std::uint64_t sector, std::uint64_t count) {
  const Target target = TRY(find_target(pool_path));
  const BadRange range = TRY(sector_range(target, sector, count));
  return change_list(injected_path_of(target.path), target.mode,
                     [&](BadRanges list) { return subtract(std::move(list), {range}); });
}

Result<BadRanges> injected(const std::string& pool_path) {
  const Target target = TRY(find_target(pool_path));
  return read_list(injected_path_of(target.path));
}

}  // namespace emulated_device

}  // namespace daxcow
