// Reflink: making a range of one file equal to a range of another by sharing blocks.
#include <algorithm>
#include <cstring>
#include <limits>

#include "engine/check.h"
#include "engine/file_data.h"
#include "engine/function_ref.h"
#include "engine/volume.h"

namespace daxcow {

using format::InodeRecord;
using format::LeafKind;
using State = Volume::State;

namespace {

constexpr std::uint64_t kCopyPiece = 1 << 20;
constexpr std::uint64_t kCopyPerCall = 16 << 20;  // bytes copied, not shared, before the caller hears of progress
constexpr auto kOffsetMaximum = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

// The length for which a clone or a deduplication is done, by the rules of ioctl_ficlonerange(2) and
// ioctl_fideduperange(2), in the order of the kernel's generic_remap_file_range_prep(). 0: nothing to do.
Result<std::uint64_t> length_by_rule(const InodeRecord& source, const InodeRecord& target, const ReflinkRange& range, bool dedupe,
                                     bool same_file) {
  const auto invalid = fail(ErrorCode::kInvalid);
  const auto [from, to, length] = range;
  if (from > kOffsetMaximum || to > kOffsetMaximum || length > kOffsetMaximum - std::max(from, to)) return invalid;
  if (length == 0 && (dedupe || from == source.size_bytes)) return 0;
  if (from % kBlockBytes != 0 || to % kBlockBytes != 0 || from >= source.size_bytes) return invalid;
  if (dedupe && (from + length > source.size_bytes || to >= target.size_bytes || to + length > target.size_bytes)) return invalid;
  if (to >= format::kMaximumFileBytes) return fail(ErrorCode::kFileTooBig);
  const std::uint64_t wanted = length == 0 ? source.size_bytes - from : length;
  if (!dedupe && wanted > std::min(source.size_bytes - from, format::kMaximumFileBytes - to)) return invalid;
  // A part of a block can be shared where both files end with it, or the target's end is overwritten.
  const bool part = wanted % kBlockBytes != 0;
  const bool to_end = from + wanted == source.size_bytes && (dedupe ? to + wanted == target.size_bytes : to + wanted >= target.size_bytes);
  if (part && !to_end && !dedupe) return invalid;
  const std::uint64_t done = part && !to_end ? wanted / kBlockBytes * kBlockBytes : wanted;
  const std::uint64_t covered = blocks_for(done) * kBlockBytes;
  if (same_file && from < to + covered && to < from + covered) return invalid;
  return done;
}

Result<> check_both_regular(const InodeRecord& source, const InodeRecord& target) {
  if (is_directory(source) || is_directory(target)) return fail(ErrorCode::kIsDirectory);
  if (!is_regular(source) || !is_regular(target)) return fail(ErrorCode::kInvalid);
  return {};
}

class Clone {
 public:
  Clone(State& from_volume, InodeState& from, State& to_volume, InodeState& to)
      : from_volume_(from_volume), from_(from), to_volume_(to_volume), to_(to) {}

  // Whether reflink() would change what the target contains.
  Result<bool> would_change(std::uint64_t generation, const ReflinkRange& range, ReflinkMode mode) {
    const InodeRecord source = TRY(from_volume_.read_record(from_.number));
    if (source.generation != generation) return fail(ErrorCode::kStale);
    const InodeRecord target = TRY(to_volume_.read_record(to_.number));
    TRY(check_both_regular(source, target));
    const bool same_file = &from_ == &to_;
    if (mode == ReflinkMode::kReplace) return same_file ? Result<bool>(fail(ErrorCode::kInvalid)) : true;
    if (mode == ReflinkMode::kCopy) return range.length != 0 && range.from_offset < source.size_bytes;
    if (mode != ReflinkMode::kClone) return false;
    return TRY(length_by_rule(source, target, range, false, same_file)) != 0;
  }

  // By the kernel's rules, and all of it.
  Result<ReflinkDone> reflink(std::uint64_t generation, const ReflinkRange& range, ReflinkMode mode, std::uint32_t clear_mode,
                              bool may_change_content) {
    if (!may_change_content && TRY(would_change(generation, range, mode))) return fail(ErrorCode::kBusy);
    const InodeRecord source = TRY(from_volume_.read_record(from_.number));
    if (source.generation != generation) return fail(ErrorCode::kStale);
    const InodeRecord target = TRY(to_volume_.read_record(to_.number));
    TRY(check_both_regular(source, target));
    const bool same_file = &from_ == &to_;
    clear_mode_ = clear_mode;
    if (mode == ReflinkMode::kReplace) {
      if (same_file) return fail(ErrorCode::kInvalid);
      TRY(share_root());
      return ReflinkDone{.bytes = source.size_bytes};
    }
    if (mode == ReflinkMode::kCopy) return ReflinkDone{.bytes = TRY(run(range.from_offset, range.to_offset, range.length))};
    const bool dedupe = mode != ReflinkMode::kClone;
    std::uint64_t length = TRY(length_by_rule(source, target, range, dedupe, same_file));
    if (dedupe) length = std::min(length, kDedupeAtOnceBytes);
    ReflinkDone result{.bytes = length};
    if (length == 0) return result;
    if (dedupe) {
      result.new_bytes = TRY(compare(range.from_offset, range.to_offset, length));
      if (result.new_bytes == 0 || mode == ReflinkMode::kCompare) return result;
      changes_content_ = false;
    }
    for (std::uint64_t done = 0; done < length;) {
      const std::uint64_t step = TRY(run(range.from_offset + done, range.to_offset + done, length - done));
      if (step == 0) return fail(ErrorCode::kIo, "a clone came to a stop");
      done += step;
    }
    return result;
  }

  Result<std::uint64_t> run(std::uint64_t from_offset, std::uint64_t to_offset, std::uint64_t length) {
    const InodeRecord source = TRY(from_volume_.read_record(from_.number));
    const InodeRecord target = TRY(to_volume_.read_record(to_.number));
    TRY(check_both_regular(source, target));
    if (from_offset >= source.size_bytes) return 0;
    length = std::min(length, source.size_bytes - from_offset);
    if (to_offset > format::kMaximumFileBytes || length > format::kMaximumFileBytes - to_offset) return fail(ErrorCode::kFileTooBig);
    const bool same_file = &from_ == &to_;
    if (same_file && from_offset < to_offset + length && to_offset < from_offset + length) return fail(ErrorCode::kInvalid);
    if (length == 0) return 0;
    if (from_offset % kBlockBytes != to_offset % kBlockBytes) return copy(from_offset, to_offset, length);

    TRY(zero_behind_end(to_volume_, to_, to_offset));
    if (!same_file && changes_content_ && from_offset == 0 && to_offset == 0 && length == source.size_bytes &&
        target.size_bytes <= length) {
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
      const auto shared = share_blocks(FileBlock((from_offset + done) / kBlockBytes),
                                       {FileBlock((to_offset + done) / kBlockBytes), whole}, to_offset + length);
      if (!shared && done != 0) return done;  // what was done stays, so it must be told; the next call meets the error
      done = std::min(length, done + TRY(shared) * kBlockBytes);
      if (*shared != whole) return done;
    }
    if (done < length) {
      const auto copied = copy(from_offset + done, to_offset + done, length - done);
      if (!copied && done != 0) return done;
      done += TRY(copied);
    }
    return done;
  }

 private:
  // How many bytes of the two ranges do not have the same blocks already; kDifferent if they differ in any byte.
  Result<std::uint64_t> compare(std::uint64_t from_offset, std::uint64_t to_offset, std::uint64_t length) {
    const FileView from = TRY(view_of(from_volume_, from_.number, block_range(from_offset, length)));
    const FileView to = TRY(view_of(to_volume_, to_.number, block_range(to_offset, length)));
    std::uint64_t apart = 0;
    auto source = from.segments.begin(), target = to.segments.begin();
    for (std::uint64_t at = 0, next; at < length; at = next) {  // stretches of one segment on both sides
      CHECK(source != from.segments.end() && target != to.segments.end());
      const std::uint64_t source_at = from_offset + at - byte_offset(source->range.first);
      const std::uint64_t target_at = to_offset + at - byte_offset(target->range.first);
      next = std::min({length, at + source->range.count * kBlockBytes - source_at, at + target->range.count * kBlockBytes - target_at});
      const bool same = holds_data(*source) ? holds_data(*target) && byte_offset(source->entry.block()) + source_at ==
                                                                         byte_offset(target->entry.block()) + target_at
                                            : !target->entry.present();
      if (!same) {
        apart += next - at;
        TRY(compare_bytes(from_offset + at, to_offset + at, next - at));
      }
      if (from_offset + next >= byte_offset(source->range.end())) ++source;
      if (to_offset + next >= byte_offset(target->range.end())) ++target;
    }
    return apart;
  }

  Result<> compare_bytes(std::uint64_t from_offset, std::uint64_t to_offset, std::uint64_t length) {
    std::vector<std::byte> one(std::min(length, kCopyPiece)), other(one.size());
    for (std::uint64_t done = 0; done < length; done += one.size()) {
      const std::uint64_t bytes = std::min<std::uint64_t>(one.size(), length - done);
      const auto piece = std::span(one).first(bytes), its_twin = std::span(other).first(bytes);
      if (TRY(from_volume_.read_locked(from_.number, from_offset + done, piece)) != bytes ||
          TRY(to_volume_.read_locked(to_.number, to_offset + done, its_twin)) != bytes ||
          std::memcmp(one.data(), other.data(), bytes) != 0)
        return fail(ErrorCode::kDifferent);
    }
    return {};
  }

  void finish(Transaction& transaction, InodeRecord& record, std::uint64_t end) {
    if (!changes_content_) return;
    record.mode &= ~clear_mode_;
    record.size_bytes = std::max(record.size_bytes, end);
    to_volume_.take_times(transaction, to_, record);
    const Timestamp now = current_time();
    set_time(record, kModification, now);
    set_time(record, kChange, now);
  }

  // Right before blocks become shared: what was copied around them may have made new ones.
  void end_memos() {
    from_.exclusive.forget();
    to_.exclusive.forget();
  }

  // A whole file in place of another: eight root entries, whatever is below, and whatever the target has had.
  Result<> share_root() {
    end_memos();
    TRY(to_volume_.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(to_volume_.own_inode(transaction, to_.number))) return Step::kAgain;
      const InodeRecord source = TRY(from_volume_.table.read(transaction, from_.number));
      InodeRecord* record = TRY(to_volume_.table.edit(transaction, to_.number));
      TRY(to_volume_.services.graveyard.bury_fork(transaction, edit_data_fork(*record, LeafKind::kData)));
      record->size_bytes = 0;
      for (std::size_t i = 0; i < source.data.size(); ++i) record->data[i] = MapEntry{source.data[i]}.plain().raw;
      record->data_level = source.data_level;
      record->block_count = source.block_count;
      finish(transaction, *record, source.size_bytes);
      return Step::kDone;
    }));
    if (to_volume_.services.wake_background) to_volume_.services.wake_background();
    return {};
  }

  Result<std::uint64_t> share_blocks(FileBlock source, FileRange target, std::uint64_t end_bytes) {
    end_memos();
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
      auto written = to_volume_.write_locked(to_, to_offset + done, piece.first(bytes), {.append = false, .clear_mode = clear_mode_});
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
  bool changes_content_ = true;   // not when what is shared was equal before
  std::uint32_t clear_mode_ = 0;  // set-id bits that the target loses
};

// Calls body with a Clone between two files, of one volume or of two, while gates and locks are held.
template <class T>
Result<T> clone_between(State& from_volume, InodeNumber from, State& to_volume, InodeNumber to, FunctionRef<Result<T>(Clone&)> body) {
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
  Clone clone(from_volume, *from_state, to_volume, *to_state);
  return body(clone);
}

}  // namespace

Result<std::uint64_t> Volume::clone_range(InodeNumber from, std::uint64_t from_offset, InodeNumber to, std::uint64_t to_offset,
                                          std::uint64_t length) {
  return clone_range_to(from, from_offset, *this, to, to_offset, length);
}

Result<std::uint64_t> Volume::clone_range_to(InodeNumber from, std::uint64_t from_offset, Volume& to_volume, InodeNumber to,
                                             std::uint64_t to_offset, std::uint64_t length) {
  TRY(to_volume.state_->writable());
  return to_volume.state_->with_space([&] {
    return clone_between<std::uint64_t>(*state_, from, *to_volume.state_, to,
                                        [&](Clone& clone) { return clone.run(from_offset, to_offset, length); });
  });
}

Result<bool> Volume::reflink_would_change(const ReflinkFile& from, Volume& to_volume, InodeNumber to, const ReflinkRange& range,
                                          ReflinkMode mode) {
  return clone_between<bool>(*state_, from.inode, *to_volume.state_, to,
                             [&](Clone& clone) { return clone.would_change(from.generation, range, mode); });
}

Result<ReflinkDone> Volume::reflink(const ReflinkFile& from, Volume& to_volume, InodeNumber to, const ReflinkRange& range,
                                    ReflinkMode mode, std::uint32_t clear_mode, bool may_change_content) {
  if (mode != ReflinkMode::kCompare) TRY(to_volume.state_->writable());
  const State::Kept source(*state_, from.inode);  // who named it may have closed it since, and removed it
  return to_volume.state_->with_space([&] {
    return clone_between<ReflinkDone>(*state_, from.inode, *to_volume.state_, to,
                                      [&](Clone& clone) {
                                        return clone.reflink(from.generation, range, mode, clear_mode, may_change_content);
                                      });
  });
}

}  // namespace daxcow
