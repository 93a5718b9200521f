// Snapshots and clones taken while processes write and read the same files: no byte of a snapshot or clone ever
// changes, and nobody ever sees another file's data.
//
// Every 64 bytes of a file tell which file, which place and which version they are of. A write changes whole units of 1
// KiB to one version, and is one change of the filesystem: a unit of a snapshot is all of one version. (A reader of the
// live file may see a unit that the kernel is copying into: its lines may differ in version, but in nothing else.)
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <span>
#include <thread>

#include <fmt/format.h>

#include "engine/checksum.h"
#include "test/mount/mount_fixture.h"
#include "test/seed.h"

namespace daxcow::test {
namespace {

using namespace std::chrono_literals;

constexpr unsigned kFiles = 4;
constexpr std::uint64_t kFileBytes = 6ull << 20;  // more than one node of a map
constexpr std::uint64_t kUnitBytes = 1024;
constexpr unsigned kMaximumUnits = 256;  // of one write
constexpr unsigned kSnapshots = 10;
constexpr auto kBetweenSnapshots = 700ms;

struct Line {
  std::uint64_t file, position, version, check;
  std::array<std::uint64_t, 4> filler;
};
static_assert(sizeof(Line) == kLineBytes);

std::uint64_t check_of(const Line& line) {
  return (line.file * 0x9e3779b97f4a7c15ull) ^ (line.position * 0xc2b2ae3d27d4eb4full) ^
         (line.version * 0x165667b19e3779f9ull);
}

void fill(char* to, std::uint64_t bytes, std::uint64_t file, std::uint64_t position, std::uint64_t version) {
  for (std::uint64_t offset = 0; offset < bytes; offset += sizeof(Line)) {
    Line line{file, position + offset, version, 0, {version, version, version, version}};
    line.check = check_of(line);
    std::memcpy(to + offset, &line, sizeof line);
  }
}

enum class Strictness {
  kLive,    // a unit may be a mixture of versions, each line may be of two
  kFrozen,  // a unit is of one version
};

// What is wrong with these bytes of the file; empty if nothing is. A unit of zeros is a hole.
std::string fault_in(const char* bytes, std::uint64_t length, std::uint64_t file, std::uint64_t position,
                     Strictness strictness) {
  static const std::array<char, kUnitBytes> zeros{};
  for (std::uint64_t unit = 0; unit + kUnitBytes <= length; unit += kUnitBytes) {
    if (std::memcmp(bytes + unit, zeros.data(), kUnitBytes) == 0) continue;
    Line first;
    std::memcpy(&first, bytes + unit, sizeof first);
    for (std::uint64_t offset = 0; offset < kUnitBytes; offset += sizeof(Line)) {
      Line line;
      std::memcpy(&line, bytes + unit + offset, sizeof line);
      const std::uint64_t place = position + unit + offset;
      const bool is_hole = line.file == 0 && line.position == 0;
      if (strictness == Strictness::kLive && is_hole) continue;
      if (line.file != file || line.position != place)
        return fmt::format("byte {} of file {} holds byte {} of file {}", place, file, line.position, line.file);
      if (strictness == Strictness::kLive) continue;
      if (line.check != check_of(line)) return fmt::format("byte {} of file {} is torn", place, file);
      if (line.version != first.version)
        return fmt::format("the unit at byte {} of file {} is of versions {} and {}", place - offset, file,
                           first.version, line.version);
    }
  }
  return {};
}

std::string file_name(unsigned file) { return fmt::format("file{}", file); }

// Memory that the test shares with its processes.
struct Shared {
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> writes{0}, reads{0};
  std::array<char, 512> fault{};  // the first that a process saw
  std::atomic<bool> faulty{false};
  int fail(const std::string& what) {
    if (!faulty.exchange(true)) what.copy(fault.data(), fault.size() - 1);
    return 1;
  }
};

int write_files(Shared& shared, const std::string& directory, std::uint64_t seed, std::uint64_t version) {
  std::mt19937_64 random(seed);
  std::vector<FileDescriptor> files;
  for (unsigned i = 0; i < kFiles; ++i) files.emplace_back(::open((directory + "/" + file_name(i)).c_str(), O_RDWR));
  std::vector<char> buffer(kMaximumUnits * kUnitBytes);
  while (!shared.stop) {
    const auto file = random() % kFiles;
    const auto units = random() % 3 == 0 ? 1 + random() % kMaximumUnits : 1 + random() % 8;
    const auto position = random() % (kFileBytes / kUnitBytes - units) * kUnitBytes;
    const auto length = units * kUnitBytes;
    const int descriptor = files[file].get();
    if (random() % 16 == 0) {
      if (::fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(position),
                      static_cast<off_t>(length)) != 0)
        return shared.fail(fmt::format("punching: {}", std::strerror(errno)));
    } else {
      version += 2;
      fill(buffer.data(), length, file + 1, position, version);
      if (::pwrite(descriptor, buffer.data(), length, static_cast<off_t>(position)) != static_cast<ssize_t>(length))
        return shared.fail(fmt::format("writing: {}", std::strerror(errno)));
    }
    shared.writes += 1;
  }
  return 0;
}

int read_files(Shared& shared, const std::string& directory, std::uint64_t seed, bool direct) {
  std::mt19937_64 random(seed);
  std::vector<FileDescriptor> files;
  for (unsigned i = 0; i < kFiles; ++i)
    files.emplace_back(::open((directory + "/" + file_name(i)).c_str(), O_RDONLY | (direct ? O_DIRECT : 0)));
  constexpr std::uint64_t kLength = 64 << 10;
  const std::unique_ptr<char, decltype(&std::free)> buffer(static_cast<char*>(std::aligned_alloc(4096, kLength)),
                                                           std::free);
  while (!shared.stop) {
    const auto file = random() % kFiles;
    const auto position = random() % (kFileBytes / kLength) * kLength;
    const auto got = ::pread(files[file].get(), buffer.get(), kLength, static_cast<off_t>(position));
    if (got != static_cast<ssize_t>(kLength))
      return shared.fail(fmt::format("reading returned {}: {}", got, std::strerror(errno)));
    // Past the kernel's cache the filesystem answers, and it does not show half of a change.
    const auto fault =
        fault_in(buffer.get(), kLength, file + 1, position, direct ? Strictness::kFrozen : Strictness::kLive);
    if (!fault.empty()) return shared.fail("a reader: " + fault);
    if (random() % 4 == 0)
      ::posix_fadvise(files[file].get(), static_cast<off_t>(position), kLength, POSIX_FADV_DONTNEED);
    shared.reads += 1;
  }
  return 0;
}

// The checksum of a frozen file, each byte of which is in its place.
std::uint32_t examine(const std::string& path, std::uint64_t file) {
  drop_pages(path);
  const std::string content = read_range(path, 0, kFileBytes + 1);
  INFO(path);
  CHECK(content.size() == kFileBytes);
  CHECK(fault_in(content.data(), content.size(), file, 0, Strictness::kFrozen) == "");
  return crc32c(0, std::as_bytes(std::span(content)));
}

TEST_CASE("Snapshots and clones under load keep every byte, and nobody sees another file's data") {
  if (skipped_without_mounts()) return;
  const auto seed = random_seed();
  INFO(describe_seed(seed));
  std::mt19937_64 random(seed);
  void* const memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  auto& shared = *new (memory) Shared;

  MountedPool pool(512ull << 20);
  const std::string main = pool.mount("main");
  for (unsigned i = 0; i < kFiles; ++i) {
    std::string content(kFileBytes, '\0');
    fill(content.data(), content.size(), i + 1, 0, 1);
    write_file(main + "/" + file_name(i), content);
  }

  std::map<std::string, std::uint32_t> frozen;  // path: checksum
  std::map<std::string, std::uint64_t> source;  // path: number of the file
  const auto freeze = [&](const std::string& path, unsigned file) {
    source[path] = file + 1;
    frozen[path] = examine(path, file + 1);
  };
  {
    std::vector<Child> children;
    for (unsigned i = 0; i < 2; ++i)
      children.emplace_back([&, s = random()] { return write_files(shared, main, s, 2 + i); });
    for (const bool direct : {false, true})
      children.emplace_back([&, s = random()] { return read_files(shared, main, s, direct); });

    for (unsigned i = 0; i < kSnapshots; ++i) {
      std::this_thread::sleep_for(kBetweenSnapshots);
      const auto name = fmt::format("snapshot{}", i);
      pool.need_run("daxcow snapshot --read-only $POOL main " + name);
      pool.mount(name, "ro");
      for (unsigned file = 0; file < kFiles; ++file) freeze(pool.mount_point(name) + "/" + file_name(file), file);
      const unsigned file = i % kFiles;
      const auto clone = fmt::format("{}/clone{}", main, i);
      // (cp copies a file that has holes by reading it, and a reader of the live file may see half of a change.)
      pool.need_run(fmt::format("daxcow clone main/{} {}", file_name(file), clone));
      freeze(clone, file);
      // Now and then an old one goes, while all others are in use.
      if (i % 4 == 3) {
        const auto old = fmt::format("snapshot{}", i - 2);
        std::erase_if(frozen, [&](const auto& entry) { return entry.first.starts_with(pool.mount_point(old) + "/"); });
        pool.unmount(old);
        pool.need_run("daxcow volume delete $POOL " + old);
      }
    }
    shared.stop = true;
    for (auto& child : children) CHECK(child.wait() == 0);
  }
  INFO("a process said: " << shared.fault.data());
  CHECK_FALSE(shared.faulty);
  CHECK(shared.writes > 100);
  CHECK(shared.reads > 100);
  const auto compare = [&] {
    for (const auto& [path, checksum] : frozen) {
      INFO(path);
      CHECK(examine(path, source.at(path)) == checksum);
    }
  };
  compare();
  // Also after the next mount.
  pool.check_clean();
  pool.mount("main");
  for (unsigned i = 0; i < kSnapshots; ++i)
    if (const auto name = fmt::format("snapshot{}", i); i % 4 != 1 || i + 2 >= kSnapshots) pool.mount(name, "ro");
  compare();
  std::printf("concurrency test: %lu writes, %lu reads, %zu frozen files\n", static_cast<unsigned long>(shared.writes),
              static_cast<unsigned long>(shared.reads), frozen.size());
  ::munmap(memory, sizeof(Shared));
  pool.check_clean();
}

}  // namespace
}  // namespace daxcow::test
