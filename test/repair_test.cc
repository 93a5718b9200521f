// Repair: for each kind of damage the checker names it, repair mends it, a second check finds nothing, and all that was
// not damaged is as it was.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "engine/inode_table.h"
#include "engine/overlay_medium.h"
#include "engine/references.h"
#include "engine/store.h"
#include "test/catch.h"
#include "test/repair_case.h"
#include "test/seed.h"

using namespace daxcow;
using namespace daxcow::test;
using format::BlockType;

TEST_CASE("repair: a clean pool is left alone", "[repair]") {
  const Image& image = repair_image().image;
  const CheckReport report = check_image(image);
  INFO(listing(report));
  REQUIRE(report.finding_count == 0);
  REQUIRE(blocks_of_type(image, BlockType::kRoots).size() == 1);
  REQUIRE(blocks_of_type(image, BlockType::kGraveyard).size() == 1);
  REQUIRE(blocks_of_type(image, BlockType::kOrphans).size() >= 1);
  const Repaired repaired = repair_of(image);
  REQUIRE(repaired.report);
  CHECK(repaired.report->clean());
  CHECK(repaired.report->action_count == 0);
  CHECK(repaired.image == image);
}

TEST_CASE("repair: superblocks", "[repair]") {
  Image image = repair_image().image;
  const BlockNumber last(image.size() / kBlockBytes - 1);
  SECTION("the first") { std::memset(image.data(), 0, kBlockBytes); }
  SECTION("the second") { image[byte_offset(last) + 40] ^= std::byte{1}; }
  SECTION("they differ") {
    auto& copy = at<format::Superblock>(image, last);
    copy.label[0] = 'x';
    copy.crc = superblock_crc(copy);
  }
  require_repair(image, FindingKind::kSuperblock);
}

TEST_CASE("repair: both superblocks lost", "[repair]") {
  Image image = repair_image().image;
  const BlockNumber last(image.size() / kBlockBytes - 1);
  const auto uuid = at<format::Superblock>(image, last).uuid;
  SECTION("damaged") {
    image[100] ^= std::byte{1};
    image[byte_offset(last) + 100] ^= std::byte{1};
    const Image repaired = require_repair(image, FindingKind::kSuperblock);
    CHECK(at<format::Superblock>(const_cast<Image&>(repaired), last).uuid != uuid);
  }
  SECTION("zeroed") {
    std::memset(image.data(), 0, kBlockBytes);
    std::memset(image.data() + byte_offset(last), 0, kBlockBytes);
    const Repaired repaired = repair_of(image);
    REQUIRE(repaired.report);
    CHECK(repaired.report->clean());
    CHECK(difference(good_contents(), contents_of(repaired.image)) == "");
  }
  SECTION("the first, in a file that grew") {
    std::memset(image.data(), 0, kBlockBytes);
    image.resize(image.size() + (4 << 20));
    Repaired repaired = repair_of(image);
    REQUIRE(repaired.report);
    CHECK(repaired.report->clean());
    CHECK(at<format::Superblock>(repaired.image, BlockNumber(0)).uuid == uuid);
    CHECK(difference(good_contents(), contents_of(repaired.image)) == "");
  }
  SECTION("to another filesystem") {
    std::memset(image.data(), 0, kBlockBytes);
    std::memset(image.data() + byte_offset(last), 0, kBlockBytes);
    std::memcpy(image.data() + 1080, "\x53\xef", 2);
    const Repaired repaired = repair_of(image);
    REQUIRE_FALSE(repaired.report);
    CHECK(repaired.report.error().code == ErrorCode::kNotAPool);
    CHECK(repaired.image == image);
  }
  SECTION("in what is no pool") {
    std::memset(image.data(), 0, image.size());
    const Repaired repaired = repair_of(image);
    REQUIRE_FALSE(repaired.report);
    CHECK(repaired.report.error().code == ErrorCode::kNotAPool);
    CHECK(repaired.image == image);
  }
}

TEST_CASE("repair: one copy of everything", "[repair]") {
  for (const Copy which : {Copy::kPrimary, Copy::kMirror}) {
    Image image = repair_image().image;
    const auto damage = [&](BlockNumber block) {
      image[byte_offset(which == Copy::kPrimary ? block : Metadata::mirror_of(block)) + 99] ^= std::byte{4};
    };
    for (std::uint8_t type = 1; type < format::kBlockTypeCount; ++type)
      for (const BlockNumber block : blocks_of_type(repair_image().image, static_cast<BlockType>(type))) damage(block);
    damage(format::kFirstChunk);
    require_repair(image, FindingKind::kCopy);
  }
}

TEST_CASE("repair: poisoned copies", "[repair]") {
  const Image& image = repair_image().image;
  for (const BlockType type : {BlockType::kRoots, BlockType::kMapNode, BlockType::kReverseLeaf, BlockType::kInodes}) {
    const BlockNumber block = blocks_of_type(image, type).front();
    require_repair(image, FindingKind::kCopy, {}, [&](DramMedium& medium) { medium.inject(block); });
  }
  require_repair(image, FindingKind::kChunk, {}, [&](DramMedium& medium) { medium.inject(format::kFirstChunk); });
  require_repair(image, FindingKind::kSuperblock, {}, [&](DramMedium& medium) { medium.inject(BlockNumber(0)); });
}

TEST_CASE("repair: journal", "[repair]") {
  const auto& image = repair_image().image;
  require_repair(image, FindingKind::kCopy, {}, [&](DramMedium& medium) {
    medium.inject(format::kJournalChunk);
    medium.inject(Metadata::mirror_of(format::kJournalChunk));
  });
}

TEST_CASE("repair: lost map nodes", "[repair]") {
  const Image& good = repair_image().image;
  for (const BlockNumber node : blocks_of_type(good, BlockType::kMapNode)) {
    Image image = good;
    lose(image, node);
    CAPTURE(node.value);
    require_repair(image, FindingKind::kChecksum);
  }
  Image image = good;
  for (const BlockNumber node : blocks_of_type(good, BlockType::kMapNode)) lose(image, node);
  require_repair(image, FindingKind::kChecksum);
}

TEST_CASE("repair: lost reverse-map leaves", "[repair]") {
  const Image& good = repair_image().image;
  for (const BlockNumber leaf : blocks_of_type(good, BlockType::kReverseLeaf)) {
    Image image = good;
    lose(image, leaf);
    require_repair(image, FindingKind::kChecksum);
  }
  Image image = good;
  for (const BlockNumber leaf : blocks_of_type(good, BlockType::kReverseLeaf)) lose(image, leaf);
  require_repair(image, FindingKind::kChecksum);
}

TEST_CASE("repair: lost graveyard, orphans, roots", "[repair]") {
  Image image = repair_image().image;
  SECTION("graveyard") { lose(image, blocks_of_type(image, BlockType::kGraveyard).front()); }
  SECTION("orphans") { lose(image, blocks_of_type(image, BlockType::kOrphans).front()); }
  SECTION("roots") { lose(image, format::kRootsBlock); }
  require_repair(image, FindingKind::kChecksum);
}

TEST_CASE("repair: inode fields", "[repair]") {
  const RepairImage& built = repair_image();
  const auto file = [&](const std::function<void(format::InodeRecord&)>& change, FindingKind kind,
                        const Allowed& allowed = {}) {
    require_repair(with_inode("main", built.file, change), kind, allowed);
  };
  file([](auto& inode) { inode.nanoseconds[2] = 1'000'000'000; }, FindingKind::kInode, {"main:/a/file"});
  file([](auto& inode) { inode.mode = 0170000 | 0644; }, FindingKind::kInode);
  file([](auto& inode) { inode.mode = S_IFDIR | 0644; }, FindingKind::kDirectory);
  file([](auto& inode) { ++inode.block_count; }, FindingKind::kBlockCount);
  file([](auto& inode) { inode.generation = 1ull << 40; }, FindingKind::kInode, {"main:/a/file"});
  file([](auto& inode) { inode.data_level = 9; }, FindingKind::kInode);
  file([](auto& inode) { inode.data_level = 1; }, FindingKind::kMapShape);
  file([](auto& inode) { inode.attribute_level = 0; }, FindingKind::kInode);
  file([](auto& inode) { inode.size_bytes = ~0ull; }, FindingKind::kInode, {"main:/a/file"});
  file([](auto& inode) { inode.attribute_bytes = 5; }, FindingKind::kAttributes);
  file([](auto& inode) { inode.flags = 2; }, FindingKind::kVolume);
  file([](auto& inode) { inode.flags = 0x80; }, FindingKind::kInode);
  file([](auto& inode) { inode.entry_count = 3; }, FindingKind::kInode);
  file([](auto& inode) { inode.device = 3; }, FindingKind::kInode);
  file([](auto& inode) { inode.reserved[2] = 3; }, FindingKind::kInode);
  file([](auto& inode) { inode.mode = 0; }, FindingKind::kInode, {"main:/a/file"});
  require_repair(with_inode("main", built.symlink, [](auto& inode) { inode.size_bytes = 1000; }), FindingKind::kInode);
  require_repair(with_inode("main", InodeNumber(5), [](auto& inode) { inode.uid = 1; }), FindingKind::kInode);
  require_repair(with_inode("main", built.pipe, [](auto& inode) { inode.size_bytes = 1; }), FindingKind::kInode);
}

TEST_CASE("repair: links, parents and orphans", "[repair]") {
  const RepairImage& built = repair_image();
  const auto linked = [&](const std::function<void(format::InodeRecord&)>& change, FindingKind kind) {
    require_repair(with_inode("main", built.linked, change), kind);
  };
  linked([](auto& inode) { inode.link_count = 2; }, FindingKind::kLinkCount);
  linked([](auto& inode) { inode.link_count = 0; }, FindingKind::kOrphan);
  linked([](auto& inode) { inode.parent_cookie += 64; }, FindingKind::kParent);
  linked([](auto& inode) { inode.attribute_bytes = 0, inode.attributes = {}; }, FindingKind::kParent);
  const auto directory = [&](const std::function<void(format::InodeRecord&)>& change, FindingKind kind) {
    require_repair(with_inode("main", built.directory, change), kind);
  };
  directory([](auto& inode) { ++inode.link_count; }, FindingKind::kLinkCount);
  directory([](auto& inode) { ++inode.entry_count; }, FindingKind::kDirectory);
  directory([](auto& inode) { inode.size_bytes = 4096; }, FindingKind::kDirectory);
  directory([](auto& inode) { inode.size_bytes += 1; }, FindingKind::kInode);
  directory([](auto& inode) { inode.parent = 99; }, FindingKind::kParent);
  require_repair(with_inode("main", format::kRootInode, [](auto& inode) { ++inode.link_count; }),
                 FindingKind::kLinkCount);
  require_repair(with_inode("main", format::kRootInode, [](auto& inode) { inode.mode = S_IFREG | 0755; }),
                 FindingKind::kInode);
  require_repair(with_inode("main", format::kOrphansInode, [](auto& inode) { inode = {}; }), FindingKind::kOrphan);
  // What it held cannot be known.
  require_repair(with_inode("main", built.file, [](auto& inode) { inode = {}; }), FindingKind::kDirectory, {"main:/a"});
  require_repair(with_inode("main", built.empty, [](auto& inode) { inode = {}; }), FindingKind::kDirectory,
                 {"main:/empty", "main:"});
}

TEST_CASE("repair: directories", "[repair]") {
  const RepairImage& built = repair_image();
  Image image = built.image;
  const InodeAt directory = find_inode(image, "main", built.directory);
  const BlockNumber block = leaf_of(image, data_fork(directory.record, format::LeafKind::kDirectory), FileBlock(0));
  Block& content = at<Block>(image, block);
  auto& first = *reinterpret_cast<format::DirectoryEntry*>(content.bytes);
  char* name = reinterpret_cast<char*>(&first + 1);
  REQUIRE(std::string_view(name, first.name_bytes) == "b");
  Allowed allowed;
  SECTION("hash") { first.hash ^= 1; }
  SECTION("a name that may not be") {
    name[0] = '/';
    allowed = {"main:/a"};
  }
  SECTION("granules") { first.granules = 77; }
  SECTION("no granules") { first.granules = 0; }
  SECTION("length of the name") { first.name_bytes = 90; }
  SECTION("type") { first.type = S_IFREG >> 12; }
  SECTION("an inode that is not in use") {
    first.inode = 1ull << 50;
    allowed = {"main:/a", "main:/lost+found", "main:"};
  }
  SECTION("a reserved inode") {
    first.inode = format::kOrphansInode.value;
    allowed = {"main:/a", "main:/lost+found", "main:"};
  }
  SECTION("another directory's inode") {
    first.inode = format::kRootInode.value;
    allowed = {"main:/a", "main:/lost+found", "main:"};
  }
  SECTION("bytes after the name") { name[5] = 'x'; }
  SECTION("reserved") { first.reserved = 7; }
  seal(image, block);
  require_repair(image, FindingKind::kDirectory, allowed);
}

TEST_CASE("repair: only what is safe", "[repair]") {
  Image image = repair_image().image;
  SECTION("is done") {
    image[byte_offset(format::kRootsBlock) + 9] ^= std::byte{1};
    image[1] ^= std::byte{1};
    for (const BlockNumber leaf : blocks_of_type(repair_image().image, BlockType::kReverseLeaf)) {
      at<format::ReverseLeaf>(image, leaf).reserved[0] = 1;
      seal(image, leaf);
    }
    const InodeAt where = find_inode(repair_image().image, "main", repair_image().linked);
    inode_in(image, where, repair_image().linked).link_count = 9;
    seal(image, where.block);
    const Repaired repaired = repair_of(image, RepairMode::kSafe);
    REQUIRE(repaired.report);
    INFO(listing(*repaired.report));
    CHECK(repaired.report->clean());
    CHECK_FALSE(repaired.report->needs_all);
    CHECK(std::ranges::none_of(repaired.report->actions, &RepairAction::loss));
    CHECK(unexpected_part(difference(good_contents(), contents_of(repaired.image)), {"main:/a/three"}) == "");
  }
  SECTION("changes nothing when that is not enough") {
    lose(image, blocks_of_type(image, BlockType::kInodes).front());
    const Repaired repaired = repair_of(image, RepairMode::kSafe);
    REQUIRE(repaired.report);
    CHECK(repaired.report->needs_all);
    CHECK_FALSE(repaired.report->clean());
    CHECK(repaired.image == image);
  }
}

TEST_CASE("repair: a medium that cannot be written", "[repair]") {
  auto medium = DramMedium::from_image(repair_image().image);
  REQUIRE(medium);
  const auto report = repair(std::make_unique<OverlayMedium>(std::move(*medium)), {});
  REQUIRE_FALSE(report);
  CHECK(report.error().code == ErrorCode::kReadOnly);
}

TEST_CASE("repair: every finding says what is done about it", "[repair]") {
  for (int kind = 0; kind <= static_cast<int>(FindingKind::kPoisoned); ++kind)
    for (const Severity severity : {Severity::kRepairable, Severity::kLoss}) {
      const Remedy remedy = usual_remedy(static_cast<FindingKind>(kind), severity);
      CHECK(remedy != Remedy::kUnrepairable);
      CHECK((remedy != Remedy::kNone || static_cast<FindingKind>(kind) == FindingKind::kPoisoned));
      CHECK(std::string_view(describe(remedy)) != "unknown");
      CHECK(std::string_view(name_of(remedy)) != "unknown");
    }
}

TEST_CASE("repair: names that are there twice", "[repair]") {
  const RepairImage& built = repair_image();
  Image image = built.image;
  const InodeAt directory = find_inode(image, "main", built.directory);
  const BlockNumber block = leaf_of(image, data_fork(directory.record, format::LeafKind::kDirectory), FileBlock(0));
  Block& content = at<Block>(image, block);
  const auto entry_at_granule = [&](std::uint64_t granule) -> format::DirectoryEntry& {
    return *reinterpret_cast<format::DirectoryEntry*>(content.bytes + granule * format::kGranuleBytes);
  };
  auto& first = entry_at_granule(0);
  auto& second = entry_at_granule(first.granules);
  REQUIRE(second.granules == first.granules);
  std::memset(&second + 1, 0, 16);
  std::memcpy(&second + 1, &first + 1, first.name_bytes);
  second.name_bytes = first.name_bytes;
  second.hash = first.hash;
  seal(image, block);
  const Contents after =
      contents_of(require_repair(image, FindingKind::kDirectory,
                             {"main:/a", "main:/lost+found", "main:", "before:/a", "before:/lost+found", "before:"}));
  CHECK(after.contains("main:/lost+found/#" + std::to_string(second.inode)));
  CHECK(after.contains("main:/a/b/deep"));
}

TEST_CASE("repair: a directory with two entries", "[repair]") {
  const RepairImage& built = repair_image();
  Image image = built.image;
  const InodeAt directory = find_inode(image, "main", built.directory);
  const BlockNumber block = leaf_of(image, data_fork(directory.record, format::LeafKind::kDirectory), FileBlock(0));
  auto* entry = reinterpret_cast<format::DirectoryEntry*>(at<Block>(image, block).bytes);
  const std::uint64_t b = entry->inode;
  entry = reinterpret_cast<format::DirectoryEntry*>(at<Block>(image, block).bytes +
                                                    entry->granules * format::kGranuleBytes);
  entry->inode = b;
  entry->type = S_IFDIR >> 12;
  seal(image, block);
  const Contents after =
      contents_of(require_repair(image, FindingKind::kLinkCount,
                             {"main:/a", "main:/lost+found", "main:", "before:/a", "before:/lost+found", "before:"}));
  CHECK(after.contains("main:/a/b/deep"));
}

TEST_CASE("repair: attributes that make no sense", "[repair]") {
  const RepairImage& built = repair_image();
  Image image = built.image;
  const InodeAt where = find_inode(image, "main", built.attributed);
  const BlockNumber block = leaf_of(image, attribute_fork(where.record), FileBlock(0));
  auto& first = *reinterpret_cast<format::AttributeEntry*>(at<Block>(image, block).bytes);
  SECTION("space") { first.space = static_cast<format::AttributeSpace>(9); }
  SECTION("name") { reinterpret_cast<char*>(&first + 1)[2] = '\0'; }
  SECTION("a value that is longer than all") { first.value_bytes = 1u << 31; }
  SECTION("the same twice") {
    auto& second = *reinterpret_cast<format::AttributeEntry*>(
        at<Block>(image, block).bytes + (sizeof first + first.name_bytes + first.value_bytes + 7) / 8 * 8);
    REQUIRE(second.name_bytes == first.name_bytes);
    std::memcpy(&second + 1, &first + 1, first.name_bytes);
  }
  seal(image, block);
  require_repair(image, FindingKind::kAttributes, {"main:/attributed", "before:/attributed"});
}

TEST_CASE("repair: orphans that are none", "[repair]") {
  Image image = repair_image().image;
  const InodeNumber number = repair_image().empty;
  const InodeAt where = find_inode(image, "main", number);
  SECTION("with a name, listed as deleted") {
    for (const BlockNumber list : blocks_of_type(image, BlockType::kOrphans)) {
      at<format::MapNode>(image, list)[300] = number.value;
      seal(image, list);
    }
  }
  SECTION("a size that its list does not have") {
    const InodeAt list = find_inode(image, "main", format::kOrphansInode);
    inode_in(image, list, format::kOrphansInode).size_bytes = 0;
    seal(image, list.block);
  }
  SECTION("no links, but a name") {
    inode_in(image, where, number).link_count = 0;
    seal(image, where.block);
  }
  require_repair(image, FindingKind::kOrphan);
}

TEST_CASE("repair: maps that lead everywhere twice take no longer", "[repair]") {
  const RepairImage& built = repair_image();
  Image image = built.image;
  const InodeAt file = find_inode(image, "main", built.file);
  const BlockNumber node = MapEntry{file.record.data[0]}.block();
  auto& entries = at<format::MapNode>(image, node);
  entries.fill(entries[0]);
  seal(image, node);
  // A root of the highest level over nodes of each level, each 512 times the one below.
  std::vector<BlockNumber> spare;
  BlockNumber base = format::kFirstChunk;
  while (at<format::ChunkHeader>(image, base).next != 0) base = BlockNumber(at<format::ChunkHeader>(image, base).next);
  for (std::uint64_t i = 1; i <= format::kChunkPayload && spare.size() < 5; ++i)
    if (at<format::ChunkHeader>(image, base).blocks[i - 1].type == BlockType::kFree) spare.push_back(base + i);
  REQUIRE(spare.size() == 5);
  BlockNumber below = node;
  for (std::uint8_t level = 2; level <= 6; ++level) {
    const BlockNumber block = spare[level - 2];
    at<format::ChunkHeader>(image, base).blocks[block - base - 1] = {BlockType::kMapNode, level,
                                                                     format::LeafKind::kData, 0, 0};
    at<format::MapNode>(image, block).fill(MapEntry::node(below).raw);
    seal(image, block);
    below = block;
  }
  auto& inode = inode_in(image, file, built.file);
  inode.data.fill(MapEntry::node(below).raw);
  inode.data_level = 7;
  inode.size_bytes = ~0ull;
  seal(image, file.block);
  const Repaired repaired = repair_of(image);
  REQUIRE(repaired.report);
  INFO(listing(*repaired.report));
  CHECK(repaired.report->clean());
}
