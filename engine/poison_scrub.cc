#include "engine/poison_scrub.h"

#include <algorithm>

namespace daxcow {

using format::RecordKind;
using format::ReverseRecord;

namespace {

constexpr std::uint64_t kReadBlocks = 256;    // at once
constexpr std::uint64_t kBatchBlocks = 4096;  // gathered under the mutex at a time
constexpr std::size_t kBatchPieces = 256;

}  // namespace

std::uint64_t blocks_to_scrub(Store& store) {
  const LockGuard guard(store.mutex);
  const std::uint64_t all = store.pool_blocks();
  const std::uint64_t unused = store.space().free_blocks() + store.retired_blocks() + store.spare_blocks();
  return all - std::min(all, unused);
}

ScrubPass::ScrubPass(Store& store, std::uint64_t place)
    : store_(store),
      pool_blocks_(store.pool_blocks()),
      place_(std::min(place, 2 * pool_blocks_)),
      gathered_(place_),
      buffer_(kReadBlocks * kBlockBytes) {}

Result<std::uint64_t> ScrubPass::step() {
  while (ahead_.empty()) {
    place_ = gathered_;
    if (place_ == 2 * pool_blocks_) return 0;
    TRY(gather());
  }
  Piece& next = ahead_.back();
  const BlockRun run{next.run.first, next.is_chunk ? next.run.count : std::min(next.run.count, kReadBlocks)};
  if (next.is_chunk)
    read_chunk(run.first);
  else
    read_run(run);
  place_ = place_ / pool_blocks_ * pool_blocks_ + run.end().value;
  next.run = {run.end(), next.run.count - run.count};
  if (next.run.count == 0) ahead_.pop_back();
  return run.count;
}

// What is in use from `gathered_` on, which moves behind it. It may be freed before it is read: reading it is harmless
// then.
Result<> ScrubPass::gather() {
  const LockGuard guard(store_.mutex);
  const bool wants_data = gathered_ >= pool_blocks_;
  std::uint64_t from = gathered_ % pool_blocks_, blocks = 0;
  bool complete = true;
  const BlockRun rest{BlockNumber(from), pool_blocks_ - from};
  TRY(store_.reverse_map().for_each_covering(store_.metadata(), rest, [&](const ReverseRecord& record) {
    const bool is_system = record.kind == RecordKind::kSystem;
    if (is_system == wants_data || record.kind == RecordKind::kLedger) return true;
    const BlockNumber first(std::max(record.first, from));
    if (wants_data && store_.metadata().in_chunk(first)) return true;  // the chunk has its own record
    const BlockNumber end(std::min({record.first + record.length_blocks, first.value + kBatchBlocks, pool_blocks_}));
    if (first >= end) return true;  // shared: seen already
    const bool is_chunk = is_system && store_.metadata().in_chunk(first) && first == Metadata::chunk_base(first);
    ahead_.push_back({.run = {first, end - first}, .is_chunk = is_chunk});
    blocks += end - first;
    from = end.value;
    complete = blocks < kBatchBlocks && ahead_.size() < kBatchPieces;
    return complete;
  }));
  gathered_ = (wants_data ? pool_blocks_ : 0) + (complete ? pool_blocks_ : from);
  std::ranges::reverse(ahead_);
  return {};
}

void ScrubPass::suspect(BlockNumber block) {
  if (store_.ledger().mask(block) != 0) return;  // known
  ++found_;
  store_.suspect({block, 1});
}

bool ScrubPass::read_blocks(BlockRun run) {
  return store_.medium().read(byte_offset(run.first), std::span(buffer_).first(run.count * kBlockBytes)).has_value();
}

void ScrubPass::read_run(BlockRun run) {
  while (run.count != 0) {
    const std::uint64_t count = std::min(run.count, kReadBlocks);
    if (!read_blocks({run.first, count}))
      for (std::uint64_t i = 0; i < count; ++i)
        if (!read_blocks({run.first + i, 1})) suspect(run.first + i);
    run = {run.first + count, run.count - count};
  }
}

void ScrubPass::read_chunk(BlockNumber base) {
  read_run({base, format::kChunkBlocks});
  for (const Copy copy : {Copy::kPrimary, Copy::kMirror})
    for (std::uint64_t i = 0; i <= format::kChunkPayload; ++i) verify({base + i, copy});
}

void ScrubPass::verify(BadCopy copy) {
  const auto is_bad = [&] {
    const auto checked = store_.metadata().verify_copy(copy.block, copy.copy);
    return !checked && checked.error().code != ErrorCode::kPoisoned;  // poison was found already
  };
  if (!is_bad()) return;
  {
    // A copy that a commit was changing failed for that reason, and is good now.
    const LockGuard guard(store_.mutex);
    if (!is_bad()) return;
  }
  ++found_;
  store_.bad_copy(copy);
}

}  // namespace daxcow
