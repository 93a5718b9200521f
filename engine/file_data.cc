#include "engine/file_data.h"

#include <algorithm>

namespace daxcow {

using format::InodeRecord;
using format::LeafKind;
using State = Volume::State;

alignas(4096) const std::byte kZeros[kZeroBytes]{};

FileRange block_range(std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t first = offset / kBlockBytes;
  return {FileBlock(first), (offset + length + kBlockBytes - 1) / kBlockBytes - first};
}

Result<> check_regular(const InodeRecord& record) {
  if (is_directory(record)) return fail(ErrorCode::kIsDirectory);
  if (!is_regular(record)) return fail(ErrorCode::kInvalid);
  return {};
}

Result<FileView> view_of(State& state, InodeNumber inode, FileRange range, std::size_t most_segments) {
  return state.store.read_consistent([&](BlockReader& reader) -> Result<FileView> {
    FileView view;
    view.record = TRY(state.table.read(reader, inode));
    TRY(check_regular(view.record));
    TRY(for_each_segment(reader, data_fork(view.record, LeafKind::kData), range, [&](const Segment& segment) {
      view.segments.push_back(segment);
      return view.segments.size() < most_segments;
    }));
    for (const Segment& segment : view.segments)
      if (segment.entry.present() && !state.store.holds_data({segment.entry.block(), segment.range.count}))
        return fail(ErrorCode::kDamaged, "a file's map leads out of the data");
    return view;
  });
}

namespace {

Result<> split_by_sharing(State& state, Transaction& transaction, const Segment& segment, std::vector<SharingAnswer>& answers) {
  state.store.mutex.assert_held();
  const bool shared = TRY(state.store.reverse_map().any_shared(transaction, {segment.entry.block(), segment.range.count}));
  if (!shared || segment.range.count == 1) {
    answers.push_back({segment, shared});
    return {};
  }
  const std::uint64_t half = segment.range.count / 2;
  TRY(split_by_sharing(state, transaction, {{segment.range.first, half}, segment.entry}, answers));
  return split_by_sharing(state, transaction,
                          {{segment.range.first + half, segment.range.count - half},
                           MapEntry::leaf(segment.entry.block() + half, segment.entry.unwritten())},
                          answers);
}

}  // namespace

Result<std::vector<SharingAnswer>> ask_sharing(State& state, InodeNumber inode, FileRange range,
                                               std::span<const Segment> segments) {
  std::vector<SharingAnswer> answers;
  TRY(state.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
    if (TRY(state.own_inode(transaction, inode)) || TRY(state.own_data(transaction, inode, range))) return Step::kAgain;
    answers.clear();
    for (const Segment& segment : segments) TRY(split_by_sharing(state, transaction, segment, answers));
    return Step::kDone;
  }));
  return answers;
}

// --- the end of a file -------------------------------------------------------------------------------------------------

namespace {

// Replaces the last block by one that has `content`.
Result<> replace_tail(State& state, InodeState& held, const Segment& tail, const Block& content) {
  auto reservation = TRY(state.store.reserve_and_store(tail.entry.block(), content));
  TRY(state.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
    if (TRY(state.own_inode(transaction, held.number)) || TRY(state.own_data(transaction, held.number, tail.range))) return Step::kAgain;
    InodeRecord* record = TRY(state.table.edit(transaction, held.number));
    TRY(assign(transaction, edit_data_fork(*record, LeafKind::kData), tail.range, reservation.run().first, false,
               state.services.graveyard));
    return Step::kDone;
  }));
  reservation.keep();
  held.exclusive.forget();
  return {};
}

}  // namespace

Result<> zero_behind_end(State& state, InodeState& held, std::uint64_t end_bytes) {
  const std::uint64_t size = TRY(state.read_record(held.number)).size_bytes, kept_bytes = size % kBlockBytes;
  if (kept_bytes == 0 || end_bytes <= size) return {};
  const FileRange range{FileBlock(size / kBlockBytes), 1};
  const FileView view = TRY(view_of(state, held.number, range));
  const Segment& tail = view.segments.front();
  if (!holds_data(tail)) return {};
  const BlockNumber old = tail.entry.block();
  const std::uint8_t bad = state.store.ledger().mask(old);
  if (bad == 0) {
    const auto answers = TRY(ask_sharing(state, held.number, range, {&tail, 1}));
    if (!answers.front().shared) {
      const std::uint64_t count = std::min(end_bytes - size, kBlockBytes - kept_bytes);
      if (auto done = state.store.medium().store(byte_offset(old) + kept_bytes, std::span(kZeros).first(count)); !done) {
        state.store.suspect({old, 1});
        return done;
      }
      return state.store.medium().drain();
    }
  }
  Block content{};
  const std::uint64_t kept_sectors = (kept_bytes + kSectorBytes - 1) / kSectorBytes;
  if ((bad & ((1u << kept_sectors) - 1)) != 0) return fail(ErrorCode::kPoisoned);
  if (auto done = state.store.medium().read(byte_offset(old), std::span(content.bytes).first(kept_bytes)); !done) {
    state.store.suspect({old, 1});
    return done;
  }
  return replace_tail(state, held, tail, content);
}

}  // namespace daxcow
