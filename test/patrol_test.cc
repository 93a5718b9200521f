// Passes of the scrub that end and go on: by steps, and as the patrol does it; on DRAM.
#include <sys/stat.h>

#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "engine/checker.h"
#include "engine/medium_dram.h"
#include "engine/patrol.h"
#include "engine/poison_scrub.h"
#include "engine/pool.h"
#include "test/catch.h"

namespace daxcow {
namespace {

template <class T>
T must(Result<T> result) {
  if (!result) FAIL(describe(result.error()));
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

bool comes_true(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

// A pool with files in pieces, and a snapshot that shares them.
struct Patrolled {
  DramMedium* medium = nullptr;
  std::unique_ptr<Pool> pool;
  std::vector<BlockNumber> data;

  Patrolled() {
    auto made = must(DramMedium::create(64ull << 20));
    must(Pool::format(*made, {.label = {}, .progress = {}}));
    open(std::move(made), {.background = false, .log = {}});
    const auto volume = must(pool->mount("main", false));
    const std::vector<std::byte> bytes(5 << 20, std::byte{7});
    for (const char* name : {"a", "b", "c"}) {
      const auto inode =
          must(volume->create(InodeNumber(1), name, {.mode = S_IFREG | 0644, .symlink_target = {}})).inode;
      must(volume->write(inode, 0, bytes));
      must(volume->allocate(inode, AllocateMode::kPunch, 3 << 20, 1 << 20));
      must(volume->for_each_extent(inode, FileBlock(0), false, [&](const FileExtent& extent) {
        for (std::uint64_t i = 0; extent.state == ExtentState::kWritten && i < extent.count; ++i)
          data.push_back(extent.block + i);
        return true;
      }));
    }
    must(pool->snapshot("main", "kept", true));
  }
  void open(std::unique_ptr<DramMedium> new_medium, PoolOptions options) {
    medium = new_medium.get();
    pool = must(Pool::open(std::move(new_medium), std::move(options)));
  }
  // Opened anew from what is on the medium now.
  void reopen(PoolOptions options, bool crash = false) {
    const auto bad = must(medium->bad_ranges());
    auto image = medium->snapshot();
    if (!crash) {
      pool->patrol().stop_thread();
      image = medium->snapshot();
    }
    auto again = must(DramMedium::from_image(image));
    pool.reset();
    for (const BadRange& range : bad) again->inject(range);
    open(std::move(again), std::move(options));
  }
  static PoolOptions with_patrol(std::uint64_t rate = 0) {
    PoolOptions options;
    options.patrol = true;
    options.patrol_bytes_per_second = rate;
    return options;
  }
};

TEST_CASE("patrol: a pass may end at every place, and another goes on there", "[patrol]") {
  Patrolled pool;
  Store& store = pool.pool->store();
  std::vector<std::pair<std::uint64_t, std::uint64_t>> steps;  // place before, blocks
  ScrubPass whole(store);
  std::uint64_t total = 0;
  for (;;) {
    const auto place = whole.place();
    const auto blocks = must(whole.step());
    if (blocks == 0) break;
    CHECK(blocks <= 512);
    steps.emplace_back(place, blocks);
    total += blocks;
  }
  CHECK(total == blocks_to_scrub(store));
  CHECK(total >= 3 * 1024 + 2 + 1024);
  std::uint64_t before = 0;
  for (const auto& [place, blocks] : steps) {
    ScrubPass rest(store, place);
    std::uint64_t read = 0;
    while (const auto more = must(rest.step())) read += more;
    CHECK(read == total - before);
    before += blocks;
  }
  for (const std::uint64_t beyond : {2 * (64ull << 20) / kBlockBytes, ~0ull}) {
    ScrubPass none(store, beyond);
    CHECK(must(none.step()) == 0);
  }
}

TEST_CASE("patrol: what is bad is found once, in metadata as in data", "[patrol]") {
  Patrolled pool;
  pool.medium->inject(pool.data.front(), DramMedium::Injection::kLatent);
  pool.medium->inject(pool.data.back(), DramMedium::Injection::kLatent);
  pool.medium->inject(format::kRootsBlock + format::kMirrorBlocks, DramMedium::Injection::kLatent);
  std::uint64_t last = 0;
  CHECK(must(pool.pool->scrub([&](std::uint64_t done, std::uint64_t total) {
          CHECK(done >= last);
          CHECK(done <= total);
          last = done;
        })) == 3);
  CHECK(must(pool.pool->scrub({})) == 0);
  const auto status = pool.pool->patrol().status();
  CHECK(status.state == ScrubState::kIdle);
  CHECK(status.passes == 2);
  CHECK(status.finished_seconds >= status.started_seconds);
  CHECK(pool.pool->patrol().begin(0).error().code == ErrorCode::kUnsupported);
}

TEST_CASE("patrol: orders, crashes and closing leave a pass where it can go on", "[patrol]") {
  Patrolled pool;
  pool.reopen(Patrolled::with_patrol());
  Patrol* patrol = &pool.pool->patrol();
  CHECK(patrol->pause().error().code == ErrorCode::kInvalid);
  CHECK(patrol->resume({}).error().code == ErrorCode::kInvalid);
  CHECK(patrol->stop().error().code == ErrorCode::kInvalid);
  must(patrol->begin(64 << 10));  // sleeps after the first read
  CHECK(patrol->begin(0).error().code == ErrorCode::kBusy);
  CHECK(pool.pool->scrub({}).error().code == ErrorCode::kBusy);
  REQUIRE(comes_true([&] { return patrol->status().done_bytes != 0; }));
  must(patrol->resume(1 << 20));
  must(patrol->pause());
  const auto paused = patrol->status();
  CHECK(paused.state == ScrubState::kPaused);
  CHECK_FALSE(paused.rest_seconds);

  pool.reopen(Patrolled::with_patrol(), true);  // a crash
  patrol = &pool.pool->patrol();
  CHECK(patrol->status().state == ScrubState::kPaused);
  must(patrol->begin(256 << 10));
  const auto place = [&] { return patrol->status().place; };
  REQUIRE(comes_true([&] { return place() > paused.place; }));
  pool.reopen(Patrolled::with_patrol());  // closed
  patrol = &pool.pool->patrol();
  CHECK(place() > paused.place);
  CHECK(patrol->status().state == ScrubState::kRunning);
  must(patrol->resume(0));
  REQUIRE(comes_true([&] { return patrol->status().state == ScrubState::kIdle; }));
  CHECK(patrol->status().passes == 1);
  CHECK(patrol->status().place == 0);
  must(patrol->begin(1));
  must(patrol->stop());
  CHECK(patrol->status().passes == 1);
  CHECK_FALSE(patrol->status().next_seconds);
}

TEST_CASE("patrol: passes begin by themselves, once a day", "[patrol]") {
  Patrolled pool;
  pool.reopen(Patrolled::with_patrol(1 << 30));
  REQUIRE(comes_true([&] { return pool.pool->patrol().status().passes == 1; }));
  const auto status = pool.pool->patrol().status();
  CHECK(status.next_seconds == status.started_seconds + Patrol::kInterval);
  pool.reopen(Patrolled::with_patrol(1 << 30));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  CHECK(pool.pool->patrol().status().passes == 1);
}

TEST_CASE("patrol: a record that makes no sense does no harm", "[patrol]") {
  Patrolled pool;
  must(pool.pool->store().run(TransactionClass::kNormal, [](Transaction& transaction) -> Result<Step> {
    auto& roots = TRY(transaction.edit(format::kRootsBlock, format::BlockType::kRoots))->as<format::Roots>();
    roots.scrub = {.state = 1,
                   .position = ~0ull,
                   .blocks_read = ~0ull,
                   .blocks_found = ~0ull,
                   .started_seconds = INT64_MAX,
                   .finished_seconds = INT64_MIN,
                   .passes = 7,
                   .bytes_per_second = ~0ull};
    return Step::kDone;
  }));
  pool.reopen(Patrolled::with_patrol(1 << 30));
  REQUIRE(comes_true([&] { return pool.pool->patrol().status().passes >= 8; }));
  const auto report = must(check(must(DramMedium::from_image(pool.medium->snapshot())), {}));
  CHECK(report.clean());
}

}  // namespace
}  // namespace daxcow
