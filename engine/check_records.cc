#include "engine/check_records.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <string>

#include "engine/pool_layout.h"
#include "engine/record_key.h"
#include "engine/reverse_leaf.h"
#include "engine/reverse_map.h"

namespace daxcow::checker {

using format::BlockType;
using format::RecordKind;
using format::ReverseLeaf;
using format::ReverseRecord;

namespace {

constexpr std::uint64_t kRecordsPerSlice = 4'000'000;  // of each side: 256 MiB at most for both

std::uint64_t hash_of(const ReverseRecord& record, std::uint64_t key) {
  std::array<std::uint64_t, sizeof record / sizeof(std::uint64_t)> words;
  std::memcpy(words.data(), &record, sizeof record);
  std::uint64_t hash = key;
  for (const std::uint64_t word : words) {
    hash = (hash ^ word) * 0x9fb21c651e98df25ull;
    hash ^= hash >> 29 ^ hash >> 47;
  }
  return hash * 0xbf58476d1ce4e5b9ull ^ hash >> 31;
}

bool same(const ReverseRecord& a, const ReverseRecord& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

std::string describe_record(const ReverseRecord& record) {
  return "blocks " + std::to_string(record.first) + "+" + std::to_string(record.length_blocks) + " from " +
         (record.kind == RecordKind::kSystem ? "system " : "") + "block " + std::to_string(record.source) + " slot " +
         std::to_string(record.slot) + " level " + std::to_string(record.level) +
         (record.flags & format::kRecordNode ? " node" : "") +
         (record.flags & format::kRecordUnwritten ? " unwritten" : "");
}

}  // namespace

Tally::Tally() {
  std::random_device random;
  for (std::uint64_t& key : keys_) key = (static_cast<std::uint64_t>(random()) << 32 | random()) | 1;
}

Tally Tally::like(const Tally& other) {
  Tally tally = other;
  tally.sums_ = {};
  tally.count_ = 0;
  return tally;
}

void Tally::add(const ReverseRecord& record) {
  ++count_;
  for (int i = 0; i < 2; ++i) sums_[i] += hash_of(record, keys_[i]);
}

// --- Scan ------------------------------------------------------------------------------------------------------------

struct ReverseScan::Leaf {
  RecordKey smallest, largest;
  BlockNumber block;
};

void ReverseScan::read_leaf(BlockNumber block, std::vector<Leaf>& leaves, ReverseMap& probe) {
  context_.advance();
  const auto content = context_.metadata.read(block, BlockType::kReverseLeaf);
  if (!content) return;  // check_copies reports it
  leaf_blocks_.push_back(block);
  const auto& leaf = (*content)->as<ReverseLeaf>();
  if (const auto added = probe.add_leaf(block, leaf, context_.pool_blocks); !added)
    context_.findings.add(FindingKind::kRecordOrder, Severity::kRepairable, block, "reverse map",
                          describe(added.error()));
  Leaf summary{{}, {}, block};
  bool any = false;
  reverse_leaf::for_each_record(leaf, [&](const ReverseRecord& record) {
    const RecordKey key = key_of(record);
    if (!any || key < summary.smallest) summary.smallest = key;
    if (!any || summary.largest < key) summary.largest = key;
    any = true;
    ++context_.report.records;
    if (record.kind == RecordKind::kLedger) {
      ++context_.report.ledger_blocks;
      context_.bad.add(BlockNumber(record.first), true);
    } else if (record.kind == RecordKind::kHold) {
      context_.findings.add(FindingKind::kExtraRecord, Severity::kRepairable, BlockNumber(record.first), "reverse map",
                            "a hold of the healer is left over");
    } else {
      found_.add(record);
    }
  });
  if (any) leaves.push_back(summary);
}

void ReverseScan::scan() {
  std::vector<Leaf> leaves;
  ReverseMap probe;  // for its verdict on each leaf: what it refuses keeps the pool from opening
  for (const BlockNumber base : context_.metadata.chunks())
    for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i)
      if (context_.metadata.descriptor(base + i).type == BlockType::kReverseLeaf) read_leaf(base + i, leaves, probe);
  std::ranges::sort(leaves, {}, &Leaf::smallest);
  for (std::size_t i = 1; i < leaves.size(); ++i)
    if (leaves[i - 1].largest >= leaves[i].smallest)
      context_.findings.add(FindingKind::kRecordOrder, Severity::kRepairable, leaves[i].block, "reverse map",
                            "a leaf has keys that belong to the leaf in " + block_name(leaves[i - 1].block));
  sweep(leaves);
}

// Records by their first block; leaves that overlap are reported already and only blur the numbers.
void ReverseScan::sweep(const std::vector<Leaf>& leaves) {
  std::vector<ReverseRecord> records;
  for (const Leaf& leaf : leaves) {
    const auto content = context_.metadata.read(leaf.block, BlockType::kReverseLeaf);
    if (!content) continue;
    records.clear();
    reverse_leaf::for_each_record((*content)->as<ReverseLeaf>(),
                                  [&](const ReverseRecord& record) { records.push_back(record); });
    std::ranges::sort(records, {}, &ReverseRecord::first);
    for (const ReverseRecord& record : records) sweep_record(record);
  }
  if (covered_ < context_.pool_blocks) free_.push_back({BlockNumber(covered_), context_.pool_blocks - covered_});
  for (const BlockRun& run : free_) context_.report.free_blocks += run.count;
}

void ReverseScan::sweep_record(const ReverseRecord& record) {
  if (record.first >= context_.pool_blocks || record.length_blocks > context_.pool_blocks - record.first) return;
  const std::uint64_t end = record.first + record.length_blocks;
  if (record.first > covered_) free_.push_back({BlockNumber(covered_), record.first - covered_});
  covered_ = std::max(covered_, end);
  const bool reference = record.kind == RecordKind::kTree || record.kind == RecordKind::kHold;
  if (!reference || context_.metadata.in_chunk(BlockNumber(record.first))) return;
  // All runs so far begin at or before this one, so what they reach they cover.
  const std::uint64_t shared_from = std::max(record.first, shared_covered_), shared_end = std::min(end, data_covered_);
  if (shared_from < shared_end) {
    context_.report.shared_blocks += shared_end - shared_from;
    shared_covered_ = shared_end;
  }
  if (end > data_covered_) {
    context_.report.data_blocks += end - std::max(record.first, data_covered_);
    data_covered_ = end;
  }
}

// --- Comparison ------------------------------------------------------------------------------------------------------

void ReverseScan::for_each_record(Visit visit) {
  for (const BlockNumber block : leaf_blocks_) {
    const auto content = context_.metadata.read(block, BlockType::kReverseLeaf);
    if (!content) continue;
    reverse_leaf::for_each_record((*content)->as<ReverseLeaf>(), [&](const ReverseRecord& record) {
      if (record.kind != RecordKind::kLedger && record.kind != RecordKind::kHold) visit(record);
    });
  }
}

void ReverseScan::compare(const Tally& expected_trees, FunctionRef<void(Visit)> expected) {
  Tally all = expected_trees;
  for_each_system_record(context_.metadata.chunks(), context_.pool_blocks,
                         [&](const ReverseRecord& record) { all.add(record); });
  if (all == found_) return;
  const std::uint64_t slices = std::max(all.count(), found_.count()) / kRecordsPerSlice + 1;
  for (std::uint64_t slice = 0; slice < slices; ++slice) compare_slice(slice, slices, expected);
}

void ReverseScan::compare_slice(std::uint64_t slice, std::uint64_t slices, FunctionRef<void(Visit)> expected) {
  std::vector<ReverseRecord> wanted, present;
  const auto in_slice = [&](const ReverseRecord& record) { return hash_of(record, 0) % slices == slice; };
  const auto want = [&](const ReverseRecord& record) {
    if (in_slice(record)) wanted.push_back(record);
  };
  expected(want);
  for_each_system_record(context_.metadata.chunks(), context_.pool_blocks, want);
  for_each_record([&](const ReverseRecord& record) {
    if (in_slice(record)) present.push_back(record);
  });
  std::ranges::sort(wanted, record_before);
  std::ranges::sort(present, record_before);
  auto a = wanted.begin(), b = present.begin();
  while (a != wanted.end() || b != present.end()) {
    if (a != wanted.end() && b != present.end() && same(*a, *b))
      ++a, ++b;
    else if (b == present.end() || (a != wanted.end() && record_before(*a, *b)))
      report(*a++, true);
    else
      report(*b++, false);
  }
}

void ReverseScan::report(const ReverseRecord& record, bool missing) {
  context_.findings.add(
      missing ? FindingKind::kMissingRecord : FindingKind::kExtraRecord, Severity::kRepairable,
      BlockNumber(record.first), "reverse map",
      (missing ? "no record of a reference: " : "a record without a reference: ") + describe_record(record));
}

}  // namespace daxcow::checker
