// Repair of what is lost in both copies, of chunks and descriptors, of references and of the reverse map.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "engine/inode_table.h"
#include "engine/references.h"
#include "engine/reverse_leaf.h"
#include "engine/store.h"
#include "engine/volume.h"
#include "test/catch.h"
#include "test/repair_case.h"

using namespace daxcow;
using namespace daxcow::test;
using format::BlockType;

namespace {

const Image& good() { return repair_image().image; }

// Descriptors and header of a block's chunk, after a change of it.
void seal_header(Image& image, BlockNumber base) {
  auto& header = at<format::ChunkHeader>(image, base);
  header.crc = chunk_header_crc(header);
  at<Block>(image, Metadata::mirror_of(base)) = at<Block>(image, base);
}

format::BlockDescriptor& descriptor_in(Image& image, BlockNumber block) {
  const BlockNumber base = Metadata::chunk_base(block);
  return at<format::ChunkHeader>(image, base).blocks[block - base - 1];
}

std::vector<BlockNumber> chunks_of(const Image& image) {
  std::vector<BlockNumber> chunks;
  for (std::uint64_t base = format::kFirstChunk.value; base != 0;) {
    chunks.push_back(BlockNumber(base));
    base = reinterpret_cast<const format::ChunkHeader*>(image.data() + byte_offset(BlockNumber(base)))->next;
  }
  return chunks;
}

// The first reverse leaf, and its first used record.
struct LeafAt {
  BlockNumber block;
  unsigned slot;
};
LeafAt a_leaf(Image& image, std::size_t which = 0) {
  const BlockNumber block = blocks_of_type(image, BlockType::kReverseLeaf).at(which);
  const auto& leaf = at<format::ReverseLeaf>(image, block);
  for (unsigned slot = 0; slot < format::kRecordsPerLeaf; ++slot)
    if (reverse_leaf::is_used(leaf, slot) && leaf.records[slot].kind == format::RecordKind::kTree) return {block, slot};
  FAIL("a leaf without records of trees");
  return {};
}

}  // namespace

TEST_CASE("repair: lost inode blocks", "[repair]") {
  const RepairImage& built = repair_image();
  Image image = good();
  const InodeAt where = find_inode(image, "main", built.file);
  lose(image, where.block);
  // Owners and times are gone, names, attributes and whole blocks of content are not.
  const Image repaired = require_repair(image, FindingKind::kChecksum, {"main:", "before:"});
  const Contents before = contents_of(good()), after = contents_of(repaired);
  for (const std::string path :
       {"main:/a", "main:/a/b", "main:/a/b/deep", "main:/a/file", "main:/empty", "main:/one", "main:/long"}) {
    CAPTURE(path);
    CHECK(after.contains(path));
  }
  const auto content = [](const std::string& text) { return text.substr(std::min(text.size(), text.find(" @"))); };
  CHECK(content(before.at("main:/a/file")) == content(after.at("main:/a/file")));
  CHECK(after.at("main:/a/file").find("user.colour=blue") != std::string::npos);
}

TEST_CASE("repair: all inode blocks lost", "[repair]") {
  Image image = good();
  for (const BlockNumber block : blocks_of_type(image, BlockType::kInodes)) lose(image, block);
  const Image repaired = require_repair(image, FindingKind::kChecksum, {"main", "before", "other"});
  const Contents after = contents_of(repaired);
  CHECK(after.contains("main:/a/file"));
  CHECK(after.contains("before:/a/file"));
  CHECK(after.contains("other:/many/file 77"));
}

TEST_CASE("repair: lost directory blocks", "[repair]") {
  const RepairImage& built = repair_image();
  Image image = good();
  const InodeAt where = find_inode(image, "main", built.directory);
  lose(image, leaf_of(image, data_fork(where.record, format::LeafKind::kDirectory), FileBlock(0)));
  const Image repaired =
      require_repair(image, FindingKind::kChecksum, {"main:", "before:/a", "before:/lost+found", "before:"});
  const Contents before = contents_of(good()), after = contents_of(repaired);
  const std::string found = "main:/lost+found/#" + std::to_string(built.file.value);
  REQUIRE(after.contains(found));
  CHECK(after.at(found) == before.at("main:/a/file"));
}

TEST_CASE("repair: a lost root directory", "[repair]") {
  Image image = good();
  const InodeAt where = find_inode(image, "main", format::kRootInode);
  lose(image, leaf_of(image, data_fork(where.record, format::LeafKind::kDirectory), FileBlock(0)));
  const Image repaired = require_repair(image, FindingKind::kChecksum, {"main:", "before:"});
  CHECK(contents_of(repaired).contains("main:/lost+found/#" + std::to_string(repair_image().directory.value) + "/file"));
}

TEST_CASE("repair: a lost volume table", "[repair]") {
  Image image = good();
  // The root directory of volume 0 has the names of volumes.
  const InodeAt root = find_inode(good(), "", format::kRootInode);
  const BlockNumber block = leaf_of(good(), data_fork(root.record, format::LeafKind::kDirectory), FileBlock(0));
  lose(image, block);
  const Image repaired = require_repair(image, FindingKind::kChecksum, {"main", "before", "other", "recovered-"});
  const Contents after = contents_of(repaired);
  CHECK(std::ranges::any_of(after, [](const auto& item) { return item.first.ends_with(":/many/file 77"); }));
}

TEST_CASE("repair: lost attributes and symlinks", "[repair]") {
  const RepairImage& built = repair_image();
  Image image = good();
  SECTION("attributes, the second block of three") {
    const InodeAt where = find_inode(image, "main", built.attributed);
    lose(image, leaf_of(image, attribute_fork(where.record), FileBlock(1)));
    const Contents after =
        contents_of(require_repair(image, FindingKind::kChecksum, {"main:/attributed", "before:/attributed"}));
    CHECK(after.at("main:/attributed").find("user.colour1=") != std::string::npos);
  }
  SECTION("further parents") {
    const InodeAt where = find_inode(image, "main", built.linked);
    lose(image, leaf_of(image, attribute_fork(where.record), FileBlock(0)));
    require_repair(image, FindingKind::kChecksum);
  }
  SECTION("symlink") {
    const InodeAt where = find_inode(image, "main", built.symlink);
    lose(image, leaf_of(image, data_fork(where.record, format::LeafKind::kSymlink), FileBlock(0)));
    require_repair(image, FindingKind::kChecksum, {"main:/long", "before:/long", "main:", "before:"});
  }
}

TEST_CASE("repair: everything but roots and inodes lost twice over", "[repair]") {
  // Leaves of the reverse map and the nodes that it would rebuild: what cannot be known goes, the rest stays.
  Image image = good();
  for (const BlockNumber leaf : blocks_of_type(image, BlockType::kReverseLeaf)) lose(image, leaf);
  const InodeAt where = find_inode(good(), "main", repair_image().file);
  lose(image, MapEntry{where.record.data[0]}.block());
  require_repair(image, FindingKind::kChecksum, {"main:/a/file", "main:/clone", "before:/a/file", "before:/clone"});
}

TEST_CASE("repair: chunk headers", "[repair]") {
  Image image = good();
  const std::vector<BlockNumber> chunks = chunks_of(image);
  REQUIRE(chunks.size() >= 2);
  SECTION("one copy") {
    for (const BlockNumber chunk : chunks) image[byte_offset(chunk) + 70] ^= std::byte{1};
    require_repair(image, FindingKind::kChunk);
  }
  SECTION("both copies of the first") {
    lose(image, chunks.front());
    require_repair(image, FindingKind::kChunk);
  }
  SECTION("both copies of the last") {
    lose(image, chunks.back());
    require_repair(image, FindingKind::kChunk);
  }
  SECTION("both copies of all") {
    for (const BlockNumber chunk : chunks) lose(image, chunk);
    require_repair(image, FindingKind::kChunk);
  }
  SECTION("the chain is cut") {
    at<format::ChunkHeader>(image, chunks.front()).next = 7;
    seal_header(image, chunks.front());
    require_repair(image, FindingKind::kChunk);
  }
  SECTION("the chain runs in a circle") {
    at<format::ChunkHeader>(image, chunks.back()).next = chunks.front().value;
    seal_header(image, chunks.back());
    require_repair(image, FindingKind::kChunk);
  }
  SECTION("the chain goes on to nothing") {
    at<format::ChunkHeader>(image, chunks.back()).next = 5 * format::kChunkBlocks;
    seal_header(image, chunks.back());
    require_repair(image, FindingKind::kChunk);
  }
}

TEST_CASE("repair: descriptors", "[repair]") {
  for (std::uint8_t type = 1; type < format::kBlockTypeCount; ++type) {
    const auto blocks = blocks_of_type(good(), static_cast<BlockType>(type));
    if (blocks.empty()) continue;
    const BlockNumber block = blocks.front();
    CAPTURE(int{type}, block.value);
    const auto changed = [&](const std::function<void(format::BlockDescriptor&)>& change) {
      Image image = good();
      change(descriptor_in(image, block));
      seal_header(image, Metadata::chunk_base(block));
      return image;
    };
    require_repair(changed([](auto& d) { d.reserved = 1; }), FindingKind::kChunk);
    require_repair(changed([](auto& d) { d.type = static_cast<BlockType>(77); }), FindingKind::kChunk);
    require_repair(changed([](auto& d) {
                     d.type = d.type == BlockType::kInodes ? BlockType::kSymlink : BlockType::kInodes;
                     d.level = 0;
                     d.leaf_kind = {};
                   }),
                   FindingKind::kChecksum);
    require_repair(changed([](auto& d) { d.type = BlockType::kFree; }), FindingKind::kChunk);
    require_repair(changed([](auto& d) { d.level = 3; }),
                   static_cast<BlockType>(type) == BlockType::kMapNode ? FindingKind::kChecksum : FindingKind::kChunk);
  }
  Image image = good();
  BlockNumber free_block;
  for (BlockNumber block = format::kFirstChunk + 1; free_block.value == 0 && block < format::kFirstChunk + 256; ++block)
    if (descriptor_in(image, block).type == BlockType::kFree) free_block = block;
  if (free_block.value != 0) {
    descriptor_in(image, free_block).crc = 5;
    seal_header(image, format::kFirstChunk);
    require_repair(image, FindingKind::kChunk);
  }
}

TEST_CASE("repair: unreachable blocks", "[repair]") {
  Image image = good();
  const BlockNumber base = chunks_of(image).back();
  BlockNumber block = base + 1;
  while (descriptor_in(image, block).type != BlockType::kFree) ++block;
  descriptor_in(image, block) = {BlockType::kMapNode, 1, format::LeafKind::kData, 0, 0};
  at<Block>(image, block) = Block{};
  seal(image, block);
  require_repair(image, FindingKind::kUnreachable);
}

TEST_CASE("repair: records", "[repair]") {
  Image image = good();
  const LeafAt where = a_leaf(image);
  auto& leaf = at<format::ReverseLeaf>(image, where.block);
  FindingKind kind = FindingKind::kExtraRecord;
  SECTION("missing") {
    reverse_leaf::clear(leaf, where.slot);
    kind = FindingKind::kMissingRecord;
  }
  SECTION("extra") {
    auto record = leaf.records[where.slot];
    record.slot = static_cast<std::uint16_t>(record.slot ^ 1);
    leaf.records[where.slot] = record;
  }
  SECTION("longer") { ++leaf.records[where.slot].length_blocks; }
  SECTION("another level") { ++leaf.records[where.slot].level; }
  SECTION("another kind") { leaf.records[where.slot].kind = format::RecordKind::kHold; }
  SECTION("unknown kind") {
    leaf.records[where.slot].kind = static_cast<format::RecordKind>(9);
    kind = FindingKind::kRecordOrder;
  }
  SECTION("far out of order") {
    leaf.records[where.slot].first = 5'900;
    kind = FindingKind::kRecordOrder;
  }
  SECTION("bits without slots") {
    leaf.used[1] |= 1ull << 63;
    kind = FindingKind::kRecordOrder;
  }
  SECTION("reserved bytes") {
    leaf.reserved[0] = 1;
    kind = FindingKind::kRecordOrder;
  }
  SECTION("something in a free slot") {
    leaf.used[where.slot / 64] &= ~(1ull << (where.slot % 64));
    kind = FindingKind::kRecordOrder;
  }
  SECTION("a leaf twice") {
    const auto leaves = blocks_of_type(image, BlockType::kReverseLeaf);
    REQUIRE(leaves.size() > 1);
    at<Block>(image, leaves[1]) = at<Block>(image, where.block);
    seal(image, leaves[1]);
    kind = FindingKind::kRecordOrder;
  }
  SECTION("an empty leaf") {
    leaf = {};
    kind = FindingKind::kRecordOrder;
  }
  seal(image, where.block);
  require_repair(image, kind);
}

TEST_CASE("repair: the ledger survives", "[repair]") {
  Image image = good();
  const InodeAt file = find_inode(image, "main", repair_image().big);
  BlockNumber bad;
  with_pool(image, [&](Pool& pool) {
    bad = entry_at(pool.store().metadata(), data_fork(file.record, format::LeafKind::kData), FileBlock(1))->block();
    REQUIRE(pool.store().run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
      TRY(transaction.set_ledger(bad, 0x11));
      return Step::kDone;
    }));
  });
  for (const BlockNumber block : blocks_of_type(image, BlockType::kReverseLeaf)) {
    at<format::ReverseLeaf>(image, block).reserved[1] = 1;  // no leaf can stay
    seal(image, block);
  }
  const Repaired repaired = repair_of(image);
  REQUIRE(repaired.report);
  INFO(listing(*repaired.report));
  CHECK(repaired.report->clean());
  CHECK(repaired.report->after.ledger_blocks == 1);
  CHECK(contents_of(repaired.image).at("main:/big").find("lost") != std::string::npos);
}

TEST_CASE("repair: bad data that only the device knows", "[repair]") {
  const InodeAt file = find_inode(good(), "main", repair_image().big);
  const BlockNumber bad = leaf_of(good(), data_fork(file.record, format::LeafKind::kData), FileBlock(1));
  const auto prepare = [&](DramMedium& medium) { medium.inject(bad); };
  CHECK(count_of(check_image(good(), prepare), FindingKind::kPoisoned) >= 1);
  const Repaired repaired = repair_of(good(), RepairMode::kAll, prepare);
  REQUIRE(repaired.report);
  INFO(listing(*repaired.report));
  CHECK(repaired.report->clean());
  CHECK(check_image(repaired.image, prepare).clean());
  CHECK(check_image(repaired.image).ledger_blocks == 1);
}

TEST_CASE("repair: map entries", "[repair]") {
  Image image = good();
  const InodeAt file = find_inode(image, "main", repair_image().file);
  const BlockNumber node = MapEntry{file.record.data[0]}.block();
  auto& entries = at<format::MapNode>(image, node);
  FindingKind kind = FindingKind::kOutOfRange;
  Allowed allowed;
  SECTION("data in a chunk") { entries[0] = MapEntry::leaf(format::kRootsBlock, false).raw; }
  SECTION("data beyond the pool") { entries[0] = MapEntry::leaf(BlockNumber(image.size() / kBlockBytes), false).raw; }
  SECTION("data in the journal") { entries[2] = MapEntry::leaf(format::kJournalChunk + 5, false).raw; }
  SECTION("deeper than its level, in a circle") {
    entries[0] = MapEntry::node(node).raw;
    kind = FindingKind::kMapShape;
  }
  SECTION("unknown bits") {
    entries[0] |= 1ull << 9;
    kind = FindingKind::kMapShape;
  }
  SECTION("not present but something") {
    entries[0] &= ~format::kEntryPresent;
    kind = FindingKind::kMapShape;
  }
  SECTION("not present, and never was") {
    entries[1] = 2;
    kind = FindingKind::kMapShape;
  }
  SECTION("another block") {
    entries[0] = MapEntry::leaf(MapEntry{entries[0]}.block() + 1, false).raw;
    kind = FindingKind::kMissingRecord;
    allowed = {"main:/a/file"};
  }
  SECTION("unwritten where the record says written") {
    entries[0] |= format::kEntryUnwritten;
    kind = FindingKind::kExtraRecord;
    allowed = {"main:/a/file"};
  }
  seal(image, node);
  require_repair(image, kind, allowed);
}

TEST_CASE("repair: references to the wrong block", "[repair]") {
  const RepairImage& built = repair_image();
  const auto redirect = [&](BlockNumber to) {
    return with_inode("main", built.file, [&](auto& inode) { inode.data[0] = MapEntry::node(to).raw; });
  };
  // The reverse map knows where it led.
  require_repair(redirect(format::kRootsBlock), FindingKind::kType);
  require_repair(redirect(blocks_of_type(good(), BlockType::kReverseLeaf).front()), FindingKind::kType);
  require_repair(redirect(format::kFirstChunk), FindingKind::kOutOfRange);
  require_repair(redirect(Metadata::mirror_of(format::kRootsBlock)), FindingKind::kOutOfRange);
  require_repair(redirect(BlockNumber(1ull << 51)), FindingKind::kOutOfRange);
  BlockNumber free_block = chunks_of(good()).back() + 255;
  require_repair(redirect(free_block), FindingKind::kUnused);
  // To a directory's node or block, with the mode of a file.
  const InodeAt directory = find_inode(good(), "other", format::kRootInode);
  require_repair(with_inode("main", built.file, [&](auto& inode) { inode.data[0] = directory.record.data[0]; }),
                 FindingKind::kOutOfRange);
}

TEST_CASE("repair: blocks used twice in a volume", "[repair]") {
  const RepairImage& built = repair_image();
  SECTION("a directory's block") {
    const InodeAt root = find_inode(good(), "main", format::kRootInode);
    require_repair(with_inode("main", built.directory,
                              [&](auto& inode) {
                                inode.data = root.record.data;
                                inode.data_level = root.record.data_level;
                              }),
                   FindingKind::kMapShape, {"main:/a", "main:/lost+found", "main:"});
  }
  SECTION("an inode block, everywhere") {
    Image image = good();
    const BlockNumber node = table_node("other");
    auto& table = at<format::MapNode>(image, node);
    table.fill(table[1] & ~format::kEntryFull);
    seal(image, node);
    require_repair(image, FindingKind::kMapShape, {"other:"});
  }
}

TEST_CASE("repair: blocks of the volume table used elsewhere", "[repair]") {
  // Volume 0 is changed without a look at who else uses it, so it keeps what it shares and the other place loses it.
  const RepairImage& built = repair_image();
  const InodeAt names = find_inode(good(), "", format::kRootInode);
  const BlockNumber names_block = leaf_of(good(), data_fork(names.record, format::LeafKind::kDirectory), FileBlock(0));
  const BlockNumber graveyard = blocks_of_type(good(), BlockType::kGraveyard).front();
  Image image = good();
  Allowed allowed;
  SECTION("the names of the volumes, by a directory") {
    image = with_inode("main", built.directory, [&](auto& inode) {
      inode.data = names.record.data;
      inode.data_level = names.record.data_level;
    });
    allowed = {"main:"};
  }
  SECTION("the names of the volumes, by what is buried") {
    at<format::MapNode>(image, graveyard)[0] = MapEntry::leaf(names_block, false).with_level(0).raw;
    seal(image, graveyard);
  }
  SECTION("inodes of the volumes, by what is buried") {
    at<format::MapNode>(image, graveyard)[0] = MapEntry::leaf(names.block, false).with_level(0).raw;
    seal(image, graveyard);
  }
  SECTION("inodes of the volumes, in the same place of a volume") {
    const BlockNumber node = table_node("other");
    at<format::MapNode>(image, node)[0] = MapEntry::leaf(names.block, false).raw;
    seal(image, node);
    allowed = {"other:"};
  }
  SECTION("the list of what is buried, by itself") {
    const InodeAt list = find_inode(good(), "", format::kGraveyardInode);
    auto& inode = inode_in(image, list, format::kGraveyardInode);
    REQUIRE(inode.data_level == 1);
    inode.data[1] = inode.data[0];
    seal(image, list.block);
  }
  require_repair(image, FindingKind::kMapShape, allowed);
}

TEST_CASE("repair: a full hint above a free inode", "[repair]") {
  Image image = good();
  const BlockNumber node = table_node("main");
  at<format::MapNode>(image, node)[0] |= format::kEntryFull;
  seal(image, node);
  require_repair(image, FindingKind::kFullHint);
}

TEST_CASE("repair: the graveyard", "[repair]") {
  Image image = good();
  const BlockNumber block = blocks_of_type(image, BlockType::kGraveyard).front();
  auto& entries = at<format::MapNode>(image, block);
  FindingKind kind = FindingKind::kMapShape;
  SECTION("an entry beyond the end") { entries[200] = entries[0]; }
  SECTION("a part of itself") { entries[0] = MapEntry::leaf(block, false).raw; }
  SECTION("a wrong level") {
    entries[0] ^= 2ull << format::kEntryLevelShift;
    kind = FindingKind::kType;
  }
  seal(image, block);
  require_repair(image, kind);
}

TEST_CASE("repair: a lost hint of what is deleted", "[repair]") {
  // The orphan list names a file with a name, one that is not there, and one twice.
  Image image = good();
  const auto blocks = blocks_of_type(image, BlockType::kOrphans);
  for (const BlockNumber block : blocks) {
    auto& list = at<format::MapNode>(image, block);
    list[100] = repair_image().file.value;
    list[101] = 1'000'000;
    list[102] = list[0];
    list[103] = format::kRootInode.value;
    seal(image, block);
  }
  require_repair(image, FindingKind::kOrphan);
}

TEST_CASE("repair: circles of directories", "[repair]") {
  Image image = good();
  const InodeNumber a = repair_image().directory;
  InodeNumber b;
  with_pool(image, [&](Pool& pool) {
    const auto volume = pool.mount("main", true);
    REQUIRE(volume);
    b = (*volume)->find("/a/b")->inode;
  });
  image = good();
  const InodeAt in_a = find_inode(image, "main", a), in_b = find_inode(image, "main", b);
  const BlockNumber block = leaf_of(image, data_fork(in_b.record, format::LeafKind::kDirectory), FileBlock(0));
  // What "b" holds leads to "a" instead, and "a" calls it its parent.
  auto& entry = *reinterpret_cast<format::DirectoryEntry*>(at<Block>(image, block).bytes);
  entry.inode = a.value;
  entry.type = S_IFDIR >> 12;
  seal(image, block);
  auto& record = inode_in(image, in_a, a);
  record.parent = b.value;
  record.parent_cookie = 0;
  seal(image, in_a.block);
  const Contents after =
      contents_of(require_repair(image, FindingKind::kOrphan,
                             {"main:/a", "before:/a", "main:/lost+found", "before:/lost+found", "main:", "before:"}));
  CHECK(after.contains("main:/a/file"));
}

TEST_CASE("repair: the volume table", "[repair]") {
  Image image = good();
  const VolumeNumber main = number_of(image, "main");
  const InodeAt where = find_inode(image, "", main);
  auto& record = inode_in(image, where, main);
  FindingKind kind = FindingKind::kVolume;
  SECTION("no volume's flag") { record.flags = 0; }
  SECTION("read-only without being a volume") {
    record.flags = 4;
    // It stays what it was as far as that is known.
  }
  SECTION("its name leads elsewhere") {
    record.parent_cookie = 77;
    kind = FindingKind::kParent;
  }
  seal(image, where.block);
  require_repair(image, kind, kind == FindingKind::kVolume && record.flags == 4 ? Allowed{"main"} : Allowed{});
}

TEST_CASE("repair: a volume with two names", "[repair]") {
  Image image = good();
  const VolumeNumber main = number_of(image, "main"), before = number_of(image, "before");
  const InodeAt directory = find_inode(image, "", format::kRootInode);
  const BlockNumber block = leaf_of(image, data_fork(directory.record, format::LeafKind::kDirectory), FileBlock(0));
  bool found = false;
  for (std::uint64_t granule = 0; !found;) {
    auto& entry = *reinterpret_cast<format::DirectoryEntry*>(at<Block>(image, block).bytes + granule * format::kGranuleBytes);
    REQUIRE(entry.granules != 0);
    found = entry.inode == before.value;
    if (found) entry.inode = main.value;
    granule += entry.granules;
  }
  seal(image, block);
  const Contents after = contents_of(require_repair(image, FindingKind::kLinkCount, {"before", "recovered-"}));
  CHECK(after.contains("recovered-" + std::to_string(before.value) + ":/a/b/deep"));
}

TEST_CASE("repair: generations that have come to their end", "[repair]") {
  Image image = good();
  at<format::Roots>(image, format::kRootsBlock).generation_limit = ~0ull - 100;
  seal(image, format::kRootsBlock);
  Image repaired = require_repair(image, FindingKind::kVolume);
  const std::uint64_t limit = at<format::Roots>(repaired, format::kRootsBlock).generation_limit;
  CHECK(limit > find_inode(repaired, "main", repair_image().big).record.generation);
  CHECK(limit < 1'000'000);
}

TEST_CASE("repair: no volume table", "[repair]") {
  Image image = good();
  auto& roots = at<format::Roots>(image, format::kRootsBlock);
  FindingKind kind = FindingKind::kVolume;
  SECTION("its mode") { roots.volume_zero.mode = 0; }
  SECTION("its slots") {
    roots.volume_zero.data = {};
    kind = FindingKind::kUnreachable;
  }
  seal(image, format::kRootsBlock);
  if (kind == FindingKind::kVolume) {
    require_repair(image, kind);
    return;
  }
  const Repaired repaired = repair_of(image);
  REQUIRE_FALSE(repaired.report);
  CHECK(repaired.report.error().code == ErrorCode::kDamaged);
}
