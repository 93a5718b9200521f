// The checker on whole pools: clean ones, and each kind of damage to inodes, directories and maps.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <string_view>

#include "engine/checker.h"
#include "engine/format.h"
#include "engine/map.h"
#include "engine/medium_dram.h"
#include "engine/metadata.h"
#include "engine/pool.h"
#include "engine/store.h"
#include "engine/volume.h"
#include "test/catch.h"
#include "test/repair_case.h"
#include "test/seed.h"

using namespace daxcow;
using namespace daxcow::test;
using format::BlockType;

namespace {

void require_finding(const CheckReport& report, FindingKind kind, std::string_view where = {}) {
  INFO(listing(report));
  CHECK_FALSE(report.clean());
  CHECK(std::ranges::any_of(
      report.findings, [&](const Finding& f) { return f.kind == kind && f.where.find(where) != std::string::npos; }));
}

// What the checker says when one inode of "main" was changed and sealed.
CheckReport changed(InodeNumber inode, const std::function<void(format::InodeRecord&)>& change) {
  return check_image(with_inode("main", inode, change));
}

}  // namespace

TEST_CASE("checker: a pool with everything in it is clean", "[checker]") {
  const CheckReport report = check_image(repair_image().image);
  INFO(listing(report));
  CHECK(report.finding_count == 0);
  CHECK(report.clean());
  CHECK(report.volumes == 3);
  CHECK(report.directories == 8);
  CHECK(report.shared_blocks > 30);
}

TEST_CASE("checker: an open pool is clean, its allocators too", "[checker]") {
  Image image = repair_image().image;
  with_pool(image, [&](Pool& pool) {
    {
      const auto volume = pool.mount("main", false);
      REQUIRE(volume);
      REQUIRE((*volume)->create(format::kRootInode, "new", NewInode{.mode = S_IFREG | 0600, .symlink_target = {}}));
      (*volume)->remember(repair_image().file);
      REQUIRE((*volume)->unlink(repair_image().directory, "file"));  // an orphan that is held open
      const auto report = check(pool, CheckOptions{});
      REQUIRE(report);
      INFO(listing(*report));
      CHECK(report->finding_count == 0);
    }
    pool.settle();
    const auto report = check(pool, CheckOptions{});
    REQUIRE(report);
    INFO(listing(*report));
    CHECK(report->finding_count == 0);
  });
  const CheckReport report = check_image(image);
  INFO(listing(report));
  CHECK(report.clean());
}

TEST_CASE("checker: inode fields", "[checker]") {
  const RepairImage& built = repair_image();
  require_finding(changed(built.file, [](auto& inode) { inode.nanoseconds[2] = 1'000'000'000; }),
                  FindingKind::kInode, "volume main, /a/file");
  require_finding(changed(built.file, [](auto& inode) { inode.mode = 0170000; }), FindingKind::kInode);
  require_finding(changed(built.file, [](auto& inode) { ++inode.block_count; }), FindingKind::kBlockCount,
                  "/a/file");
  require_finding(changed(built.file, [](auto& inode) { inode.generation = 1ull << 40; }),
                  FindingKind::kInode);
  require_finding(changed(built.file, [](auto& inode) { inode.data_level = 9; }), FindingKind::kInode);
  require_finding(changed(built.file, [](auto& inode) { inode.size_bytes = ~0ull; }), FindingKind::kInode);
  require_finding(changed(built.file, [](auto& inode) { inode.attribute_bytes = 5; }),
                  FindingKind::kAttributes);
  require_finding(changed(built.file, [](auto& inode) { inode.flags = 2; }), FindingKind::kVolume);
  require_finding(changed(built.symlink, [](auto& inode) { inode.size_bytes = 1000; }), FindingKind::kInode,
                  "/long");
  require_finding(changed(InodeNumber(5), [](auto& inode) { inode.uid = 1; }), FindingKind::kInode);
}

TEST_CASE("checker: links, parents and orphans", "[checker]") {
  const RepairImage& built = repair_image();
  require_finding(changed(built.linked, [](auto& inode) { inode.link_count = 2; }), FindingKind::kLinkCount,
                  "/one");
  require_finding(changed(built.linked, [](auto& inode) { inode.link_count = 0; }), FindingKind::kOrphan,
                  "/one");
  require_finding(changed(built.linked, [](auto& inode) { inode.parent_cookie += 64; }),
                  FindingKind::kParent);
  require_finding(changed(built.linked,
                                     [](auto& inode) {
                                       inode.attribute_bytes = 0;
                                       inode.attributes = {};
                                     }),
                  FindingKind::kParent, "/one");
  require_finding(changed(built.directory, [](auto& inode) { ++inode.link_count; }), FindingKind::kLinkCount,
                  "/a (");
  require_finding(changed(built.directory, [](auto& inode) { ++inode.entry_count; }),
                  FindingKind::kDirectory, "/a (");
  require_finding(changed(built.file, [](auto& inode) { std::memset(&inode, 0, sizeof inode); }),
                  FindingKind::kDirectory, "/a (");
  require_finding(changed(format::kRootInode, [](auto& inode) { ++inode.link_count; }),
                  FindingKind::kLinkCount, "/ (");
}

TEST_CASE("checker: directory entries", "[checker]") {
  Image image = repair_image().image;
  const InodeAt directory = find_inode(image, "main", repair_image().directory);
  const BlockNumber block = leaf_of(image, data_fork(directory.record, format::LeafKind::kDirectory), FileBlock(0));
  Block& content = at<Block>(image, block);
  auto& first = *reinterpret_cast<format::DirectoryEntry*>(content.bytes);
  char* name = reinterpret_cast<char*>(&first + 1);
  SECTION("hash") { first.hash ^= 1; }
  SECTION("name") { name[0] = '/'; }
  SECTION("granules") { first.granules = 77; }
  SECTION("type") { first.type = S_IFREG >> 12; }
  SECTION("inode") { first.inode = 1ull << 50; }
  SECTION("reserved inode") { first.inode = format::kOrphansInode.value; }
  SECTION("bytes after the name") { name[5] = 'x'; }
  SECTION("the same name twice") {
    std::uint64_t granule = first.granules;
    while (std::memcmp(content.bytes + granule * 32, Block{}.bytes, 32) == 0 ||
           reinterpret_cast<format::DirectoryEntry*>(content.bytes + granule * 32)->granules != 1)
      ++granule;
    auto& other = *reinterpret_cast<format::DirectoryEntry*>(content.bytes + granule * 32);
    std::memset(&other + 1, 0, 16);
    std::memcpy(&other + 1, name, first.name_bytes);
    other.name_bytes = first.name_bytes;
    other.hash = first.hash;
  }
  seal(image, block);
  require_finding(check_image(image), FindingKind::kDirectory, "/a (");
}

TEST_CASE("checker: circles of directories", "[checker]") {
  // "a" is in the root and holds "b", whose first entry comes to lead to "a".
  Image image = repair_image().image;
  const InodeNumber a = repair_image().directory;
  InodeNumber b;
  with_pool(image, [&](Pool& pool) {
    const auto volume = pool.mount("main", false);
    REQUIRE(volume);
    b = (*volume)->find("/a/b")->inode;
  });
  const InodeAt in_a = find_inode(image, "main", a);
  const InodeAt in_b = find_inode(image, "main", b);
  const BlockNumber b_block = leaf_of(image, data_fork(in_b.record, format::LeafKind::kDirectory), FileBlock(0));
  reinterpret_cast<format::DirectoryEntry*>(at<Block>(image, b_block).bytes)->inode = a.value;
  seal(image, b_block);
  auto& record = inode_in(image, in_a, a);
  record.parent = b.value;
  record.parent_cookie = 0;
  seal(image, in_a.block);
  const CheckReport report = check_image(image);
  INFO(listing(report));
  CHECK(std::ranges::any_of(report.findings,
                            [](const Finding& f) { return f.what.find("circle") != std::string::npos; }));
}

TEST_CASE("checker: maps", "[checker]") {
  Image image = repair_image().image;
  const InodeAt found = find_inode(image, "main", repair_image().file);
  const BlockNumber node = MapEntry{found.record.data[0]}.block();
  auto& entries = at<format::MapNode>(image, node);
  FindingKind expected{};
  SECTION("data in a chunk") {
    entries[0] = MapEntry::leaf(format::kRootsBlock, false).raw;
    expected = FindingKind::kOutOfRange;
  }
  SECTION("data beyond the pool") {
    entries[0] = MapEntry::leaf(BlockNumber(image.size() / kBlockBytes), false).raw;
    expected = FindingKind::kOutOfRange;
  }
  SECTION("data in the journal") {
    entries[0] = MapEntry::leaf(format::kJournalChunk + 5, false).raw;
    expected = FindingKind::kOutOfRange;
  }
  SECTION("deeper than its level, in a circle") {
    entries[0] = MapEntry::node(node).raw;
    expected = FindingKind::kMapShape;
  }
  SECTION("unknown bits") {
    entries[0] |= 1ull << 9;
    expected = FindingKind::kMapShape;
  }
  SECTION("not present but something") {
    entries[1] = 2;
    expected = FindingKind::kMapShape;
  }
  SECTION("another block") {
    entries[0] = MapEntry::leaf(MapEntry{entries[0]}.block() + 1, false).raw;
    expected = FindingKind::kMissingRecord;
  }
  SECTION("unwritten where the record says written") {
    entries[0] |= format::kEntryUnwritten;
    expected = FindingKind::kExtraRecord;
  }
  seal(image, node);
  require_finding(check_image(image), expected);
}

TEST_CASE("checker: references to the wrong block", "[checker]") {
  const RepairImage& built = repair_image();
  const auto redirect = [&](BlockNumber to) {
    return changed(built.file, [&](auto& inode) { inode.data[0] = MapEntry::node(to).raw; });
  };
  require_finding(redirect(format::kRootsBlock), FindingKind::kType, "/a/file");
  require_finding(redirect(format::kFirstChunk + 255), FindingKind::kUnused, "/a/file");
  require_finding(redirect(format::kFirstChunk), FindingKind::kOutOfRange, "/a/file");
  require_finding(redirect(Metadata::mirror_of(format::kRootsBlock)), FindingKind::kOutOfRange, "/a/file");
  require_finding(redirect(BlockNumber(1ull << 51)), FindingKind::kOutOfRange, "/a/file");
}

TEST_CASE("checker: a full hint above a free inode", "[checker]") {
  Image image = repair_image().image;
  const BlockNumber holder = table_node("main");
  at<format::MapNode>(image, holder)[0] |= format::kEntryFull;
  seal(image, holder);
  const CheckReport report = check_image(image);
  INFO(listing(report));
  CHECK(count_of(report, FindingKind::kFullHint) == 1);
  CHECK(report.finding_count == 1);
}

TEST_CASE("checker: a lost inode block", "[checker]") {
  Image image = repair_image().image;
  const InodeAt found = find_inode(image, "main", repair_image().file);
  for (const BlockNumber copy : {found.block, Metadata::mirror_of(found.block)})
    image[byte_offset(copy) + 7] ^= std::byte{1};
  require_finding(check_image(image), FindingKind::kChecksum);
}

TEST_CASE("checker: poisoned data", "[checker]") {
  const RepairImage& built = repair_image();
  const InodeAt found = find_inode(built.image, "before", built.file);
  const BlockNumber node = MapEntry{found.record.data[0]}.block();
  Image image = built.image;
  const BlockNumber bad = MapEntry{at<format::MapNode>(image, node)[4]}.block();
  SECTION("known to the device only") {
    const CheckReport report = check_image(image, [&](DramMedium& medium) { medium.inject(bad); });
    require_finding(report, FindingKind::kPoisoned, "volume main, /a/file");
    for (const char* where : {"volume main, /clone", "volume before, /a/file", "volume before, /clone"})
      require_finding(report, FindingKind::kPoisoned, where);
    CHECK(report.finding_count == 4);
  }
  SECTION("in the ledger") {
    with_pool(image, [&](Pool& pool) {
      REQUIRE(pool.store().run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
        TRY(transaction.set_ledger(bad, 1));
        return Step::kDone;
      }));
    });
    const CheckReport report = check_image(image);
    INFO(listing(report));
    CHECK(report.clean());
    CHECK(count_of(report, FindingKind::kPoisoned) == 4);
    CHECK(report.ledger_blocks == 1);
    CHECK(std::ranges::any_of(report.findings, [](const Finding& f) {
      return f.where.find("/a/file") != std::string::npos && f.where.ends_with("offset 16384");
    }));
  }
}

TEST_CASE("checker: random damage is survived", "[checker]") {
  const std::uint64_t seed = test::random_seed();
  INFO(test::describe_seed(seed));
  std::mt19937_64 random(seed);
  const Image& good = repair_image().image;
  std::vector<BlockNumber> used;
  const auto& header = *reinterpret_cast<const format::ChunkHeader*>(good.data() + byte_offset(format::kFirstChunk));
  for (std::uint64_t i = 0; i < format::kChunkPayload; ++i)
    if (header.blocks[i].type != BlockType::kFree) used.push_back(format::kFirstChunk + 1 + i);
  for (int round = 0; round < 100; ++round) {
    Image image = good;
    for (int i = 0; i < 4; ++i) {
      const BlockNumber block = used[random() % used.size()];
      auto* words = reinterpret_cast<std::uint64_t*>(image.data() + byte_offset(block));
      const std::uint64_t word = random() % 512;
      // Fields that look like fields lead further than noise.
      words[word] = random() % 2 ? random() : words[random() % 512] ^ (1ull << random() % 64);
      seal(image, block);
    }
    (void)check_image(image);
  }
}

TEST_CASE("checker: maps that lead everywhere twice take no longer", "[checker]") {
  // Every entry of an inode table's node leads to the same inode block: 512 times the inodes, and so on for each level.
  Image image = repair_image().image;
  const InodeAt file = find_inode(image, "main", repair_image().file);
  const BlockNumber node = table_node("main"), data_node = MapEntry{file.record.data[0]}.block();
  auto& table = at<format::MapNode>(image, node);
  auto& data = at<format::MapNode>(image, data_node);
  table.fill(table[1] & ~format::kEntryFull);
  data.fill(data[0]);
  seal(image, node);
  seal(image, data_node);
  const CheckReport report = check_image(image);
  CHECK(count_of(report, FindingKind::kMapShape) >= 511);
}

TEST_CASE("checker: sees the pool as the next open would", "[checker]") {
  const Image& before = repair_image().image;
  auto medium = DramMedium::from_image(before);
  REQUIRE(medium);
  DramMedium* raw = medium->get();
  Image after;
  {
    auto pool = Pool::open(std::move(*medium), PoolOptions{.background = false, .log = {}});
    REQUIRE(pool);
    const auto volume = (*pool)->mount("main", false);
    REQUIRE(volume);
    REQUIRE((*volume)->create(format::kRootInode, "last", NewInode{.mode = S_IFREG | 0600, .symlink_target = {}}));
    after = raw->snapshot();
  }
  CHECK_FALSE(check_image(after).journal_replayed);
  // As if the machine had stopped right after the commit point: the record is there, its lines are not home.
  const auto& header =
      *reinterpret_cast<const format::JournalHeader*>(after.data() + byte_offset(format::kJournalChunk));
  std::size_t at_byte = byte_offset(format::kJournalChunk) + sizeof header;
  for (std::uint64_t i = 0; i < header.group_count; ++i) {
    format::JournalGroup group;
    std::memcpy(&group, after.data() + at_byte, sizeof group);
    at_byte += sizeof group;
    for (std::uint64_t line = 0; line < kLinesPerBlock; ++line) {
      if ((group.line_mask >> line & 1) == 0) continue;
      at_byte += kLineBytes;
      for (const BlockNumber copy : {BlockNumber(group.block), Metadata::mirror_of(BlockNumber(group.block))})
        std::memset(after.data() + byte_offset(copy) + line * kLineBytes, 0x5a, kLineBytes);
    }
  }
  const CheckReport report = check_image(after);
  INFO(listing(report));
  CHECK(report.journal_replayed);
  CHECK(report.clean());
}
