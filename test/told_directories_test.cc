#include "fuse/told_directories.h"

#include "test/catch.h"

namespace daxcow::test {
namespace {

constexpr InodeNumber kDirectory{17};

// Whether the kernel is told of a change that `thread` has made.
bool is_announced(ToldDirectories& told, InodeNumber directory, pid_t thread) {
  bool announced = false;
  told.announce(directory, thread, [&] { return announced = true; });
  return announced;
}

TEST_CASE("A change of names is announced unless nobody but its thread was told of the directory") {
  ToldDirectories told;
  CHECK(is_announced(told, kDirectory, 5));  // nothing is known
  CHECK_FALSE(is_announced(told, kDirectory, 5));
  CHECK_FALSE(is_announced(told, kDirectory, 6));

  told.note(kDirectory, 5);
  CHECK_FALSE(is_announced(told, kDirectory, 5));
  CHECK_FALSE(is_announced(told, kDirectory, 5));
  CHECK(is_announced(told, kDirectory, 6));  // 5 may still be waiting for its answer
  CHECK_FALSE(is_announced(told, kDirectory, 5));

  told.note(kDirectory, 5);
  told.note(kDirectory, 6);
  told.note(kDirectory, 6);
  CHECK(is_announced(told, kDirectory, 6));
  CHECK_FALSE(is_announced(told, kDirectory, 6));
}

TEST_CASE("What the kernel could not be told is told with the next change") {
  ToldDirectories told;
  CHECK(is_announced(told, kDirectory, 5));
  told.note(kDirectory, 6);
  told.announce(kDirectory, 5, [] { return false; });
  CHECK(is_announced(told, kDirectory, 5));
  CHECK_FALSE(is_announced(told, kDirectory, 5));
}

TEST_CASE("A thread that cannot be told from others is never taken for the one that was told") {
  ToldDirectories told;
  CHECK(is_announced(told, kDirectory, 0));
  CHECK_FALSE(is_announced(told, kDirectory, 0));
  told.note(kDirectory, 0);
  CHECK(is_announced(told, kDirectory, 0));
  told.note(kDirectory, 0);
  CHECK(is_announced(told, kDirectory, 5));
}

TEST_CASE("What is known of a directory may be lost, and is then announced") {
  ToldDirectories told;
  CHECK(is_announced(told, kDirectory, 5));
  for (std::uint64_t other = 1; other <= 5000; ++other)
    if (other != kDirectory.value) CHECK(is_announced(told, InodeNumber(other), 5));
  told.note(kDirectory, 6);
  CHECK(is_announced(told, kDirectory, 5));
  told.note(kDirectory, 6);
  CHECK(is_announced(told, kDirectory, 5));
}

}  // namespace
}  // namespace daxcow::test
