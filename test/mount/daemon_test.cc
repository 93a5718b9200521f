// The life of a daemon: the signals that end it and those that do not. What was completed is there afterwards, and what
// is only in the kernel's memory is written where that can be.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include <fmt/format.h>

#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

bool is_mounted(const std::string& directory) {
  return read_text("/proc/self/mountinfo").find(" " + directory + " ") != std::string::npos;
}

std::string last_shutdown(const MountedPool& pool) {
  return pool.need_json("daxcow stat --json $POOL").at("shutdown").at("last");
}

// A shared mapping of a file with one page changed in memory only.
class DirtyPage {
 public:
  explicit DirtyPage(const std::string& path) {
    const FileDescriptor file = need_open(path, O_RDWR);
    mapping_ = static_cast<char*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
    REQUIRE(mapping_ != MAP_FAILED);
    std::memset(mapping_, 'm', 4096);
  }
  ~DirtyPage() { ::munmap(mapping_, 4096); }

 private:
  char* mapping_;
};

TEST_CASE("SIGTERM and SIGINT unmount, write what is dirty, and close the pool cleanly") {
  if (skipped_without_mounts()) return;
  const bool busy = GENERATE(false, true);
  const int signal = busy ? SIGTERM : SIGINT;
  INFO("signal " << signal << ", " << (busy ? "busy" : "idle"));
  MountedPool pool;
  pool.need_run("daxcow volume create $POOL second");
  const std::string main = pool.mount("main"), second = pool.mount("second");
  write_file(main + "/file", pattern(1, 8));
  write_file(main + "/mapped", pattern(2, 1));
  write_file(second + "/file", pattern(3, 8));
  std::optional<DirtyPage> dirty(std::in_place, main + "/mapped");
  FileDescriptor open = need_open(main + "/file", O_RDWR);
  if (!busy) {
    dirty.reset();
    open.reset();
  }
  pool.end_daemon(signal);
  CHECK_FALSE(is_mounted(main));
  CHECK_FALSE(is_mounted(second));
  if (busy) {
    char byte;
    CHECK(::pwrite(open.get(), "x", 1, 0) < 0);
    CHECK((::pread(open.get(), &byte, 1, 0) == 1 || errno == ENOTCONN || errno == ECONNABORTED));
    dirty.reset();
    open.reset();
  }
  CHECK(last_shutdown(pool) == "clean");
  CHECK(pool.run("fsck.daxcow $POOL").exit_code == 0);
  pool.mount("main");
  pool.mount("second");
  CHECK(read_range(main + "/file", 0, 1 << 20) == pattern(1, 8));
  CHECK(read_range(main + "/mapped", 0, 1 << 20) == std::string(4096, 'm'));
  CHECK(read_range(second + "/file", 0, 1 << 20) == pattern(3, 8));
  pool.check_clean();
}

TEST_CASE("SIGTERM unmounts mounts below and above each other, and what others have mounted there stays") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  pool.need_run("for v in nested upper; do daxcow volume create $POOL $v; done");
  const std::string main = pool.mount("main");
  pool.need_run("mkdir main/below other && mount.daxcow $POOL main/below -o volume=nested");
  SECTION("nested") {
    write_file(main + "/below/mapped", pattern(1, 1));
    const DirtyPage dirty(main + "/below/mapped");
    pool.end_daemon(SIGTERM);
  }
  SECTION("stacked") {
    write_file(main + "/mapped", pattern(1, 1));
    std::optional<DirtyPage> dirty(std::in_place, main + "/mapped");
    dirty.reset();
    pool.need_run("mount.daxcow $POOL main -o volume=upper");
    pool.end_daemon(SIGTERM);
  }
  SECTION("with a directory and a file mounted elsewhere") {
    write_file(main + "/mapped", pattern(1, 1));
    const DirtyPage dirty(main + "/mapped");
    pool.need_run("mkdir main/directory elsewhere && : >other-file");
    pool.need_run("mount --bind main/directory elsewhere && mount --bind main/mapped other-file");
    pool.end_daemon(SIGTERM);
    CHECK_FALSE(is_mounted(pool.path("elsewhere")));
    CHECK_FALSE(is_mounted(pool.path("other-file")));
  }
  SECTION("below a filesystem of others") {
    REQUIRE(::mount("tmpfs", (main + "/below").c_str(), "tmpfs", 0, "size=1M") == 0);
    write_file(main + "/below/theirs", "theirs");
    const FileDescriptor theirs = need_open(main + "/below/theirs", O_RDONLY);
    pool.end_daemon(SIGTERM);  // it goes with the mount that it is on, as ever
    char byte;
    CHECK(::pread(theirs.get(), &byte, 1, 0) == 1);
  }
  CHECK_FALSE(is_mounted(main));
  CHECK(last_shutdown(pool) == "clean");
  pool.mount("main");
  pool.mount("nested");
  for (const std::string& path : {main + "/mapped", pool.path("nested/mapped")})
    if (fs::exists(path)) CHECK(read_range(path, 0, 1 << 20) == std::string(4096, 'm'));
  pool.check_clean();
}

TEST_CASE("SIGTERM does not wait for a scrub, nor a daemon without mounts for those who wait for events") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  write_file(main + "/file", pattern(1, 1024));
  SECTION("a scrub") {
    pool.need_run("daxcow scrub --rate 64K main >scrubbed 2>&1 & sleep 0.5");
    pool.end_daemon(SIGTERM);
  }
  SECTION("followers") {
    pool.need_run("for i in 1 2 3 4; do daxcow events --follow main >followed.$i 2>&1 & sleep 0.13; done");
    pool.unmount_all();
  }
  CHECK(last_shutdown(pool) == "clean");
  pool.check_clean();
}

TEST_CASE("SIGTERM in the middle of writing loses nothing that was completed") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  const FileDescriptor directory = need_open(main, O_RDONLY | O_DIRECTORY);  // what is below the mount is not meant
  const FileDescriptor notes = need_open(pool.path("completed"), O_CREAT | O_WRONLY | O_APPEND);
  Child writer([&]() -> int {
    for (unsigned i = 0;; ++i) {
      const int file = ::openat(directory.get(), std::to_string(i).c_str(), O_CREAT | O_WRONLY | O_EXCL, 0644);
      if (file < 0 || ::write(file, "0123456789", 10) != 10 || ::close(file) != 0) return 0;
      if (::write(notes.get(), "x", 1) != 1) return 1;
    }
  });
  REQUIRE(wait_until([&] { return fs::file_size(pool.path("completed")) > 200; }));
  pool.end_daemon(SIGTERM);
  CHECK(writer.wait() == 0);
  CHECK(last_shutdown(pool) == "clean");
  pool.mount("main");
  const auto completed = fs::file_size(pool.path("completed"));
  std::size_t kept = 0;
  while (read_text(fmt::format("{}/{}", main, kept)) == "0123456789") ++kept;
  CHECK(kept >= completed);
  CHECK(kept <= completed + 1);
  pool.check_clean();
}

TEST_CASE("SIGHUP commits times and is no reason to end, nor is SIGPIPE") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  write_file(main + "/file", pattern(1, 2));
  const timespec old[2] = {{1, 0}, {1, 0}};
  REQUIRE(::utimensat(AT_FDCWD, (main + "/file").c_str(), old, 0) == 0);
  FileDescriptor file = need_open(main + "/file", O_WRONLY);
  REQUIRE(::pwrite(file.get(), "x", 1, 0) == 1);  // in place: its time is lazy
  struct stat before {};
  REQUIRE(::fstat(file.get(), &before) == 0);
  CHECK(before.st_mtim.tv_sec != 1);
  const auto transactions = [&] { return pool.ask({{"op", "stat"}}).at("transactions").get<std::uint64_t>(); };
  const auto count = transactions();
  REQUIRE(::kill(pool.daemon(), SIGPIPE) == 0);
  REQUIRE(::kill(pool.daemon(), SIGHUP) == 0);
  CHECK(wait_until([&] { return transactions() > count; }));
  CHECK(read_range(main + "/file", 0, 1) == "x");
  pool.kill_daemon();
  file.reset();
  pool.mount("main");
  struct stat after {};
  REQUIRE(::stat((main + "/file").c_str(), &after) == 0);
  CHECK(after.st_mtim.tv_sec == before.st_mtim.tv_sec);
  CHECK(after.st_mtim.tv_nsec == before.st_mtim.tv_nsec);
  pool.check_clean();
}

}  // namespace
}  // namespace daxcow::test
