// What of a file with bad sectors can still be read: by O_DIRECT, by mending around it, and by daxcow rescue.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <random>

#include <fmt/format.h>

#include "engine/types.h"
#include "test/mount/mount_fixture.h"
#include "test/seed.h"

namespace daxcow::test {
namespace {

using nlohmann::json;

constexpr std::uint64_t kBlocks = 64;

// errno of reading one sector past the kernel's cache, or 0 and what it holds.
int read_sector(const std::string& path, std::uint64_t offset, std::string* content = nullptr) {
  const auto file = need_open(path, O_RDONLY | O_DIRECT);
  alignas(4096) std::array<char, 512> sector;
  if (::pread(file.get(), sector.data(), sector.size(), static_cast<off_t>(offset)) != 512) return errno;
  if (content) content->assign(sector.data(), sector.size());
  return 0;
}

void poison_sectors(const MountedPool& pool, std::uint64_t pool_offset, std::uint64_t count, bool latent = false) {
  pool.need_run(fmt::format("daxcow inject-error $POOL --block {} --count {}{}", pool_offset / 512, count,
                            latent ? " --no-notify" : ""));
}

TEST_CASE("O_DIRECT reads the good sectors of a block that is bad in part") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", "no_rescue");
  const std::string content = pattern(1, kBlocks);
  write_file(main + "/file", content);
  const std::uint64_t bad = 5 * kBlockBytes + 2 * 512;
  const bool latent = GENERATE(false, true);
  poison_sectors(pool, pool.pool_offset(main + "/file", bad), 3, latent);
  if (!latent) REQUIRE(wait_until([&] { return !pool.events_of("data-lost").empty(); }));
  drop_pages(main + "/file");
  if (latent) {
    CHECK(read_sector(main + "/file", bad) == EIO);
    REQUIRE(wait_until([&] { return !pool.events_of("data-lost").empty(); }));
  }
  pool.settle();
  for (std::uint64_t sector = 0; sector < 24; ++sector) {
    const std::uint64_t offset = 4 * kBlockBytes + sector * 512;
    std::string seen;
    INFO("sector " << sector << " of 24" << (latent ? ", latent" : ""));
    const bool is_bad = offset >= bad && offset < bad + 3 * 512;
    CHECK(read_sector(main + "/file", offset, &seen) == (is_bad ? EIO : 0));
    if (!is_bad) CHECK(seen == content.substr(offset, 512));
  }
  // Through the cache the kernel reads pages.
  CHECK(unreadable_blocks(main + "/file") == std::set<std::uint64_t>{5});

  // Replacing just the bad sectors keeps the others of the block.
  const std::string patch = pattern(2, 1).substr(0, 3 * 512);
  overwrite(main + "/file", bad, patch);
  std::string mended = content;
  mended.replace(bad, patch.size(), patch);
  drop_pages(main + "/file");
  CHECK(read_range(main + "/file", 0, 1 << 20) == mended);
  pool.settle();
  CHECK(wait_until([&] { return pool.nothing_is_bad(); }));
  pool.check_clean();
}

TEST_CASE("The end of a file can be read when only what lies behind it is bad") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", "no_rescue");
  const std::string content = pattern(1, 2).substr(0, 4096 + 700);
  write_file(main + "/file", content);
  poison_sectors(pool, pool.pool_offset(main + "/file", 4096) + 1024, 1);
  pool.settle();
  drop_pages(main + "/file");
  CHECK(read_range(main + "/file", 0, 1 << 20) == content);
  overwrite(main + "/file", content.size(), pattern(3, 1));
  CHECK(read_range(main + "/file", 0, 1 << 20) == content + pattern(3, 1));
  pool.settle();
  CHECK(wait_until([&] { return pool.nothing_is_bad(); }));
  pool.check_clean();
}

TEST_CASE("daxcow rescue copies everything but the lost sectors, and says which these are") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", "no_rescue");
  const auto seed = random_seed();
  INFO(describe_seed(seed));
  std::mt19937_64 random(seed);
  const std::string content = pattern(7, kBlocks) + "the end";
  write_file(main + "/file", content);
  // Lost here and there, a whole block and the end among them, some of it unknown until it is read.
  std::string expected = content;
  std::set<std::uint64_t> lost{10 * 8,     10 * 8 + 1, 10 * 8 + 2, 10 * 8 + 3, 10 * 8 + 4,
                               10 * 8 + 5, 10 * 8 + 6, 10 * 8 + 7, kBlocks * 8};
  for (int i = 0; i < 12; ++i) lost.insert(random() % (kBlocks * 8));
  bool latent = false;
  for (const auto sector : lost) {
    poison_sectors(pool, pool.pool_offset(main + "/file", sector * 512), 1, latent = !latent);
    const auto length = std::min<std::uint64_t>(512, content.size() - sector * 512);
    expected.replace(sector * 512, length, std::string(length, '\0'));
  }
  pool.settle();
  drop_pages(main + "/file");
  const auto outcome = pool.run("daxcow rescue --json main/file copy");
  INFO(outcome.out << outcome.err);
  CHECK(outcome.exit_code == 3);
  const auto report = json::parse(outcome.out);
  std::set<std::uint64_t> told;
  for (const auto& range : report.at("lost"))
    for (std::uint64_t at = range.at("offset_bytes"), end = at + range.at("length_bytes").get<std::uint64_t>();
         at < end; at += 512)
      told.insert(at / 512);
  CHECK(told == lost);
  CHECK(read_text(pool.path("copy")) == expected);
  CHECK(report.at("map") == "copy.map");
  const std::string map = read_text(pool.path("copy.map"));
  INFO(map);
  CHECK(map.starts_with("# Mapfile. "));
  CHECK(map.find("0x0000A000  0x00001000  -\n") != std::string::npos);
  CHECK(pool.run("command -v ddrescuelog >/dev/null && ddrescuelog --done-status copy.map").exit_code == 1);
  CHECK(pool.run("daxcow rescue main/file copy").out.find("lost: bytes 40960-45055\n") != std::string::npos);

  // Healed, it comes with the next attempt, which reads nothing else.
  overwrite(main + "/file", 10 * kBlockBytes, content.substr(10 * kBlockBytes, kBlockBytes));
  expected.replace(10 * kBlockBytes, kBlockBytes, content, 10 * kBlockBytes, kBlockBytes);
  CHECK(pool.run("daxcow rescue --json main/file copy").exit_code == 3);
  CHECK(read_text(pool.path("copy")) == expected);
  write_file(main + "/file", content);
  REQUIRE(pool.run("daxcow rescue --json main/file copy").exit_code == 0);
  CHECK(read_text(pool.path("copy")) == content);
  CHECK(read_text(pool.path("copy.map")).find("0x00000000  0x00040007  +\n") != std::string::npos);
  pool.settle();
  pool.check_clean();
}

TEST_CASE("daxcow rescue goes on with a map, keeps holes, and refuses what makes no sense") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", "no_rescue");
  pool.need_run(
      "truncate -s 100G main/sparse && dd if=/dev/urandom of=main/sparse bs=4K count=3 seek=1000 conv=notrunc "
      "status=none"
      " && echo end >>main/sparse");
  pool.need_run("daxcow rescue main/sparse copy && cmp -n 5M main/sparse copy");
  CHECK(pool.need_run("stat -c %s copy") == "107374182404\n");
  CHECK(pool.need_run("tail -c 4 copy") == "end\n");
  CHECK(std::stoull(pool.need_run("stat -c %b copy")) < 100);

  const std::string content = pattern(3, kBlocks);
  write_file(main + "/file", content);
  // As after an interruption: the first half is there, the second has never been tried.
  pool.need_run(
      "head -c 128K main/file >half && truncate -s 256K half && printf '# a comment\\n0x20000 ? 1\\n0 131072 +\\n"
      "0x20000 0x10000 /\\n0x30000 0x10000 ?\\n' >half.map");
  overwrite(main + "/file", 0, std::string(4096, 'n'));  // after the first half was copied
  const auto report = pool.need_json("daxcow rescue --json main/file half");
  CHECK(report.at("resumed") == true);
  CHECK(read_text(pool.path("half")) == content);

  CHECK(pool.run("rm half.map; daxcow rescue main/file half").err.find("--force") != std::string::npos);
  CHECK(pool.run("daxcow rescue --force --map elsewhere main/file half; cmp main/file half && test -s elsewhere")
            .exit_code == 0);
  struct Wrong {
    const char *command, *words;
  };
  for (const auto& [command, words] :
       {Wrong{"daxcow rescue main/none copy2", "main/none"}, Wrong{"daxcow rescue main copy2", "is a directory"},
        Wrong{"daxcow rescue main/file main/file --force", "same file"},
        Wrong{"echo x >bad.map; daxcow rescue main/file bad", "bad.map: no map of a rescue: line 1"},
        Wrong{"printf '0 + 1\\n0 4096 +\\n' >short.map; truncate -s 4096 short; daxcow rescue main/file short",
              "remove it to begin anew"},
        Wrong{"printf '0 + 1\\n4096 4096 +\\n' >gap.map; daxcow rescue main/file gap", "line 2"},
        Wrong{"daxcow rescue main/file none/copy", "none/copy"}}) {
    const auto outcome = pool.run(command);
    INFO(command << ": " << outcome.err);
    CHECK(outcome.exit_code == 1);
    CHECK(outcome.err.find(words) != std::string::npos);
    CHECK(std::ranges::count(outcome.err, '\n') == 1);
  }
  CHECK_FALSE(fs::exists(pool.path("copy2")));
  CHECK(pool.run("daxcow rescue --retries x main/file copy2").exit_code == 2);

  // Interrupted for real, in the middle; the same command goes on.
  pool.need_run("head -c 60M /dev/urandom >main/large");
  const auto interrupted = pool.run("timeout -s INT 0.05 daxcow rescue main/large large; echo $?");
  INFO(interrupted.out << interrupted.err);
  pool.need_run("test ! -e large || daxcow rescue main/large large && { test ! -e large || cmp main/large large; }");
  pool.check_clean();
}

}  // namespace
}  // namespace daxcow::test
