// The checker against damage made by hand in a pool without volumes: copies, headers, reverse map.
#include "engine/checker.h"

#include <algorithm>
#include <string>

#include "engine/check_findings.h"
#include "engine/format.h"
#include "engine/medium_dram.h"
#include "engine/metadata.h"
#include "engine/store.h"
#include "test/catch.h"
#include "test/checker_image.h"

using namespace daxcow;
using namespace daxcow::test;
using format::BlockType;

namespace {

// A pool without volumes.
Image bare_image() {
  auto medium = DramMedium::create(kPoolBytes);
  REQUIRE(medium);
  REQUIRE(Store::format(**medium, "bare"));
  return (*medium)->snapshot();
}

constexpr BlockNumber kFirstLeaf = format::kRootsBlock + 1;

// What every check of a bare image finds.
void require_only(const CheckReport& report, FindingKind kind, std::size_t count = 1) {
  INFO(listing(report));
  CHECK(count_of(report, FindingKind::kVolume) == 1);
  CHECK(count_of(report, kind) == count);
  CHECK(report.finding_count == count + 1);
}

}  // namespace

TEST_CASE("checker: a bare pool lacks its volume table only", "[checker]") {
  const CheckReport report = check_image(bare_image());
  INFO(listing(report));
  CHECK(report.finding_count == 1);
  CHECK(count_of(report, FindingKind::kVolume) == 1);
  CHECK_FALSE(report.clean());
  CHECK(report.records == 4);
  CHECK(report.metadata_blocks == 2);
  CHECK(report.free_blocks == kPoolBytes / kBlockBytes - 2 - 2 * format::kChunkBlocks);
}

TEST_CASE("checker: what is no pool is refused", "[checker]") {
  auto empty = DramMedium::create(kPoolBytes);
  REQUIRE(empty);
  const auto report = check(std::move(*empty), CheckOptions{});
  REQUIRE_FALSE(report);
  CHECK(report.error().code == ErrorCode::kNotAPool);
}

TEST_CASE("checker: both superblocks damaged is a finding", "[checker]") {
  Image image = bare_image();
  image[100] ^= std::byte{1};
  image[kPoolBytes - kBlockBytes + 100] ^= std::byte{1};
  const CheckReport report = check_image(image);
  CHECK(report.finding_count == 1);
  CHECK(count_of(report, FindingKind::kSuperblock) == 1);
}

TEST_CASE("checker: one damaged superblock", "[checker]") {
  for (const std::uint64_t offset : {std::uint64_t{100}, kPoolBytes - kBlockBytes + 100}) {
    Image image = bare_image();
    image[offset] ^= std::byte{1};
    require_only(check_image(image), FindingKind::kSuperblock);
  }
}

TEST_CASE("checker: a damaged copy of a metadata block", "[checker]") {
  for (const BlockNumber block : {format::kRootsBlock, kFirstLeaf, Metadata::mirror_of(kFirstLeaf)}) {
    Image image = bare_image();
    image[byte_offset(block) + 3000] ^= std::byte{0x10};
    const CheckReport report = check_image(image);
    require_only(report, FindingKind::kCopy);
    CHECK(std::ranges::find(report.findings, FindingKind::kCopy, &Finding::kind)->block == block);
  }
}

TEST_CASE("checker: a poisoned copy of a metadata block", "[checker]") {
  const CheckReport report = check_image(bare_image(), [](DramMedium& medium) { medium.inject(kFirstLeaf); });
  require_only(report, FindingKind::kCopy);
}

TEST_CASE("checker: both copies of a leaf damaged", "[checker]") {
  Image image = bare_image();
  for (const BlockNumber block : {kFirstLeaf, Metadata::mirror_of(kFirstLeaf)})
    image[byte_offset(block) + 100] ^= std::byte{1};
  const CheckReport report = check_image(image);
  INFO(listing(report));
  CHECK(count_of(report, FindingKind::kChecksum) == 1);
  CHECK(count_of(report, FindingKind::kMissingRecord) == 4);
  CHECK_FALSE(report.clean());
}

TEST_CASE("checker: a damaged chunk header", "[checker]") {
  for (const BlockNumber block : {format::kFirstChunk, Metadata::mirror_of(format::kFirstChunk)}) {
    Image image = bare_image();
    image[byte_offset(block) + 80] ^= std::byte{1};
    require_only(check_image(image), FindingKind::kChunk);
  }
  Image image = bare_image();
  for (const BlockNumber block : {format::kFirstChunk, Metadata::mirror_of(format::kFirstChunk)})
    image[byte_offset(block) + 80] ^= std::byte{1};
  const CheckReport report = check_image(image);
  INFO(listing(report));
  CHECK(count_of(report, FindingKind::kChunk) == 1);
  CHECK_FALSE(report.clean());
}

TEST_CASE("checker: a missing and an extra record", "[checker]") {
  Image image = bare_image();
  auto& leaf = at<format::ReverseLeaf>(image, kFirstLeaf);
  SECTION("missing") {
    leaf.records[2] = {};
    leaf.used[0] &= ~4ull;
    seal(image, kFirstLeaf);
    require_only(check_image(image), FindingKind::kMissingRecord);
  }
  SECTION("extra") {
    leaf.records[4] = {.first = 5000,
                       .source = format::kRootsBlock.value,
                       .length_blocks = 3,
                       .slot = 1,
                       .kind = format::RecordKind::kTree,
                       .level = 0,
                       .flags = 0,
                       .sector_mask = 0,
                       .reserved = 0};
    leaf.used[0] |= 1ull << 4;
    seal(image, kFirstLeaf);
    const CheckReport report = check_image(image);
    require_only(report, FindingKind::kExtraRecord);
    CHECK(report.data_blocks == 3);
  }
  SECTION("otherwise recorded") {
    leaf.records[3].length_blocks = 511;
    seal(image, kFirstLeaf);
    const CheckReport report = check_image(image);
    INFO(listing(report));
    CHECK(count_of(report, FindingKind::kMissingRecord) == 1);
    CHECK(count_of(report, FindingKind::kExtraRecord) == 1);
  }
  SECTION("a left-over hold") {
    leaf.records[4] = {.first = 5000,
                       .source = 0,
                       .length_blocks = 1,
                       .slot = 0,
                       .kind = format::RecordKind::kHold,
                       .level = 0,
                       .flags = 0,
                       .sector_mask = 0,
                       .reserved = 0};
    leaf.used[0] |= 1ull << 4;
    seal(image, kFirstLeaf);
    require_only(check_image(image), FindingKind::kExtraRecord);
  }
  SECTION("nonsense in a leaf") {
    leaf.records[7].first = 1;  // of a free slot
    seal(image, kFirstLeaf);
    require_only(check_image(image), FindingKind::kRecordOrder);
  }
}

TEST_CASE("checker: a block type without a reference", "[checker]") {
  Image image = bare_image();
  at<format::ChunkHeader>(image, format::kFirstChunk).blocks[10].type = BlockType::kDirectory;
  seal(image, format::kFirstChunk + 11);
  require_only(check_image(image), FindingKind::kUnreachable);
}

TEST_CASE("checker: overlapping leaves", "[checker]") {
  Image image = bare_image();
  auto& header = at<format::ChunkHeader>(image, format::kFirstChunk);
  header.blocks[2].type = BlockType::kReverseLeaf;
  auto& first = at<format::ReverseLeaf>(image, kFirstLeaf);
  auto& second = at<format::ReverseLeaf>(image, kFirstLeaf + 1);
  second.records[0] = first.records[2];
  second.used[0] = 1;
  first.records[2] = {};
  first.used[0] &= ~4ull;
  seal(image, kFirstLeaf);
  seal(image, kFirstLeaf + 1);
  require_only(check_image(image), FindingKind::kRecordOrder);
}

TEST_CASE("checker: a bad journal copy is a note", "[checker]") {
  const CheckReport report =
      check_image(bare_image(), [](DramMedium& medium) { medium.inject(format::kJournalChunk); });
  require_only(report, FindingKind::kCopy);
  CHECK(std::ranges::find(report.findings, FindingKind::kCopy, &Finding::kind)->severity == Severity::kNote);
}

TEST_CASE("checker: findings are counted beyond what is kept, and notes give way", "[checker]") {
  CheckReport report;
  CHECK(report.clean());
  report.findings.push_back({FindingKind::kPoisoned, Severity::kLoss, BlockNumber(1), "", ""});
  report.findings.push_back({FindingKind::kCopy, Severity::kNote, BlockNumber(1), "", ""});
  CHECK(report.clean());
  report.findings.push_back({FindingKind::kPoisoned, Severity::kRepairable, BlockNumber(1), "", ""});
  CHECK_FALSE(report.clean());
}

TEST_CASE("checker: what matters is kept when there are too many findings", "[checker]") {
  auto medium = DramMedium::create(kPoolBytes);
  REQUIRE(medium);
  Metadata metadata(**medium, 0);
  CheckReport report;
  checker::Paths paths(metadata);
  checker::Findings findings(report, paths);
  for (std::size_t i = 0; i < CheckReport::kMaximumFindings + 5; ++i)
    findings.add(FindingKind::kCopy, Severity::kNote, BlockNumber(i), "somewhere", "a note");
  CHECK(report.clean());
  findings.add(FindingKind::kInode, Severity::kRepairable, BlockNumber(1), "somewhere", "damage");
  CHECK_FALSE(report.clean());
  CHECK(report.findings.size() == CheckReport::kMaximumFindings);
  CHECK(report.finding_count == CheckReport::kMaximumFindings + 6);
}
