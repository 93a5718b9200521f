// The daemon is killed while processes write, again and again on the same pool: whatever a process was told is durable must
// be there afterwards, and the checker must find nothing.
//
// DAXCOW_KILL_ROUNDS: how often (10).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <thread>

#include <fmt/format.h>

#include "fuse/control_client.h"
#include "test/mount/kill_writer.h"
#include "test/mount/mount_fixture.h"
#include "test/seed.h"

namespace daxcow::test {
namespace {

constexpr int kMaximumMilliseconds = 1000;  // before the kill

unsigned rounds() {
  const char* const given = std::getenv("DAXCOW_KILL_ROUNDS");
  return given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 0)) : 10;
}

// What the writers note, in memory that they share with the test.
class Notes {
 public:
  explicit Notes(unsigned writers) : writers_(writers) {
    void* const memory = ::mmap(nullptr, writers * sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    progress_ = static_cast<Progress*>(memory);
    for (unsigned i = 0; i < writers; ++i) new (&progress_[i]) Progress;
  }
  ~Notes() { ::munmap(progress_, writers_ * sizeof(Progress)); }
  Notes(const Notes&) = delete;
  Notes& operator=(const Notes&) = delete;
  unsigned writers() const { return writers_; }
  Progress& operator[](unsigned i) { return progress_[i]; }

 private:
  unsigned writers_;
  Progress* progress_;
};

std::string directory_of(const std::string& main, unsigned writer) { return fmt::format("{}/writer{}", main, writer); }

// Where the space goes. A directory of its own: when the mount is detached under the one who fills it, the way there must end,
// not lead to the filesystem below.
std::string filler_of(const std::string& main) { return main + "/filler"; }

// Mounts, checks, lets the writers work beside `beside`, and kills the daemon.
void one_round(MountedPool& pool, Notes& notes, std::mt19937_64& random, bool full, const std::function<int(const std::string&)>& beside) {
  const std::string main = pool.mount("main");
  for (unsigned i = 0; i < notes.writers(); ++i) {
    fs::create_directories(directory_of(main, i));
    check_directory(i, directory_of(main, i), notes[i]);
  }
  if (full) fs::create_directories(filler_of(main));
  std::vector<Child> children;
  for (unsigned i = 0; i < notes.writers(); ++i) {
    const WriterOptions options{i, directory_of(main, i), random(), full};
    children.emplace_back([&notes, options] { return run_writer(options, notes[options.number]); });
  }
  Child other([&] { return beside(main); });
  std::this_thread::sleep_for(std::chrono::milliseconds(random() % kMaximumMilliseconds));
  pool.kill_daemon();
  for (unsigned i = 0; i < notes.writers(); ++i) {
    INFO("writer " << i << ", operation " << notes[i].failed_operation << " failed with " << std::strerror(notes[i].failure));
    CHECK(children[i].wait() == 0);
  }
  CHECK(other.wait() == 0);
  pool.check_clean();
}

// Snapshots and deletions beside the writers: they share blocks, so writers copy. Ends when the daemon is gone.
int share_blocks(const MountedPool& pool, unsigned round) {
  for (unsigned i = 0;; ++i) {
    auto client = ControlClient::connect(pool.pool());
    if (!client) return 0;
    const auto name = fmt::format("snapshot-{}-{}", round, i);
    if (!client->call({{"op", "snapshot"}, {"volume", "main"}, {"name", name}})) return 0;
    if (i % 3 == 2 && !client->call({{"op", "volume-delete"}, {"name", fmt::format("snapshot-{}-{}", round, i - 1)}}))
      return 0;
    ::usleep(30'000);
  }
}

void delete_snapshots(const MountedPool& pool) {
  pool.need_run(
      "daxcow volume list --json $POOL | grep -o 'snapshot-[0-9-]*' | sort -u | xargs -r daxcow volume delete $POOL");
}

TEST_CASE("What was fsynced survives kills of the daemon, and the checker finds nothing") {
  if (skipped_without_mounts()) return;
  const auto seed = random_seed();
  std::printf("kill test: %s\n", describe_seed(seed).c_str());
  INFO(describe_seed(seed));
  std::mt19937_64 random(seed);
  Notes notes(4);
  MountedPool pool(256ull << 20);
  for (unsigned round = 0; round < rounds(); ++round) {
    INFO("round " << round);
    one_round(pool, notes, random, false, [&](const std::string&) { return share_blocks(pool, round); });
    if (round % 10 != 9) continue;
    // Their space comes back.
    pool.mount("main");
    delete_snapshots(pool);
    pool.settle();
    pool.check_clean();
  }
  const std::string main = pool.mount("main");
  std::uint64_t operations = 0;
  for (unsigned i = 0; i < notes.writers(); ++i) {
    check_directory(i, directory_of(main, i), notes[i]);
    operations += notes[i].completed;
  }
  std::printf("kill test: %lu operations in %u rounds\n", static_cast<unsigned long>(operations), rounds());
  CHECK(operations > rounds());
  delete_snapshots(pool);
  pool.settle();
  pool.check_clean();
}

// Takes all space there is, gives a little of it back now and then. Ends when the daemon is gone.
int fill(const std::string& directory, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const std::string megabyte(1 << 20, 'f');
  for (unsigned i = 0;; ++i) {
    const std::string path = fmt::format("{}/fill{}", directory, i % 40);
    const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644));
    const auto length = 1 + random() % megabyte.size();
    if (file && ::write(file.get(), megabyte.data(), length) > 0) continue;
    if (errno != ENOSPC) return is_end_of_daemon(errno) || errno == ENOENT ? 0 : 1;  // ENOENT: detached already
    ::usleep(3000);
    if (random() % 16 != 0 || ::unlink(fmt::format("{}/fill{}", directory, random() % 40).c_str()) == 0 || errno == ENOENT) continue;
    return is_end_of_daemon(errno) ? 0 : 1;
  }
}

std::uint64_t free_bytes(const std::string& mount_point) {
  struct statvfs status {};
  REQUIRE(::statvfs(mount_point.c_str(), &status) == 0);
  return status.f_bavail * status.f_frsize;
}

TEST_CASE("A full pool loses nothing in kills of the daemon, and gives its space back") {
  if (skipped_without_mounts()) return;
  const auto seed = random_seed();
  std::printf("kill test of a full pool: %s\n", describe_seed(seed).c_str());
  INFO(describe_seed(seed));
  std::mt19937_64 random(seed);
  Notes notes(3);
  MountedPool pool(40ull << 20);
  std::uint64_t free_at_first = 0;
  {
    const std::string main = pool.mount("main");
    free_at_first = free_bytes(main);
    pool.unmount_all();
  }
  const unsigned full_rounds = std::max(1u, rounds() / 2);
  for (unsigned round = 0; round < full_rounds; ++round) {
    INFO("round " << round);
    const auto fill_seed = random();
    one_round(pool, notes, random, true, [&](const std::string& main) { return fill(filler_of(main), fill_seed); });
    // Deleting works at once, and makes room.
    const std::string main = pool.mount("main");
    for (unsigned i = 0; i < 40; ++i) {
      const std::string path = fmt::format("{}/fill{}", filler_of(main), i);
      if (!fs::exists(path)) continue;
      const auto bytes = fs::file_size(path);
      pool.settle();
      const auto before = free_bytes(main);
      INFO(path << " of " << bytes << " bytes");
      REQUIRE(::unlink(path.c_str()) == 0);
      CHECK(wait_until([&] { return pool.settle(), free_bytes(main) + (1 << 20) >= before + bytes; }));
      break;
    }
    pool.unmount_all();
  }
  const std::string main = pool.mount("main");
  std::uint64_t operations = 0, refused = 0;
  for (unsigned i = 0; i < notes.writers(); ++i) {
    check_directory(i, directory_of(main, i), notes[i]);
    operations += notes[i].completed;
    refused += notes[i].refused;
  }
  std::printf("kill test of a full pool: %lu operations and %lu refused in %u rounds\n", static_cast<unsigned long>(operations),
              static_cast<unsigned long>(refused), full_rounds);
  for (const auto& entry : fs::directory_iterator(main)) fs::remove_all(entry.path());
  // Chunks of metadata stay what they are.
  CHECK(wait_until([&] { return pool.settle(), free_bytes(main) + (8 << 20) >= free_at_first; }));
  pool.check_clean();
}

}  // namespace
}  // namespace daxcow::test
