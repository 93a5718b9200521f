// Reading and writing, through the kernel's cache, past it, and by mappings; fsync.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "engine/types.h"
#include "test/bench/bench_peer.h"

namespace daxcow::bench {

namespace {

constexpr std::uint64_t kMebibyte = 1 << 20;

struct Buffer {
  explicit Buffer(std::uint64_t bytes) : data(static_cast<char*>(std::aligned_alloc(kBlockBytes, bytes))) {
    std::memset(data, 1, bytes);
  }
  ~Buffer() { std::free(data); }
  char* data;
};

bool prepare(const Peer& peer, const Parameters& parameters) {
  fill_file(peer.path("data"), parameters.random_file_bytes);
  return true;
}
void finish(const Peer& peer, const Parameters&) { remove_file(peer.path("data")); }

// Nanoseconds of an operation when so many threads do them at once: the time of all, over their number.
double run_threads(unsigned threads, std::uint64_t operations,
                   const std::function<void(unsigned thread, std::uint64_t count)>& work) {
  std::vector<std::thread> running;
  const auto start = now_ns();
  for (unsigned i = 1; i < threads; ++i) running.emplace_back([&, i] { work(i, operations / threads); });
  work(0, operations / threads);
  for (auto& thread : running) thread.join();
  return static_cast<double>(now_ns() - start) / static_cast<double>(operations / threads * threads);
}

enum class Way { kDirect, kBuffered, kMapped };
constexpr const char* kWayNames[] = {"direct", "buffered", "mmap"};

void random_blocks(const Peer& peer, const Parameters& parameters, const Report& report, Way way, bool writing,
                   unsigned threads) {
  const auto file = open_file(peer.path("data"), O_RDWR | (way == Way::kDirect ? O_DIRECT : 0));
  const std::uint64_t bytes = parameters.random_file_bytes, blocks = bytes / kBlockBytes;
  drop_pages(file.get());
  (void)::posix_fadvise(file.get(), 0, 0, POSIX_FADV_RANDOM);
  char* mapped = nullptr;
  if (way == Way::kMapped) {
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (memory == MAP_FAILED) return;
    (void)::madvise(memory, bytes, MADV_RANDOM);
    mapped = static_cast<char*>(memory);
  }
  const double each = run_threads(threads, parameters.random_operations, [&](unsigned thread, std::uint64_t count) {
    std::mt19937_64 random(report.round * 100 + thread);
    const Buffer buffer(kBlockBytes);
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t offset = random() % blocks * kBlockBytes;
      if (mapped != nullptr && writing) std::memcpy(mapped + offset, buffer.data, kBlockBytes);
      if (mapped != nullptr && !writing) std::memcpy(buffer.data, mapped + offset, kBlockBytes);
      if (mapped == nullptr && writing) write_all(file.get(), offset, buffer.data, kBlockBytes);
      if (mapped == nullptr && !writing &&
          ::pread(file.get(), buffer.data, kBlockBytes, static_cast<off_t>(offset)) < 0)
        fail_with_errno("read");
    }
    if (writing && ::fdatasync(file.get()) != 0) fail_with_errno("fdatasync");
  });
  if (mapped != nullptr) ::munmap(mapped, bytes);
  report.value(peer,
               std::string("random_4k_") + (writing ? "write_" : "read_") + kWayNames[static_cast<int>(way)] + "_t" +
                   std::to_string(threads),
               each, 0, parameters.random_operations);
}

void random_round(const Peer& peer, const Parameters& parameters, const Report& report) {
  for (const auto way : {Way::kDirect, Way::kBuffered, Way::kMapped})
    for (const bool writing : {false, true})
      for (const unsigned threads : {1u, 2u, 4u}) random_blocks(peer, parameters, report, way, writing, threads);
}

void sequential(const Peer& peer, const Parameters& parameters, const Report& report, Way way, bool writing,
                unsigned threads) {
  const auto file = open_file(peer.path("data"), O_RDWR | (way == Way::kDirect ? O_DIRECT : 0));
  const std::uint64_t pieces = parameters.random_file_bytes / kMebibyte, share = pieces / threads;
  drop_pages(file.get());
  const double each = run_threads(threads, pieces, [&](unsigned thread, std::uint64_t count) {
    const Buffer buffer(kMebibyte);
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t offset = (thread * share + i) * kMebibyte;
      if (writing) write_all(file.get(), offset, buffer.data, kMebibyte);
      if (!writing && ::pread(file.get(), buffer.data, kMebibyte, static_cast<off_t>(offset)) < 0)
        fail_with_errno("read");
    }
    if (writing && ::fdatasync(file.get()) != 0) fail_with_errno("fdatasync");
  });
  report.value(peer,
               std::string("sequential_1m_") + (writing ? "write_" : "read_") + kWayNames[static_cast<int>(way)] +
                   "_t" + std::to_string(threads),
               each, 0, pieces);
}

void sequential_round(const Peer& peer, const Parameters& parameters, const Report& report) {
  for (const auto way : {Way::kDirect, Way::kBuffered})
    for (const bool writing : {false, true})
      for (const unsigned threads : {1u, 2u, 4u}) sequential(peer, parameters, report, way, writing, threads);
}

// The tail of single operations, past the cache.
void latency_round(const Peer& peer, const Parameters& parameters, const Report& report) {
  const auto file = open_file(peer.path("data"), O_RDWR | O_DIRECT);
  const std::uint64_t blocks = parameters.random_file_bytes / kBlockBytes;
  const Buffer buffer(kBlockBytes);
  std::mt19937_64 random(report.round);
  Samples reads, writes, syncs;
  for (std::uint64_t i = 0; i < parameters.random_operations; ++i) {
    const auto offset = random() % blocks * kBlockBytes;
    reads.time([&] {
      if (::pread(file.get(), buffer.data, kBlockBytes, static_cast<off_t>(offset)) < 0) fail_with_errno("read");
    });
    writes.time([&] { write_all(file.get(), offset, buffer.data, kBlockBytes); });
    syncs.time([&] {
      if (::fsync(file.get()) != 0) fail_with_errno("fsync");
    });
  }
  report.samples(peer, "latency_4k_read", reads);
  report.samples(peer, "latency_4k_write", writes);
  report.samples(peer, "fsync_after_write", syncs);
}

}  // namespace

const std::vector<Case> kDataCases = {
    {"random", prepare, random_round, finish},
    {"sequential", prepare, sequential_round, finish},
    {"latency", prepare, latency_round, finish},
};

}  // namespace daxcow::bench
