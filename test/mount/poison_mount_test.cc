// Poison on real mounts: who is told of a bad block and who is not, what can still be read, how owners heal, and what
// becomes of poison in everything that is not a file's data.
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <optional>

#include <fmt/format.h>

#include "engine/format.h"
#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

using nlohmann::json;

constexpr std::uint64_t kBlocks = 16;   // of each file
constexpr std::uint64_t kBadBlock = 5;  // of them
constexpr std::uint64_t kBadOffset = kBadBlock * kBlockBytes;
// A page that the kernel still has would repair the damage.
constexpr const char* kLosing = "no_rescue";
constexpr int kNoSignalMilliseconds = 300;  // how long a bystander must stay undisturbed

std::uint64_t free_blocks(const std::string& mount_point) {
  struct statvfs status;
  REQUIRE(::statvfs(mount_point.c_str(), &status) == 0);
  return status.f_bfree;
}

void change_range(const std::string& file, int mode, std::uint64_t offset, std::uint64_t length) {
  const auto descriptor = need_open(file, O_RDWR);
  INFO(file << ": " << std::strerror(errno));
  REQUIRE(::fallocate(descriptor.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0);
}

// One block that five ranges of two volumes and a snapshot own, and files that do not own it.
struct SharedBlock {
  MountedPool pool;
  std::string content = pattern(1, kBlocks);
  std::string main = pool.mount("main", kLosing), second, snapshot;
  std::uint64_t pool_offset = 0;
  std::vector<std::string> owners;
  std::multiset<std::string> ranges;

  SharedBlock() {
    pool.need_run("daxcow volume create $POOL second");
    second = pool.mount("second", kLosing);
    write_file(main + "/original", content);
    write_file(main + "/bystander", pattern(2, kBlocks));
    pool.need_run("cp --reflink=auto main/original main/clone && cp --reflink=auto main/original main/partner");
    pool.need_run("daxcow clone main/original second/copy");
    overwrite(main + "/partner", kBadOffset, pattern(3, 1));  // shares all but this block
    pool.need_run("daxcow snapshot $POOL main before");
    snapshot = pool.mount("before", kLosing);
    owners = {main + "/original", main + "/clone", second + "/copy", snapshot + "/original", snapshot + "/clone"};
    pool_offset = pool.pool_offset(owners[0], kBadOffset);
    for (const char* file : {"main:/original", "main:/clone", "second:/copy", "before:/original", "before:/clone"})
      ranges.insert(fmt::format("{}@{}+{}", file, kBadOffset, kBlockBytes));
  }
};

TEST_CASE("Every owner of a bad block is told, and nobody else, and each heals on its own") {
  if (skipped_without_mounts()) return;
  SharedBlock shared;
  MountedPool& pool = shared.pool;
  REQUIRE(ranges_of(pool.block_at(shared.pool_offset).at("owners")) == shared.ranges);

  // Processes that map the block, wholly or from its middle, and that map something else. All pages are in the kernel's
  // cache.
  std::deque<Mapper> hit, spared;
  hit.emplace_back(shared.main + "/original", 0, kBlocks * kBlockBytes);
  hit.emplace_back(shared.main + "/clone", kBadOffset, 2 * kBlockBytes);
  hit.emplace_back(shared.second + "/copy", 4 * kBlockBytes, 4 * kBlockBytes);
  hit.emplace_back(shared.snapshot + "/original", 0, kBlocks * kBlockBytes);
  spared.emplace_back(shared.main + "/bystander", 0, kBlocks * kBlockBytes);
  spared.emplace_back(shared.main + "/partner", 0, kBlocks * kBlockBytes);
  spared.emplace_back(shared.main + "/original", 0, kBadOffset);
  spared.emplace_back(shared.snapshot + "/clone", kBadOffset + kBlockBytes, 4 * kBlockBytes);
  for (const auto& owner : shared.owners) REQUIRE(read_range(owner, 0, 1 << 20) == shared.content);

  pool.poison(shared.pool_offset);
  REQUIRE(wait_until([&] { return pool.events_of("data-lost").size() >= shared.ranges.size(); }));
  pool.settle();

  // Events.
  CHECK(ranges_of(pool.events_of("data-lost")) == shared.ranges);
  CHECK(pool.events_of("poison-found").size() == 1);
  std::set<pid_t> expected, signalled;
  for (const auto& mapper : hit) expected.insert(mapper.process());
  for (const auto& event : pool.events_of("process-signalled")) signalled.insert(event.at("process").get<pid_t>());
  CHECK(signalled == expected);
  const std::string printed = pool.need_run("daxcow events --json $POOL");
  CHECK(static_cast<std::size_t>(std::ranges::count(printed, '\n')) == pool.events().size());

  // Processes: told at once, and again when they touch it.
  for (auto& mapper : hit) {
    const auto early = mapper.early_signals(5000);
    REQUIRE(early.size() == 1);
    CHECK(early[0].code < 0);
    CHECK(early[0].file_offset == kBadOffset);
    CHECK(early[0].address_bits == 12);
    const auto fault = mapper.access(kBadOffset + 77);
    REQUIRE(fault);
    CHECK(fault->file_offset / kBlockBytes == kBadBlock);
    CHECK_FALSE(mapper.access(kBadOffset + kBlockBytes));
  }
  for (auto& mapper : spared) CHECK(mapper.early_signals(kNoSignalMilliseconds).empty());
  CHECK_FALSE(spared[0].access(kBadOffset));
  CHECK_FALSE(spared[1].access(kBadOffset));
  CHECK_FALSE(spared[2].access(kBadOffset - 1));
  CHECK_FALSE(spared[3].access(kBadOffset + kBlockBytes));

  // Reads: the block fails, its neighbours do not, whether cached or not.
  for (const bool cached : {true, false})
    for (const auto& owner : shared.owners) {
      if (!cached) drop_pages(owner);
      INFO(owner << (cached ? ", cached" : ", not cached"));
      CHECK(unreadable_blocks(owner) == std::set<std::uint64_t>{kBadBlock});
      CHECK(read_range(owner, 0, kBadOffset) == shared.content.substr(0, kBadOffset));
      CHECK(read_range(owner, kBadOffset + kBlockBytes, 1 << 20) == shared.content.substr(kBadOffset + kBlockBytes));
    }
  CHECK(unreadable_blocks(shared.main + "/bystander").empty());
  drop_pages(shared.main + "/partner");
  CHECK(unreadable_blocks(shared.main + "/partner").empty());
  // Writing a part of the block needs the rest of it.
  {
    const auto file = need_open(shared.main + "/original", O_WRONLY);
    CHECK(::pwrite(file.get(), "x", 1, static_cast<off_t>(kBadOffset)) == -1);
    CHECK(errno == EIO);
  }

  // The ledger survives.
  hit.clear();
  spared.clear();
  const auto report = pool.check_clean();
  CHECK(report.at("ledger_blocks") == 1);
  pool.mount("main", kLosing);
  pool.mount("second", kLosing);
  pool.mount("before", kLosing);
  const auto listed = pool.need_json("daxcow poison list --json $POOL").at("blocks");
  REQUIRE(listed.size() == 1);
  CHECK(listed[0].at("offset_bytes") == shared.pool_offset);
  CHECK(ranges_of(listed[0].at("owners")) == shared.ranges);
  for (const auto& owner : shared.owners) CHECK(unreadable_blocks(owner) == std::set<std::uint64_t>{kBadBlock});

  // One heals after the other, each in its own way.
  const auto free_before = free_blocks(shared.main);
  const auto still_bad = [&](std::size_t from) {
    for (std::size_t i = 0; i < shared.owners.size(); ++i) {
      if (!fs::exists(shared.owners[i])) continue;
      INFO(shared.owners[i] << " after " << from << " were healed");
      if (i < from)
        CHECK(unreadable_blocks(shared.owners[i]).empty());
      else
        CHECK(unreadable_blocks(shared.owners[i]) == std::set<std::uint64_t>{kBadBlock});
    }
    CHECK(pool.block_at(shared.pool_offset).at("owners").size() == shared.owners.size() - from);
  };
  overwrite(shared.owners[0], kBadOffset, pattern(9, 1));
  CHECK(read_range(shared.owners[0], kBadOffset, kBlockBytes) == pattern(9, 1));
  still_bad(1);
  change_range(shared.owners[1], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kBadOffset, kBlockBytes);
  CHECK(read_range(shared.owners[1], kBadOffset, kBlockBytes) == std::string(kBlockBytes, '\0'));
  still_bad(2);
  change_range(shared.owners[2], FALLOC_FL_ZERO_RANGE, kBadOffset, kBlockBytes);
  CHECK(read_range(shared.owners[2], kBadOffset, kBlockBytes) == std::string(kBlockBytes, '\0'));
  still_bad(3);
  REQUIRE(::truncate(shared.owners[3].c_str(), static_cast<off_t>(kBadOffset)) == 0);
  still_bad(4);
  CHECK(pool.block_at(shared.pool_offset).at("in_ledger") == true);
  CHECK_FALSE(read_text(pool.pool() + ".badblocks").empty());
  REQUIRE(::unlink(shared.owners[4].c_str()) == 0);

  // The last reference is gone: the device works again, and the block is free.
  pool.settle();
  CHECK(wait_until([&] { return pool.block_at(shared.pool_offset).at("use") == "free"; }));
  CHECK(pool.nothing_is_bad());
  CHECK(pool.events_of("block-cleared").size() == 1);
  const auto healed = ranges_of(pool.events_of("data-healed"));
  CHECK(healed.count(fmt::format("main:/original@{}+{}", kBadOffset, kBlockBytes)) == 1);
  CHECK(healed.count(fmt::format("main:/clone@{}+{}", kBadOffset, kBlockBytes)) == 1);
  CHECK(healed.count(fmt::format("second:/copy@{}+{}", kBadOffset, kBlockBytes)) == 1);
  // Overwriting took a block, zeroing may have; the bad one came back, and so did the tail of before:/original unless
  // shared.
  const auto free_after = free_blocks(shared.main);
  CHECK(free_after + 2 >= free_before);
  CHECK(pool.check_clean().at("free_blocks") == free_after);
}

TEST_CASE("A bad block of which a file owns two ranges, and one that many files own, reach all of them") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", kLosing);
  const std::string content = pattern(4, 3);
  write_file(main + "/twice", content);
  // The same block at two offsets of one file, and in files of every kind of place.
  pool.need_run("daxcow clone --offset 4096 --length 4096 --dst-offset 40960 main/twice main/twice");
  // (cp would not share: it reads files that have holes.)
  pool.need_run("mkdir -p 'main/a b/c' && daxcow clone main/twice 'main/a b/c/deep' && ln main/twice main/link");
  pool.need_run("for i in $(seq 50); do daxcow clone main/twice main/many$i || exit 1; done");
  const auto offset = pool.pool_offset(main + "/twice", kBlockBytes);
  CHECK(pool.pool_offset(main + "/twice", 40960) == offset);
  std::optional<Mapper> mapper(std::in_place, main + "/twice", 0, 11 * kBlockBytes);
  pool.poison(offset);
  REQUIRE(wait_until([&] { return pool.events_of("data-lost").size() >= 104; }));
  pool.settle();
  CHECK(pool.events_of("data-lost").size() == 104);
  CHECK(unreadable_blocks(main + "/twice") == std::set<std::uint64_t>{1, 10});
  CHECK(unreadable_blocks(main + "/a b/c/deep") == std::set<std::uint64_t>{1, 10});
  CHECK(unreadable_blocks(main + "/many37") == std::set<std::uint64_t>{1, 10});
  CHECK(pool.events_of("process-signalled").size() == 2);
  const auto signals = mapper->early_signals(5000);  // the kernel drops a signal while the same is pending
  REQUIRE(!signals.empty());
  for (const auto& fault : signals) CHECK((fault.file_offset == kBlockBytes || fault.file_offset == 10 * kBlockBytes));
  // All are gone at once, the bad block with them.
  mapper.reset();
  pool.need_run("rm -r main/twice main/link 'main/a b' main/many*");
  pool.settle();
  CHECK(wait_until([&] { return pool.nothing_is_bad(); }));
  pool.check_clean();
}

TEST_CASE("Poison that the device does not tell of is found by reading") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", kLosing);
  const std::string content = pattern(5, kBlocks);
  write_file(main + "/file", content);
  pool.need_run("cp --reflink=auto main/file main/clone");
  const auto offset = pool.pool_offset(main + "/file", kBadOffset);
  drop_pages(main + "/file");
  pool.poison(offset, true);
  pool.settle();
  CHECK(read_text(pool.pool() + ".badblocks").empty());
  CHECK(pool.need_json("daxcow poison list --json $POOL").at("blocks").empty());

  SECTION("with a system call") { CHECK(read_error(main + "/file", kBadOffset) == EIO); }
  SECTION("in the middle of a large read") {
    const auto file = need_open(main + "/file", O_RDONLY);
    std::string buffer(content.size(), '\0');
    const auto got = ::pread(file.get(), buffer.data(), buffer.size(), 0);  // what precedes the page, or the error
    CHECK(got <= static_cast<ssize_t>(kBadOffset));
    if (got > 0)
      CHECK(buffer.compare(0, static_cast<std::size_t>(got), content, 0, static_cast<std::size_t>(got)) == 0);
  }
  SECTION("with O_DIRECT") {
    const auto file = need_open(main + "/file", O_RDONLY | O_DIRECT);
    alignas(4096) std::array<char, kBlockBytes> block;
    CHECK(::pread(file.get(), block.data(), block.size(), static_cast<off_t>(kBadOffset)) == -1);
    CHECK(errno == EIO);
  }
  SECTION("through a mapping") {
    Mapper mapper(main + "/file", 0, content.size(), false);
    const auto fault = mapper.access(kBadOffset + 8);
    REQUIRE(fault);
    CHECK(fault->file_offset / kBlockBytes == kBadBlock);
  }
  SECTION("by writing a part of it") {
    const auto file = need_open(main + "/clone", O_WRONLY);
    CHECK(::pwrite(file.get(), "x", 1, static_cast<off_t>(kBadOffset + 5)) == -1);
    CHECK(errno == EIO);
  }
  REQUIRE(wait_until([&] { return pool.events_of("data-lost").size() >= 2; }));
  pool.settle();
  CHECK(ranges_of(pool.events_of("data-lost")) ==
        std::multiset<std::string>{fmt::format("main:/clone@{}+4096", kBadOffset),
                                   fmt::format("main:/file@{}+4096", kBadOffset)});
  for (const char* name : {"/file", "/clone"}) {
    drop_pages(main + name);
    CHECK(unreadable_blocks(main + name) == std::set<std::uint64_t>{kBadBlock});
    overwrite(main + name, kBadOffset, content.substr(kBadOffset, kBlockBytes));
    CHECK(read_range(main + name, 0, 1 << 20) == content);
  }
  pool.settle();
  CHECK(wait_until([&] { return pool.nothing_is_bad(); }));
  pool.check_clean();
}

TEST_CASE("A scrub finds latent poison, and cached pages do not hide it") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", kLosing);
  write_file(main + "/file", pattern(6, kBlocks));
  std::optional<Mapper> mapper(std::in_place, main + "/file", 0, kBlocks * kBlockBytes);  // all cached
  pool.poison(pool.pool_offset(main + "/file", kBadOffset), true);
  pool.poison(byte_offset(format::kRootsBlock), true);
  pool.poison(byte_offset(format::kRootsBlock + format::kMirrorBlocks + 20), true);
  CHECK(pool.need_json("daxcow scrub --json $POOL").at("found") == 3);
  REQUIRE(wait_until([&] { return !pool.events_of("data-lost").empty(); }));
  pool.settle();
  CHECK(mapper->early_signals(5000).size() == 1);
  CHECK(unreadable_blocks(main + "/file") == std::set<std::uint64_t>{kBadBlock});
  CHECK(pool.need_json("daxcow scrub --json $POOL").at("found") == 0);
  // A file without a name owns its blocks as long as it is mapped.
  REQUIRE(::unlink((main + "/file").c_str()) == 0);
  pool.settle();
  CHECK_FALSE(pool.nothing_is_bad());
  mapper.reset();
  const bool mended = wait_until([&] {
    pool.settle();
    return pool.nothing_is_bad();
  });
  CHECK(mended);
  pool.check_clean();
}

TEST_CASE("Latent poison in free space does not reach what is written there") {
  if (skipped_without_mounts()) return;
  MountedPool pool(32ull << 20);
  const std::string main = pool.mount("main", kLosing);
  // Most of the free space has a bad block here and there.
  const auto free_before = free_blocks(main);
  for (std::uint64_t offset = 8ull << 20; offset < (30ull << 20); offset += 1ull << 20)
    if (pool.block_at(offset + 3 * kBlockBytes).at("use") == "free") pool.poison(offset + 3 * kBlockBytes, true);
  const std::string content = pattern(7, 256);
  unsigned written = 0, refused = 0;
  for (unsigned i = 0; i < 16; ++i) {
    const std::string name = fmt::format("{}/file{}", main, i);
    const auto file = need_open(name, O_WRONLY | O_CREAT);
    // The first to meet a bad block may be told so, but never believes in vain that its data is there.
    if (::pwrite(file.get(), content.data(), content.size(), 0) == static_cast<ssize_t>(content.size())) {
      ++written;
      drop_pages(name);
      CHECK(read_range(name, 0, 2 << 20) == content);
    } else {
      CHECK(errno == EIO);
      ++refused;
    }
  }
  INFO(written << " written, " << refused << " refused");
  CHECK(refused == 0);
  pool.need_run("rm main/file*");
  pool.settle();
  pool.need_run("for i in $(seq 20); do head -c 1M /dev/zero >main/again$i || exit 1; done; rm main/again*");
  pool.settle();
  CHECK(wait_until([&] { return read_text(pool.pool() + ".badblocks").empty(); }));
  CHECK(free_blocks(main) + 1024 >= free_before);  // some became metadata
  const auto report = pool.check_clean();
}

// Blocks that are no file's data: what they are, and where.
std::map<std::string, std::uint64_t> places_of_metadata(const MountedPool& pool, std::uint64_t pool_bytes) {
  std::map<std::string, std::uint64_t> places{
      {"superblock", 0},
      {"second superblock", pool_bytes - kBlockBytes},
      {"journal header", byte_offset(format::kJournalChunk)},
      {"journal body", byte_offset(format::kJournalChunk + 1)},
      {"journal mirror", byte_offset(format::kJournalChunk + format::kMirrorBlocks)},
      {"chunk header", byte_offset(format::kFirstChunk)},
      {"chunk header, mirror", byte_offset(format::kFirstChunk + format::kMirrorBlocks)},
  };
  for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i) {
    const auto offset = byte_offset(format::kFirstChunk + i);
    const auto block = pool.block_at(offset);
    REQUIRE(block.at("use") == "metadata");
    const std::string detail = block.at("detail");
    places.emplace(detail, offset);
    places.emplace(detail + ", mirror", offset + byte_offset(BlockNumber(format::kMirrorBlocks)));
  }
  return places;
}

// Files that need every type of metadata; returns what fill_and_check() compares.
void fill(MountedPool& pool) {
  pool.need_run(
      "cd main && mkdir directory && for i in $(seq 300); do echo $i >directory/name-$i; done;"
      "ln -s \"$(printf 'target%.0s' $(seq 60))\" symlink;"
      "setfattr -n user.large -v \"$(head -c 3000 /dev/zero | tr '\\0' x)\" directory/name-7;"
      "head -c 3M /dev/urandom >data; for i in $(seq 40); do echo x | dd of=data bs=4096 seek=$((i * 13)) conv=notrunc "
      "status=none; cp --reflink=auto data clone$((i % 5)); done; sha256sum data clone* >sums");
}

void check_filled(MountedPool& pool, unsigned round) {
  pool.need_run(fmt::format(
      "cd main && sha256sum --quiet -c sums && test $(ls directory | wc -l) = 300 && cat directory/* >/dev/null &&"
      "readlink symlink | grep -q targettarget && getfattr -n user.large directory/name-7 >/dev/null &&"
      "echo {0} >directory/new-{0} && mv directory/new-{0} renamed && echo {0} | cmp - renamed && rm renamed",
      round));
}

TEST_CASE("Poison in metadata, journal, superblock and free space is repaired, and the filesystem goes on") {
  if (skipped_without_mounts()) return;
  constexpr std::uint64_t kPoolBytes = 64ull << 20;
  MountedPool pool(kPoolBytes);
  const std::string main = pool.mount("main", kLosing);
  fill(pool);
  pool.need_run("daxcow snapshot $POOL main before");
  // An orphan.
  const auto orphan = need_open(main + "/orphan", O_RDWR | O_CREAT);
  REQUIRE(::unlink((main + "/orphan").c_str()) == 0);
  pool.settle();
  auto places = places_of_metadata(pool, kPoolBytes);
  INFO("places: " << json(places));
  for (const char* type :
       {"roots", "map node", "inodes", "directory", "attributes", "symlink", "orphans", "reverse map", "unused"})
    CHECK(places.contains(type));
  for (std::uint64_t offset = 16ull << 20; offset < kPoolBytes; offset += kBlockBytes)
    if (pool.block_at(offset).at("use") == "free") {
      places["free space"] = offset;
      break;
    }
  REQUIRE(places.contains("free space"));
  unsigned round = 0;
  for (const auto& [name, offset] : places) {
    INFO(name << " at block " << offset / kBlockBytes);
    const auto before = pool.last_event();
    pool.poison(offset);
    check_filled(pool, ++round);
    const bool was_found = wait_until([&] {
      return !pool.events_of("metadata-repaired", before).empty() || !pool.events_of("block-cleared", before).empty();
    });
    CHECK(was_found);
    pool.settle();
    CHECK(pool.nothing_is_bad());
    CHECK(pool.events_of("metadata-lost", before).empty());
    CHECK(pool.events_of("data-lost", before).empty());
    CHECK(pool.events_of("clear-failed", before).empty());
    if (name == "free space") CHECK(pool.block_at(offset).at("use") == "free");
  }
  check_filled(pool, ++round);
}

TEST_CASE("Poison that came while nothing was mounted is dealt with by the next mount") {
  if (skipped_without_mounts()) return;
  constexpr std::uint64_t kPoolBytes = 64ull << 20;
  MountedPool pool(kPoolBytes);
  pool.mount("main", kLosing);
  fill(pool);
  const auto places = places_of_metadata(pool, kPoolBytes);
  const auto data = pool.pool_offset(pool.mount_point("main") + "/directory/name-3", 0);
  pool.check_clean();
  // One copy of everything at once, now the first, now the second; latent or not.
  for (const bool mirrors : {false, true}) {
    for (const auto& [name, offset] : places) {
      const bool is_mirror = name.ends_with("mirror") || name == "second superblock";
      if (is_mirror == mirrors) pool.poison(offset, mirrors && name != "second superblock");
    }
    pool.mount("main", kLosing);
    check_filled(pool, mirrors);
    if (mirrors) pool.need_run("daxcow scrub $POOL");
    pool.settle();
    CHECK(pool.nothing_is_bad());
    CHECK(pool.events_of("metadata-lost").empty());
    pool.check_clean();
  }
  pool.poison(data);
  pool.mount("main", kLosing);
  REQUIRE(wait_until([&] { return !pool.events_of("data-lost").empty(); }));
  CHECK(ranges_of(pool.events_of("data-lost")) == std::multiset<std::string>{"main:/directory/name-3@0+4096"});
  CHECK(pool.run("cat main/directory/name-3").exit_code == 1);
  pool.need_run("echo 3 >main/directory/name-3");
  pool.settle();
  CHECK(wait_until([&] { return pool.nothing_is_bad(); }));
  pool.check_clean();
}

}  // namespace
}  // namespace daxcow::test
