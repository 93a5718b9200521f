#include "tools/deduplicator.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <isa-l.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/types.h"
#include "fuse/control_client.h"
#include "fuse/reflink_client.h"

namespace daxcow::tools {

namespace {

constexpr std::size_t kPieceBytes = 1 << 20;
constexpr std::uint64_t kMatchBytes = 1ull << 30;  // shared by one request at most

FileDescriptor open_for_reading(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOATIME));
  if (file || errno != EPERM) return file;  // O_NOATIME is for owners
  return FileDescriptor(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
}

// All that there is, up to the size of the buffer. Sets errno, to 0 where that was all.
std::size_t read_at(int file, std::uint64_t offset, std::byte* to, std::size_t bytes) {
  std::size_t done = 0;
  errno = 0;
  while (done < bytes) {
    const ssize_t got = ::pread(file, to + done, bytes - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    done += static_cast<std::size_t>(got);
    errno = 0;
  }
  return done;
}

// A last block that is not full is equal only to another one of its length.
std::uint64_t hash_of(const std::byte* block, std::size_t bytes) {
  return ::crc64_ecma_refl(bytes, reinterpret_cast<const unsigned char*>(block), bytes);
}

// How many bytes from two offsets on are equal: whole blocks, or up to the end of both files.
std::uint64_t equal_bytes(int one, std::uint64_t one_offset, int other, std::uint64_t other_offset, std::uint64_t limit) {
  std::vector<std::byte> first(64 << 10), second(first.size());
  std::uint64_t done = 0;
  while (done < limit) {
    const std::size_t wanted = std::min<std::uint64_t>(first.size(), limit - done);
    const std::size_t got = read_at(one, one_offset + done, first.data(), wanted);
    const std::size_t also = read_at(other, other_offset + done, second.data(), wanted);
    const std::size_t both = std::min(got, also);
    const auto differs = std::mismatch(first.begin(), first.begin() + static_cast<std::ptrdiff_t>(both), second.begin()).first;
    const auto equal = static_cast<std::size_t>(differs - first.begin());
    if (equal == wanted) {
      done += equal;
      continue;
    }
    // The end of both, or of one: then its last, partial block is equal to nothing.
    done += equal == got && equal == also ? equal : equal / kBlockBytes * kBlockBytes;
    break;
  }
  return done;
}

}  // namespace

void Deduplicator::fail_at(const std::string& path, int error) {
  ++report_.failed;
  if (error == ENOTTY) return options_.complain({ErrorCode::kUnsupported, path + ": not on a daxcow mount"});
  options_.complain(path_error(error, path));
}

void Deduplicator::fail_reading(const std::string& path, int error) {
  if (std::exchange(lost_in_, path) != path) fail_at(path, error);
}

void Deduplicator::add(const std::string& path) {
  const FileDescriptor file = open_for_reading(path);
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0) return fail_at(path, errno);
  if (!S_ISREG(status.st_mode) || status.st_size == 0) return;
  if (status.st_nlink > 1 && !seen_.emplace(status.st_dev, status.st_ino).second) return;
  if (!is_on_daxcow(file.get())) return fail_at(path, ENOTTY);
  ++report_.files;
  scan(path, file.get(), static_cast<std::uint64_t>(status.st_size));
}

void Deduplicator::scan(const std::string& path, int file, std::uint64_t size) {
  const std::uint32_t number = index_.add_file(path);
  std::vector<std::byte> piece(kPieceBytes);
  std::uint64_t shared_to = 0;  // what is before it has been dealt with
  for (std::uint64_t offset = 0; offset < size;) {
    const off_t data = ::lseek(file, static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0 && errno != ENXIO) fail_reading(path, errno);
    if (data < 0) break;  // holes to the end, or it has been truncated
    offset = static_cast<std::uint64_t>(data) / kBlockBytes * kBlockBytes;
    const std::uint64_t rest = size - offset, block_bytes = std::min(kBlockBytes, rest);
    std::size_t got = read_at(file, offset, piece.data(), std::min<std::uint64_t>(piece.size(), rest));
    if (const int problem = errno; problem != 0) {  // something is lost there: what can be read of it goes on block by block
      fail_reading(path, problem);
      if (got < block_bytes) got = read_at(file, offset, piece.data(), block_bytes);
      if (got < block_bytes) {
        offset += kBlockBytes;
        continue;
      }
      if (got > kBlockBytes) got -= got % kBlockBytes;
    }
    if (got == 0) break;
    for (std::size_t at = 0; at < got; at += kBlockBytes) {
      if (offset + at < shared_to) continue;
      const std::uint64_t hash = hash_of(piece.data() + at, std::min<std::size_t>(kBlockBytes, got - at));
      const std::uint64_t block = (offset + at) / kBlockBytes;
      const auto known = index_.find(hash);
      const int source = known ? (known->file == number ? file : open_source(known->file)) : -1;
      const Match match = source >= 0 ? extend(source, known->block, file, block, shared_to, known->file == number) : Match{};
      if (match.length == 0) {
        index_.add(hash, {number, block});
        continue;
      }
      share(source, file, match, path);
      shared_to = match.to + match.length;
    }
    report_.read_bytes += got;
    offset += got;
    if (options_.progress) options_.progress(report_.read_bytes);
  }
  index_.end_file(number);
}

int Deduplicator::open_source(std::uint32_t number) {
  if (number != source_number_) {
    source_ = open_for_reading(index_.path(number));  // another file by now, perhaps: then it is not equal
    source_number_ = number;
  }
  return source_.get();
}

// The run of equal blocks around two that are probably equal, not back over what was shared before.
Deduplicator::Match Deduplicator::extend(int source, std::uint64_t source_block, int target, std::uint64_t target_block,
                                         std::uint64_t shared_to, bool same_file) const {
  Match match{source_block * kBlockBytes, target_block * kBlockBytes, 0};
  // In one file the two must not meet.
  const std::uint64_t limit = same_file ? std::min(kMatchBytes, match.to - match.from) : kMatchBytes;
  match.length = equal_bytes(source, match.from, target, match.to, limit);
  if (match.length == 0) return match;
  // Blocks before it were not found by themselves if they are not in the index (any more).
  while (index_.interval() > 1 && match.from > 0 && match.to > shared_to && match.length + kBlockBytes <= limit &&
         equal_bytes(source, match.from - kBlockBytes, target, match.to - kBlockBytes, kBlockBytes) == kBlockBytes) {
    match.from -= kBlockBytes;
    match.to -= kBlockBytes;
    match.length += kBlockBytes;
  }
  return match;
}

void Deduplicator::share(int source, int target, const Match& match, const std::string& path) {
  report_.equal_bytes += match.length;
  const ReflinkMode mode = options_.dry_run ? ReflinkMode::kCompare : ReflinkMode::kDedupe;
  const ReflinkRange range{match.from, match.to, match.length};
  auto done = reflink_files(source, target, mode, range);
  if (!done && done.error() == EPERM) {
    // Not the owner, but perhaps one who may write.
    const FileDescriptor writable(::open(fmt::format("/proc/self/fd/{}", target).c_str(), O_WRONLY | O_CLOEXEC));
    if (writable) done = reflink_files(source, writable.get(), mode, range);
  }
  if (done) {
    report_.shared_bytes += done->new_bytes;
  } else if (done.error() == EIO) {  // a block of it is lost: the others are shared
    if (match.length <= kBlockBytes) return fail_reading(path, EIO);
    const std::uint64_t half = (match.length / kBlockBytes + 1) / 2 * kBlockBytes;
    report_.equal_bytes -= match.length;
    share(source, target, {match.from, match.to, half}, path);
    share(source, target, {match.from + half, match.to + half, match.length - half}, path);
  } else if (done.error() == EBADE || done.error() == EINVAL || done.error() == ESTALE) {
    report_.equal_bytes -= match.length;  // somebody has changed one of them since
  } else if (done.error() != EXDEV) {
    fail_at(path, done.error());
  }
}

}  // namespace daxcow::tools
