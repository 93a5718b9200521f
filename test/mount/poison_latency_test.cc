// How long it takes from a change of the device's list of bad blocks to the last signal. Not in the default run:
// test/bench/poison_latency prints the figures.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <deque>
#include <fstream>
#include <vector>

#include <fmt/format.h>

#include "engine/emulated_badblocks.h"
#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

using nlohmann::json;

constexpr unsigned kOtherProcesses = 500;
constexpr unsigned kRounds = 10;
constexpr std::uint64_t kBlocks = kRounds;  // of each file: a round takes one

double now_seconds() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(since).count();
}

// Processes that have nothing to do with the pool, with the mappings of a usual small program.
class Others {
 public:
  Others() {
    for (unsigned i = 0; i < kOtherProcesses; ++i)
      children_.emplace_back([] {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        ::execlp("sleep", "sleep", "1000", nullptr);
        return 1;
      });
  }

 private:
  std::deque<Child> children_;
};

double time_of(const json& event) {
  const auto& time = event.at("time");
  return time.at("seconds").get<double>() + time.at("nanoseconds").get<double>() / 1e9;
}

// A process that maps all of these files.
Child hold_mapped(const std::vector<std::string>& files) {
  return Child([&] {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::signal(SIGBUS, SIG_IGN);
    for (const auto& file : files) {
      const FileDescriptor descriptor(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
      if (::mmap(nullptr, kBlocks * kBlockBytes, PROT_READ, MAP_SHARED, descriptor.get(), 0) == MAP_FAILED) return 1;
    }
    std::ofstream(files.front() + ".mapped");
    for (;;) ::pause();
  });
}

// Makes a block of each of the rounds bad, and prints what passed until the events said so.
void measure(const MountedPool& pool, const std::string& file, std::size_t owners, const char* what) {
  std::vector<double> lost, signalled;
  for (unsigned round = 0; round < kRounds; ++round) {
    const auto sector = pool.pool_offset(file, round * kBlockBytes) / kSectorBytes;
    const auto before = pool.last_event();
    const double begin = now_seconds();
    REQUIRE(emulated_device::inject(pool.pool(), sector, kSectorsPerBlock, true));
    REQUIRE(wait_until([&] { return pool.events_of("process-signalled", before).size() >= owners; }));
    pool.settle();
    const auto losses = pool.events_of("data-lost", before);
    const auto signals = pool.events_of("process-signalled", before);
    REQUIRE(losses.size() == owners);
    REQUIRE(signals.size() == owners);
    lost.push_back(1e3 * (time_of(losses.back()) - begin));
    signalled.push_back(1e3 * (time_of(signals.back()) - begin));
  }
  std::ranges::sort(lost);
  std::ranges::sort(signalled);
  std::printf("%-40s last event of a loss: median %6.1f ms; last signal: median %6.1f, best %6.1f, worst %6.1f ms\n",
              what, lost[kRounds / 2], signalled[kRounds / 2], signalled.front(), signalled.back());
  std::fflush(stdout);
}

TEST_CASE("From a bad block to the last signal", "[.][latency]") {
  if (skipped_without_mounts()) return;
  constexpr unsigned kMounts = 10, kFiles = 100;
  MountedPool pool;
  const Others others;
  const std::string main = pool.mount("main");
  write_file(main + "/single", pattern(1, kBlocks));
  const auto map_all = [](const std::vector<std::string>& files) {
    Child child = hold_mapped(files);
    REQUIRE(wait_until([&] { return fs::exists(files.front() + ".mapped"); }));
    return child;
  };
  std::deque<Child> mappers;
  drop_pages(main + "/single");  // or they would be rescued
  mappers.push_back(map_all({main + "/single"}));
  measure(pool, main + "/single", 1, "1 owner:");

  write_file(main + "/file", pattern(2, kBlocks));
  drop_pages(main + "/file");
  for (unsigned mount = 0; mount < kMounts; ++mount) {
    std::string directory = main;
    std::vector<std::string> files;
    if (mount == 0) files.push_back(main + "/file");
    if (mount != 0) {
      const std::string volume = fmt::format("volume-{}", mount);
      pool.need_run("daxcow volume create $POOL " + volume);
      directory = pool.mount(volume);
    }
    for (unsigned i = 0; files.size() < kFiles; ++i) files.push_back(fmt::format("{}/clone-{}", directory, i));
    pool.need_run(fmt::format("for i in $(seq 0 {}); do daxcow clone main/file {}/clone-$i || exit 1; done",
                              kFiles - (mount == 0 ? 2 : 1), directory));
    mappers.push_back(map_all(files));
  }
  measure(pool, main + "/file", kFiles * kMounts, "1,000 owners in 10 mounts:");
}

}  // namespace
}  // namespace daxcow::test
