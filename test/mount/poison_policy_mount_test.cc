// What is done about lost data as the files' users want it: user.daxcow.on_poison.
#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include <fmt/format.h>

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
