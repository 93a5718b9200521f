// daxcow on mounted volumes: what it clones, lists and snapshots, and what it says of wrong arguments.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

std::string content_of(const std::string& path) { return read_range(path, 0, 64 << 20); }

// Fails with exit code 1 and one line on standard error that contains `words`.
void check_refused(const MountedPool& pool, const std::string& command, const std::string& words) {
  const Outcome outcome = pool.run(command);
  INFO(command << "\nout: " << outcome.out << "\nerr: " << outcome.err);
  CHECK(outcome.exit_code == 1);
  CHECK(outcome.out.empty());
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
  CHECK(outcome.err.starts_with("daxcow "));
  CHECK(outcome.err.find(words) != std::string::npos);
}

TEST_CASE("daxcow clone shares whole files and ranges, within a volume and between two") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  pool.need_run("daxcow volume create $POOL other");
  const std::string main = pool.mount("main"), other = pool.mount("other");
  const std::string bytes = pattern(1, 300) + "tail";
  write_file(main + "/file", bytes);
  REQUIRE(::chmod((main + "/file").c_str(), 0751) == 0);

  SECTION("whole") {
    pool.need_run(
        "daxcow clone main/file main/clone && daxcow clone main/file other && daxcow clone main/file other/named");
    for (const std::string& path : {main + "/clone", other + "/file", other + "/named"}) {
      INFO(path);
      CHECK(content_of(path) == bytes);
      struct stat status {};
      REQUIRE(::stat(path.c_str(), &status) == 0);
      CHECK((status.st_mode & 07777) == 0751);
      CHECK(pool.pool_offset(path, 4096) == pool.pool_offset(main + "/file", 4096));
    }
    CHECK(pool.block_at(pool.pool_offset(main + "/file", 4096)).at("owners").size() == 4);
    const auto map = pool.need_json("daxcow map --json main/file");
    CHECK(map.at("size_bytes") == bytes.size());
    REQUIRE_FALSE(map.at("extents").empty());
    CHECK(map.at("extents").at(0).at("shared") == true);
    CHECK(map.at("extents").at(0).at("owners") == 4);
  }
  SECTION("over what is there, longer or shorter, and open") {
    write_file(other + "/longer", pattern(2, 400));
    write_file(other + "/shorter", "x");
    const FileDescriptor reader = need_open(other + "/longer", O_RDONLY);
    pool.need_run("daxcow clone main/file other/longer && daxcow clone main/file other/shorter");
    CHECK(content_of(other + "/longer") == bytes);
    CHECK(content_of(other + "/shorter") == bytes);
    std::string seen(4096, '\0');
    REQUIRE(::pread(reader.get(), seen.data(), seen.size(), 8192) == 4096);
    CHECK(seen == bytes.substr(8192, 4096));
  }
  SECTION("ranges") {
    std::string expected = pattern(3, 64);
    write_file(other + "/part", expected);
    pool.need_run("daxcow clone --offset 8K --length 16K --dst-offset 32K main/file other/part");
    expected.replace(32768, 16384, bytes, 8192, 16384);
    CHECK(content_of(other + "/part") == expected);
    CHECK(pool.pool_offset(other + "/part", 32768) == pool.pool_offset(main + "/file", 8192));
    pool.need_run("daxcow clone --offset 100 --length 5000 --dst-offset 7 main/file other/part");
    expected.replace(7, 5000, bytes, 100, 5000);
    CHECK(content_of(other + "/part") == expected);
    pool.need_run("daxcow clone --length 4K --dst-offset 1M main/file main/file");
    CHECK(content_of(main + "/file").substr(1 << 20, 4096) == bytes.substr(0, 4096));
  }
  SECTION("a sparse file stays sparse") {
    pool.need_run("truncate -s 1T main/sparse && echo end >>main/sparse && daxcow clone main/sparse other/sparse");
    CHECK(pool.need_run("stat -c '%s %b' other/sparse") == "1099511627780 8\n");
  }
  SECTION("what the kernel has not written yet is cloned too") {
    const FileDescriptor file = need_open(main + "/file", O_RDWR);
    void* const mapping = ::mmap(nullptr, bytes.size(), PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    REQUIRE(mapping != MAP_FAILED);
    std::memset(static_cast<char*>(mapping) + 4096, 'm', 4096);
    pool.need_run("daxcow clone main/file other/clone");
    CHECK(read_range(other + "/clone", 4096, 4096) == std::string(4096, 'm'));
    ::munmap(mapping, bytes.size());
  }
  SECTION("wrong arguments change nothing") {
    pool.need_run("mkfifo main/pipe; mkdir main/directory; echo text >outside");
    check_refused(pool, "daxcow clone main/file main/file", "same file");
    check_refused(pool, "daxcow clone --length 8K --dst-offset 4K main/file main/file", "overlap");
    check_refused(pool, "daxcow clone main/pipe main/new", "not a regular file");
    check_refused(pool, "daxcow clone main/directory main/new", "is a directory");
    check_refused(pool, "daxcow clone main/none main/new", "main/none");
    check_refused(pool, "daxcow clone outside main/new", "not on a daxcow mount");
    check_refused(pool, "daxcow clone main/file new", "not on a daxcow mount");
    check_refused(pool, "daxcow clone main/file main/none/new", "main/none/new");
    CHECK(pool.need_run("ls main new 2>&1 || true").find("new\n") == std::string::npos);
    CHECK(content_of(main + "/file") == bytes);

    MountedPool another;
    const std::string there = another.mount("main");
    check_refused(pool, "daxcow clone main/file " + there + "/new", "different pools");
    CHECK(another.need_run("ls main").empty());
  }
  pool.check_clean();
}

TEST_CASE("daxcow takes a path on a mount for the pool, and tells what is mounted where") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  pool.need_run(
      "mkdir main/directory && echo text >main/directory/file && daxcow snapshot main main kept && "
      "daxcow snapshot -r main/directory/file main fixed");
  for (const std::string name : {"$POOL", "main", "main/directory", "main/directory/file"}) {
    const auto volumes = pool.need_json("daxcow volume list --json " + name).at("volumes");
    REQUIRE(volumes.size() == 3);
    for (const auto& volume : volumes) {
      CHECK(volume.at("mounted") == (volume.at("name") == "main"));
      if (volume.at("name") == "main") CHECK(volume.at("mount_point") == main);
    }
    CHECK(pool.need_json("daxcow stat --json " + name).at("volumes") == 3);
  }
  check_refused(pool, "daxcow volume delete main main", "mounted");
  check_refused(pool, "daxcow volume rollback main main kept", "mounted");
  CHECK(pool.run("fsck.daxcow main").exit_code == 8);
  CHECK(pool.run("mkfs.daxcow --force $POOL").exit_code == 1);
  check_refused(pool, "daxcow map main", "not a regular file");
  check_refused(pool, "daxcow stat .", "neither a pool");
  // A pool in a file on a mount is one of its own.
  pool.need_run("mkfs.daxcow -q --size 32M main/inner && fsck.daxcow main/inner && daxcow stat main/inner | grep -q '32 MiB'");
  // Of a device that is gone as of a file that was moved, the mount still leads to the daemon.
  pool.need_run("mv $POOL moved && daxcow stat main && daxcow map main/directory/file");
  check_refused(pool, "daxcow stat nowhere", "nowhere");
  pool.need_run("mv moved $POOL && daxcow stat main");

  // A follower ends, well, with the last mount.
  pool.need_run("(daxcow events --follow --json main >followed; echo $? >ended) & sleep 0.5");
  pool.unmount_all();
  CHECK(wait_until([&] { return read_text(pool.path("ended")) == "0\n"; }));
  pool.need_run("daxcow volume rollback $POOL main kept && daxcow volume delete $POOL kept");
  pool.check_clean();
}

TEST_CASE("A snapshot contains what a program wrote to a mapping before") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  constexpr std::size_t kPages = 4096, kBytes = kPages * 4096;  // more than the kernel has under way at a time
  write_file(main + "/file", pattern(1, kPages));
  FileDescriptor file = need_open(main + "/file", O_RDWR);
  void* const mapping = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  file.reset();
  REQUIRE(mapping != MAP_FAILED);
  for (std::size_t page = 1; page < kPages; page += 2) std::memset(static_cast<char*>(mapping) + page * 4096, 'm', 4096);
  pool.need_run("mv main/file main/renamed && daxcow snapshot $POOL main kept");
  std::memset(static_cast<char*>(mapping) + 8192, 'n', 4096);
  ::munmap(mapping, kBytes);
  const std::string kept = pool.mount("kept");
  std::string expected = pattern(1, kPages);
  for (std::size_t page = 1; page < kPages; page += 2) expected.replace(page * 4096, 4096, 4096, 'm');
  CHECK((read_range(kept + "/renamed", 0, kBytes) == expected));
  pool.check_clean();
}

}  // namespace
}  // namespace daxcow::test
