// Read-only mounts: as long as there are no others, not a byte of the pool changes, whatever state it was left in.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

// The pool's bytes (as a checksum) and its time of change.
std::string fingerprint(const MountedPool& pool) {
  struct stat status {};
  REQUIRE(::stat(pool.pool().c_str(), &status) == 0);
  return pool.need_run("cksum <$POOL") + fmt::format("{}.{:09}", status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
}

std::string fill(MountedPool& pool) {
  const std::string main = pool.mount("main");
  write_file(main + "/file", pattern(1, 16));
  REQUIRE(::setxattr((main + "/file").c_str(), "user.name", "value", 5, 0) == 0);
  pool.need_run(
      "mkdir -p main/a/b && ln -s ../file main/a/link && cp main/file main/a/b/clone && daxcow snapshot main main "
      "kept");
  return main;
}

// Everything that reads.
void read_all(const MountedPool& pool, const std::string& volume) {
  const std::string main = pool.mount_point(volume);
  CHECK(read_range(main + "/file", 0, 1 << 20) == pattern(1, 16));
  CHECK(read_range(main + "/a/link", 0, 1 << 20) == pattern(1, 16));
  char value[16];
  CHECK(::getxattr((main + "/file").c_str(), "user.name", value, sizeof value) == 5);
  pool.need_run(
      fmt::format("cd {} && find . -ls >/dev/null && cat file a/b/clone >/dev/null && cp a/b/clone ../copy && "
                  "df . >/dev/null && daxcow map file >/dev/null && daxcow owners . 4194304 >/dev/null && "
                  "daxcow volume list . >/dev/null && daxcow stat . && daxcow settle . && daxcow scrub . && "
                  "sync -f .",
                  volume));
}

TEST_CASE("Read-only mounts write nothing, also after a crash, and let a writable one follow") {
  if (skipped_without_mounts()) return;
  const bool crashed = GENERATE(false, true);
  MountedPool pool;
  const std::string main = fill(pool);
  if (crashed) {
    // A file without a name is left for the next writable mount to reclaim.
    const FileDescriptor held = need_open(main + "/held", O_CREAT | O_RDWR);
    REQUIRE(::unlink((main + "/held").c_str()) == 0);
    pool.kill_daemon();
  } else {
    pool.unmount_all();
  }
  const std::string before = fingerprint(pool);
  pool.mount("main", "ro,strictatime,no_keep_cache");
  read_all(pool, "main");
  CHECK(::open((main + "/file").c_str(), O_WRONLY) < 0);
  CHECK(errno == EROFS);
  REQUIRE(::kill(pool.daemon(), SIGHUP) == 0);
  pool.mount("kept", "ro");
  read_all(pool, "kept");
  CHECK(pool.need_json("daxcow stat --json main").at("medium").at("read_only") == true);
  CHECK(fingerprint(pool) == before);
  pool.unmount_all();
  CHECK(fingerprint(pool) == before);

  // A writable mount follows while those that read go on.
  pool.mount("kept", "ro");
  const pid_t daemon = pool.daemon();
  FileDescriptor reader = need_open(pool.mount_point("kept") + "/file", O_RDONLY);
  pool.mount("main");
  CHECK(pool.daemon() == daemon);
  CHECK(pool.need_json("daxcow stat --json main").at("medium").at("read_only") == false);
  overwrite(main + "/file", 0, pattern(2, 4));
  pool.need_run("cp main/file main/new && rm -r main/a");
  read_all(pool, "kept");
  std::string seen(4096, '\0');
  REQUIRE(::pread(reader.get(), seen.data(), seen.size(), 0) == 4096);
  CHECK(seen == pattern(1, 1));
  reader.reset();
  CHECK(read_range(main + "/new", 0, 4 * 4096) == pattern(2, 4));
  CHECK(fingerprint(pool) != before);
  pool.unmount("main");
  pool.mount("main");
  CHECK(read_range(main + "/new", 0, 4 * 4096) == pattern(2, 4));
  pool.check_clean();
  CHECK(pool.need_json("daxcow stat --json $POOL").at("shutdown").at("last") == "clean");
}

TEST_CASE("Commands that change a pool work while it has read-only mounts only") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  fill(pool);
  pool.unmount_all();
  pool.mount("main", "ro");
  pool.need_run(
      "daxcow snapshot $POOL main monday && daxcow volume create $POOL other && daxcow volume delete $POOL kept");
  pool.mount("monday");
  read_all(pool, "monday");
  CHECK(pool.need_json("daxcow volume list --json $POOL").at("volumes").size() == 3);
  pool.check_clean();
}

TEST_CASE("A pool on a read-only filesystem can be mounted read-only") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  fill(pool);
  pool.kill_daemon();
  const std::string before = fingerprint(pool);
  pool.need_run("mkdir -p there kept && chmod 755 . && mount --bind . there && mount -o remount,bind,ro there");
  const auto refused = pool.run("mount.daxcow there/pool main");
  CHECK(refused.exit_code == 32);
  CHECK(refused.err.find("read-only") != std::string::npos);
  CHECK(pool.run("mount.daxcow -o ro there/pool main && cmp main/file main/a/b/clone").exit_code == 0);
  const auto second = pool.run("mount.daxcow -o volume=kept there/pool kept");
  INFO(second.err);
  CHECK(second.exit_code == 32);
  CHECK(second.err.find("open read-only") != std::string::npos);
  CHECK(pool.run("daxcow snapshot there/pool main monday").exit_code == 1);
  CHECK(pool.run("umount main").exit_code == 0);
  CHECK(pool.run("flock -x -w 20 $POOL true && umount there").exit_code == 0);
  CHECK(fingerprint(pool) == before);
  pool.check_clean();
}

}  // namespace
}  // namespace daxcow::test
