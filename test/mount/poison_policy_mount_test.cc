// What is done about lost data as the files' users want it: user.daxcow.on_poison.
#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "engine/emulated_badblocks.h"
#include "engine/poison_policy.h"
#include "engine/types.h"
#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

constexpr std::uint64_t kBlocks = 8;
constexpr std::uint64_t kBadOffset = 3 * kBlockBytes;
const std::string kName(kPoisonPolicyAttribute);

void set_policy(const std::string& path, const std::string& value) {
  INFO(path);
  REQUIRE(::setxattr(path.c_str(), kName.c_str(), value.data(), value.size(), 0) == 0);
}

TEST_CASE("A policy for lost data holds for what is below a directory, and the nearest counts") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", "no_rescue");
  pool.need_run("mkdir -p main/late/error/deep main/cache main/quiet");
  const std::string content = pattern(1, kBlocks);
  for (const char* file : {"/early", "/late/file", "/late/error/deep/file", "/cache/file", "/quiet/file"})
    write_file(main + file, content);
  // After the files were made; the nearest one counts.
  set_policy(main + "/late", "late");
  set_policy(main + "/late/error", "early,error");
  set_policy(main + "/cache", "zero");
  set_policy(main + "/quiet", "none");
  CHECK(::setxattr(main.c_str(), kName.c_str(), "sometimes", 9, 0) == -1);
  CHECK(errno == EINVAL);

  std::optional<Mapper> early(std::in_place, main + "/early", 0, kBlocks * kBlockBytes);
  std::optional<Mapper> late(std::in_place, main + "/late/file", 0, kBlocks * kBlockBytes);
  std::optional<Mapper> nearest(std::in_place, main + "/late/error/deep/file", 0, kBlocks * kBlockBytes);
  std::optional<Mapper> cache(std::in_place, main + "/cache/file", 0, kBlocks * kBlockBytes);
  std::optional<Mapper> quiet(std::in_place, main + "/quiet/file", 0, kBlocks * kBlockBytes);
  for (const char* file : {"/early", "/late/file", "/late/error/deep/file", "/cache/file", "/quiet/file"})
    pool.poison(pool.pool_offset(main + file, kBadOffset));
  REQUIRE(wait_until([&] { return pool.events_of("data-lost").size() == 5; }));
  pool.settle();

  CHECK(early->early_signals(5000).size() == 1);
  CHECK(nearest->early_signals(5000).size() == 1);
  CHECK(late->early_signals(200).empty());
  CHECK(cache->early_signals(0).empty());
  CHECK(quiet->early_signals(0).empty());
  CHECK(late->access(kBadOffset).has_value());
  CHECK_FALSE(cache->access(kBadOffset).has_value());
  CHECK_FALSE(quiet->access(kBadOffset).has_value());  // the kernel still has the page
  CHECK(pool.events_of("process-signalled").size() == 2);

  CHECK(read_error(main + "/late/file", kBadOffset) == EIO);
  std::string zeroed = content;
  zeroed.replace(kBadOffset, kBlockBytes, kBlockBytes, '\0');
  CHECK(read_range(main + "/cache/file", 0, 1 << 20) == zeroed);
  CHECK(pool.events_of("data-zeroed").size() == 1);
  // Written in part, it is good again, and zero around that.
  overwrite(main + "/cache/file", kBadOffset + 100, "new");
  cache.reset();
  drop_pages(main + "/cache/file");
  zeroed.replace(kBadOffset + 100, 3, "new");
  CHECK(read_range(main + "/cache/file", 0, 1 << 20) == zeroed);
  REQUIRE(::removexattr((main + "/cache").c_str(), kName.c_str()) == 0);
  CHECK(read_range(main + "/cache/file", 0, 1 << 20) == zeroed);

  early.reset();
  late.reset();
  nearest.reset();
  quiet.reset();
  pool.need_run("rm -r main/early main/late main/cache main/quiet");
  pool.settle();
  CHECK(wait_until([&] { return pool.nothing_is_bad(); }));
  pool.check_clean();
}

TEST_CASE("A write next to a bad sector that nobody knew of takes the good ones along") {
  if (skipped_without_mounts()) return;
  const bool zero = GENERATE(false, true);
  MountedPool pool;
  const std::string main = pool.mount("main", "no_rescue");
  std::string content = pattern(4, kBlocks);
  write_file(main + "/file", content);
  if (zero) set_policy(main + "/file", "zero");
  drop_pages(main + "/file");
  const std::uint64_t sector = pool.pool_offset(main + "/file", kBadOffset) / kSectorBytes + 7;
  REQUIRE(emulated_device::inject(pool.pool(), sector, 1, false));
  const std::string bytes(kSectorBytes, 'n');
  const auto put = ::pwrite(need_open(main + "/file", O_WRONLY | O_DIRECT).get(), bytes.data(), bytes.size(), kBadOffset);
  pool.settle();
  drop_pages(main + "/file");
  if (zero) {
    CHECK(put == static_cast<ssize_t>(kSectorBytes));
    content.replace(kBadOffset, kSectorBytes, bytes).replace(kBadOffset + 7 * kSectorBytes, kSectorBytes, kSectorBytes, '\0');
    CHECK(read_range(main + "/file", 0, 1 << 20) == content);
  } else {
    CHECK(put < 0);
    CHECK(errno == EIO);
    const FileDescriptor file = need_open(main + "/file", O_RDONLY | O_DIRECT);
    for (std::uint64_t at = 0; at < kBlockBytes; at += kSectorBytes) {
      char found[kSectorBytes];
      const bool lost = at == 7 * kSectorBytes;
      CHECK(::pread(file.get(), found, sizeof found, static_cast<off_t>(kBadOffset + at)) == (lost ? -1 : ssize_t{sizeof found}));
      if (!lost) CHECK(std::string(found, sizeof found) == content.substr(kBadOffset + at, sizeof found));
    }
  }
}

TEST_CASE("A page that was read as zeros is never taken for what was lost") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  const std::string content = pattern(2, kBlocks);
  pool.need_run("mkdir main/cache");
  write_file(main + "/cache/file", content);
  pool.need_run("cp --reflink=auto main/cache/file main/clone");
  set_policy(main + "/cache", "zero");
  drop_pages(main + "/cache/file");
  drop_pages(main + "/clone");
  const auto offset = pool.pool_offset(main + "/clone", kBadOffset);
  pool.need_run(fmt::format("daxcow inject-error $POOL -B {} -n 1", offset / kSectorBytes));
  REQUIRE(wait_until([&] { return pool.events_of("data-lost").size() == 2; }));
  // The kernel has the zeros now. More of the block is lost, and the file has no policy any more.
  std::string zeroed = content;
  zeroed.replace(kBadOffset, kSectorBytes, kSectorBytes, '\0');
  CHECK(read_range(main + "/cache/file", 0, 1 << 20) == zeroed);
  REQUIRE(::removexattr((main + "/cache").c_str(), kName.c_str()) == 0);
  pool.need_run(fmt::format("daxcow inject-error $POOL -B {} -n 1", offset / kSectorBytes + 4));
  REQUIRE(wait_until([&] { return pool.events_of("data-lost").size() == 4; }));
  pool.settle();
  CHECK(pool.events_of("data-rescued").empty());
  CHECK(read_error(main + "/clone", kBadOffset) == EIO);
}

}  // namespace
}  // namespace daxcow::test
