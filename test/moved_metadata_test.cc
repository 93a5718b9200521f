// Metadata in blocks that the device cannot clear gets another place.
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "catch.h"
#include "dump.h"
#include "engine/checker.h"
#include "engine/events.h"
#include "engine/pool.h"
#include "engine/store.h"
#include "engine/volume.h"
#include "seed.h"
#include "stubborn_medium.h"

using namespace daxcow;
using namespace daxcow::test;

namespace {

template <class T>
T must(Result<T>&& result) {
  if (!result) FAIL(describe(result.error()));
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

constexpr InodeNumber kTop(1);

// A pool with every type of metadata: trees of two levels, shared ones, attributes, symlinks, directories, a file that
// is open without a name, two snapshots.
class Bench {
 public:
  Bench() {
    auto made = must(DramMedium::create(64ull << 20));
    must(Pool::format(*made, {.label = "test", .first_volume = "main", .progress = {}}));
    open(std::move(made));
    const InodeNumber file = create("file");
    for (std::uint64_t i = 0; i < 600; ++i) write(file, i * 3 * kBlockBytes, static_cast<char>('a' + i % 26));
    write(file, 600ull << 20, 'z');
    for (int i = 0; i < 12; ++i)  // so that one node has more references than fit one transaction
      must(main->clone_range(file, 0, create("clone" + std::to_string(i)), 0, 1ull << 30));
    for (int i = 0; i < 200; ++i)
      create("a name of some length, so that there are several blocks of them " + std::to_string(i));
    must(main->create(kTop, "link", {.mode = S_IFLNK | 0777, .symlink_target = std::string(200, 't')}));
    must(main->set_attribute(file, "user.some", std::as_bytes(std::span(std::string_view("thing"))),
                             Volume::SetAttributeMode::kAny));
    orphan = create("orphan");
    write(orphan, 0, 'o');
    main->remember(orphan);
    must(main->unlink(kTop, "orphan"));
    must(pool->snapshot("main", "one", true));
    write(file, 3 * kBlockBytes, 'n');
    must(pool->snapshot("main", "two", false));
    create("last");
    pool->settle();
    before = look();
  }
  ~Bench() {
    main.reset();
    pool.reset();
  }

  void open(std::unique_ptr<DramMedium> dram) {
    auto made = std::make_unique<StubbornMedium>(std::move(dram));
    medium = made.get();
    pool = must(Pool::open(std::move(made), {.background = false, .log = {}}));
    main = must(pool->mount("main", false));
  }
  // What is on the medium now, opened again without having been closed.
  void crash() {
    const auto bad = must(medium->bad_ranges());
    auto again = must(DramMedium::from_image(medium->inner().snapshot()));
    main.reset();
    pool.reset();
    for (const BadRange& range : bad) again->inject(range);
    open(std::move(again));
    pool->settle();
  }

  InodeNumber create(const std::string& name) {
    return must(main->create(kTop, name, {.mode = S_IFREG | 0644, .symlink_target = {}})).inode;
  }
  void write(InodeNumber inode, std::uint64_t offset, char fill) {
    const std::vector<std::byte> bytes(kBlockBytes, static_cast<std::byte>(fill));
    must(main->write(inode, offset, bytes));
  }
  Dump look() { return must(dump(*pool, {{"main", main}})); }
  // Looking at directories changes their access times, and names that have come and gone their sizes.
  void expect_same_content() {
    Dump now = look();
    now.volumes["main"].names["/"].size_bytes = before.volumes["main"].names["/"].size_bytes;
    now.volumes["main"].names["/"].block_count = before.volumes["main"].names["/"].block_count;
    CHECK(difference(before, now, {.times = true}).value_or("") == "");
  }
  void expect_same() {
    expect_same_content();
    const CheckReport report = must(check(*pool, {.progress = {}}));
    for (const Finding& finding : report.findings) UNSCOPED_INFO(finding.where << ": " << finding.what);
    CHECK(report.clean());
  }
  // The blocks of metadata in use that can be moved, by their primaries.
  std::vector<BlockNumber> movable() {
    std::vector<BlockNumber> found;
    const Metadata& metadata = pool->store().metadata();
    for (const BlockNumber chunk : metadata.chunks())
      for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i)
        if (const auto type = metadata.descriptor(chunk + i).type;
            type != format::BlockType::kFree && type != format::BlockType::kRoots)
          found.push_back(chunk + i);
    return found;
  }
  void expect_unused(const std::vector<BlockNumber>& blocks) {
    for (const BlockNumber block : blocks) {
      INFO("block " << block.value);
      CHECK(pool->store().metadata().descriptor(block).type == format::BlockType::kFree);
    }
  }

  StubbornMedium* medium = nullptr;
  std::unique_ptr<Pool> pool;
  std::shared_ptr<Volume> main;
  InodeNumber orphan;
  Dump before;
};

}  // namespace

TEST_CASE("poison: metadata that cannot be cleared gets another place", "[poison]") {
  Bench bench;
  const std::uint64_t seed = random_seed();
  INFO(describe_seed(seed));
  std::mt19937_64 random(seed);
  std::vector<BlockNumber> bad = bench.movable();
  std::set<format::BlockType> types;
  for (const BlockNumber block : bad) types.insert(bench.pool->store().metadata().descriptor(block).type);
  REQUIRE(types.size() >= 7);
  std::ranges::shuffle(bad, random);

  SECTION("one after the other, in use in between") {
    bad.resize(std::min<std::size_t>(bad.size(), 40));
    for (std::size_t i = 0; i < bad.size(); ++i) {
      if (bench.pool->store().metadata().descriptor(bad[i]).type == format::BlockType::kFree) continue;  // has moved
      bench.medium->inner().inject(i % 2 ? bad[i] : Metadata::mirror_of(bad[i]));
      bench.pool->settle();
      bench.write(bench.create("new"), 0, 'n');
      must(bench.main->unlink(kTop, "new"));
      bench.pool->settle();
      if (i % 8 == 0) bench.crash();
    }
    bench.expect_unused(bad);
  }
  SECTION("all at once") {
    for (const BlockNumber block : bad) bench.medium->inner().inject(random() % 2 ? block : Metadata::mirror_of(block));
    bench.pool->settle();
    const auto events = bench.pool->events().after(0, 100'000, 0);
    CHECK(static_cast<std::size_t>(std::ranges::count(events, EventKind::kClearFailed, &Event::kind)) == bad.size());
    bench.expect_unused(bad);
  }
  bench.expect_same();
  // The bad blocks stay out of use, also over a crash.
  bench.crash();
  bench.expect_unused(bad);
  for (int i = 0; i < 300; ++i) bench.write(bench.create("more " + std::to_string(i)), 0, 'm');
  bench.expect_unused(bad);
  for (int i = 0; i < 300; ++i) must(bench.main->unlink(kTop, "more " + std::to_string(i)));
  bench.pool->settle();
  bench.expect_same_content();
}
