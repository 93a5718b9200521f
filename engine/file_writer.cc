// Writing to a file: in place, or to new blocks.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "engine/bad_range.h"
#include "engine/check.h"
#include "engine/file_data.h"

namespace daxcow {

using format::InodeRecord;
using format::LeafKind;
using State = Volume::State;

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
    if (offset_ > view_.record.size_bytes) {
      TRY(zero_behind_end(state_, held_, offset_));
      view_ = TRY(view_of(state_, held_.number, range_));
    }
    TRY(classify());
    TRY(store_new());
    TRY(store_existing());
    TRY(state_.store.medium().drain());
    return commit();
  }

  // Whether what was stored is in a block that has gone bad since: who lost it may have been told already, and then this
  // write would be lost without a word. The next attempt goes around it.
  bool has_gone_bad() {
    if (ledger().size() == 0) return false;
    const bool bad = std::ranges::any_of(pieces_, [&](const Segment& piece) { return ledger().touches({piece.entry.block(), piece.range.count}); }) ||
                     std::ranges::any_of(regions_, [&](const Region& region) {
                       return region.treatment == Treatment::kInPlace && ledger().touches_bytes(place_of(region), bytes_in(region.range).size());
                     });
    met_poison_ |= bad;
    return bad;
  }
  // Of the caller's bytes that go in place.
  std::uint64_t place_of(const Region& region) const {
    return byte_offset(region.old.block()) + (begin_in(region.range) - byte_offset(region.range.first));
  }

  Ledger& ledger() { return state_.store.ledger(); }
  std::uint64_t generation() const { return state_.sharing_generation.load(std::memory_order_acquire); }

  void add(FileRange range, Treatment treatment, MapEntry old) {
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
    boost::container::small_vector<Segment, 4> unknown;
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
    if (!unknown.empty()) TRY(ask({unknown.data(), unknown.size()}, generation_before));
    std::ranges::sort(regions_, {}, [](const Region& region) { return region.range.first; });
    return {};
  }

  Result<> ask(std::span<const Segment> unknown, std::uint64_t generation_before) {
    for (const auto& [segment, shared] : TRY(ask_sharing(state_, held_.number, range_, unknown))) {
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

  // The old content of one block whose first or last bytes stay; zero behind the end of the file.
  Result<> load_old(FileBlock block, Block& content) {
    const Region& region = region_at(block);
    if (!region.old.present() || region.old.unwritten()) {
      std::memset(content.bytes, 0, kBlockBytes);
      return {};
    }
    const BlockNumber old = region.old.block() + (block - region.range.first);
    const std::uint8_t bad = ledger().mask(old);
    const std::uint64_t size = view_.record.size_bytes;
    const std::uint64_t from = begin_in({block, 1}) - byte_offset(block), to = end_in({block, 1}) - byte_offset(block);
    for (std::uint64_t sector = 0; sector < kSectorsPerBlock; ++sector) {
      const std::uint64_t first = sector * kSectorBytes;
      const std::uint64_t end = std::min(first + kSectorBytes, size - std::min(size, byte_offset(block)));
      // A lost sector that is overwritten as far as the file goes is healed by that.
      const bool replaced = from <= first && end <= to;
      if (replaced || end <= first) {
        std::memset(content.bytes + first, 0, kSectorBytes);
        continue;
      }
      const auto bytes = std::span(content.bytes).subspan(first, kSectorBytes);
      if (bad >> sector & 1) {
        if (!options_.zero_lost) return fail(ErrorCode::kPoisoned);
        std::ranges::fill(bytes, std::byte{0});
        continue;
      }
      if (auto done = state_.store.medium().read(byte_offset(old) + first, bytes); !done) {
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
      std::uint64_t bad_places = 0;
      while (whole.count != 0) {
        auto reservation = TRY(state_.store.reserve(goal, whole.count));
        const FileRange piece{whole.first, reservation.run().count};
        auto stored = store_blocks(piece, reservation.run().first);
        if (!stored) {
          // Out of circulation now: another place is tried, though not all there are when the device itself is gone.
          if (stored.error().code != ErrorCode::kPoisoned || ++bad_places == Store::kBadPlaces || !note_poison(reservation.run()))
            return stored;
          continue;
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
        stored = state_.store.medium().store(place_of(region), bytes_in(region.range));
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
      ledger().set(block, ledger().mask(block) | unreadable_sectors(state_.store.medium(), block));
      state_.store.suspect({block, 1});
      found = true;
    }
    held_.exclusive.forget();
    return found;
  }

  Result<> commit() {
    const std::uint64_t end = offset_ + data_.size();
    const bool grows = end > view_.record.size_bytes;
    const std::uint32_t cleared_mode = options_.clear_mode & view_.record.mode & (S_ISUID | S_ISGID);
    const Timestamp now = current_time();
    if (pieces_.empty() && !grows && cleared_mode == 0) {
      if (has_gone_bad()) return fail(ErrorCode::kPoisoned);
      const LockGuard guard(held_.times_mutex);
      held_.times.modification = held_.times.change = now;
      return {};
    }
    const std::uint64_t generation_before = generation();
    TRY(state_.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(state_.own_inode(transaction, held_.number))) return Step::kAgain;
      if (!pieces_.empty() && TRY(state_.own_data(transaction, held_.number, range_))) return Step::kAgain;
      if (has_gone_bad()) return fail(ErrorCode::kPoisoned);
      InodeRecord* record = TRY(state_.table.edit(transaction, held_.number));
      const ForkEdit fork = edit_data_fork(*record, LeafKind::kData);
      for (const Segment& piece : pieces_) TRY(assign(transaction, fork, piece.range, piece.entry.block(), false, state_.services.graveyard));
      record->size_bytes = std::max(record->size_bytes, end);
      if (options_.restores) return Step::kDone;
      state_.take_times(transaction, held_, *record);
      set_time(*record, kModification, now);
      set_time(*record, kChange, now);
      record->mode &= ~cleared_mode;
      return Step::kDone;
    }));
    for (auto& reservation : reservations_) reservation.keep();
    for (const Segment& piece : pieces_) held_.exclusive.add(piece, generation_before);
    if (options_.restores) return {};
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
  boost::container::small_vector<Region, 4> regions_;
  boost::container::small_vector<Segment, 4> pieces_;
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

}  // namespace daxcow
