// daxcow map --svg: everything that is in the pool is in the picture, whatever its size, and bad blocks in particular.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <regex>

#include <fmt/format.h>

#include "engine/medium_pmem2.h"
#include "engine/pool.h"
#include "engine/types.h"
#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

using nlohmann::json;

std::size_t count_of(const std::string& text, const std::string& what) {
  std::size_t count = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

// Blocks of each kind in all cells together, and bad and healed ones.
std::map<std::string, std::uint64_t> totals_of(const json& survey) {
  std::map<std::string, std::uint64_t> totals;
  for (const auto& cell : survey.at("cells")) {
    for (std::size_t i = 0; i < survey.at("kinds").size(); ++i)
      totals[survey.at("kinds").at(i)] += cell.at("blocks").at(i).get<std::uint64_t>();
    totals["bad"] += cell.at("bad").get<std::uint64_t>();
    totals["healed"] += cell.at("healed").get<std::uint64_t>();
  }
  return totals;
}

// DAXCOW_KEEP_PICTURES names a directory that gets the pictures, for those who want to look at them.
void check_svg(const MountedPool& pool, const std::string& svg, const std::string& name) {
  CHECK(svg.starts_with("<svg "));
  CHECK(svg.find("<script") == std::string::npos);
  write_text(pool.path("picture.svg"), svg);
  if (const char* const kept = std::getenv("DAXCOW_KEEP_PICTURES"))
    write_text(fmt::format("{}/{}.svg", kept, name), svg);
  if (pool.run("command -v xmllint").exit_code == 0) pool.need_run("xmllint --noout picture.svg");
  if (pool.run("command -v rsvg-convert").exit_code == 0) pool.need_run("rsvg-convert picture.svg -o picture.png");
}

TEST_CASE("The picture of a pool counts every block once, as what it is, by how many own it") {
  if (skipped_without_mounts()) return;
  MountedPool pool(100 << 20);
  const std::string main = pool.mount("main", "no_rescue");
  write_file(main + "/one", pattern(1, 1000));
  write_file(main + "/two", pattern(2, 500));
  write_file(main + "/five", pattern(3, 300));
  write_file(main + "/<&\"'>\n", pattern(4, 20));
  pool.need_run("daxcow clone main/two main/two-again; for i in 1 2 3 4; do daxcow clone main/five main/five-$i; done");
  pool.need_run("for i in $(seq 100); do daxcow clone --length 64K main/five main/hundred-$i; done");
  pool.settle();
  auto survey = pool.ask({{"op", "survey"}});
  auto totals = totals_of(survey);
  const std::uint64_t blocks = (100 << 20) / kBlockBytes;
  std::uint64_t sum = 0;
  for (const auto& kind : survey.at("kinds")) sum += totals.at(kind);
  CHECK(sum == blocks);
  CHECK(survey.at("pool_blocks") == blocks);
  CHECK(totals.at("data-1") == 1020);
  CHECK(totals.at("data-2") == 500);
  CHECK(totals.at("data-3") == 300 - 16);
  CHECK(totals.at("data-100") == 16);
  CHECK(totals.at("superblock") == 2);
  CHECK(totals.at("journal") == 512);
  CHECK(totals.at("metadata") + totals.at("metadata-unused") == 256);
  CHECK(totals.at("mirror") == 256);
  CHECK(totals.at("quarantined") == 0);
  CHECK(totals.at("bad") == 0);
  // As many as the climb for each file says.
  const auto statistics = pool.need_json("daxcow stat --json $POOL");
  const auto free = totals.at("free") + totals.at("dying"), counted = statistics.at("data_free_blocks").get<std::uint64_t>();
  CHECK((free == counted || free == counted + 512));  // a chunk may be kept aside

  // A snapshot doubles the owners of everything.
  pool.need_run("daxcow snapshot $POOL main kept");
  totals = totals_of(pool.ask({{"op", "survey"}}));
  CHECK(totals.at("data-1") == 0);
  CHECK(totals.at("data-2") == 1020);
  CHECK(totals.at("data-3") == 500);
  CHECK(totals.at("data-10") == 300 - 16);

  const auto healthy = pool.need_run("daxcow map --svg $POOL");
  check_svg(pool, healthy, "100-MiB-healthy");
  CHECK(healthy.find("Health: good") != std::string::npos);
  CHECK(healthy.find("Close-ups") == std::string::npos);

  // Damage: sectors of a shared block, a block with a nasty name, free space that cannot be cleared is none here.
  const auto shared = pool.pool_offset(main + "/five", 20 * kBlockBytes);
  pool.need_run(fmt::format("daxcow inject-error $POOL --block {} --count 2", shared / 512 + 3));
  const json nasty = pool.ask({{"op", "map"}, {"volume", "main"}, {"path", "/<&\"'>\n"}});
  pool.poison(nasty.at("extents").at(0).at("pool_offset_bytes").get<std::uint64_t>());
  pool.poison(byte_offset(BlockNumber(1030)));  // metadata, which is mended
  pool.settle();
  survey = pool.ask({{"op", "survey"}});
  totals = totals_of(survey);
  CHECK(totals.at("bad") == 2);
  CHECK(totals.at("healed") == 1);
  REQUIRE(survey.at("surroundings").size() == 2);
  for (const auto& spans : survey.at("surroundings")) {
    std::uint64_t count = 0;
    for (const auto& span : spans) count += span.at("count").get<std::uint64_t>();
    CHECK(count == 64);
  }
  const auto damaged = pool.need_run("daxcow map --svg main");
  check_svg(pool, damaged, "100-MiB-damaged");
  CHECK(damaged.find("Health: data-lost \u2014 5 KiB in 2 blocks cannot be read") != std::string::npos);
  CHECK(damaged.find("sectors 3-4 of 0-7, 10 owners") != std::string::npos);
  CHECK(damaged.find("kept, main: /five, bytes 83456-84479") != std::string::npos);
  CHECK(damaged.find("/&lt;&amp;&quot;'&gt;\\n") != std::string::npos);
  CHECK(count_of(damaged, "<title>1 bad block in ") == 2);
  pool.need_run("daxcow map --svg main --output drawn.svg && test -s drawn.svg && daxcow map main/one >/dev/null");
  CHECK(pool.run("daxcow map --svg main --output none/drawn.svg").exit_code == 1);
  pool.unmount_all();
  check_svg(pool, pool.need_run("daxcow map --svg $POOL"), "100-MiB-unmounted");  // without a daemon
  pool.check_clean();
}

// Larger than the memory that holds it: mkfs.daxcow would want to have all of it.
void make_sparse_pool(const MountedPool& pool, const char* size) {
  pool.need_run(fmt::format("rm $POOL && truncate -s {} $POOL", size));
  auto medium = open_pmem2_medium(pool.pool(), {});
  REQUIRE(medium.has_value());
  REQUIRE(Pool::format(**medium, {.label = "large", .progress = {}}).has_value());
}

TEST_CASE("The picture of a pool of 10 TiB shows one bad sector, and is no larger") {
  if (skipped_without_mounts()) return;
#if defined(__SANITIZE_THREAD__)
  std::fprintf(stderr, "SKIPPED: ThreadSanitizer leaves no room for 10 TiB of addresses\n");
  return;
#endif
  MountedPool pool(16 << 20);
  make_sparse_pool(pool, "10T");
  const std::string main = pool.mount("main", "no_rescue");
  write_file(main + "/file", pattern(1, 64));
  pool.need_run("fallocate -l 3T main/base; daxcow clone main/file main/clone");
  pool.need_run("daxcow snapshot $POOL main kept; for i in 1 2 3 4; do fallocate -l ${i}00G main/later$i; done");
  pool.need_run("for i in $(seq 12); do daxcow clone --length 256G --offset ${i}G main/base main/part$i; done");
  const auto begun = std::chrono::steady_clock::now();
  pool.need_run(
      fmt::format("daxcow inject-error $POOL --block {}", pool.pool_offset(main + "/file", 5 * kBlockBytes) / 512));
  REQUIRE(wait_until([&] { return !pool.events_of("data-lost").empty(); }));
  const auto svg = pool.need_run("daxcow map --svg $POOL");
  CHECK(std::chrono::steady_clock::now() - begun < std::chrono::seconds(10));
  check_svg(pool, svg, "10-TiB-one");
  CHECK(svg.size() < 500'000);
  CHECK(svg.find("10 TiB") != std::string::npos);
  CHECK(svg.find("kept, main: /file, bytes 20480-20991") != std::string::npos);
  CHECK(count_of(svg, "<title>1 bad block in ") == 1);

  // Many, all over the place: all on the map, a dozen close up, the rest counted.
  pool.need_run(
      "for i in $(seq 30); do daxcow inject-error $POOL --block $((i * 350000000)) --count $((i % 8 + 1)); done;"
      "daxcow inject-error $POOL --block 2000000 --count 100");
  pool.settle();
  const auto many = pool.need_run("daxcow map --svg $POOL");
  check_svg(pool, many, "10-TiB-many");
  CHECK(many.size() < 600'000);
  CHECK(many.find("are marked on the map only") != std::string::npos);
}

}  // namespace
}  // namespace daxcow::test
