// fallocate(2): allocation, holes, zeros.
#include <algorithm>

#include "engine/file_data.h"
#include "engine/volume.h"

namespace daxcow {

using format::InodeRecord;
using format::LeafKind;
using State = Volume::State;

namespace {

// The range as whole blocks inside, and what is left at the edges.
struct Edges {
  std::uint64_t head_offset, head_bytes;
  FileRange whole;
  std::uint64_t tail_offset, tail_bytes;
};

Edges split_at_blocks(std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t end = offset + length;
  const std::uint64_t first = (offset + kBlockBytes - 1) / kBlockBytes, last = end / kBlockBytes;
  if (first > last) return {offset, length, {FileBlock(first), 0}, end, 0};
  return {offset, first * kBlockBytes - offset, {FileBlock(first), last - first}, last * kBlockBytes, end - last * kBlockBytes};
}

// Zeroes bytes inside one block, unless they are a hole.
Result<> zero_part(State& state, InodeState& held, std::uint64_t offset, std::uint64_t length) {
  if (length == 0) return {};
  const FileView view = TRY(view_of(state, held.number, {FileBlock(offset / kBlockBytes), 1}));
  if (offset >= view.record.size_bytes || !holds_data(view.segments.front())) return {};
  length = std::min(length, view.record.size_bytes - offset);
  return state.write_locked(held, offset, std::span(kZeros).first(length), {});
}

Result<> punch_blocks(State& state, InodeState& held, FileRange range) {
  if (range.count == 0) {  // parts of blocks, holes perhaps: zeroed already, and counted as a write in place
    const LockGuard guard(held.times_mutex);
    held.times.modification = held.times.change = current_time();
    return {};
  }
  std::vector<std::tuple<FileBlock, BlockNumber>> healed;
  if (state.store.ledger().size() != 0) {
    // For the events only: not at any price, as a file may hold one subtree more often than anybody can count.
    constexpr std::size_t kSegmentsLookedAt = 1 << 20;
    const FileView view = TRY(view_of(state, held.number, range, kSegmentsLookedAt));
    for (const Segment& segment : view.segments) {
      if (!segment.entry.present()) continue;
      for (const auto& [block, mask] : state.store.ledger().in({segment.entry.block(), segment.range.count}))
        healed.emplace_back(segment.range.first + (block - segment.entry.block()), block);
    }
  }
  TRY(state.store.run(TransactionClass::kShrinking, [&](Transaction& transaction) -> Result<Step> {
    if (TRY(state.own_inode(transaction, held.number)) || TRY(state.own_data(transaction, held.number, range, Unshare::kEdges))) return Step::kAgain;
    InodeRecord* record = TRY(state.table.edit(transaction, held.number));
    TRY(clear(transaction, edit_data_fork(*record, LeafKind::kData), range, state.services.graveyard));
    state.take_times(transaction, held, *record);
    set_time(*record, kModification, current_time());
    set_time(*record, kChange, current_time());
    return Step::kDone;
  }));
  held.exclusive.forget();
  if (state.services.healed)
    for (const auto& [at, block] : healed) state.services.healed(state.number, held.number, byte_offset(at), kBlockBytes, block);
  if (state.services.wake_background) state.services.wake_background();
  return {};
}

// What an allocation says about the inode when it is done.
struct Outcome {
  std::uint64_t size_bytes;
  bool keep_size;
};

Result<> conclude(State& state, Transaction& transaction, InodeState& held, const Outcome& outcome) {
  InodeRecord* record = TRY(state.table.edit(transaction, held.number));
  const Timestamp now = current_time();
  state.take_times(transaction, held, *record);
  if (!outcome.keep_size) record->size_bytes = std::max(record->size_bytes, outcome.size_bytes);
  set_time(*record, kModification, now);
  set_time(*record, kChange, now);
  return {};
}

// Makes a range of blocks unwritten: holes get blocks; within `zeros` also what is written. Blocks of one's own stay where
// they are, shared and bad ones are replaced. Some pieces in each transaction; the last one concludes.
class Filler {
 public:
  Filler(State& state, InodeState& held, FileRange zeros, const Outcome& outcome)
      : state_(state), held_(held), zeros_(zeros), outcome_(outcome) {}

  Result<> run(FileRange range) {
    do {
      const FileRange look{range.first, std::min<std::uint64_t>(range.count, 1 << 20)};  // 4 GiB at a time
      pieces_.clear();
      reservations_.clear();
      healed_.clear();
      const FileBlock reached = TRY(plan(look));
      range = {reached, range.end() - reached};
      TRY(commit(range.count == 0));
    } while (range.count != 0);
    return {};
  }

 private:
  static constexpr std::size_t kPiecesPerTransaction = 64;
  bool is_full() const { return pieces_.size() >= kPiecesPerTransaction; }

  // Plans for as much of the range as fits a transaction; returns where that ends.
  Result<FileBlock> plan(FileRange range) {
    const FileView view = TRY(view_of(state_, held_.number, range));
    for (const Segment& segment : view.segments) {
      FileBlock reached = segment.range.end();
      if (!segment.entry.present()) {
        reached = TRY(take_new(segment.range));
      } else {
        goal_ = segment.entry.block() + segment.range.count;
        if (!segment.entry.unwritten()) reached = TRY(plan_written(segment));
      }
      if (reached < segment.range.end() || is_full()) return reached;
    }
    return range.end();
  }

  Result<FileBlock> take_new(FileRange hole) {
    while (hole.count != 0 && !is_full()) {
      auto reservation = TRY(state_.store.reserve(goal_, hole.count));
      const BlockRun run = reservation.run();
      pieces_.push_back({{hole.first, run.count}, MapEntry::leaf(run.first, true)});
      reservations_.push_back(std::move(reservation));
      goal_ = run.end();
      hole = {hole.first + run.count, hole.count - run.count};
    }
    return hole.first;
  }

  // The part of a written segment that is to be zeroed.
  Result<FileBlock> plan_written(const Segment& segment) {
    const FileBlock first = std::max(segment.range.first, zeros_.first), end = std::min(segment.range.end(), zeros_.end());
    if (first >= end) return segment.range.end();
    const Segment part{{first, end - first}, MapEntry::leaf(segment.entry.block() + (first - segment.range.first), false)};
    for (const auto& [piece, shared] : TRY(ask_sharing(state_, held_.number, part.range, {&part, 1}))) {
      const BlockRun run{piece.entry.block(), piece.range.count};
      if (is_full()) return piece.range.first;
      if (!shared && !state_.store.ledger().touches(run)) {
        pieces_.push_back({piece.range, MapEntry::leaf(run.first, true)});
        continue;
      }
      const FileBlock reached = TRY(take_new(piece.range));
      for (const auto& [block, mask] : state_.store.ledger().in(run))
        if (const FileBlock at = piece.range.first + (block - run.first); at < reached) healed_.emplace_back(at, block);
      if (reached < piece.range.end()) return reached;
    }
    return segment.range.end();
  }

  Result<> commit(bool last) {
    if (pieces_.empty() && !last) return {};
    TRY(state_.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(state_.own_inode(transaction, held_.number))) return Step::kAgain;
      // Every piece by itself: what lies between them need not be copied.
      for (const Segment& piece : pieces_)
        if (TRY(state_.own_data(transaction, held_.number, piece.range, Unshare::kEdges))) return Step::kAgain;
      InodeRecord* record = TRY(state_.table.edit(transaction, held_.number));
      for (const Segment& piece : pieces_)
        TRY(assign(transaction, edit_data_fork(*record, LeafKind::kData), piece.range, piece.entry.block(), true,
                   state_.services.graveyard));
      if (last) TRY(conclude(state_, transaction, held_, outcome_));
      return Step::kDone;
    }));
    for (auto& reservation : reservations_) reservation.keep();
    held_.exclusive.forget();
    if (state_.services.healed)
      for (const auto& [at, block] : healed_) state_.services.healed(state_.number, held_.number, byte_offset(at), kBlockBytes, block);
    if (state_.services.wake_background) state_.services.wake_background();
    return {};
  }

  State& state_;
  InodeState& held_;
  const FileRange zeros_;
  const Outcome outcome_;
  BlockNumber goal_;
  std::vector<Segment> pieces_;
  std::vector<Store::Reservation> reservations_;
  std::vector<std::pair<FileBlock, BlockNumber>> healed_;
};

}  // namespace

Result<> State::allocate_locked(InodeState& state, AllocateMode mode, std::uint64_t offset, std::uint64_t length) {
  if (length == 0) return fail(ErrorCode::kInvalid);
  if (offset > format::kMaximumFileBytes || length > format::kMaximumFileBytes - offset) return fail(ErrorCode::kFileTooBig);
  TRY(check_regular(TRY(read_record(state.number))));
  const FileRange touched = block_range(offset, length);
  const Edges edges = split_at_blocks(offset, length);
  if (mode != AllocateMode::kPunch) {
    // Asked for more than there is: say so before anything is taken.
    if (touched.count > store.pool_blocks()) return fail(ErrorCode::kNoSpace);
    const bool zeroes = mode == AllocateMode::kZero || mode == AllocateMode::kZeroKeep;
    const bool keeps_size = mode == AllocateMode::kAllocateKeep || mode == AllocateMode::kZeroKeep;
    if (!keeps_size) TRY(zero_behind_end(*this, state, offset + length));
    // First what may need a block, and fail: the rest is in place of blocks that are there, or makes the file larger.
    if (zeroes) TRY(zero_part(*this, state, edges.head_offset, edges.head_bytes));
    if (zeroes) TRY(zero_part(*this, state, edges.tail_offset, edges.tail_bytes));
    Filler filler(*this, state, zeroes ? edges.whole : FileRange{}, {offset + length, keeps_size});
    return filler.run(touched);
  }
  TRY(zero_part(*this, state, edges.head_offset, edges.head_bytes));
  TRY(zero_part(*this, state, edges.tail_offset, edges.tail_bytes));
  return punch_blocks(*this, state, edges.whole);
}

Result<> Volume::allocate(InodeNumber inode, AllocateMode mode, std::uint64_t offset, std::uint64_t length) {
  State& state = *state_;
  TRY(state.writable());
  return state.with_space([&]() -> Result<> {
    const State::Operation operation(state);
    const auto held = state.inodes.get(inode);
    const std::unique_lock lock(held->lock);
    return state.allocate_locked(*held, mode, offset, length);
  });
}

}  // namespace daxcow
