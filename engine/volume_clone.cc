// Reflink: making a range of one file equal to a range of another by sharing blocks.
#include <algorithm>

#include "engine/file_data.h"
#include "engine/volume.h"

namespace daxcow {

using format::InodeRecord;
using format::LeafKind;
using State = Volume::State;

namespace {

constexpr std::uint64_t kCopyPiece = 1 << 20;
constexpr std::uint64_t kCopyPerCall = 16 << 20;  // bytes copied, not shared, before the caller hears of progress

class Clone {
 public:
  Clone(State& from_volume, InodeState& from, State& to_volume, InodeState& to)
      : from_volume_(from_volume), from_(from), to_volume_(to_volume), to_(to) {}

  Result<std::uint64_t> run(std::uint64_t from_offset, std::uint64_t to_offset, std::uint64_t length) {
    const InodeRecord source = TRY(from_volume_.read_record(from_.number));
    const InodeRecord target = TRY(to_volume_.read_record(to_.number));
    if (is_directory(source) || is_directory(target)) return fail(ErrorCode::kIsDirectory);
    if (!is_regular(source) || !is_regular(target)) return fail(ErrorCode::kInvalid);
    if (from_offset >= source.size_bytes) return 0;
    length = std::min(length, source.size_bytes - from_offset);
    if (to_offset > format::kMaximumFileBytes || length > format::kMaximumFileBytes - to_offset) return fail(ErrorCode::kFileTooBig);
    const bool same_file = &from_ == &to_;
    if (same_file && from_offset < to_offset + length && to_offset < from_offset + length) return fail(ErrorCode::kInvalid);
    if (length == 0) return 0;
    if (from_offset % kBlockBytes != to_offset % kBlockBytes) return copy(from_offset, to_offset, length);

    from_.exclusive.forget();
    to_.exclusive.forget();
    TRY(zero_behind_end(to_volume_, to_, to_offset));
    if (!same_file && from_offset == 0 && to_offset == 0 && length == source.size_bytes && target.size_bytes == 0 &&
        data_fork(target, LeafKind::kData).empty()) {
      TRY(share_root());
      return length;
    }
    std::uint64_t done = 0;
    if (const std::uint64_t head = from_offset % kBlockBytes; head != 0) {
      done = TRY(copy(from_offset, to_offset, std::min(length, kBlockBytes - head)));
      if (done == length) return done;
    }
    // The last block is shared too where nothing behind it would be overwritten.
    const bool to_end = from_offset + length == source.size_bytes && to_offset + length >= target.size_bytes;
    const std::uint64_t whole = to_end ? blocks_for(length - done) : (length - done) / kBlockBytes;
    if (whole != 0) {
      const std::uint64_t shared = TRY(share_blocks(FileBlock((from_offset + done) / kBlockBytes),
                                                    {FileBlock((to_offset + done) / kBlockBytes), whole}, to_offset + length));
      done = std::min(length, done + shared * kBlockBytes);
      if (shared != whole) return done;
    }
    if (done < length) done += TRY(copy(from_offset + done, to_offset + done, length - done));
    return done;
  }

 private:
  void finish(Transaction& transaction, InodeRecord& record, std::uint64_t end) {
    record.size_bytes = std::max(record.size_bytes, end);
    to_volume_.take_times(transaction, to_, record);
    const Timestamp now = current_time();
    set_time(record, kModification, now);
    set_time(record, kChange, now);
  }

  // A whole file into an empty one: eight root entries, whatever is below.
  Result<> share_root() {
    return to_volume_.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(to_volume_.own_inode(transaction, to_.number))) return Step::kAgain;
      const InodeRecord source = TRY(from_volume_.table.read(transaction, from_.number));
      InodeRecord* record = TRY(to_volume_.table.edit(transaction, to_.number));
      for (std::size_t i = 0; i < source.data.size(); ++i) record->data[i] = MapEntry{source.data[i]}.plain().raw;
      record->data_level = source.data_level;
      record->block_count = source.block_count;
      finish(transaction, *record, source.size_bytes);
      return Step::kDone;
    });
  }

  Result<std::uint64_t> share_blocks(FileBlock source, FileRange target, std::uint64_t end_bytes) {
    std::uint64_t done = 0;
    while (done < target.count) {
      const FileRange rest{target.first + done, target.count - done};
      std::uint64_t step = 0;
      auto shared = to_volume_.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
        step = 0;
        if (TRY(to_volume_.own_inode(transaction, to_.number)) ||
            TRY(to_volume_.own_data(transaction, to_.number, rest, Unshare::kEdges)))
          return Step::kAgain;
        const Fork from = data_fork(TRY(from_volume_.table.read(transaction, from_.number)), LeafKind::kData);
        InodeRecord* record = TRY(to_volume_.table.edit(transaction, to_.number));
        step = TRY(share(transaction, from, source + done, edit_data_fork(*record, LeafKind::kData), rest, to_volume_.services.graveyard));
        finish(transaction, *record, std::min(end_bytes, byte_offset(rest.first + step)));
        return Step::kDone;
      });
      if (!shared) {
        if (done != 0) break;  // what was done stays: the caller goes on from there and meets the error
        return std::unexpected(shared.error());
      }
      if (step == 0) break;
      done += step;
    }
    if (to_volume_.services.wake_background) to_volume_.services.wake_background();
    return done;
  }

  Result<std::uint64_t> copy(std::uint64_t from_offset, std::uint64_t to_offset, std::uint64_t length) {
    length = std::min(length, kCopyPerCall);
    std::vector<std::byte> buffer(std::min(length, kCopyPiece));
    std::uint64_t done = 0;
    while (done < length) {
      const std::span<std::byte> piece = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), length - done));
      const auto got = from_volume_.read_locked(from_.number, from_offset + done, piece);
      if (!got && done != 0) break;
      const std::uint64_t bytes = TRY(got);
      if (bytes == 0) break;
      auto written = to_volume_.write_locked(to_, to_offset + done, piece.first(bytes), {});
      if (!written && done != 0) break;
      TRY(written);
      done += bytes;
    }
    return done;
  }

  State& from_volume_;
  InodeState& from_;
  State& to_volume_;
  InodeState& to_;
};

}  // namespace

Result<std::uint64_t> clone_between(State& from_volume, InodeNumber from, std::uint64_t from_offset, State& to_volume, InodeNumber to,
                                    std::uint64_t to_offset, std::uint64_t length) {
  TRY(to_volume.writable());
  // Gates in ascending order, once where both are the same.
  const bool same_volume = &from_volume == &to_volume;
  State& first = from_volume.number <= to_volume.number ? from_volume : to_volume;
  State& second = &first == &from_volume ? to_volume : from_volume;
  const State::Operation first_operation(first);
  std::optional<State::Operation> second_operation;
  if (!same_volume) second_operation.emplace(second);
  const auto from_state = from_volume.inodes.get(from);
  const auto to_state = to_volume.inodes.get(to);
  const bool from_first = same_volume ? from <= to : &first == &from_volume;
  std::unique_lock lock_a((from_first ? from_state : to_state)->lock);
  std::unique_lock<SharedMutex> lock_b;
  if (from_state != to_state) lock_b = std::unique_lock((from_first ? to_state : from_state)->lock);
  return Clone(from_volume, *from_state, to_volume, *to_state).run(from_offset, to_offset, length);
}

Result<std::uint64_t> Volume::clone_range(InodeNumber from, std::uint64_t from_offset, InodeNumber to, std::uint64_t to_offset,
                                          std::uint64_t length) {
  return clone_between(*state_, from, from_offset, *state_, to, to_offset, length);
}

Result<std::uint64_t> Volume::clone_range_to(InodeNumber from, std::uint64_t from_offset, Volume& to_volume, InodeNumber to,
                                             std::uint64_t to_offset, std::uint64_t length) {
  return clone_between(*state_, from, from_offset, *to_volume.state_, to, to_offset, length);
}

}  // namespace daxcow
