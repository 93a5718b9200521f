// Particular situations of files in a volume, on DRAM.
#include <sys/stat.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "engine/checker.h"
#include "engine/format.h"
#include "engine/inode_table.h"
#include "engine/map.h"
#include "engine/medium_dram.h"
#include "engine/metadata.h"
#include "engine/pool.h"
#include "engine/store.h"
#include "test/catch.h"

namespace daxcow {
namespace {

constexpr std::uint64_t kMiB = 1 << 20, kGiB = 1 << 30;

struct Bench {
  explicit Bench(std::uint64_t size = 64 * kMiB, bool background = false) {
    auto medium = DramMedium::create(size);
    REQUIRE(medium.has_value());
    dram = static_cast<DramMedium*>(medium->get());
    REQUIRE(Pool::format(**medium, {.label = {}, .progress = {}}).has_value());
    auto opened = Pool::open(std::move(*medium), {.background = background, .log = {}});
    REQUIRE(opened.has_value());
    pool = std::move(*opened);
    volume = *pool->mount("main", false);
  }
  ~Bench() {
    volume.reset();
    pool.reset();
  }

  InodeNumber file(const std::string& name) {
    const auto made = volume->create(format::kRootInode, name, {.mode = S_IFREG | 0644, .symlink_target = {}});
    REQUIRE(made.has_value());
    return made->inode;
  }
  Result<> write(InodeNumber inode, std::uint64_t offset, const std::string& data) {
    return volume->write(inode, offset, std::as_bytes(std::span(data)));
  }
  std::string read(InodeNumber inode, std::uint64_t offset, std::uint64_t length) {
    std::string data(length, '?');
    const auto got = volume->read(inode, offset, std::as_writable_bytes(std::span(data)));
    REQUIRE(got.has_value());
    data.resize(*got);
    return data;
  }
  Result<> truncate(InodeNumber inode, std::uint64_t size) {
    AttributeChange change;
    change.size_bytes = size;
    const auto done = volume->set_attributes(inode, change);
    return done ? Result<>{} : Result<>(std::unexpected(done.error()));
  }
  void clone(InodeNumber from, std::uint64_t from_offset, InodeNumber to, std::uint64_t to_offset, std::uint64_t length) {
    for (std::uint64_t done = 0; done < length;) {
      const auto step = volume->clone_range(from, from_offset + done, to, to_offset + done, length - done);
      REQUIRE(step.has_value());
      REQUIRE(*step != 0);
      done += *step;
    }
  }
  void check_clean() {
    pool->settle();
    const auto report = check(*pool, {.progress = {}});
    REQUIRE(report.has_value());
    for (const auto& finding : report->findings) UNSCOPED_INFO(name_of(finding.kind) << " " << finding.where << ": " << finding.what);
    CHECK(report->finding_count == 0u);
  }

  DramMedium* dram = nullptr;
  std::unique_ptr<Pool> pool;
  std::shared_ptr<Volume> volume;
};

}  // namespace

TEST_CASE("truncating a clone inside the first block of a shared node leaves the original alone") {
  Bench bench;
  const InodeNumber a = bench.file("a"), b = bench.file("b");
  for (const std::uint64_t size : {kMiB, 5 * kMiB}) {
    const std::string data(size, 'a');
    REQUIRE(bench.write(a, 0, data).has_value());
    REQUIRE(bench.truncate(b, 0).has_value());
    bench.clone(a, 0, b, 0, data.size());
    for (const std::uint64_t cut : {2 * kMiB + 100, std::uint64_t{100}}) {
      if (cut >= size) continue;
      REQUIRE(bench.truncate(b, cut).has_value());
      CHECK(bench.read(b, 0, 2 * data.size()) == data.substr(0, cut));
      CHECK(bench.read(a, 0, 2 * data.size()) == data);
    }
    bench.check_clean();
  }
}

TEST_CASE("a clone at another alignment into a file that shares its nodes changes that file only") {
  Bench bench(128 * kMiB);
  const InodeNumber t = bench.file("t"), t2 = bench.file("t2"), s = bench.file("s");
  // Sparse, and large enough for nodes on two levels.
  for (std::uint64_t at = 0; at < 2 * kGiB; at += 64 * kMiB) {
    REQUIRE(bench.write(t, at, std::string(4096, 't')).has_value());
    REQUIRE(bench.write(s, at + 4096, std::string(4096, 's')).has_value());
  }
  bench.clone(t, 0, t2, 0, 2 * kGiB - 64 * kMiB + 4096);
  bench.clone(s, 4096, t2, 0, kGiB);
  for (std::uint64_t at = 0; at < 2 * kGiB; at += 64 * kMiB) {
    CHECK(bench.read(t, at, 4096) == std::string(4096, 't'));
    CHECK(bench.read(s, at + 4096, 4096) == std::string(4096, 's'));
    CHECK(bench.read(t2, at, 4096) == std::string(4096, at < kGiB ? 's' : 't'));
  }
  bench.check_clean();
}

TEST_CASE("bytes behind the end of a file are zero after it grows again, however it grows and whoever else has the block") {
  const auto way = GENERATE(0, 1, 2, 3, 4, 5);
  const bool shared = GENERATE(false, true);
  CAPTURE(way, shared);
  Bench bench;
  const InodeNumber a = bench.file("a"), other = bench.file("other"), source = bench.file("source");
  REQUIRE(bench.write(a, 0, std::string(10000, 'x')).has_value());
  REQUIRE(bench.write(source, 0, std::string(8192, 's')).has_value());
  if (shared) bench.clone(a, 0, other, 0, 10000);
  REQUIRE(bench.truncate(a, 5000).has_value());
  const std::string kept(5000, 'x');
  const auto zeros = [](std::uint64_t count) { return std::string(count, '\0'); };
  std::string expected;
  switch (way) {
    case 0:
      REQUIRE(bench.truncate(a, 9000).has_value());
      expected = kept + zeros(4000);
      break;
    case 1:
      REQUIRE(bench.write(a, 6000, "end").has_value());
      expected = kept + zeros(1000) + "end";
      break;
    case 2:
      REQUIRE(bench.write(a, 9500, "end").has_value());
      expected = kept + zeros(4500) + "end";
      break;
    case 3:
      REQUIRE(bench.volume->allocate(a, AllocateMode::kAllocate, 8192, 4096).has_value());
      expected = kept + zeros(12288 - 5000);
      break;
    case 4:
      REQUIRE(bench.volume->allocate(a, AllocateMode::kZero, 6000, 4000).has_value());
      expected = kept + zeros(5000);
      break;
    case 5:
      bench.clone(source, 0, a, 8192, 4096);
      expected = kept + zeros(8192 - 5000) + std::string(4096, 's');
      break;
  }
  CHECK(bench.read(a, 0, 20000) == expected);
  if (shared) CHECK(bench.read(other, 0, 20000) == std::string(10000, 'x'));
  bench.check_clean();
}

TEST_CASE("a file that holds one subtree very often is counted and dropped quickly") {
  Bench bench;
  const InodeNumber a = bench.file("a");
  REQUIRE(bench.write(a, 0, std::string(2 * kMiB, 'a')).has_value());
  REQUIRE(bench.write(a, 4096, "b").has_value());
  for (std::uint64_t size = 2 * kMiB; size < 1024 * kGiB; size *= 2) bench.clone(a, 0, a, size, size);
  const auto attributes = bench.volume->attributes(a);
  REQUIRE(attributes.has_value());
  CHECK(attributes->size_bytes == 1024 * kGiB);
  CHECK(attributes->block_count == 1024 * kGiB / 4096);
  CHECK(bench.read(a, 1023 * kGiB + 4096, 1) == "b");
  REQUIRE(bench.truncate(a, 1).has_value());
  bench.check_clean();
  CHECK(bench.volume->attributes(a)->block_count == 1u);
}

TEST_CASE("looking through a file that holds one subtree very often ends, and so does cloning it at another alignment") {
  Bench bench;
  const InodeNumber reserved = bench.file("reserved"), dense = bench.file("dense"), other = bench.file("other");
  for (std::uint64_t at = 0; at < 2 * kMiB; at += 8192)
    REQUIRE(bench.volume->allocate(reserved, AllocateMode::kAllocate, at, 4096).has_value());
  REQUIRE(bench.truncate(reserved, 2 * kMiB).has_value());
  REQUIRE(bench.write(dense, 0, std::string(2 * kMiB, 'd')).has_value());
  bench.clone(dense, 0, other, 0, 4096);
  REQUIRE(bench.write(dense, 0, "e").has_value());
  constexpr std::uint64_t kSize = 1ull << 60;
  for (std::uint64_t size = 2 * kMiB; size < kSize; size *= 2) {
    bench.clone(reserved, 0, reserved, size, size);
    bench.clone(dense, 0, dense, size, size);
  }
  CHECK(bench.volume->seek(reserved, 0, true).error().code == ErrorCode::kNoData);
  CHECK(bench.volume->seek(dense, 0, false).value() == kSize);
  REQUIRE(bench.write(reserved, kSize - 4096, "end").has_value());
  CHECK(bench.volume->seek(reserved, 5, true).value() == kSize - 4096);
  bench.clone(reserved, 0, other, 4096, kSize);
  CHECK(bench.volume->seek(other, 4096, true).value() == kSize);
  CHECK(bench.read(other, kSize, 10) == std::string("end") + std::string(7, '\0'));
  // Its blocks have more owners than anybody can be told of.
  BlockNumber block;
  REQUIRE(bench.volume->for_each_extent(dense, FileBlock(1), false, [&](const FileExtent& extent) {
    block = extent.block;
    return false;
  }));
  bench.volume->remember(dense);
  std::array<std::byte, 16> buffer;
  bench.dram->inject(block);
  bench.pool->settle();
  CHECK(bench.volume->read(dense, 4096, std::span(buffer)).error().code == ErrorCode::kPoisoned);
  REQUIRE(bench.volume->allocate(dense, AllocateMode::kPunch, 0, kSize).has_value());
  bench.volume->forget_all();
  bench.check_clean();
}

TEST_CASE("files as large as the kernel allows") {
  Bench bench;
  const InodeNumber a = bench.file("a");
  REQUIRE(bench.truncate(a, format::kMaximumFileBytes).has_value());
  REQUIRE(bench.write(a, format::kMaximumFileBytes - 3, "end").has_value());
  CHECK(bench.read(a, format::kMaximumFileBytes - 3, 10) == "end");
  CHECK(bench.write(a, format::kMaximumFileBytes - 2, "end").error().code == ErrorCode::kFileTooBig);
  CHECK(bench.volume->seek(a, 0, true).value() == (format::kMaximumFileBytes - 3) / 4096 * 4096);
  bench.check_clean();
}

TEST_CASE("a full pool says so, loses nothing, and deleting works") {
  Bench bench(16 * kMiB);
  const InodeNumber keep = bench.file("keep");
  REQUIRE(bench.write(keep, 0, std::string(100000, 'k')).has_value());
  unsigned files = 0;
  Result<> last{};
  while (last) {
    const auto made = bench.volume->create(format::kRootInode, "f" + std::to_string(files), {.mode = S_IFREG | 0644, .symlink_target = {}});
    if (!made) {
      last = std::unexpected(made.error());
      break;
    }
    ++files;
    last = bench.write(made->inode, 0, std::string(50000, 'f'));
  }
  CHECK(last.error().code == ErrorCode::kNoSpace);
  CHECK(bench.read(keep, 0, 100000) == std::string(100000, 'k'));
  bench.check_clean();
  for (unsigned i = 0; i < files; ++i) REQUIRE(bench.volume->unlink(format::kRootInode, "f" + std::to_string(i)).has_value());
  bench.pool->settle();
  REQUIRE(bench.write(bench.file("again"), 0, std::string(kMiB, 'a')).has_value());
  bench.check_clean();
}

TEST_CASE("a full pool with a snapshot can always be emptied, whatever removing has used up") {
  Bench bench(64 * kMiB);
  const NewInode file{.mode = S_IFREG | 0644, .symlink_target = {}};
  std::vector<InodeNumber> directories;
  const auto name = [](int i) { return "name-" + std::to_string(i); };
  constexpr int kDirectories = 200, kFiles = 100;
  for (int d = 0; d < kDirectories; ++d) {
    directories.push_back(bench.volume->create(format::kRootInode, "d" + std::to_string(d), {.mode = S_IFDIR | 0755, .symlink_target = {}})->inode);
    for (int i = 0; i < kFiles; ++i) REQUIRE(bench.volume->create(directories.back(), name(i), file).has_value());
  }
  REQUIRE(bench.pool->snapshot("main", "monday", true).has_value());
  const InodeNumber big = bench.file("big");
  std::uint64_t end = 0;
  for (std::uint64_t step = 8 * kMiB; step >= 4096;) {
    if (bench.volume->allocate(big, AllocateMode::kAllocate, end, step))
      end += step;
    else
      step /= 2;
  }
  int made = 0;
  while (bench.volume->create(format::kRootInode, "new" + std::to_string(made), file)) ++made;
  // Each of these copies what the snapshot has too, and frees nothing.
  int refused = 0;
  for (int d = 0; d < kDirectories; ++d)
    for (int i = 0; i < kFiles; i += 16) refused += !bench.volume->unlink(directories[static_cast<std::size_t>(d)], name(i)).has_value();
  CHECK(refused != 0);
  for (std::uint64_t at = 28'672; at < end; at += 1 << 17) (void)bench.volume->allocate(big, AllocateMode::kPunch, at, 4096);
  SECTION("by deleting the snapshot") { REQUIRE(bench.pool->delete_volume("monday").has_value()); }
  SECTION("by truncating what fills it") {
    REQUIRE(bench.volume->set_attributes(big, {.mode = {}, .uid = {}, .gid = {}, .size_bytes = 0, .access = {}, .modification = {}}).has_value());
  }
  bench.pool->settle();
  for (int d = 0; d < kDirectories; ++d)
    for (int i = 0; i < kFiles; ++i) {
      const auto done = bench.volume->unlink(directories[static_cast<std::size_t>(d)], name(i));
      REQUIRE((done || done.error().code == ErrorCode::kNotFound));
    }
  bench.pool->settle();
  bench.check_clean();
}

TEST_CASE("files that are let go are reclaimed in the background, several at once, also when a snapshot shares them") {
  Bench bench(64 * kMiB, true);
  const std::uint64_t free_before = bench.volume->statistics()->free_blocks;
  const bool snapshot = GENERATE(false, true);
  constexpr int kFiles = 1500;  // more than may wait
  std::vector<InodeNumber> files;
  for (int i = 0; i < kFiles; ++i) {
    files.push_back(bench.file("file " + std::to_string(i)));
    bench.volume->remember(files.back());
    REQUIRE(bench.write(files.back(), 0, std::string(i % 3 * kBlockBytes, 'x')).has_value());
  }
  for (int i = 0; i < kFiles; ++i) {
    REQUIRE(bench.volume->unlink(format::kRootInode, "file " + std::to_string(i)).has_value());
    if (snapshot && i % 500 == 250) REQUIRE(bench.pool->snapshot("main", "snapshot-" + std::to_string(i), true).has_value());
    if (i >= 100) bench.volume->forget(files[i - 100], 1);
  }
  for (int i = kFiles - 100; i < kFiles; ++i) bench.volume->forget(files[i], 1);
  bench.check_clean();
  for (const InodeNumber file : files) CHECK(bench.volume->attributes(file).error().code == ErrorCode::kStale);
  if (snapshot)
    for (const std::string number : {"250", "750", "1250"}) REQUIRE(bench.pool->delete_volume("snapshot-" + number).has_value());
  bench.check_clean();
  // But for metadata chunks, which stay, and the directory's own blocks.
  CHECK(free_before - bench.volume->statistics()->free_blocks <= 2048);
}

TEST_CASE("a let-go file that cannot be reclaimed does not keep the others") {
  auto medium = DramMedium::create(64 * kMiB);
  REQUIRE(medium.has_value());
  auto& dram = static_cast<DramMedium&>(**medium);
  REQUIRE(Pool::format(dram, {.label = {}, .progress = {}}).has_value());
  const auto pool = std::move(*Pool::open(std::move(*medium), {.cache_bytes = 1 << 16, .log = {}}));
  const auto volume = *pool->mount("main", false);
  std::vector<InodeNumber> files;
  const auto create = [&](const std::string& name) {
    return volume->create(format::kRootInode, name, {.mode = S_IFREG | 0644, .symlink_target = {}})->inode;
  };
  for (int i = 0; i < 64; ++i) {
    files.push_back(create("file " + std::to_string(i)));
    volume->remember(files.back());
  }
  for (int i = 0; i < 64; ++i) REQUIRE(volume->unlink(format::kRootInode, "file " + std::to_string(i)).has_value());
  // Both copies of the block of one file, after others have taken its place in the cache.
  BlockNumber lost;
  {
    Store& store = pool->store();
    const LockGuard guard(store.mutex);
    const auto table = InodeTable::root(store.metadata(), volume->number());
    lost = entry_at(store.metadata(), *table, FileBlock(files[30].value / format::kInodesPerBlock))->block();
  }
  for (int i = 0; i < 1000; ++i) create("other " + std::to_string(i));
  dram.inject(lost, DramMedium::Injection::kLatent);
  dram.inject(Metadata::mirror_of(lost), DramMedium::Injection::kLatent);
  for (const InodeNumber file : files) volume->forget(file, 1);
  pool->settle();
  int left = 0;
  for (const InodeNumber file : files) {
    const bool is_lost = file.value / format::kInodesPerBlock == files[30].value / format::kInodesPerBlock;
    const ErrorCode code = volume->attributes(file).error().code;
    CHECK(is_lost == (code != ErrorCode::kStale));
    left += is_lost;
  }
  CHECK(left == static_cast<int>(format::kInodesPerBlock));
}

TEST_CASE("what needs no room works in a full pool: appends to a last block, and truncation inside of one") {
  Bench bench(16 * kMiB);
  const InodeNumber log = bench.file("log"), big = bench.file("big");
  REQUIRE(bench.write(log, 0, std::string(100, 'l')).has_value());
  Result<> last{};
  std::uint64_t size = 0;
  for (; last; size += last ? 4096 : 0) last = bench.write(big, size, std::string(4096, 'b'));
  CHECK(last.error().code == ErrorCode::kNoSpace);
  for (std::uint64_t at = 100; at < 4000; at += 100) REQUIRE(bench.write(log, at, std::string(100, 'm')).has_value());
  CHECK(bench.read(log, 0, 5000) == std::string(100, 'l') + std::string(3900, 'm'));
  REQUIRE(bench.truncate(big, size - 5000).has_value());
  CHECK(bench.read(big, size - 6000, 6000) == std::string(1000, 'b'));
  bench.check_clean();
}

TEST_CASE("a directory of many entries: all are found, each is listed once while others come and go") {
  Bench bench(256 * kMiB);
  constexpr unsigned kEntries = 20'000;
  for (unsigned i = 0; i < kEntries; ++i) bench.file("entry " + std::to_string(i));
  std::vector<unsigned> seen(kEntries);
  unsigned removed = 0;
  std::uint64_t cookie = 0;
  for (bool more = true; more;) {
    more = false;
    unsigned batch = 0;
    REQUIRE(bench.volume->read_directory(format::kRootInode, cookie, [&](const DirectoryItem& item) {
      if (++batch > 100) {
        more = true;
        return false;
      }
      cookie = item.cookie;
      if (item.name.starts_with("entry ")) ++seen[std::stoul(std::string(item.name.substr(6)))];
      return true;
    }).has_value());
    // Odd ones go from the far end, new ones come.
    for (unsigned i = 0; i < 40 && removed < kEntries / 2; ++i, ++removed)
      REQUIRE(bench.volume->unlink(format::kRootInode, "entry " + std::to_string(kEntries - 1 - 2 * removed)).has_value());
    bench.file("new " + std::to_string(cookie));
  }
  for (unsigned i = 0; i < kEntries; i += 2) CHECK(seen[i] == 1u);
  for (unsigned i = 1; i < kEntries; i += 2) CHECK(seen[i] <= 1u);
  CHECK(bench.volume->lookup(format::kRootInode, "entry 0").has_value());
  REQUIRE(removed != 0);
  CHECK(!bench.volume->lookup(format::kRootInode, "entry " + std::to_string(kEntries - 1)).has_value());
  bench.check_clean();
}

}  // namespace daxcow
