// Bringing home what the journal holds. What a crash leaves of it is for the exploration (test/explore).
#include "engine/journal.h"

#include <algorithm>
#include <vector>

#include "test/catch.h"
#include "test/recording_medium.h"

using namespace daxcow;
using namespace daxcow::test;

namespace {

constexpr BlockNumber kBlock = format::kRootsBlock;
constexpr std::uint64_t kMask = 1ull << 3 | 1ull << 4 | 1ull << 63;

struct Pool {
  std::vector<std::byte> memory = std::vector<std::byte>(format::kMinimumPoolBytes);
  Recording recording{memory};
  RecordingMedium medium{recording};
  Journal journal{medium, format::kJournalChunk, 7};
  std::vector<std::pair<BlockNumber, bool>> failed;

  // Commits lines of one block, which stay where they are: in the journal.
  Pool() {
    Block content;
    std::ranges::fill(content.bytes, std::byte{0x17});
    const JournalChange change{kBlock, kMask, content.bytes};
    REQUIRE(journal.commit({&change, 1}));
  }
  bool apply() {
    const auto recovered = journal.recover(Journal::Copies::kMakeEqual);
    REQUIRE(recovered);
    REQUIRE(recovered->groups.size() == 1);
    const auto changed =
        journal.apply(*recovered, [&](BlockNumber block, bool mirror) { failed.emplace_back(block, mirror); });
    REQUIRE(changed);
    return *changed;
  }
};

}  // namespace

TEST_CASE("journal: brings its lines home, to both copies", "[journal]") {
  Pool pool;
  CHECK(pool.apply());
  CHECK(pool.failed.empty());
  for (const BlockNumber block : {kBlock, kBlock + format::kMirrorBlocks})
    for (std::uint64_t line = 0; line < kLinesPerBlock; ++line)
      CHECK(pool.memory[byte_offset(block) + line * kLineBytes] == ((kMask >> line & 1) ? std::byte{0x17} : std::byte{0}));
}

TEST_CASE("journal: stores what reads equal too, since a cache may be all that holds it", "[journal]") {
  Pool pool;
  REQUIRE(pool.apply());
  pool.recording.arm();
  CHECK_FALSE(pool.apply());
  const Log log = pool.recording.take_log();
  const auto home_stores = std::ranges::count_if(log.events, [](const Log::Event& event) {
    return event.kind == Log::Event::Kind::kStore && event.line * kLineBytes >= byte_offset(kBlock);
  });
  CHECK(home_stores == 2 * 3);
  CHECK(log.events.back().kind == Log::Event::Kind::kDrain);
}

TEST_CASE("journal: names the copy that it cannot store to, once", "[journal]") {
  Pool pool;
  pool.recording.inject(kBlock + format::kMirrorBlocks);
  CHECK(pool.apply());
  CHECK(pool.failed == std::vector{std::pair(kBlock, true)});
  CHECK(pool.memory[byte_offset(kBlock) + 3 * kLineBytes] == std::byte{0x17});
}
