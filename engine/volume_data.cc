// File data: reading, writing in place or to new blocks, truncation, allocation, holes.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "engine/check.h"
#include "engine/owners.h"
#include "engine/volume.h"
#include "engine/volume_state.h"

namespace daxcow {

using format::InodeRecord;
using format::LeafKind;
using State = Volume::State;

namespace {

constexpr std::uint64_t kZeroBytes = 1 << 20;
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

void kill_set_id(InodeRecord& record) {
  record.mode &= ~static_cast<std::uint32_t>(S_ISUID);
  if (record.mode & S_IXGRP) record.mode &= ~static_cast<std::uint32_t>(S_ISGID);
}

struct FileView {
  InodeRecord record;
  std::vector<Segment> segments;
};

// Record and map of a stretch of a file as of one moment.
Result<FileView> view_of(State& state, InodeNumber inode, FileRange range) {
  return state.store.read_consistent([&](BlockReader& reader) -> Result<FileView> {
    FileView view;
    view.record = TRY(state.table.read(reader, inode));
    TRY(check_regular(view.record));
    TRY(for_each_segment(reader, data_fork(view.record, LeafKind::kData), range, [&](const Segment& segment) {
      view.segments.push_back(segment);
      return true;
    }));
    for (const Segment& segment : view.segments)
      if (segment.entry.present() && !state.store.holds_data({segment.entry.block(), segment.range.count}))
        return fail(ErrorCode::kDamaged, "a file's map leads out of the data");
    return view;
  });
}

bool holds_data(const Segment& segment) { return segment.entry.present() && !segment.entry.unwritten(); }

}  // namespace

// --- reading -----------------------------------------------------------------------------------------------------------

struct ReadLease::Held {
  explicit Held(State& state, std::shared_ptr<InodeState> inode)
      : operation(state), inode_state(std::move(inode)), lock(inode_state->lock) {}
  State::Operation operation;
  std::shared_ptr<InodeState> inode_state;
  std::shared_lock<std::shared_mutex> lock;
};

ReadLease::ReadLease() = default;
ReadLease::ReadLease(ReadLease&&) noexcept = default;
ReadLease& ReadLease::operator=(ReadLease&&) noexcept = default;
ReadLease::~ReadLease() = default;

Result<ReadLease> Volume::read(InodeNumber inode, std::uint64_t offset, std::uint64_t length, bool update_access_time) {
  State& state = *state_;
  ReadLease lease;
  lease.held_ = std::make_unique<ReadLease::Held>(state, state.inodes.get(inode));
  const FileView view = TRY(view_of(state, inode, block_range(offset, std::min(length, format::kMaximumFileBytes - std::min(offset, format::kMaximumFileBytes)))));
  if (offset >= view.record.size_bytes || length == 0) return lease;
  length = std::min(length, view.record.size_bytes - offset);
  const std::uint64_t end = offset + length;
  for (const Segment& segment : view.segments) {
    const std::uint64_t first = std::max(offset, byte_offset(segment.range.first));
    const std::uint64_t last = std::min(end, byte_offset(segment.range.end()));
    if (first >= last) continue;
    if (!holds_data(segment)) {
      for (std::uint64_t rest = last - first; rest > 0; rest -= std::min(rest, kZeroBytes))
        lease.pieces_.push_back({const_cast<std::byte*>(kZeros), std::min(rest, kZeroBytes)});
      continue;
    }
    const std::uint64_t at = byte_offset(segment.entry.block()) + (first - byte_offset(segment.range.first));
    const BlockNumber first_block(at / kBlockBytes);
    if (state.store.ledger().touches({first_block, blocks_for(at + (last - first)) - first_block.value})) return fail(ErrorCode::kPoisoned);
    lease.pieces_.push_back({const_cast<std::byte*>(state.store.medium().mapping()) + at, last - first});
  }
  lease.bytes_ = length;
  if (update_access_time && !read_only_) {
    // relatime: when the last access is older than a change, or than a day.
    const Timestamp now = current_time();
    InodeState& held = *lease.held_->inode_state;
    const std::lock_guard guard(held.times_mutex);
    const Timestamp access = held.times.access.value_or(time_of(view.record, kAccess));
    const Timestamp modification = held.times.modification.value_or(time_of(view.record, kModification));
    const Timestamp change = held.times.change.value_or(time_of(view.record, kChange));
    constexpr std::int64_t kDay = 24 * 60 * 60;
    if (access <= modification || access <= change || access.seconds + kDay < now.seconds) held.times.access = now;
  }
  return lease;
}

Result<std::uint64_t> State::read_locked(InodeNumber inode, std::uint64_t offset, std::span<std::byte> to) {
  const FileView view = TRY(view_of(*this, inode, block_range(offset, to.size())));
  if (offset >= view.record.size_bytes) return 0;
  const std::uint64_t end = std::min(offset + to.size(), view.record.size_bytes);
  for (const Segment& segment : view.segments) {
    const std::uint64_t first = std::max(offset, byte_offset(segment.range.first));
    const std::uint64_t last = std::min(end, byte_offset(segment.range.end()));
    if (first >= last) continue;
    const std::span<std::byte> part = to.subspan(first - offset, last - first);
    if (!holds_data(segment)) {
      std::memset(part.data(), 0, part.size());
      continue;
    }
    const std::uint64_t at = byte_offset(segment.entry.block()) + (first - byte_offset(segment.range.first));
    const BlockRun run{BlockNumber(at / kBlockBytes), blocks_for(at + part.size()) - at / kBlockBytes};
    if (store.ledger().touches(run)) return fail(ErrorCode::kPoisoned);
    if (auto done = store.medium().read(at, part); !done) {
      store.suspect(run);
      return std::unexpected(done.error());
    }
  }
  return end - offset;
}

Result<std::uint64_t> Volume::read(InodeNumber inode, std::uint64_t offset, std::span<std::byte> to) {
  State& state = *state_;
  const State::Operation operation(state);
  const auto held = state.inodes.get(inode);
  const std::shared_lock lock(held->lock);
  return state.read_locked(inode, offset, to);
}

// --- writing -----------------------------------------------------------------------------------------------------------

namespace {

// One write: decides for each stretch whether it is overwritten in place, converted from unwritten, or put into new blocks;
// stores the data; and hooks up what is new in one transaction.
class Writer {
 public:
  Writer(State& state, InodeState& held, std::uint64_t offset, std::span<const std::byte> data, Volume::WriteOptions options)
      : state_(state), held_(held), offset_(offset), data_(data), options_(options), range_(block_range(offset, data.size())) {}

  Result<> run() {
    constexpr int kTries = 4;
    for (int i = 0;; ++i) {
      auto done = attempt();
      // Poison met by an in-place store is in the ledger now: the next attempt goes around it.
      if (done || done.error().code != ErrorCode::kPoisoned || !met_poison_ || i == kTries) return done;
    }
  }

 private:
  enum class Treatment { kInPlace, kConvert, kNew };
  struct Region {
    FileRange range;
    Treatment treatment;
    MapEntry old;  // of the first block; absent for a hole
  };

  Result<> attempt() {
    regions_.clear();
    pieces_.clear();
    reservations_.clear();
    met_poison_ = false;
    view_ = TRY(view_of(state_, held_.number, range_));
    TRY(classify());
    TRY(store_new());
    TRY(store_existing());
    TRY(state_.store.medium().drain());
    return commit();
  }

  Ledger& ledger() { return state_.store.ledger(); }
  std::uint64_t generation() const { return state_.sharing_generation.load(std::memory_order_acquire); }

  void add(FileRange range, Treatment treatment, MapEntry old) {
    if (range.count == 0) return;
    // Bytes behind the end of a file must be zero until the file has grown: its last block is not appended to in place, or
    // a crash before the size is committed would leave them there.
    const FileBlock last(view_.record.size_bytes / kBlockBytes);
    if (treatment == Treatment::kInPlace && offset_ + data_.size() > view_.record.size_bytes && last >= range.first && last < range.end()) {
      add_checked({range.first, last - range.first}, treatment, old);
      add_checked({last, range.end() - last}, Treatment::kNew, MapEntry::leaf(old.block() + (last - range.first), false));
      return;
    }
    add_checked(range, treatment, old);
  }

  void add_checked(FileRange range, Treatment treatment, MapEntry old) {
    if (range.count == 0) return;
    // Bad blocks are never stored to: they get a new one.
    if (treatment != Treatment::kNew && ledger().touches({old.block(), range.count})) {
      for (std::uint64_t i = 0; i < range.count; ++i) {
        const MapEntry one = MapEntry::leaf(old.block() + i, old.unwritten());
        const bool bad = ledger().mask(one.block()) != 0;
        regions_.push_back({{range.first + i, 1}, bad ? Treatment::kNew : treatment, one});
      }
      return;
    }
    regions_.push_back({range, treatment, old});
  }

  Result<> classify() {
    const std::uint64_t generation_before = generation();
    std::vector<Segment> unknown;
    for (const Segment& segment : view_.segments) {
      if (!segment.entry.present()) {
        add(segment.range, Treatment::kNew, {});
        continue;
      }
      if (segment.entry.unwritten()) {
        unknown.push_back(segment);
        continue;
      }
      Segment rest = segment;
      while (rest.range.count != 0) {
        const auto known = held_.exclusive.find(rest.range.first, generation_before);
        if (!known || known->entry != rest.entry.plain()) break;
        const std::uint64_t count = std::min(known->range.count, rest.range.count);
        add({rest.range.first, count}, Treatment::kInPlace, rest.entry);
        rest = {{rest.range.first + count, rest.range.count - count}, MapEntry::leaf(rest.entry.block() + count, false)};
      }
      if (rest.range.count != 0) unknown.push_back(rest);
    }
    if (!unknown.empty()) TRY(ask(unknown, generation_before));
    std::ranges::sort(regions_, {}, [](const Region& region) { return region.range.first; });
    return {};
  }

  // Makes the path exclusive and asks the reverse map about the data.
  Result<> ask(const std::vector<Segment>& unknown, std::uint64_t generation_before) {
    std::vector<std::pair<Segment, bool>> answers;  // shared?
    TRY(state_.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(state_.own_inode(transaction, held_.number)) || TRY(state_.own_data(transaction, held_.number, range_))) return Step::kAgain;
      answers.clear();
      for (const Segment& segment : unknown) TRY(split_by_sharing(transaction, segment, answers));
      return Step::kDone;
    }));
    for (const auto& [segment, shared] : answers) {
      if (shared) {
        add(segment.range, Treatment::kNew, segment.entry);
      } else if (segment.entry.unwritten()) {
        add(segment.range, Treatment::kConvert, segment.entry);
      } else {
        add(segment.range, Treatment::kInPlace, segment.entry);
        held_.exclusive.add(segment, generation_before);
      }
    }
    return {};
  }

  Result<> split_by_sharing(Transaction& transaction, const Segment& segment, std::vector<std::pair<Segment, bool>>& answers) {
    state_.store.mutex.assert_held();
    const bool shared = TRY(state_.store.reverse_map().any_shared(transaction, {segment.entry.block(), segment.range.count}));
    if (!shared || segment.range.count == 1) {
      answers.emplace_back(segment, shared);
      return {};
    }
    const std::uint64_t half = segment.range.count / 2;
    TRY(split_by_sharing(transaction, {{segment.range.first, half}, segment.entry}, answers));
    return split_by_sharing(transaction,
                            {{segment.range.first + half, segment.range.count - half},
                             MapEntry::leaf(segment.entry.block() + half, segment.entry.unwritten())},
                            answers);
  }

  // The caller's bytes that fall into a range of blocks.
  std::uint64_t begin_in(FileRange range) const { return std::max(offset_, byte_offset(range.first)); }
  std::uint64_t end_in(FileRange range) const { return std::min(offset_ + data_.size(), byte_offset(range.end())); }
  std::span<const std::byte> bytes_in(FileRange range) const {
    return data_.subspan(begin_in(range) - offset_, end_in(range) - begin_in(range));
  }

  const Region& region_at(FileBlock block) const {
    for (const Region& region : regions_)
      if (block >= region.range.first && block < region.range.end()) return region;
    CHECK(false);
    return regions_.front();
  }

  // The old content of one block whose first or last bytes stay.
  Result<> load_old(FileBlock block, Block& content) {
    const Region& region = region_at(block);
    if (!region.old.present() || region.old.unwritten()) {
      std::memset(content.bytes, 0, kBlockBytes);
      return {};
    }
    const BlockNumber old = region.old.block() + (block - region.range.first);
    const std::uint8_t bad = ledger().mask(old);
    const std::uint64_t from = begin_in({block, 1}) - byte_offset(block), to = end_in({block, 1}) - byte_offset(block);
    for (std::uint64_t sector = 0; sector < kSectorsPerBlock; ++sector) {
      const std::uint64_t first = sector * kSectorBytes;
      const bool replaced = from <= first && first + kSectorBytes <= to;
      if (replaced) continue;  // a lost sector that is overwritten whole is healed by that
      if (bad >> sector & 1) return fail(ErrorCode::kPoisoned);
      if (auto done = state_.store.medium().read(byte_offset(old) + first, std::span(content.bytes).subspan(first, kSectorBytes)); !done) {
        state_.store.suspect({old, 1});
        return done;
      }
    }
    return {};
  }

  // Stores the blocks `range` of the file at `target`: the caller's bytes, and around them what was there.
  Result<> store_blocks(FileRange range, BlockNumber target) {
    Medium& medium = state_.store.medium();
    std::uint64_t begin = begin_in(range), end = end_in(range);
    const auto store_edge = [&](FileBlock block) -> Result<> {
      Block content;
      TRY(load_old(block, content));
      const auto bytes = bytes_in({block, 1});
      std::memcpy(content.bytes + (begin_in({block, 1}) - byte_offset(block)), bytes.data(), bytes.size());
      return medium.store(byte_offset(target + (block - range.first)), content.bytes);
    };
    if (begin % kBlockBytes != 0) {
      TRY(store_edge(range.first));
      begin = byte_offset(range.first + 1);
    }
    if (end % kBlockBytes != 0 && end > begin) {
      TRY(store_edge(range.end() - 1));
      end = byte_offset(range.end() - 1);
    }
    if (begin >= end) return {};
    return medium.store(byte_offset(target) + (begin - byte_offset(range.first)), data_.subspan(begin - offset_, end - begin));
  }

  Result<BlockNumber> goal_for(FileBlock block) {
    if (block.value == 0) return BlockNumber(0);
    const FileView before = TRY(view_of(state_, held_.number, {block - 1, 1}));
    if (before.segments.empty() || !before.segments.front().entry.present()) return BlockNumber(0);
    return before.segments.front().entry.block() + 1;
  }

  Result<> store_new() {
    for (std::size_t i = 0; i < regions_.size();) {
      if (regions_[i].treatment != Treatment::kNew) {
        ++i;
        continue;
      }
      FileRange whole = regions_[i].range;  // neighbours that are new too are allocated together
      for (++i; i < regions_.size() && regions_[i].treatment == Treatment::kNew && regions_[i].range.first == whole.end(); ++i)
        whole.count += regions_[i].range.count;
      BlockNumber goal = TRY(goal_for(whole.first));
      while (whole.count != 0) {
        auto reservation = TRY(state_.store.reserve(goal, whole.count));
        const FileRange piece{whole.first, reservation.run().count};
        auto stored = store_blocks(piece, reservation.run().first);
        if (!stored) {
          // Out of circulation now: another place is tried, which can't go on for ever.
          if (stored.error().code == ErrorCode::kPoisoned && note_poison(reservation.run())) continue;
          return stored;
        }
        pieces_.push_back({piece, MapEntry::leaf(reservation.run().first, false)});
        goal = reservation.run().end();
        whole = {piece.end(), whole.count - piece.count};
        reservations_.push_back(std::move(reservation));
      }
    }
    return {};
  }

  Result<> store_existing() {
    for (const Region& region : regions_) {
      if (region.treatment == Treatment::kNew) continue;
      Result<> stored{};
      if (region.treatment == Treatment::kConvert) {
        stored = store_blocks(region.range, region.old.block());
        pieces_.push_back({region.range, MapEntry::leaf(region.old.block(), false)});
      } else {
        const std::uint64_t at = byte_offset(region.old.block()) + (begin_in(region.range) - byte_offset(region.range.first));
        stored = state_.store.medium().store(at, bytes_in(region.range));
      }
      if (stored) continue;
      if (stored.error().code == ErrorCode::kPoisoned) met_poison_ = note_poison({region.old.block(), region.range.count});
      return stored;
    }
    return {};
  }

  // Whether a block of the run is bad.
  bool note_poison(BlockRun run) {
    bool found = false;
    for (BlockNumber block = run.first; block < run.end(); ++block) {
      Block probe;
      if (state_.store.medium().read(byte_offset(block), probe.bytes)) continue;
      ledger().set(block, 0xff);
      state_.store.suspect({block, 1});
      found = true;
    }
    held_.exclusive.forget();
    return found;
  }

  Result<> commit() {
    const std::uint64_t end = offset_ + data_.size();
    const bool grows = end > view_.record.size_bytes;
    const bool kills = options_.kill_set_id && view_.record.mode & (S_ISUID | S_ISGID);
    const Timestamp now = current_time();
    if (pieces_.empty() && !grows && !kills) {
      const std::lock_guard guard(held_.times_mutex);
      held_.times.modification = held_.times.change = now;
      return {};
    }
    const std::uint64_t generation_before = generation();
    TRY(state_.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(state_.own_inode(transaction, held_.number))) return Step::kAgain;
      if (!pieces_.empty() && TRY(state_.own_data(transaction, held_.number, range_))) return Step::kAgain;
      InodeRecord* record = TRY(state_.table.edit(transaction, held_.number));
      const ForkEdit fork = edit_data_fork(*record, LeafKind::kData);
      for (const Segment& piece : pieces_) TRY(assign(transaction, fork, piece.range, piece.entry.block(), false, state_.services.graveyard));
      record->size_bytes = std::max(record->size_bytes, end);
      state_.take_times(transaction, held_, *record);
      set_time(*record, kModification, now);
      set_time(*record, kChange, now);
      if (kills) kill_set_id(*record);
      return Step::kDone;
    }));
    for (auto& reservation : reservations_) reservation.keep();
    for (const Segment& piece : pieces_) held_.exclusive.add(piece, generation_before);
    for (const Region& region : regions_)
      if (region.treatment == Treatment::kNew && region.old.present()) report_healed(region);
    return {};
  }

  void report_healed(const Region& region) {
    if (!state_.services.healed) return;
    for (const auto& [block, mask] : ledger().in({region.old.block(), region.range.count}))
      state_.services.healed(state_.number, held_.number, byte_offset(region.range.first + (block - region.old.block())), kBlockBytes, block);
  }

  State& state_;
  InodeState& held_;
  std::uint64_t offset_;
  std::span<const std::byte> data_;
  Volume::WriteOptions options_;
  FileRange range_;
  FileView view_;
  std::vector<Region> regions_;
  std::vector<Segment> pieces_;
  std::vector<Store::Reservation> reservations_;
  bool met_poison_ = false;
};

}  // namespace

Result<> State::write_locked(InodeState& state, std::uint64_t offset, std::span<const std::byte> from, WriteOptions options) {
  if (options.append) offset = TRY(read_record(state.number)).size_bytes;
  if (from.empty()) return {};
  if (offset > format::kMaximumFileBytes || from.size() > format::kMaximumFileBytes - offset) return fail(ErrorCode::kFileTooBig);
  // Pieces of at most 4 MiB: one transaction each.
  constexpr std::uint64_t kPiece = 4 << 20;
  for (std::uint64_t done = 0; done < from.size();) {
    const std::uint64_t length = std::min(from.size() - done, kPiece);
    TRY(Writer(*this, state, offset + done, from.subspan(done, length), options).run());
    done += length;
  }
  return {};
}

Result<> Volume::write(InodeNumber inode, std::uint64_t offset, std::span<const std::byte> from, WriteOptions options) {
  State& state = *state_;
  TRY(state.writable());
  const State::Operation operation(state);
  const auto held = state.inodes.get(inode);
  const std::unique_lock lock(held->lock);
  return state.write_locked(*held, offset, from, options);
}

// --- truncation --------------------------------------------------------------------------------------------------------

Result<> State::truncate_locked(InodeState& state, std::uint64_t size_bytes,
                              const std::function<void(Transaction&, InodeRecord&)>& also) {
  if (size_bytes > format::kMaximumFileBytes) return fail(ErrorCode::kFileTooBig);
  const std::uint64_t keep = blocks_for(size_bytes), tail_bytes = size_bytes % kBlockBytes;
  const FileRange tail{FileBlock(tail_bytes ? keep - 1 : keep), tail_bytes ? 1u : 0u};
  const FileView view = TRY(view_of(*this, state.number, tail.count ? tail : FileRange{FileBlock(0), 1}));
  const bool shrinks = size_bytes < view.record.size_bytes;
  // What lies beyond the end of a file reads as zero when the file grows again, so it is zeroed when it is cut off: in a copy
  // of the last block, because the cut must happen wholly or not at all. A last block that is lost stays as it is.
  Store::Reservation reservation;
  std::optional<BlockNumber> new_tail;
  if (shrinks && tail.count && holds_data(view.segments.front())) {
    Block content{};
    const BlockNumber old = view.segments.front().entry.block();
    if (!store.ledger().touches({old, 1}) && store.medium().read(byte_offset(old), std::span(content.bytes).first(tail_bytes))) {
      while (!new_tail) {
        reservation = TRY(store.reserve(old, 1));
        const BlockNumber block = reservation.run().first;
        auto stored = store.medium().store(byte_offset(block), content.bytes);
        if (stored) {
          new_tail = block;
        } else if (stored.error().code == ErrorCode::kPoisoned) {
          store.ledger().set(block, 0xff);  // not handed out again
          store.suspect({block, 1});
        } else {
          return stored;
        }
      }
      TRY(store.medium().drain());
    }
  }
  const FileRange cut{FileBlock(keep), kMaximumFileBlocks - keep};
  const Timestamp now = current_time();
  TRY(store.run(shrinks ? TransactionClass::kFreeing : TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
    if (TRY(own_inode(transaction, state.number))) return Step::kAgain;
    if (keep != 0 && shrinks) {
      // Each for itself: a node that both together cover whole is still entered for the tail.
      if (new_tail && TRY(own_data(transaction, state.number, tail, Unshare::kEdges))) return Step::kAgain;
      if (TRY(own_data(transaction, state.number, cut, Unshare::kEdges))) return Step::kAgain;
    }
    InodeRecord* record = TRY(table.edit(transaction, state.number));
    const ForkEdit fork = edit_data_fork(*record, LeafKind::kData);
    if (keep == 0) {
      // Also with the size 0 already: blocks allocated beyond the end go too.
      TRY(services.graveyard.bury_fork(transaction, fork));
    } else if (shrinks) {
      if (new_tail) TRY(assign(transaction, fork, tail, *new_tail, false, services.graveyard));
      TRY(clear(transaction, fork, cut, services.graveyard));
    }
    record->size_bytes = size_bytes;
    take_times(transaction, state, *record);
    set_time(*record, kModification, now);
    set_time(*record, kChange, now);
    also(transaction, *record);
    return Step::kDone;
  }));
  if (new_tail) reservation.keep();
  state.exclusive.forget();
  if (shrinks && services.wake_background) services.wake_background();
  return {};
}

// --- allocation and holes ----------------------------------------------------------------------------------------------

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
  if (range.count == 0) return {};
  std::vector<std::tuple<FileBlock, BlockNumber>> healed;
  if (state.store.ledger().size() != 0) {
    const FileView view = TRY(view_of(state, held.number, range));
    for (const Segment& segment : view.segments) {
      if (!segment.entry.present()) continue;
      for (const auto& [block, mask] : state.store.ledger().in({segment.entry.block(), segment.range.count}))
        healed.emplace_back(segment.range.first + (block - segment.entry.block()), block);
    }
  }
  TRY(state.store.run(TransactionClass::kFreeing, [&](Transaction& transaction) -> Result<Step> {
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

// Unwritten blocks for the holes of a range, some in each transaction.
Result<> fill_holes(State& state, InodeState& held, FileRange range) {
  constexpr std::uint64_t kPiecesPerTransaction = 64;
  while (range.count != 0) {
    const FileRange look{range.first, std::min<std::uint64_t>(range.count, 1 << 20)};  // 4 GiB at a time
    const FileView view = TRY(view_of(state, held.number, look));
    std::vector<Segment> pieces;
    std::vector<Store::Reservation> reservations;
    FileBlock reached = look.end();
    BlockNumber goal(0);
    for (const Segment& segment : view.segments) {
      if (segment.entry.present()) {
        goal = segment.entry.block() + segment.range.count;
        continue;
      }
      FileRange hole = segment.range;
      while (hole.count != 0 && pieces.size() < kPiecesPerTransaction) {
        auto reservation = TRY(state.store.reserve(goal, hole.count));
        const BlockRun run = reservation.run();
        pieces.push_back({{hole.first, run.count}, MapEntry::leaf(run.first, true)});
        reservations.push_back(std::move(reservation));
        goal = run.end();
        hole = {hole.first + run.count, hole.count - run.count};
      }
      if (hole.count != 0) {
        reached = hole.first;
        break;
      }
    }
    if (!pieces.empty()) {
      TRY(state.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
        if (TRY(state.own_inode(transaction, held.number))) return Step::kAgain;
        // Every piece by itself: what lies between them need not be copied.
        for (const Segment& piece : pieces)
          if (TRY(state.own_data(transaction, held.number, piece.range, Unshare::kEdges))) return Step::kAgain;
        InodeRecord* record = TRY(state.table.edit(transaction, held.number));
        for (const Segment& piece : pieces)
          TRY(assign(transaction, edit_data_fork(*record, LeafKind::kData), piece.range, piece.entry.block(), true, state.services.graveyard));
        return Step::kDone;
      }));
      for (auto& reservation : reservations) reservation.keep();
    }
    range = {reached, range.end() - reached};
  }
  return {};
}

Result<> grow(State& state, InodeState& held, std::uint64_t size_bytes, bool keep_size) {
  return state.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
    if (TRY(state.own_inode(transaction, held.number))) return Step::kAgain;
    InodeRecord* record = TRY(state.table.edit(transaction, held.number));
    state.take_times(transaction, held, *record);
    if (!keep_size && size_bytes > record->size_bytes) {
      record->size_bytes = size_bytes;
      set_time(*record, kModification, current_time());
    }
    set_time(*record, kChange, current_time());
    return Step::kDone;
  });
}

}  // namespace

Result<> State::allocate_locked(InodeState& state, AllocateMode mode, std::uint64_t offset, std::uint64_t length) {
  if (length == 0) return fail(ErrorCode::kInvalid);
  if (offset > format::kMaximumFileBytes || length > format::kMaximumFileBytes - offset) return fail(ErrorCode::kFileTooBig);
  TRY(check_regular(TRY(read_record(state.number))));
  if (mode == AllocateMode::kAllocate || mode == AllocateMode::kAllocateKeep) {
    const FileRange range = block_range(offset, length);
    // Asked for more than there is: say so before anything is taken.
    if (range.count > store.superblock().pool_bytes / kBlockBytes) return fail(ErrorCode::kNoSpace);
    TRY(fill_holes(*this, state, range));
    return grow(*this, state, offset + length, mode == AllocateMode::kAllocateKeep);
  }
  const Edges edges = split_at_blocks(offset, length);
  TRY(zero_part(*this, state, edges.head_offset, edges.head_bytes));
  TRY(zero_part(*this, state, edges.tail_offset, edges.tail_bytes));
  TRY(punch_blocks(*this, state, edges.whole));
  if (mode == AllocateMode::kPunch) return {};
  if (edges.whole.count <= store.superblock().pool_bytes / kBlockBytes)
    TRY(fill_holes(*this, state, block_range(offset, length)));
  else
    return fail(ErrorCode::kNoSpace);
  return grow(*this, state, offset + length, mode == AllocateMode::kZeroKeep);
}

Result<> Volume::allocate(InodeNumber inode, AllocateMode mode, std::uint64_t offset, std::uint64_t length) {
  State& state = *state_;
  TRY(state.writable());
  const State::Operation operation(state);
  const auto held = state.inodes.get(inode);
  const std::unique_lock lock(held->lock);
  return state.allocate_locked(*held, mode, offset, length);
}

// --- looking at the map ------------------------------------------------------------------------------------------------

Result<std::uint64_t> Volume::seek(InodeNumber inode, std::uint64_t offset, bool data) {
  State& state = *state_;
  const State::Operation operation(state);
  const auto held = state.inodes.get(inode);
  const std::shared_lock lock(held->lock);
  return state.store.read_consistent([&](BlockReader& reader) -> Result<std::uint64_t> {
    const InodeRecord record = TRY(state.table.read(reader, inode));
    TRY(check_regular(record));
    if (offset >= record.size_bytes) return fail(ErrorCode::kNoData);
    std::optional<std::uint64_t> found;
    TRY(for_each_segment(reader, data_fork(record, LeafKind::kData), block_range(offset, record.size_bytes - offset), [&](const Segment& segment) {
      if (holds_data(segment) == data) found = std::max(offset, byte_offset(segment.range.first));
      return !found;
    }));
    if (found && *found < record.size_bytes) return *found;
    if (data) return fail(ErrorCode::kNoData);
    return record.size_bytes;  // there is a hole behind every file
  });
}

namespace {

constexpr std::size_t kCountedOwners = 10'000;

// Fills in owners and ledger of an extent and shortens it to where they may change: at the edge of a reference, of a
// subtree (which may be shared as a whole), or of a bad block.
Result<> describe_extent(State& state, FileExtent& extent, bool count_owners) {
  const auto cut = [&](std::uint64_t count) {
    if (count > 0 && count < extent.count) extent.count = count;
  };
  if (count_owners) cut(format::kMapFanout - extent.start.value % format::kMapFanout);
  const BlockRun run{extent.block, extent.count};
  extent.bad = state.store.ledger().mask(extent.block) != 0;
  for (const auto& [bad, mask] : state.store.ledger().in(run)) {
    cut(bad - run.first);
    cut(bad + 1 - run.first);
  }
  if (!count_owners) return {};
  {
    const LockGuard guard(state.store.mutex);
    TRY(state.store.reverse_map().for_each_covering(state.store.metadata(), run, [&](const format::ReverseRecord& record) {
      if (record.first >= run.first.value + extent.count) return false;  // in ascending order: no other cuts it
      if (record.first > run.first.value) cut(record.first - run.first.value);
      cut(record.first + record.length_blocks - run.first.value);
      return true;
    }));
  }
  const OwnerSet owners = TRY(find_owners(state.store, state.store.metadata(), extent.block));
  extent.owners = static_cast<unsigned>(owners.expand(kCountedOwners).size());
  return {};
}

}  // namespace

Result<> Volume::for_each_extent(InodeNumber inode, FileBlock from, bool count_owners, const std::function<bool(const FileExtent&)>& visit) {
  State& state = *state_;
  const State::Operation operation(state);
  const auto held = state.inodes.get(inode);
  const std::shared_lock lock(held->lock);
  const InodeRecord record = TRY(state.read_record(inode));
  TRY(check_regular(record));
  const std::uint64_t blocks = std::max(blocks_for(record.size_bytes), record.block_count);
  if (from.value >= blocks) return {};
  const FileView view = TRY(view_of(state, inode, {from, blocks - from.value}));
  // What was found to continue its predecessor in every respect is one extent.
  std::optional<FileExtent> pending;
  const auto add = [&](const FileExtent& extent) {
    if (pending && pending->state == extent.state && pending->owners == extent.owners && pending->bad == extent.bad &&
        (extent.state == ExtentState::kHole || pending->block + pending->count == extent.block)) {
      pending->count += extent.count;
      return true;
    }
    const bool go_on = !pending || visit(*pending);
    pending = extent;
    return go_on;
  };
  for (const Segment& segment : view.segments) {
    for (FileBlock at = segment.range.first; at < segment.range.end();) {
      FileExtent extent{at, segment.range.end() - at, ExtentState::kHole, {}, 0, false};
      if (segment.entry.present()) {
        extent.state = segment.entry.unwritten() ? ExtentState::kUnwritten : ExtentState::kWritten;
        extent.block = segment.entry.block() + (at - segment.range.first);
        TRY(describe_extent(state, extent, count_owners));
      }
      if (!add(extent)) return {};
      at += extent.count;
    }
  }
  if (pending) visit(*pending);
  return {};
}

}  // namespace daxcow
