#include "engine/space.h"

#include <cstdint>
#include <random>
#include <vector>

#include "engine/format.h"
#include "test/catch.h"
#include "test/seed.h"

namespace daxcow {
namespace {

constexpr std::uint64_t kChunk = format::kChunkBlocks;

BlockRun run(std::uint64_t first, std::uint64_t count) { return {BlockNumber(first), count}; }

// Which blocks are free, one by one.
class Model {
 public:
  explicit Model(std::uint64_t blocks) : free_(blocks, false) {}

  std::uint64_t size() const { return free_.size(); }
  bool is_free(std::uint64_t block) const { return block < free_.size() && free_[block]; }
  bool all(BlockRun run, bool free) const {
    for (std::uint64_t b = run.first.value; b < run.end().value; ++b)
      if (is_free(b) != free) return false;
    return true;
  }
  void set(BlockRun run, bool free) {
    for (std::uint64_t b = run.first.value; b < run.end().value; ++b) free_[b] = free;
  }
  std::vector<BlockRun> runs() const {
    std::vector<BlockRun> runs;
    for (std::uint64_t b = 0; b < free_.size(); ++b) {
      if (!free_[b]) continue;
      if (runs.empty() || runs.back().end().value != b) runs.push_back(run(b, 0));
      ++runs.back().count;
    }
    return runs;
  }
  std::uint64_t count() const {
    std::uint64_t count = 0;
    for (const bool free : free_) count += free;
    return count;
  }
  std::uint64_t longest() const {
    std::uint64_t longest = 0;
    for (const BlockRun& run : runs()) longest = std::max(longest, run.count);
    return longest;
  }
  // The highest aligned chunk that is free, or a run of no blocks.
  BlockRun highest_chunk() const {
    for (std::uint64_t first = free_.size() / kChunk * kChunk; first >= kChunk; first -= kChunk)
      if (all(run(first - kChunk, kChunk), true)) return run(first - kChunk, kChunk);
    return {};
  }

 private:
  std::vector<bool> free_;
};

TEST_CASE("space: an empty space gives nothing") {
  Space space;
  CHECK(space.allocate(BlockNumber(7), 1).count == 0);
  CHECK(space.allocate_chunk().count == 0);
  CHECK(space.withdraw(run(0, 100)).empty());
  CHECK(space.free_blocks() == 0);
  CHECK_FALSE(space.is_free(BlockNumber(0)));
}

TEST_CASE("space: released runs merge with both neighbours") {
  Space space;
  space.release(run(10, 10));
  space.release(run(30, 10));
  CHECK(space.free_runs().size() == 2);
  space.release(run(20, 10));
  CHECK(space.free_runs() == std::vector{run(10, 30)});
  space.release(run(5, 5));
  space.release(run(40, 1000));
  CHECK(space.free_runs() == std::vector{run(5, 1035)});
  CHECK(space.free_blocks() == 1035);
}

TEST_CASE("space: the goal comes first") {
  Space space;
  space.release(run(100, 50));
  CHECK(space.allocate(BlockNumber(120), 10) == run(120, 10));
  CHECK(space.allocate(BlockNumber(140), 100) == run(140, 10));  // as much as is free there
  CHECK(space.free_runs() == std::vector{run(100, 20), run(130, 10)});
}

TEST_CASE("space: a run at or after a used goal that holds all is preferred, else the best fit, else the longest") {
  Space space;
  space.release(run(10, 20));
  space.release(run(100, 5));
  space.release(run(200, 30));
  CHECK(space.allocate(BlockNumber(50), 8) == run(200, 8));
  CHECK(space.allocate(BlockNumber(150), 22) == run(208, 22));
  CHECK(space.allocate(BlockNumber(150), 6) == run(10, 6));
  CHECK(space.allocate(BlockNumber(150), 100) == run(16, 14));
  CHECK(space.allocate(BlockNumber(300), 3) == run(100, 3));
}

TEST_CASE("space: the blocks to keep stay free") {
  Space space;
  space.release(run(10, 20));
  CHECK(space.allocate(BlockNumber(10), 100, 15) == run(10, 5));
  CHECK(space.allocate(BlockNumber(15), 1, 15).count == 0);
  CHECK(space.allocate(BlockNumber(15), 1, 1000).count == 0);
  CHECK(space.allocate(BlockNumber(15), 1, 14) == run(15, 1));
}

TEST_CASE("space: large requests start at a multiple of 512 where one fits") {
  Space space;
  space.release(run(10, 600));    // 512..610 is no room for 512
  space.release(run(700, 1500));  // 1024..2200
  CHECK(space.allocate(BlockNumber(0), 512) == run(1024, 512));
  CHECK(space.allocate(BlockNumber(0), 520) == run(1536, 520));
  CHECK(space.allocate(BlockNumber(0), 512) == run(10, 512));  // none aligned is left
}

TEST_CASE("space: an aligned run is found behind many that are long enough but not aligned") {
  Space space;
  for (std::uint64_t i = 0; i < 100; ++i) space.release(run(i * 2 * kChunk + 1, 600));
  space.release(run(300 * kChunk + 1, 2 * kChunk - 1));
  CHECK(space.allocate(BlockNumber(0), kChunk) == run(301 * kChunk, kChunk));
}

TEST_CASE("space: chunks come from the end, aligned, and leave the rest free") {
  Space space;
  space.release(run(100, 10 * kChunk));
  CHECK(space.allocate_chunk() == run(9 * kChunk, kChunk));
  CHECK(space.allocate_chunk() == run(8 * kChunk, kChunk));
  CHECK(space.is_free(BlockNumber(10 * kChunk)));
  space.release(run(9 * kChunk, kChunk));
  CHECK(space.allocate_chunk() == run(9 * kChunk, kChunk));
}

TEST_CASE("space: a withdrawal takes exactly the free parts") {
  Space space;
  space.release(run(10, 10));
  space.release(run(30, 10));
  space.release(run(50, 10));
  CHECK(space.withdraw(run(15, 40)) == std::vector{run(15, 5), run(30, 10), run(50, 5)});
  CHECK(space.free_runs() == std::vector{run(10, 5), run(55, 5)});
  CHECK(space.withdraw(run(20, 30)).empty());
}

TEST_CASE("space: behaves as a set of blocks under random use") {
  const std::uint64_t seed = test::random_seed();
  INFO(test::describe_seed(seed));
  std::mt19937_64 random(seed);
  const auto below = [&](std::uint64_t limit) { return random() % limit; };

  for (int round = 0; round < 6; ++round) {
    Space space;
    Model model(6000);
    // Rounds differ in how long the runs are: from a shredded pool to one of huge pages.
    const std::uint64_t longest_request = std::vector<std::uint64_t>{3, 40, 700, 1500, 3000, 100}[round];
    space.release(run(3, 5990));
    model.set(run(3, 5990), true);
    for (int step = 0; step < 1500; ++step) {
      switch (below(8)) {
        case 0:
        case 1:
        case 2: {
          const std::uint64_t goal = below(model.size() + 100);
          const std::uint64_t wanted = 1 + below(longest_request);
          const std::uint64_t keep = below(4) == 0 ? below(6000) : 0;
          const std::uint64_t free = model.count();
          const std::uint64_t longest = model.longest();
          const bool goal_free = model.is_free(goal);
          const BlockRun got = space.allocate(BlockNumber(goal), wanted, keep);
          if (free <= keep) {
            REQUIRE(got.count == 0);
            break;
          }
          const std::uint64_t most = std::min(wanted, free - keep);
          REQUIRE(got.count >= 1);
          REQUIRE(got.count <= most);
          REQUIRE(model.all(got, true));
          if (goal_free) {
            REQUIRE(got.first.value == goal);
            REQUIRE((got.count == most || !model.is_free(got.end().value)));
          } else if (most < kChunk) {
            REQUIRE(got.count == std::min(most, longest));
          } else {
            REQUIRE(got.count >= std::min(longest, kChunk));
            if (longest >= most + kChunk - 1) {
              REQUIRE(got.count == most);
              REQUIRE(got.first.value % kChunk == 0);
            }
          }
          model.set(got, false);
          break;
        }
        case 3: {
          const BlockRun expected = model.highest_chunk();
          if (below(10) != 0) break;
          REQUIRE(space.allocate_chunk() == expected);
          model.set(expected, false);
          break;
        }
        case 4: {
          const BlockRun range = run(below(model.size()), below(60));
          std::vector<BlockRun> expected;
          for (const BlockRun& free : model.runs()) {
            const std::uint64_t first = std::max(free.first.value, range.first.value);
            const std::uint64_t end = std::min(free.end().value, range.end().value);
            if (first < end) expected.push_back(run(first, end - first));
          }
          REQUIRE(space.withdraw(range) == expected);
          for (const BlockRun& taken : expected) model.set(taken, false);
          break;
        }
        default: {
          const std::uint64_t first = below(model.size());
          std::uint64_t count = 0;
          const std::uint64_t wanted = 1 + below(longest_request);
          while (count < wanted && first + count < model.size() && !model.is_free(first + count)) ++count;
          space.release(run(first, count));
          model.set(run(first, count), true);
        }
      }
      REQUIRE(space.free_blocks() == model.count());
      const std::uint64_t block = below(model.size());
      REQUIRE(space.is_free(BlockNumber(block)) == model.is_free(block));
      if (step % 25 == 0) REQUIRE(space.free_runs() == model.runs());
    }
    REQUIRE(space.free_runs() == model.runs());
  }
}

}  // namespace
}  // namespace daxcow
