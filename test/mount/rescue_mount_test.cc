// Data that is rescued from what the kernel has cached of it: for all who own it, for one, or for nobody.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "engine/types.h"
#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

constexpr std::uint64_t kBlocks = 16;
constexpr std::uint64_t kBadOffset = 5 * kBlockBytes;

// A file of one volume, with a clone in a second one and both in a snapshot, all on one bad block soon. Nothing is
// cached.
struct SharedFile {
  MountedPool pool;
  std::string content = pattern(1, kBlocks);
  std::string main = pool.mount("main"), second, snapshot;
  std::string file = main + "/file";
  std::uint64_t pool_offset = 0;

  SharedFile() {
    pool.need_run("daxcow volume create $POOL second");
    second = pool.mount("second");
    write_file(file, content);
    pool.need_run("cp --reflink=auto main/file main/clone && daxcow clone main/file second/copy");
    pool.need_run("daxcow snapshot $POOL main before");
    snapshot = pool.mount("before");
    for (const auto& owner : owners()) drop_pages(owner);
    pool_offset = pool.pool_offset(file, kBadOffset);
  }
  std::vector<std::string> owners() const {
    return {main + "/file", main + "/clone", second + "/copy", snapshot + "/file", snapshot + "/clone"};
  }
  // Until what is told of the block has been told to everybody.
  void poison() {
    pool.poison(pool_offset);
    REQUIRE(
        wait_until([&] { return !pool.events_of("data-lost").empty() || !pool.events_of("data-rescued").empty(); }));
    pool.settle();
  }
  void expect_good(const std::string& path) {
    INFO(path);
    drop_pages(path);
    CHECK(read_range(path, 0, 1 << 20) == content);
  }
  void expect_bad(const std::string& path) {
    INFO(path);
    drop_pages(path);
    CHECK(read_error(path, kBadOffset) == EIO);
  }
};

TEST_CASE("A bad block of which one owner's page is cached costs nobody anything") {
  if (skipped_without_mounts()) return;
  SharedFile shared;
  std::string cached;
  SECTION("by reading") { cached = shared.second + "/copy"; }
  SECTION("in a read-only snapshot") { cached = shared.snapshot + "/clone"; }
  REQUIRE(read_range(cached, 0, 1 << 20) == shared.content);
  struct stat before, after;
  REQUIRE(::stat(shared.file.c_str(), &before) == 0);
  std::optional<Mapper> mapper(std::in_place, shared.file, kBadOffset, kBlockBytes, false);
  shared.poison();
  CHECK(shared.pool.events_of("data-rescued").size() == 1);
  CHECK(shared.pool.events_of("data-lost").empty());
  for (const auto& owner : shared.owners()) shared.expect_good(owner);
  // All of them still share the block, which is another one.
  const auto moved = shared.pool.pool_offset(shared.file, kBadOffset);
  CHECK(moved != shared.pool_offset);
  for (const auto& owner : shared.owners()) CHECK(shared.pool.pool_offset(owner, kBadOffset) == moved);
  CHECK(mapper->early_signals(200).empty());
  mapper.reset();
  REQUIRE(::stat(shared.file.c_str(), &after) == 0);
  CHECK(after.st_mtim.tv_nsec == before.st_mtim.tv_nsec);
  CHECK(after.st_ctim.tv_nsec == before.st_ctim.tv_nsec);
  // Copy on write goes on as before.
  overwrite(shared.main + "/clone", kBadOffset, pattern(9, 1));
  shared.expect_good(shared.file);
  CHECK(wait_until([&] { return shared.pool.nothing_is_bad(); }));
  shared.pool.check_clean();
}

TEST_CASE("A page that may have been written to is rescued for its owner only") {
  if (skipped_without_mounts()) return;
  SharedFile shared;
  auto writer = need_open(shared.file, O_RDWR);
  REQUIRE(read_range(shared.file, 0, 1 << 20) == shared.content);
  std::string expected = shared.content;
  SECTION("though it was not") {}
  SECTION("through a mapping that is not synced") {
    void* const mapping = ::mmap(nullptr, kBlockBytes, PROT_READ | PROT_WRITE, MAP_SHARED, writer.get(), kBadOffset);
    REQUIRE(mapping != MAP_FAILED);
    std::memcpy(mapping, "changed", 7);
    ::munmap(mapping, kBlockBytes);  // writes it: this owner has a block of its own before the poison comes
    expected.replace(kBadOffset, 7, "changed");
  }
  shared.poison();
  writer.reset();
  for (const auto& owner : shared.owners())
    if (owner != shared.file) shared.expect_bad(owner);
  CHECK(shared.pool.events_of("data-lost").size() == 4);
  drop_pages(shared.file);
  CHECK(read_range(shared.file, 0, 1 << 20) == expected);
  shared.pool.need_run("rm main/clone second/copy before/file before/clone");
  shared.pool.settle();
  CHECK(wait_until([&] { return shared.pool.nothing_is_bad(); }));
  shared.pool.check_clean();
}

TEST_CASE("What the kernel has only in part, or not any more, is lost") {
  if (skipped_without_mounts()) return;
  SharedFile shared;
  SECTION("not cached") {}
  SECTION("a page that a read failed to fill") {
    shared.pool.poison(shared.pool_offset, true);
    CHECK(read_error(shared.file, kBadOffset) == EIO);
  }
  SECTION("a page that may be older than its block") {
    const auto writer = need_open(shared.file, O_RDWR);
    REQUIRE(read_range(shared.file, 0, 1 << 20) == shared.content);
    REQUIRE(::fallocate(writer.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, kBlockBytes) == 0);
    shared.poison();
  }
  if (shared.pool.events_of("data-lost").empty()) shared.poison();
  CHECK(shared.pool.events_of("data-rescued").empty());
  CHECK(shared.pool.events_of("data-lost").size() == 5);
  for (const auto& owner : shared.owners()) shared.expect_bad(owner);
}

TEST_CASE("The end of a file is rescued for a file that ends there, in a mount that keeps no pages on open too") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", "no_keep_cache");
  const std::string content = pattern(2, 4).substr(0, 3 * kBlockBytes + 700);
  write_file(main + "/file", content);
  auto held = need_open(main + "/file", O_RDONLY);
  std::string read(content.size(), '\0');
  REQUIRE(::pread(held.get(), read.data(), read.size(), 0) == static_cast<ssize_t>(read.size()));
  pool.poison(pool.pool_offset(main + "/file", 3 * kBlockBytes));
  pool.poison(pool.pool_offset(main + "/file", kBlockBytes));
  REQUIRE(wait_until([&] { return pool.events_of("data-rescued").size() == 2; }));
  pool.settle();
  held.reset();
  drop_pages(main + "/file");
  CHECK(read_range(main + "/file", 0, 1 << 20) == content);
  CHECK(pool.events_of("data-lost").empty());
  CHECK(wait_until([&] { return pool.nothing_is_bad(); }));
  pool.check_clean();
}

TEST_CASE("One block of a large run is rescued, and the rest of the run stays where it is") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  const std::string content = pattern(3, 4096);  // 16 MiB: several runs of 512 blocks
  write_file(main + "/file", content);
  pool.need_run("cp --reflink=auto main/file main/clone");
  REQUIRE(read_range(main + "/clone", 0, 1 << 25) == content);
  for (const std::uint64_t block : {700, 1024, 2047, 3000}) {
    const auto before = pool.pool_offset(main + "/file", (block - 1) * kBlockBytes);
    pool.poison(pool.pool_offset(main + "/file", block * kBlockBytes));
    pool.settle();
    CHECK(pool.pool_offset(main + "/file", (block - 1) * kBlockBytes) == before);
  }
  REQUIRE(wait_until([&] { return pool.events_of("data-rescued").size() == 4; }));
  for (const char* name : {"/file", "/clone"}) {
    drop_pages(main + name);
    CHECK(read_range(main + name, 0, 1 << 25) == content);
  }
  CHECK(wait_until([&] { return pool.nothing_is_bad(); }));
  pool.check_clean();
}

}  // namespace
}  // namespace daxcow::test
