// Writers, readers, cloners and a snapshotter on the same files at once. Every block says which file it belongs to and which
// version it is, so a block of another file, a torn block or a snapshot that moves is seen at once.
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "engine/checker.h"
#include "engine/format.h"
#include "engine/medium_dram.h"
#include "engine/pool.h"
#include "test/catch.h"
#include "test/seed.h"

namespace daxcow {
namespace {

constexpr std::uint64_t kFiles = 4, kBlocks = 600;  // a file is more than one map node

struct Stamp {  // fills a block
  std::uint64_t file, block, version;
};
using StampedBlock = std::array<Stamp, kBlockBytes / sizeof(Stamp)>;

void stamp(std::vector<std::byte>& bytes, std::uint64_t file, std::uint64_t first, std::uint64_t count, std::uint64_t version) {
  bytes.assign(count * kBlockBytes, std::byte{0});
  for (std::uint64_t i = 0; i < count; ++i) {
    StampedBlock block;
    block.fill({file, first + i, version});
    std::memcpy(bytes.data() + i * kBlockBytes, &block, sizeof block);
  }
}

// Whole, of this file, at this place? Blocks never written are zero.
bool good(const std::byte* bytes, std::uint64_t file, std::uint64_t at) {
  StampedBlock block;
  std::memcpy(&block, bytes, sizeof block);
  for (const Stamp& stamp : block)
    if (std::memcmp(&stamp, &block[0], sizeof stamp) != 0) return false;
  return block[0].version == 0 || (block[0].file == file && block[0].block == at);
}

struct Party {
  Pool& pool;
  Volume& volume;
  std::array<InodeNumber, kFiles> files;
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> faults{0}, writes{0}, reads{0};

  void write(unsigned seed) {
    std::mt19937_64 random(seed);
    std::vector<std::byte> bytes;
    for (std::uint64_t version = 1; !stop; ++version) {
      const std::uint64_t file = random() % kFiles, count = 1 + random() % 8, first = random() % (kBlocks - count);
      stamp(bytes, file, first, count, version);
      if (!volume.write(files[file], first * kBlockBytes, bytes)) ++faults;
      ++writes;
      if (random() % 64 == 0 && !volume.allocate(files[file], AllocateMode::kPunch, first * kBlockBytes, count * kBlockBytes)) ++faults;
    }
  }
  void read(unsigned seed) {
    std::mt19937_64 random(seed);
    std::vector<std::byte> bytes(8 * kBlockBytes);
    while (!stop) {
      const std::uint64_t file = random() % kFiles, first = random() % (kBlocks - 8);
      const auto got = volume.read(files[file], first * kBlockBytes, std::span(bytes));
      if (!got) ++faults;
      for (std::uint64_t i = 0; got && i < *got / kBlockBytes; ++i)
        if (!good(bytes.data() + i * kBlockBytes, file, first + i)) ++faults;
      ++reads;
    }
  }
};

std::vector<std::byte> content_of(Volume& volume, InodeNumber inode) {
  std::vector<std::byte> bytes(kBlocks * kBlockBytes);
  const auto got = volume.read(inode, 0, std::span(bytes));
  REQUIRE(got.has_value());
  bytes.resize(*got);
  return bytes;
}

}  // namespace

TEST_CASE("snapshots and clones under load: nothing moves, nothing is mixed up") {
  const auto seed = static_cast<unsigned>(test::random_seed());
  INFO(test::describe_seed(seed));
  auto medium = DramMedium::create(192 << 20);
  REQUIRE(medium.has_value());
  REQUIRE(Pool::format(**medium, {.label = {}, .progress = {}}).has_value());
  auto opened = Pool::open(std::move(*medium), {.log = {}});
  REQUIRE(opened.has_value());
  const auto pool = std::move(*opened);
  auto volume = *pool->mount("main", false);
  Party party{*pool, *volume, {}};
  for (std::uint64_t i = 0; i < kFiles; ++i) {
    const auto made = volume->create(format::kRootInode, "f" + std::to_string(i), {.mode = S_IFREG | 0644, .symlink_target = {}});
    REQUIRE(made.has_value());
    party.files[i] = made->inode;
  }

  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 2; ++i) threads.emplace_back([&party, seed, i] { party.write(seed + i); });
  for (unsigned i = 0; i < 2; ++i) threads.emplace_back([&party, seed, i] { party.read(seed + 10 + i); });

  // Snapshots (some deleted again), and clones that nobody writes to.
  struct Frozen {
    std::shared_ptr<Volume> volume;
    std::string name;
    std::array<std::vector<std::byte>, kFiles> content;
  };
  std::vector<Frozen> snapshots;
  std::vector<std::pair<InodeNumber, std::vector<std::byte>>> clones;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(4);
  for (unsigned round = 0; std::chrono::steady_clock::now() < end || round < 6; ++round) {
    Frozen frozen{nullptr, "s" + std::to_string(round), {}};
    REQUIRE(pool->snapshot("main", frozen.name, true).has_value());
    frozen.volume = *pool->mount(frozen.name, true);
    for (std::uint64_t i = 0; i < kFiles; ++i) frozen.content[i] = content_of(*frozen.volume, party.files[i]);
    snapshots.push_back(std::move(frozen));
    const InodeNumber from = party.files[round % kFiles];
    const auto clone = volume->create(format::kRootInode, "c" + std::to_string(round), {.mode = S_IFREG | 0644, .symlink_target = {}});
    REQUIRE(clone.has_value());
    REQUIRE(volume->clone_range(from, 0, clone->inode, 0, kBlocks * kBlockBytes).has_value());
    clones.emplace_back(clone->inode, content_of(*volume, clone->inode));
    if (snapshots.size() > 4) {
      const std::string name = snapshots.front().name;
      for (std::uint64_t i = 0; i < kFiles; ++i) REQUIRE(content_of(*snapshots.front().volume, party.files[i]) == snapshots.front().content[i]);
      snapshots.erase(snapshots.begin());
      REQUIRE(pool->delete_volume(name).has_value());
    }
    if (clones.size() > 4) {
      REQUIRE(content_of(*volume, clones.front().first) == clones.front().second);
      clones.erase(clones.begin());
      REQUIRE(volume->unlink(format::kRootInode, "c" + std::to_string(round - 4)).has_value());
    }
  }
  party.stop = true;
  for (std::thread& thread : threads) thread.join();
  INFO("writes " << party.writes << ", reads " << party.reads);
  CHECK(party.faults == 0u);
  for (const Frozen& frozen : snapshots)
    for (std::uint64_t i = 0; i < kFiles; ++i) CHECK(content_of(*frozen.volume, party.files[i]) == frozen.content[i]);
  for (const auto& [inode, content] : clones) CHECK(content_of(*volume, inode) == content);
  pool->settle();
  const auto report = check(*pool, {.progress = {}});
  REQUIRE(report.has_value());
  for (const auto& finding : report->findings) UNSCOPED_INFO(name_of(finding.kind) << " " << finding.where << ": " << finding.what);
  CHECK(report->finding_count == 0u);
}

TEST_CASE("a file that was let go, and opened again before it was reclaimed, stays until it is let go again") {
  auto medium = DramMedium::create(64 << 20);
  REQUIRE(medium.has_value());
  REQUIRE(Pool::format(**medium, {.label = {}, .progress = {}}).has_value());
  PoolOptions options;
  options.background = false;  // reclaiming is left to settle(), as to the background
  options.leaves_reclaiming = true;
  const auto pool = std::move(*Pool::open(std::move(*medium), options));
  const auto volume = *pool->mount("main", false);
  const auto made = volume->create(format::kRootInode, "file", {.mode = S_IFREG | 0644, .symlink_target = {}});
  REQUIRE(made.has_value());
  volume->remember(made->inode);
  REQUIRE(volume->unlink(format::kRootInode, "file").has_value());
  volume->forget(made->inode, 1);
  volume->remember(made->inode);  // by a file handle
  pool->settle();
  REQUIRE(volume->attributes(made->inode).has_value());
  CHECK(volume->attributes(made->inode)->generation == made->generation);
  volume->forget(made->inode, 1);
  pool->settle();
  CHECK_FALSE(volume->attributes(made->inode).has_value());
  CHECK(check(*pool, {.progress = {}})->finding_count == 0u);
}

TEST_CASE("an inode that is forgotten while another opens and unlinks it stays for the other") {
  auto medium = DramMedium::create(64 << 20);
  REQUIRE(medium.has_value());
  REQUIRE(Pool::format(**medium, {.label = {}, .progress = {}}).has_value());
  const auto pool = std::move(*Pool::open(std::move(*medium), {.log = {}}));
  const auto volume = *pool->mount("main", false);
  std::barrier together(2);
  std::atomic<InodeNumber> shared = format::kRootInode;
  constexpr int kRounds = 4000;
  std::thread forgetter([&] {
    for (int i = 0; i < kRounds; ++i) {
      together.arrive_and_wait();
      volume->forget(shared, 1);
      together.arrive_and_wait();
    }
  });
  std::atomic<bool> stop = false;  // others keep what both wait for
  std::thread busy([&] {
    while (!stop) {
      (void)volume->create(format::kRootInode, "other", {.mode = S_IFREG | 0644, .symlink_target = {}});
      (void)volume->unlink(format::kRootInode, "other");
    }
  });
  int lost = 0;
  for (int i = 0; i < kRounds; ++i) {
    const auto made = volume->create(format::kRootInode, "file", {.mode = S_IFREG | 0644, .symlink_target = {}});
    const bool good = made.has_value();
    if (good) {
      volume->remember(made->inode);
      shared = made->inode;
    }
    together.arrive_and_wait();
    const auto found = volume->lookup(format::kRootInode, "file");
    if (found) volume->remember(found->inode);
    const bool unlinked = volume->unlink(format::kRootInode, "file").has_value();
    together.arrive_and_wait();
    const auto still = found ? volume->attributes(found->inode) : found;
    if (!good || !unlinked || !still || still->generation != found->generation) ++lost;
    if (found) volume->forget(found->inode, 1);
  }
  forgetter.join();
  stop = true;
  busy.join();
  CHECK(lost == 0);
  CHECK(check(*pool, {.progress = {}})->finding_count == 0u);
}

}  // namespace daxcow
