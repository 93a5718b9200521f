// What a crash may leave of an operation beyond all or nothing: each of the exceptions that docs/RELIABILITY.md names, and
// that nothing beyond them happens. All else is explored by test/explore.
#include <sys/stat.h>

#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/checker.h"
#include "engine/format.h"
#include "engine/pool.h"
#include "test/catch.h"
#include "test/explore/crash_states.h"
#include "test/recording_medium.h"
#include "test/seed.h"

namespace daxcow::test {
namespace {

constexpr std::uint64_t kBlock = kBlockBytes, kMiB = 1 << 20;

class CrashBench {
 public:
  explicit CrashBench(std::uint64_t pool_bytes = format::kMinimumPoolBytes) : memory_(pool_bytes), recording_(memory_), seed_(random_seed()), random_(seed_) {
    RecordingMedium medium(recording_);
    REQUIRE(Pool::format(medium, {.label = {}, .progress = {}}).has_value());
    open();
  }

  ~CrashBench() { close(); }

  void open() {
    auto opened = Pool::open(std::make_unique<RecordingMedium>(recording_), {.background = false, .log = {}});
    REQUIRE(opened.has_value());
    pool = std::move(*opened);
    volume = *pool->mount("main", false);
  }
  void close() {
    volume.reset();
    pool.reset();
  }

  InodeNumber file(const std::string& name) {
    const auto made = volume->create(format::kRootInode, name, {.mode = S_IFREG | 0644, .symlink_target = {}});
    REQUIRE(made.has_value());
    return made->inode;
  }
  void write(InodeNumber inode, std::uint64_t offset, std::uint64_t length, char fill) {
    const std::string data(length, fill);
    REQUIRE(volume->write(inode, offset, std::as_bytes(std::span(data))).has_value());
  }

  // Runs `change`, and calls `judge` with the volume as it is found after each crash in it.
  void crash_in(const std::function<void()>& change, const std::function<void(Volume&)>& judge, unsigned samples = 12) {
    recording_.arm();
    change();
    const Log log = recording_.take_log();
    recording_.cut_power();
    close();
    log.undo(memory_);
    for_each_crash(memory_, log, {.exhaustive_lines = 3, .samples = samples}, random_, [&](const CrashPoint& point) {
      INFO("after drain " << point.drain << ", " << point.choice << "; " << describe_seed(seed_));
      recording_.arm();
      open();
      const auto report = check(*pool, {.progress = {}});
      REQUIRE(report.has_value());
      REQUIRE(report->clean());
      judge(*volume);
      recording_.cut_power();
      close();
      recording_.take_log().undo(memory_);
      return true;
    });
    open();
  }

  std::unique_ptr<Pool> pool;
  std::shared_ptr<Volume> volume;

 private:
  std::vector<std::byte> memory_;
  Recording recording_;
  std::uint64_t seed_;
  std::mt19937_64 random_;
};

std::string content_of(Volume& volume, InodeNumber inode, std::uint64_t length) {
  std::string data(length, '?');
  const auto got = volume.read(inode, 0, std::as_writable_bytes(std::span(data)));
  REQUIRE(got.has_value());
  data.resize(*got);
  return data;
}

// How many leading blocks hold `fill` throughout, when all behind them hold none of it; nothing otherwise.
std::optional<std::uint64_t> prefix_of(const std::string& data, char fill) {
  std::uint64_t blocks = 0;
  while (blocks * kBlock < data.size() && data.compare(blocks * kBlock, kBlock, std::string(kBlock, fill)) == 0) ++blocks;
  if (data.find(fill, blocks * kBlock) != data.npos) return std::nullopt;
  return blocks;
}

}  // namespace

TEST_CASE("crash: an overwrite in place leaves each word old or new, and times that are old") {
  CrashBench bench;
  const InodeNumber inode = bench.file("f");
  bench.write(inode, 0, 2 * kBlock, 'a');
  REQUIRE(bench.volume->sync(inode).has_value());
  const Attributes before = *bench.volume->attributes(inode);
  std::set<std::string> seen;
  bench.crash_in([&] { bench.write(inode, 100, kBlock, 'b'); },
                 [&](Volume& volume) {
                   const std::string data = content_of(volume, inode, 3 * kBlock);
                   REQUIRE(data.size() == 2 * kBlock);
                   REQUIRE(data.find_first_not_of("ab") == data.npos);
                   REQUIRE(data.substr(0, 100) == std::string(100, 'a'));
                   REQUIRE(data.substr(100 + kBlock) == std::string(kBlock - 100, 'a'));
                   seen.insert(data);
                   REQUIRE(volume.attributes(inode)->modification == before.modification);
                 });
  CHECK(seen.size() > 3);  // none, all, and torn ones: the exception is real

  SECTION("fsync commits the times") {
    bench.write(inode, 0, 10, 'c');
    const Attributes live = *bench.volume->attributes(inode);
    REQUIRE(bench.volume->sync(inode).has_value());
    bench.crash_in([] {}, [&](Volume& volume) { REQUIRE(volume.attributes(inode)->modification == live.modification); });
  }
}

TEST_CASE("crash: a write of more than 4 MiB may be there in its first pieces") {
  CrashBench bench(32 * kMiB);
  const InodeNumber inode = bench.file("f");
  std::set<std::uint64_t> seen;
  bench.crash_in([&] { bench.write(inode, 0, 9 * kMiB, 'b'); },
                 [&](Volume& volume) {
                   const auto size = volume.attributes(inode)->size_bytes;
                   REQUIRE((size == 0 || size == 4 * kMiB || size == 8 * kMiB || size == 9 * kMiB));
                   REQUIRE(content_of(volume, inode, 10 * kMiB) == std::string(size, 'b'));
                   seen.insert(size);
                 },
                 6);
  CHECK(seen.size() == 4);
}

TEST_CASE("crash: a clone of many entries that cannot share subtrees is there in its first part") {
  CrashBench bench(32 * kMiB);
  const InodeNumber from = bench.file("from"), to = bench.file("to");
  constexpr std::uint64_t kBlocks = 2'500;
  bench.write(from, 0, kBlocks * kBlock, 'b');
  bench.write(to, 0, kBlocks * kBlock, 'a');
  std::set<std::uint64_t> seen;
  bench.crash_in(
      [&] {
        // Offsets that differ by a block: entry by entry. The call says how far it came, the caller goes on.
        for (std::uint64_t done = 0; done < kBlocks - 1;) {
          const auto step = bench.volume->clone_range(from, (1 + done) * kBlock, to, done * kBlock, (kBlocks - 1 - done) * kBlock);
          REQUIRE(step.has_value());
          done += *step / kBlock;
        }
      },
      [&](Volume& volume) {
        const auto prefix = prefix_of(content_of(volume, to, kBlocks * kBlock), 'b');
        REQUIRE(prefix.has_value());
        seen.insert(*prefix);
        REQUIRE(content_of(volume, from, kBlocks * kBlock) == std::string(kBlocks * kBlock, 'b'));
      },
      5);
  CHECK(seen.size() > 2);
  CHECK(seen.contains(0));
  CHECK(seen.contains(kBlocks - 1));
}

TEST_CASE("crash: an allocation of many pieces is there in its first part, and reads as zeros") {
  CrashBench bench(32 * kMiB);
  const InodeNumber inode = bench.file("f");
  constexpr std::uint64_t kBlocks = 300;  // every other one is a hole: 150 pieces
  for (std::uint64_t i = 0; i < kBlocks; i += 2) bench.write(inode, i * kBlock, kBlock, 'a');
  std::set<std::uint64_t> seen;
  bench.crash_in([&] { REQUIRE(bench.volume->allocate(inode, AllocateMode::kAllocate, 0, kBlocks * kBlock).has_value()); },
                 [&](Volume& volume) {
                   const Attributes now = *volume.attributes(inode);
                   seen.insert(now.block_count);
                   REQUIRE(now.size_bytes == (now.block_count == kBlocks ? kBlocks : kBlocks - 1) * kBlock);
                   const std::string data = content_of(volume, inode, kBlocks * kBlock);
                   for (std::uint64_t i = 0; i < kBlocks - 1; ++i) REQUIRE(data[i * kBlock] == (i % 2 ? '\0' : 'a'));
                 },
                 5);
  CHECK(seen == std::set<std::uint64_t>{150, 150 + 64, 150 + 128, 300});
}

TEST_CASE("crash: zeroing and punching do the edges of a range by themselves") {
  CrashBench bench;
  const InodeNumber inode = bench.file("f");
  bench.write(inode, 0, 6 * kBlock, 'a');
  const auto mode = GENERATE(AllocateMode::kPunch, AllocateMode::kZero);
  bench.crash_in([&] { REQUIRE(bench.volume->allocate(inode, mode, 100, 4 * kBlock).has_value()); },
                 [&](Volume& volume) {
                   const std::string data = content_of(volume, inode, 6 * kBlock);
                   REQUIRE(data.substr(0, 100) == std::string(100, 'a'));
                   REQUIRE(data.substr(100 + 4 * kBlock) == std::string(2 * kBlock - 100, 'a'));
                   // The whole blocks in the middle go together.
                   const std::string middle = data.substr(kBlock, 3 * kBlock);
                   REQUIRE((middle == std::string(3 * kBlock, 'a') || middle == std::string(3 * kBlock, '\0')));
                 });
}

TEST_CASE("crash: zeroing on a full pool takes what it needs before it changes anything") {
  CrashBench bench;
  const InodeNumber own = bench.file("own"), filler = bench.file("filler"), clone = bench.file("clone");
  bench.write(own, 0, 20 * kBlock, 'a');
  bench.write(clone, 0, 1, 'x');
  for (std::uint64_t step = 1'024; step != 0; step /= 2)
    while (bench.volume->allocate(filler, AllocateMode::kAllocate, bench.volume->attributes(filler)->size_bytes, step * kBlock)) {
    }
  // One's own blocks need no others.
  REQUIRE(bench.volume->allocate(own, AllocateMode::kZero, 0, 10 * kBlock).has_value());
  CHECK(content_of(*bench.volume, own, 20 * kBlock) == std::string(10 * kBlock, '\0') + std::string(10 * kBlock, 'a'));
  CHECK(bench.volume->attributes(own)->block_count == 20);
  // Shared ones do.
  REQUIRE(bench.volume->clone_range(own, 0, clone, 0, 20 * kBlock).has_value());
  const auto refused = bench.volume->allocate(own, AllocateMode::kZero, 10 * kBlock, 10 * kBlock);
  REQUIRE(!refused.has_value());
  CHECK(refused.error().code == ErrorCode::kNoSpace);
  CHECK(content_of(*bench.volume, own, 20 * kBlock) == std::string(10 * kBlock, '\0') + std::string(10 * kBlock, 'a'));
}

}  // namespace daxcow::test
