#include "test/bench/bench_peer.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include <fmt/format.h>

#include "engine/types.h"

namespace daxcow::bench {

namespace {

struct AlignedBuffer {
  explicit AlignedBuffer(std::uint64_t bytes) : data(static_cast<char*>(std::aligned_alloc(kBlockBytes, bytes))) {
    std::memset(data.get(), 0x5a, bytes);
  }
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::unique_ptr<char, Free> data;
};

}  // namespace

void fail_with_errno(const std::string& what) {
  fmt::print(stderr, "daxcow_bench: {}: {}\n", what, std::strerror(errno));
  std::exit(1);
}

FileDescriptor open_file(const std::string& path, int flags) {
  FileDescriptor file(::open(path.c_str(), flags | O_CLOEXEC, 0644));
  if (!file) fail_with_errno("open " + path);
  return file;
}

void write_all(int file, std::uint64_t offset, const void* data, std::uint64_t length_bytes) {
  if (::pwrite(file, data, length_bytes, static_cast<off_t>(offset)) != static_cast<ssize_t>(length_bytes))
    fail_with_errno("write");
}

void fill_file(const std::string& path, std::uint64_t length_bytes) {
  constexpr std::uint64_t kPiece = 1 << 20;
  const AlignedBuffer buffer(kPiece);
  const auto file = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
  for (std::uint64_t offset = 0; offset < length_bytes; offset += kPiece)
    write_all(file.get(), offset, buffer.data.get(), std::min(kPiece, length_bytes - offset));
  if (::fsync(file.get()) != 0) fail_with_errno("fsync " + path);
}

void fill_fragmented_file(const Peer& peer, const std::string& name, std::uint64_t length_bytes,
                          std::uint64_t extents) {
  const std::uint64_t blocks = length_bytes / kBlockBytes;
  const AlignedBuffer buffer((blocks / extents + 2) * kBlockBytes);
  const auto file = open_file(peer.path(name), O_RDWR | O_CREAT | O_TRUNC | O_DIRECT);
  const auto between = open_file(peer.path(name + ".between"), O_RDWR | O_CREAT | O_TRUNC | O_DIRECT);
  for (std::uint64_t i = 0; i < extents; ++i) {
    const std::uint64_t first = i * blocks / extents, end = (i + 1) * blocks / extents;
    write_all(file.get(), first * kBlockBytes, buffer.data.get(), (end - first) * kBlockBytes);
    write_all(between.get(), i * kBlockBytes, buffer.data.get(), kBlockBytes);
  }
  if (::fsync(file.get()) != 0) fail_with_errno("fsync");
  remove_file(peer.path(name + ".between"));
}

bool clone_file(const Peer& peer, int source, int target) {
  if (peer.clone_call == CloneCall::kFiclone) return ::ioctl(target, FICLONE, source) == 0;
  struct stat status {};
  if (::fstat(source, &status) != 0) fail_with_errno("stat");
  off_t from = 0, to = 0;
  while (from < status.st_size) {
    const auto done = ::copy_file_range(source, &from, target, &to, static_cast<std::size_t>(status.st_size - from), 0);
    if (done <= 0) return false;
  }
  return true;
}

void drop_pages(int file) {
  if (::fdatasync(file) != 0) fail_with_errno("fdatasync");
  (void)::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
}

void remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) fail_with_errno("unlink " + path);
}

void Report::samples(const Peer& peer, const std::string& metric, Samples& samples) const {
  value(peer, metric, samples.median(), samples.quantile(0.99), samples.count());
}

void Report::value(const Peer& peer, const std::string& metric, double nanoseconds, double p99,
                   std::size_t count) const {
  fmt::print(
      R"({{"case": "{}", "round": {}, "peer": "{}", "metric": "{}", "ns": {:.0f}, "p99_ns": {:.0f}, "count": {}}})"
      "\n",
      case_name, round, peer.name, metric, nanoseconds, p99, count);
  std::fflush(stdout);
}

}  // namespace daxcow::bench
