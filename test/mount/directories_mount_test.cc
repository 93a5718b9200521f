// What programs see of a directory while others change it and look at it.
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

nlink_t links_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_nlink;
}

// The kernel keeps attributes for a day: an answer that others were waiting for meanwhile must not become what it keeps.
TEST_CASE("Who has changed a directory sees it as it is, whoever looks at it meanwhile") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main"), directory = main + "/parent/directory", other = main + "/other";
  pool.need_run("mkdir -p main/parent/directory main/other");

  std::atomic<bool> ends = false;
  std::vector<std::jthread> lookers;
  for (int i = 0; i < 2; ++i)
    lookers.emplace_back([&] {
      struct stat status {};
      while (!ends) (void)::stat(directory.c_str(), &status);  // asks only when the kernel does not know
    });

  constexpr int kRounds = 300, kChildren = 4;
  int wrong = 0;
  const auto round = [&] {
    const auto see = [&](nlink_t expected) {
      if (links_of(directory) == expected) return;
      // The kernel takes an answer piece by piece, and without a lock one can see the pieces. What it keeps must be right.
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      wrong += links_of(directory) != expected ? 1 : 0;
    };
    if (wrong != 0) return;
    for (int child = 0; child < kChildren; ++child) {
      REQUIRE(::mkdir(fmt::format("{}/{}", directory, child).c_str(), 0755) == 0);
      see(static_cast<nlink_t>(3 + child));
    }
    REQUIRE(::rename((directory + "/0").c_str(), (other + "/0").c_str()) == 0);
    see(1 + kChildren);
    REQUIRE(::rename((other + "/0").c_str(), (directory + "/0").c_str()) == 0);
    see(2 + kChildren);
    for (int child = kChildren; child-- > 0;) {
      REQUIRE(::rmdir(fmt::format("{}/{}", directory, child).c_str()) == 0);
      see(static_cast<nlink_t>(2 + child));
    }
  };
  for (int i = 0; i < kRounds; ++i) {
    if (i % 2 == 0)
      round();
    else
      std::jthread(round).join();  // one that was not there before
  }
  ends = true;
  lookers.clear();
  CHECK(wrong == 0);
  pool.unmount_all();
  pool.check_clean();
}

}  // namespace
}  // namespace daxcow::test
