#include "engine/reverse_map.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "test/catch.h"
#include "test/memory_editor.h"
#include "test/seed.h"

namespace daxcow {

namespace format {
static bool operator==(const ReverseRecord& a, const ReverseRecord& b) { return std::memcmp(&a, &b, sizeof a) == 0; }
}  // namespace format

namespace {

using format::BlockType;
using format::RecordKind;
using format::ReverseLeaf;
using format::ReverseRecord;
using test::MemoryEditor;

constexpr std::uint64_t kPoolBlocks = 3000;

ReverseRecord tree(std::uint64_t first, std::uint64_t length, std::uint64_t source, std::uint16_t slot = 0) {
  ReverseRecord record{};
  record.first = first;
  record.source = source;
  record.length_blocks = length;
  record.slot = slot;
  record.kind = RecordKind::kTree;
  return record;
}

BlockRun run(std::uint64_t first, std::uint64_t count) { return {BlockNumber(first), count}; }

std::vector<ReverseRecord> covering(const ReverseMap& map, BlockReader& reader, BlockRun run) {
  std::vector<ReverseRecord> records;
  REQUIRE(map.for_each_covering(reader, run, [&](const ReverseRecord& record) {
    records.push_back(record);
    return true;
  }));
  return records;
}

std::vector<BlockRun> unreferenced(const ReverseMap& map, BlockReader& reader, BlockRun run) {
  std::vector<BlockRun> runs;
  REQUIRE(map.for_each_unreferenced(reader, run, [&](BlockRun gap) { runs.push_back(gap); }));
  return runs;
}

std::unique_ptr<ReverseMap> reopen(const MemoryEditor& editor, std::mt19937_64& random, std::uint64_t pool_blocks) {
  auto map = std::make_unique<ReverseMap>();
  auto leaves = editor.blocks(BlockType::kReverseLeaf);
  std::shuffle(leaves.begin(), leaves.end(), random);
  for (const auto& [block, content] : leaves) REQUIRE(map->add_leaf(block, content->as<ReverseLeaf>(), pool_blocks));
  REQUIRE(map->finish_open());
  return map;
}

// The records, and the questions answered by looking at all of them.
class Model {
 public:
  std::map<RecordKey, ReverseRecord> records;

  static bool counts(const ReverseRecord& r) { return r.kind == RecordKind::kTree || r.kind == RecordKind::kHold; }
  static bool covers(const ReverseRecord& r, BlockRun run) {
    return r.first < run.end().value && r.first + r.length_blocks > run.first.value;
  }
  std::vector<ReverseRecord> covering(BlockRun run) const {
    std::vector<ReverseRecord> found;
    for (const auto& [key, record] : records)
      if (covers(record, run)) found.push_back(record);
    return found;
  }
  unsigned references(std::uint64_t block) const {
    unsigned count = 0;
    for (const auto& record : covering(run(block, 1))) count += counts(record);
    return count;
  }
  bool any_shared(BlockRun run) const {
    for (std::uint64_t b = run.first.value; b < run.end().value; ++b)
      if (references(b) >= 2) return true;
    return false;
  }
  std::vector<BlockRun> unreferenced(BlockRun range) const {
    std::vector<BlockRun> gaps;
    const auto records = covering(range);
    for (std::uint64_t b = range.first.value; b < range.end().value; ++b) {
      const bool used = std::any_of(records.begin(), records.end(), [&](const auto& r) {
        return covers(r, run(b, 1)) && r.kind != RecordKind::kLedger;
      });
      if (used) continue;
      if (gaps.empty() || gaps.back().end().value != b) gaps.push_back(run(b, 0));
      ++gaps.back().count;
    }
    return gaps;
  }
};

void compare_answers(const ReverseMap& map, MemoryEditor& editor, const Model& model, std::mt19937_64& random) {
  for (int i = 0; i < 3; ++i) {
    const std::uint64_t first = random() % (kPoolBlocks - 60);
    const BlockRun range = run(first, 1 + random() % (random() % 2 ? 3 : 40));
    REQUIRE(covering(map, editor, range) == model.covering(range));
    REQUIRE(map.any_shared(editor, range).value() == model.any_shared(range));
    REQUIRE(unreferenced(map, editor, range) == model.unreferenced(range));
    const unsigned limit = random() % 4;
    REQUIRE(map.count_references(editor, range.first, limit).value() == std::min(limit, model.references(first)));
  }
}

void compare_all(const ReverseMap& map, MemoryEditor& editor, const Model& model) {
  REQUIRE(map.record_count() == model.records.size());
  REQUIRE(map.verify(editor));
  auto expected = model.records.begin();
  bool equal = true;
  REQUIRE(map.for_each_record(editor, [&](const ReverseRecord& record) {
    equal = equal && expected != model.records.end() && expected->second == record;
    ++expected;
    return equal;
  }));
  REQUIRE(equal);
  REQUIRE(expected == model.records.end());
}

// What the next record to insert is like.
enum class Pattern { kRandom, kAscending, kDescending, kOneBlock, kInterleaved };

class Generator {
 public:
  explicit Generator(std::mt19937_64& random) : random_(random) {}

  void change_pattern() {
    pattern_ = static_cast<Pattern>(random_() % 5);
    at_ = random_() % kPoolBlocks;
  }
  ReverseRecord next() {
    ReverseRecord record{};
    record.kind = RecordKind::kTree;
    record.source = random_() % 2000;
    record.slot = static_cast<std::uint16_t>(random_() % 512);
    record.level = static_cast<std::uint8_t>(random_() % 3);
    record.flags = static_cast<std::uint8_t>(random_() % 4);
    record.length_blocks = random_() % 100 == 0 ? 1 + random_() % 500 : 1 + random_() % 4;
    switch (pattern_) {
      case Pattern::kRandom:
        record.first = random_() % kPoolBlocks;
        if (random_() % 20 == 0) record.kind = RecordKind::kSystem;
        if (random_() % 20 == 0) record.kind = RecordKind::kHold;
        if (random_() % 20 == 0) {
          record.kind = RecordKind::kLedger;
          record.length_blocks = 1;
          record.sector_mask = 0x81;
        }
        break;
      case Pattern::kAscending:
      case Pattern::kDescending:
        record.source = 5000 + (count_++ / 100) % 5;
        record.source = std::min(record.source, kPoolBlocks - 1);
        at_ = (at_ + (pattern_ == Pattern::kAscending ? 1 : kPoolBlocks - 1)) % kPoolBlocks;
        record.first = at_;
        break;
      case Pattern::kOneBlock:
        record.first = 777;
        record.source = random_() % kPoolBlocks;
        break;
      case Pattern::kInterleaved:  // two ascending streams
        at_ = (at_ + count_ % 2) % kPoolBlocks;
        record.first = (at_ + (count_++ % 2) * 1000) % kPoolBlocks;
        break;
    }
    record.length_blocks = std::min(record.length_blocks, kPoolBlocks - record.first);
    return record;
  }

 private:
  std::mt19937_64& random_;
  Pattern pattern_ = Pattern::kRandom;
  std::uint64_t at_ = 0;
  std::uint64_t count_ = 0;
};

TEST_CASE("reverse map: nothing is found in an empty map") {
  MemoryEditor editor;
  ReverseMap map;
  CHECK(covering(map, editor, run(0, 100)).empty());
  CHECK(map.count_references(editor, BlockNumber(1), 2).value() == 0);
  CHECK(unreferenced(map, editor, run(5, 7)) == std::vector{run(5, 7)});
  CHECK(map.erase(editor, tree(1, 1, 1)).error().code == ErrorCode::kDamaged);
  CHECK(map.replace(editor, tree(1, 1, 1), tree(1, 2, 1)).error().code == ErrorCode::kDamaged);
  CHECK(map.finish_open());
}

TEST_CASE("reverse map: the first insert makes a leaf, the last erase releases it") {
  MemoryEditor editor;
  ReverseMap map;
  REQUIRE(map.insert(editor, tree(10, 2, 7)));
  CHECK(map.leaf_count() == 1);
  editor.commit();
  map.keep_changes();
  REQUIRE(map.erase(editor, tree(10, 2, 7)));
  editor.commit();
  map.keep_changes();
  CHECK(map.leaf_count() == 0);
  CHECK(map.record_count() == 0);
  CHECK(editor.blocks(BlockType::kReverseLeaf).empty());
}

TEST_CASE("reverse map: records that are there, are not, or differ") {
  MemoryEditor editor;
  ReverseMap map;
  REQUIRE(map.insert(editor, tree(10, 2, 7)));
  CHECK(map.insert(editor, tree(10, 3, 7)).error().code == ErrorCode::kDamaged);
  CHECK(map.erase(editor, tree(10, 3, 7)).error().code == ErrorCode::kDamaged);
  CHECK(map.erase(editor, tree(10, 2, 7, 1)).error().code == ErrorCode::kDamaged);
  CHECK(map.replace(editor, tree(11, 2, 7), tree(11, 3, 7)).error().code == ErrorCode::kDamaged);
  CHECK(map.replace(editor, tree(10, 3, 7), tree(10, 9, 7)).error().code == ErrorCode::kDamaged);
  CHECK(map.replace(editor, tree(10, 2, 7), tree(10, 9, 7)));
  CHECK(covering(map, editor, run(18, 1)) == std::vector{tree(10, 9, 7)});
  CHECK(map.replace(editor, tree(10, 9, 7), tree(10, 1, 7)));
  CHECK(covering(map, editor, run(11, 100)).empty());
  CHECK(map.record_count() == 1);
}

TEST_CASE("reverse map: an insert that add_leaf would refuse at the next open is refused") {
  MemoryEditor editor;
  ReverseMap map;
  ReverseRecord record = tree(10, 0, 7);
  CHECK(map.insert(editor, record).error().code == ErrorCode::kDamaged);
  record = tree(10, ~0ull - 5, 7);
  CHECK(map.insert(editor, record).error().code == ErrorCode::kDamaged);
  record = tree(10, 1, 7);
  record.kind = RecordKind{9};
  CHECK(map.insert(editor, record).error().code == ErrorCode::kDamaged);
  CHECK(map.leaf_count() == 0);
}

TEST_CASE("reverse map: holds count as references, ledger and system records do not") {
  MemoryEditor editor;
  ReverseMap map;
  ReverseRecord record = tree(10, 1, 7);
  REQUIRE(map.insert(editor, record));
  record.kind = RecordKind::kHold;
  REQUIRE(map.insert(editor, record));
  record.kind = RecordKind::kSystem;
  REQUIRE(map.insert(editor, record));
  record.kind = RecordKind::kLedger;
  record.sector_mask = 1;
  REQUIRE(map.insert(editor, record));
  record.first = 11;
  REQUIRE(map.insert(editor, record));
  CHECK(map.count_references(editor, BlockNumber(10), 100).value() == 2);
  CHECK(map.count_references(editor, BlockNumber(11), 100).value() == 0);
  CHECK(unreferenced(map, editor, run(9, 4)) == std::vector{run(9, 1), run(11, 2)});
}

TEST_CASE("reverse map: a change of one record changes one line for it and one for the bitmap") {
  MemoryEditor editor;
  ReverseMap map;
  for (std::uint64_t i = 0; i < 100; ++i) REQUIRE(map.insert(editor, tree(1000 - 7 * i, 3, i)));
  editor.commit();
  map.keep_changes();
  REQUIRE(map.insert(editor, tree(500, 3, 9)));
  CHECK(editor.changed_lines() == 2);
  editor.abort();
  map.drop_changes();
  REQUIRE(map.erase(editor, tree(1000 - 7 * 20, 3, 20)));
  CHECK(editor.changed_lines() == 2);
  editor.abort();
  map.drop_changes();
  REQUIRE(map.replace(editor, tree(1000 - 7 * 20, 3, 20), tree(1000 - 7 * 20, 2, 20)));
  CHECK(editor.changed_lines() == 1);
  editor.abort();
  map.drop_changes();
  const std::uint64_t edits = editor.edits;
  REQUIRE(map.replace(editor, tree(1000 - 7 * 20, 3, 20), tree(1000 - 7 * 20, 3, 20)));
  CHECK_FALSE(map.insert(editor, tree(1000 - 7 * 20, 3, 20)));
  CHECK_FALSE(map.erase(editor, tree(1000 - 7 * 20, 4, 20)));
  CHECK(editor.edits == edits);
}

TEST_CASE("reverse map: inserts fill the leaves") {
  MemoryEditor editor;
  ReverseMap map;
  constexpr std::uint64_t kCount = 20000;
  const auto average = [&] { return static_cast<double>(map.record_count()) / static_cast<double>(map.leaf_count()); };
  SECTION("ascending") {
    for (std::uint64_t i = 0; i < kCount; ++i) REQUIRE(map.insert(editor, tree(i, 1, 1)));
    CHECK(average() > 120);
  }
  SECTION("ascending, before others") {
    for (std::uint64_t i = 0; i < 500; ++i) REQUIRE(map.insert(editor, tree(kCount + i * 37 % 500, 1, 1)));
    for (std::uint64_t i = 0; i < kCount; ++i) REQUIRE(map.insert(editor, tree(i, 1, 1)));
    CHECK(average() > 115);
  }
  SECTION("two ascending streams") {
    for (std::uint64_t i = 0; i < kCount; ++i) REQUIRE(map.insert(editor, tree(i + i % 2 * 1000000, 1, 1)));
    CHECK(average() > 115);
  }
  SECTION("descending") {
    for (std::uint64_t i = kCount; i > 0; --i) REQUIRE(map.insert(editor, tree(i, 1, 1)));
    CHECK(average() > 60);
  }
  SECTION("descending, after others") {
    REQUIRE(map.insert(editor, tree(0, 1, 1)));
    for (std::uint64_t i = kCount; i > 0; --i) REQUIRE(map.insert(editor, tree(i, 1, 1)));
    CHECK(average() > 60);
  }
  SECTION("a few new owners after each old one") {
    const std::uint64_t owners = GENERATE(2, 3, 4, 7);
    for (std::uint64_t i = 0; i < kCount; ++i) REQUIRE(map.insert(editor, tree(i, 1, 1)));
    for (std::uint64_t i = 0; i < kCount; ++i)
      for (std::uint64_t owner = 0; owner < owners; ++owner) REQUIRE(map.insert(editor, tree(i, 1, 2 + owner)));
    CHECK(average() > 60);
  }
  SECTION("a few new owners after each old one, in leaves that are almost full") {
    for (std::uint64_t i = 0; i < kCount; ++i) REQUIRE(map.insert(editor, tree(i, 1, 1)));
    for (std::uint64_t i = 0; i < kCount; ++i)
      if (i % 126 >= 122) REQUIRE(map.erase(editor, tree(i, 1, 1)));
    for (std::uint64_t i = 0; i < kCount; ++i)
      for (std::uint64_t owner = 0; owner < 9; ++owner) REQUIRE(map.insert(editor, tree(i, 1, 2 + owner)));
    CHECK(average() > 70);
  }
  REQUIRE(map.verify(editor));
}

TEST_CASE("reverse map: erases leave no crowd of sparse leaves") {
  MemoryEditor editor;
  ReverseMap map;
  for (std::uint64_t i = 0; i < 50000; ++i) REQUIRE(map.insert(editor, tree(i, 1, 1)));
  for (std::uint64_t i = 0; i < 50000; ++i)
    if (i % 50 != 0) REQUIRE(map.erase(editor, tree(i, 1, 1)));
  CHECK(map.record_count() == 1000);
  CHECK(map.leaf_count() <= 35);
  REQUIRE(map.verify(editor));
}

TEST_CASE("reverse map: a block with very many owners costs no more than one with two") {
  MemoryEditor editor;
  ReverseMap map;
  constexpr std::uint64_t kOwners = 100000;
  for (std::uint64_t i = 0; i < kOwners; ++i) REQUIRE(map.insert(editor, tree(500, 1, i * 7919 % kOwners)));
  REQUIRE(map.insert(editor, tree(501, 1, 1)));
  REQUIRE(map.insert(editor, tree(503, 4, 1)));
  const auto reads_of = [&](auto action) {
    const std::uint64_t before = editor.reads;
    action();
    return editor.reads - before;
  };
  CHECK(reads_of([&] { CHECK(map.count_references(editor, BlockNumber(500), 2).value() == 2); }) == 1);
  CHECK(reads_of([&] { CHECK(map.any_shared(editor, run(400, 512)).value()); }) == 1);
  CHECK(reads_of([&] { CHECK_FALSE(map.any_shared(editor, run(501, 512)).value()); }) <= 2);
  CHECK(reads_of([&] { CHECK(unreferenced(map, editor, run(499, 5)) == std::vector{run(499, 1), run(502, 1)}); }) <= 3);
  CHECK(reads_of([&] { CHECK(covering(map, editor, run(501, 1)).size() == 1); }) <= 2);
  CHECK(reads_of([&] { REQUIRE(map.erase(editor, tree(500, 1, 4711))); }) <= 3);
  CHECK(covering(map, editor, run(500, 1)).size() == kOwners - 1);
  CHECK(map.count_references(editor, BlockNumber(500), kOwners).value() == kOwners - 1);
  REQUIRE(map.verify(editor));
}

TEST_CASE("reverse map: long runs are found from afar without reading what lies between") {
  MemoryEditor editor;
  ReverseMap map;
  for (std::uint64_t i = 0; i < 30000; ++i) REQUIRE(map.insert(editor, tree(i, 1, 1)));
  REQUIRE(map.insert(editor, tree(17, 29000, 2)));
  REQUIRE(map.insert(editor, tree(9000, 20000, 2)));
  const std::uint64_t before = editor.reads;
  CHECK(covering(map, editor, run(28500, 1)) ==
        std::vector{tree(17, 29000, 2), tree(9000, 20000, 2), tree(28500, 1, 1)});
  CHECK(editor.reads - before <= 4);
}

TEST_CASE("reverse map: behaves as a set of records under random transactions") {
  const std::uint64_t seed = test::random_seed();
  INFO(test::describe_seed(seed));
  std::mt19937_64 random(seed);
  MemoryEditor editor(BlockNumber(2000));
  auto map = std::make_unique<ReverseMap>();
  Model model;
  Generator generator(random);
  for (int transaction = 0; transaction < 1600; ++transaction) {
    if (random() % 12 == 0) generator.change_pattern();
    const bool grows = transaction / 400 % 2 == 0;
    Model changed = model;
    bool failed = false;
    if (random() % 6 == 0) editor.succeed = random() % 40;
    const int changes = 1 + static_cast<int>(random() % 50);
    auto sweep = changed.records.lower_bound({.first = random() % kPoolBlocks});
    const bool sweeps = random() % 2 == 0;
    for (int i = 0; i < changes && !failed; ++i) {
      const unsigned dice = random() % 10;
      if (dice < (grows ? 7u : 2u)) {
        const ReverseRecord record = generator.next();
        const bool is_new = !changed.records.contains(key_of(record));
        const auto inserted = map->insert(editor, record);
        if (!inserted && is_new) {
          REQUIRE(inserted.error().message == "planted");
          failed = true;
          break;
        }
        REQUIRE(inserted.has_value() == is_new);
        if (is_new) changed.records.emplace(key_of(record), record);
      } else {
        auto victim = sweeps ? sweep : changed.records.lower_bound({.first = random() % kPoolBlocks});
        if (victim == changed.records.end()) victim = changed.records.begin();
        if (victim == changed.records.end()) continue;
        ReverseRecord record = victim->second;
        if (dice == 9 && record.kind != RecordKind::kLedger) {
          record.length_blocks = std::min(1 + random() % 6, kPoolBlocks - record.first);
          const auto replaced = map->replace(editor, victim->second, record);
          failed = !replaced;
          victim->second = record;
          continue;
        }
        const auto erased = map->erase(editor, record);
        failed = !erased;
        sweep = changed.records.erase(victim);
      }
    }
    if (!failed && random() % 4 == 0) compare_answers(*map, editor, changed, random);  // a transaction sees itself
    editor.succeed = ~0ull;
    if (failed || random() % 5 == 0) {
      editor.abort();
      map->drop_changes();
    } else {
      editor.commit();
      map->keep_changes();
      model = std::move(changed);
    }
    REQUIRE(map->record_count() == model.records.size());
    REQUIRE(map->leaf_count() == editor.blocks(BlockType::kReverseLeaf).size());
    if (transaction % 4 == 0) compare_answers(*map, editor, model, random);
    if (transaction % 20 == 0) compare_all(*map, editor, model);
    if (transaction % 50 == 0) {
      map = reopen(editor, random, 10000);
      compare_all(*map, editor, model);
    }
  }
  // Erase all of it: every leaf is given back.
  std::vector<ReverseRecord> rest;
  for (const auto& [key, record] : model.records) rest.push_back(record);
  std::shuffle(rest.begin(), rest.end(), random);
  for (const ReverseRecord& record : rest) REQUIRE(map->erase(editor, record));
  editor.commit();
  map->keep_changes();
  CHECK(map->leaf_count() == 0);
  CHECK(editor.blocks(BlockType::kReverseLeaf).empty());
}

// --- Hostile leaves --------------------------------------------------------------------------------------------------

Block leaf_of(const std::vector<ReverseRecord>& records) {
  Block block{};
  ReverseLeaf& leaf = block.as<ReverseLeaf>();
  for (unsigned slot = 0; slot < records.size(); ++slot) {
    leaf.records[slot] = records[slot];
    leaf.used[slot / 64] |= 1ull << (slot % 64);
  }
  return block;
}

template <class Spoil>
bool refused(Spoil spoil) {
  Block block = leaf_of({tree(10, 2, 7), tree(30, 5, 8), tree(20, 1, 9)});
  spoil(block.as<ReverseLeaf>());
  ReverseMap map;
  const auto added = map.add_leaf(BlockNumber(5), block.as<ReverseLeaf>(), 100);
  return !added && added.error().code == ErrorCode::kDamaged && !added.error().message.empty();
}

TEST_CASE("reverse map: hostile leaves are refused") {
  CHECK_FALSE(refused([](ReverseLeaf&) {}));
  CHECK_FALSE(refused([](ReverseLeaf& leaf) { leaf.records[0].length_blocks = 90; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf = {}; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.used[0] = 0; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.used[0] |= 8; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.used[1] |= 1ull << 63; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.used[1] |= 1ull << 62; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.used = {~0ull, ~0ull}; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.reserved[5] = 1; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[125].reserved = 1; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[125].kind = RecordKind::kTree; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].length_blocks = 0; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].length_blocks = 91; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].length_blocks = ~0ull; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].first = 100; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].first = ~0ull; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].source = 100; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].slot = 512; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].level = 8; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].flags = 4; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].reserved = 1; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].sector_mask = 1; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].kind = RecordKind{0}; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].kind = RecordKind{5}; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[0].kind = RecordKind{255}; }));
  CHECK(refused([](ReverseLeaf& leaf) { leaf.records[2] = leaf.records[1]; }));
  CHECK(refused([](ReverseLeaf& leaf) {  // equal keys, different lengths
    leaf.records[2] = leaf.records[1];
    leaf.records[2].length_blocks = 1;
  }));
  CHECK(refused([](ReverseLeaf& leaf) {  // a ledger record of two blocks
    leaf.records[0].kind = RecordKind::kLedger;
    leaf.records[0].sector_mask = 1;
  }));
  CHECK(refused([](ReverseLeaf& leaf) {  // of no sector
    leaf.records[0].kind = RecordKind::kLedger;
    leaf.records[0].length_blocks = 1;
  }));
  ReverseMap map;
  CHECK_FALSE(map.add_leaf(BlockNumber(100), leaf_of({tree(1, 1, 1)}).as<ReverseLeaf>(), 100));
}

TEST_CASE("reverse map: random bytes are refused or harmless") {
  const std::uint64_t seed = test::random_seed();
  INFO(test::describe_seed(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 3000; ++round) {
    Block block = leaf_of({tree(10, 2, 7), tree(30, 5, 8), tree(20, 1, 9)});
    for (unsigned i = 0; i < 1 + random() % 3; ++i) block.bytes[random() % 200] = static_cast<std::byte>(random());
    ReverseMap map;
    if (map.add_leaf(BlockNumber(5), block.as<ReverseLeaf>(), 100)) {
      CHECK(map.finish_open());
      CHECK(map.record_count() == 3);
    }
  }
}

TEST_CASE("reverse map: leaves that overlap are refused") {
  const auto open = [](const std::vector<std::vector<ReverseRecord>>& leaves) {
    ReverseMap map;
    std::uint64_t block = 50;
    for (const auto& records : leaves)
      REQUIRE(map.add_leaf(BlockNumber(block++), leaf_of(records).as<ReverseLeaf>(), 100));
    const bool opened = map.finish_open().has_value();
    CHECK(map.leaf_count() == (opened ? leaves.size() : 0));
    return opened;
  };
  const ReverseRecord a = tree(10, 50, 1), b = tree(20, 50, 1), c = tree(30, 1, 1), d = tree(40, 1, 1);
  CHECK(open({{c, d}, {b, a}}));
  CHECK_FALSE(open({{a, c}, {b, d}}));
  CHECK_FALSE(open({{a, d}, {b, c}}));
  CHECK_FALSE(open({{a, b}, {b, c}}));
  CHECK_FALSE(open({{a}, {a}}));
}

TEST_CASE("reverse map: a leaf that changed behind the index is noticed") {
  MemoryEditor editor;
  ReverseMap map;
  REQUIRE(map.insert(editor, tree(10, 2, 7)));
  editor.commit();
  map.keep_changes();
  const BlockNumber leaf = editor.blocks(BlockType::kReverseLeaf).front().first;
  editor.edit(leaf, BlockType::kReverseLeaf).value()->as<ReverseLeaf>() = {};
  CHECK(map.count_references(editor, BlockNumber(10), 1).error().code == ErrorCode::kDamaged);
  CHECK(map.insert(editor, tree(10, 2, 8)).error().code == ErrorCode::kDamaged);
}

}  // namespace
}  // namespace daxcow
