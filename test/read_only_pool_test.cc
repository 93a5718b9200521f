// Pools that are opened read-only: nothing is written, whatever they need and whatever is found, until they become writable
// with everybody at work in them.
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/checker.h"
#include "engine/format.h"
#include "engine/medium_dram.h"
#include "engine/metadata.h"
#include "engine/overlay_medium.h"
#include "engine/pool.h"
#include "test/catch.h"
#include "test/dump.h"

namespace daxcow::test {
namespace {

using Image = std::vector<std::byte>;

template <class T>
T must(Result<T>&& result) {
  if (!result) FAIL(describe(result.error()));
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

constexpr NewInode kFile{.mode = S_IFREG | 0644, .symlink_target = {}};

std::span<const std::byte> text(const std::string& bytes) { return std::as_bytes(std::span(bytes)); }

void copy_area(Image& to, const Image& from, BlockNumber first, std::uint64_t count) {
  const auto begin = static_cast<std::ptrdiff_t>(byte_offset(first));
  std::copy_n(from.begin() + begin, count * kBlockBytes, to.begin() + begin);
}

enum class Copies { kBoth, kPrimary, kMirror };

// A machine that stopped when the change of a mode was committed, but nothing of it home: only the journal knows.
Image stopped_after_commit(Copies copies) {
  auto medium = must(DramMedium::create(24 << 20));
  must(Pool::format(*medium, {.label = {}, .progress = {}}));
  DramMedium* const raw = medium.get();
  const auto pool = must(Pool::open(std::move(medium), {.background = false, .log = {}}));
  const auto volume = must(pool->mount("main", false));
  const auto file = must(volume->create(format::kRootInode, "file", kFile)).inode;
  must(volume->write(file, 0, text(std::string(40'000, 'a'))));
  for (int i = 0; i < 100; ++i) must(volume->create(format::kRootInode, "name" + std::to_string(i), kFile));
  must(pool->snapshot("main", "kept", true));
  must(volume->set_attributes(file, {.mode = 0600, .uid = {}, .gid = {}, .size_bytes = {}, .access = {}, .modification = {}}));
  Image stopped = raw->snapshot();
  must(volume->set_attributes(file, {.mode = 0640, .uid = {}, .gid = {}, .size_bytes = {}, .access = {}, .modification = {}}));
  const Image after = raw->snapshot();
  if (copies != Copies::kMirror) copy_area(stopped, after, format::kJournalChunk, format::kMirrorBlocks);
  if (copies != Copies::kPrimary)
    copy_area(stopped, after, Metadata::mirror_of(format::kJournalChunk), format::kMirrorBlocks);
  return stopped;
}

struct Opened {
  DramMedium* medium = nullptr;
  std::unique_ptr<Pool> pool;
};

Opened open(const Image& image, bool read_only, bool background = false) {
  auto medium = must(DramMedium::from_image(image));
  DramMedium* const raw = medium.get();
  return {raw, must(Pool::open(std::move(medium), {.read_only = read_only, .background = background, .log = {}}))};
}

std::uint32_t mode_of(Volume& volume) { return must(volume.find("file")).mode & 07777; }

std::string read_all(Volume& volume, const std::string& path) {
  const auto attributes = must(volume.find(path));
  std::string bytes(attributes.size_bytes, '\0');
  const auto got = must(volume.read(attributes.inode, 0, std::as_writable_bytes(std::span(bytes))));
  bytes.resize(got);
  return bytes;
}

void expect_clean(const Image& image) {
  const auto opened = open(image, false);
  const auto report = must(check(*opened.pool, {.progress = {}}));
  for (const auto& finding : report.findings) UNSCOPED_INFO(finding.where << ": " << finding.what);
  CHECK(report.clean());
}

TEST_CASE("A pool opened read-only is not written to, and becomes writable in use") {
  const auto copies = GENERATE(Copies::kBoth, Copies::kPrimary, Copies::kMirror);
  const bool background = GENERATE(false, true);
  const Image stopped = stopped_after_commit(copies);
  const Dump before = [&] {
    const auto recovered = open(stopped, false);
    return must(dump(*recovered.pool));
  }();

  auto opened = open(stopped, true, background);
  auto& pool = *opened.pool;
  const auto volume = must(pool.mount("main", true));
  CHECK(mode_of(*volume) == 0640);
  CHECK(difference(before, must(dump(pool, {{"main", volume}}))) == std::nullopt);
  pool.settle();
  CHECK(pool.create_volume("new").error().code == ErrorCode::kReadOnly);
  CHECK(pool.mount("kept", false).error().code == ErrorCode::kReadOnly);
  CHECK(must(pool.statistics()).medium.read_only);
  CHECK(must(pool.statistics()).shutdown.last == LastShutdown::kUnclean);
  const auto lease = must(volume->read(must(volume->find("file")).inode, 0, 40'000));
  CHECK(opened.medium->snapshot() == stopped);

  must(pool.begin_writing());
  must(pool.begin_writing());
  const Image crashed = opened.medium->snapshot();
  CHECK_FALSE(must(pool.statistics()).medium.read_only);
  CHECK(mode_of(*volume) == 0640);
  CHECK(std::string(static_cast<const char*>(lease.pieces().front().iov_base), 4) == "aaaa");
  CHECK(difference(before, must(dump(pool, {{"main", volume}}))) == std::nullopt);
  CHECK(volume->create(format::kRootInode, "no", kFile).error().code == ErrorCode::kReadOnly);
  must(pool.create_volume("new"));
  {
    const auto fresh = must(pool.mount("new", false));
    const auto made = must(fresh->create(format::kRootInode, "made", kFile)).inode;
    must(fresh->write(made, 0, text("written")));
    CHECK(read_all(*volume, "file") == std::string(40'000, 'a'));
  }
  expect_clean(crashed);
  {
    const auto again = open(crashed, true);
    CHECK(difference(before, must(dump(*again.pool))) == std::nullopt);
  }
  const Image unclosed = opened.medium->snapshot();
  CHECK(must(open(unclosed, true).pool->statistics()).shutdown.last == LastShutdown::kUnclean);
  const auto again = open(unclosed, true);
  CHECK(read_all(*must(again.pool->mount("new", true)), "made") == "written");
  expect_clean(unclosed);
}

TEST_CASE("A volume that is mounted read-only becomes writable in use, unless it is a read-only one") {
  const Image stopped = [] {
    auto opened = open(stopped_after_commit(Copies::kBoth), false);
    const auto volume = must(opened.pool->mount("main", false));
    const auto orphan = must(volume->create(format::kRootInode, "orphan", kFile)).inode;
    must(volume->write(orphan, 0, text(std::string(1 << 20, 'o'))));
    volume->remember(orphan);
    must(volume->unlink(format::kRootInode, "orphan"));
    return opened.medium->snapshot();
  }();
  auto opened = open(stopped, true);
  auto volume = must(opened.pool->mount("main", true)), kept = must(opened.pool->mount("kept", true));
  const auto file = must(volume->find("file")).inode;
  CHECK(opened.pool->begin_writing(*volume).error().code == ErrorCode::kReadOnly);  // the pool is
  must(opened.pool->begin_writing());
  CHECK(volume->write(file, 0, text("no")).error().code == ErrorCode::kReadOnly);
  CHECK(opened.pool->begin_writing(*kept).error().code == ErrorCode::kReadOnly);
  CHECK(kept->read_only());
  const auto space = [&] {
    opened.pool->settle();
    return must(opened.pool->statistics()).data_free_blocks;
  };
  const auto before = space();
  must(opened.pool->begin_writing(*volume));
  CHECK_FALSE(volume->read_only());
  CHECK(space() >= before + 256);  // of the file without a name
  must(volume->write(file, 0, text("yes")));
  CHECK(read_all(*volume, "file").starts_with("yesa"));
  CHECK(read_all(*kept, "file").starts_with("aaaa"));
  volume.reset();
  kept.reset();
  expect_clean(opened.medium->snapshot());
}

TEST_CASE("A pool whose medium cannot be written stays read-only") {
  const Image stopped = stopped_after_commit(Copies::kBoth);
  auto medium = must(DramMedium::from_image(stopped));
  DramMedium* const raw = medium.get();
  const auto pool = must(Pool::open(std::make_unique<OverlayMedium>(std::move(medium)), {.background = true, .log = {}}));
  const auto refused = pool->begin_writing();
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == ErrorCode::kReadOnly);
  CHECK(mode_of(*must(pool->mount("main", true))) == 0640);
  CHECK(raw->snapshot() == stopped);
}

TEST_CASE("Poison that was found read-only is recorded and dealt with once the pool is writable") {
  const Image stopped = stopped_after_commit(Copies::kBoth);
  auto opened = open(stopped, true);
  auto& pool = *opened.pool;
  auto volume = must(pool.mount("main", true));
  const auto file = must(volume->find("file")).inode;
  BlockNumber lost;
  must(volume->for_each_extent(file, FileBlock(0), false, [&](const FileExtent& extent) {
    lost = extent.block + 2;
    return false;
  }));
  const BlockNumber metadata = format::kRootsBlock;
  BlockNumber free = lost;
  while (must(pool.report(free, 1)).use != BlockUse::kFree) free = free + 1;
  opened.medium->inject(lost);
  opened.medium->inject(metadata);
  opened.medium->inject(free);
  pool.settle();
  const auto is_lost = [](Volume& where, InodeNumber inode) {
    std::byte block[kBlockBytes];
    const auto read = where.read(inode, 2 * kBlockBytes, block);
    return !read && read.error().code == ErrorCode::kPoisoned;
  };
  CHECK(is_lost(*volume, file));
  CHECK(opened.medium->snapshot() == stopped);
  const auto last = pool.events().last_sequence();

  must(pool.begin_writing());
  pool.settle();
  CHECK(is_lost(*volume, file));
  for (const auto& event : pool.events().after(last, 1000, 0)) {
    INFO(event.text);
    CHECK(event.kind != EventKind::kPoisonFound);  // nobody is told twice
    CHECK(event.kind != EventKind::kDataLost);
  }
  const auto bad = must(opened.medium->bad_ranges());
  REQUIRE(bad.size() == 1);  // what nobody needs was cleared, what has a copy was rewritten
  CHECK(bad.front().offset_bytes == byte_offset(lost));
  const auto ledger = must(pool.poison_list(10));
  REQUIRE(ledger.size() == 1);
  CHECK(ledger.front().block == lost);
  // It is in the pool, not only in memory.
  const auto again = open(opened.medium->snapshot(), true);
  CHECK(must(again.pool->poison_list(10)).size() == 1);
  CHECK(is_lost(*must(again.pool->mount("main", true)), file));
}

TEST_CASE("Readers notice nothing when a pool becomes writable") {
  for (int round = 0; round < 8; ++round) {
    auto medium = must(DramMedium::from_image(stopped_after_commit(Copies::kBoth)));
    const auto pool =
        must(Pool::open(std::move(medium), {.read_only = true, .cache_bytes = 1 << 16, .background = true, .log = {}}));
    const auto volume = must(pool->mount("main", true));
    std::atomic<bool> stop = false;
    std::atomic<unsigned> wrong = 0, looks = 0;
    std::vector<std::thread> readers;
    for (int i = 0; i < 3; ++i)
      readers.emplace_back([&, i] {
        for (unsigned n = 0; !stop; ++n) {
          const auto found = volume->find("name" + std::to_string((n * 7 + static_cast<unsigned>(i)) % 100));
          const auto file = volume->find("file");
          if (!found || !file || (file->mode & 07777) != 0640) ++wrong;
          char bytes[64];
          if (!file || volume->read(file->inode, 30'000, std::as_writable_bytes(std::span(bytes))) != 64 || bytes[63] != 'a')
            ++wrong;
          if (!volume->sync_all()) ++wrong;
          ++looks;
        }
      });
    while (looks < 50) std::this_thread::yield();
    const auto begun = pool->begin_writing();
    const auto made = pool->create_volume("new");
    for (const unsigned seen = looks; looks < seen + 50;) std::this_thread::yield();
    stop = true;
    for (auto& reader : readers) reader.join();
    REQUIRE(begun);
    REQUIRE(made);
    REQUIRE(wrong == 0);
  }
}

}  // namespace
}  // namespace daxcow::test
