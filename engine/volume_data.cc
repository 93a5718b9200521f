// File data: reading, and changes of the size. Writing is in file_writer.cc.
#include <algorithm>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "engine/file_data.h"
#include "engine/volume.h"

namespace daxcow {

using format::InodeRecord;
using format::LeafKind;
using State = Volume::State;

// --- reading -----------------------------------------------------------------------------------------------------------

namespace {

// Whether system calls may copy from the mapping. Emulated poison they answer with EFAULT. On real persistent memory the
// kernel copies a FUSE reply with instructions whose machine check it does not survive, and it takes a page that a machine
// check has named out of its own address space, so that it would fault there. On that, only guarded copies touch data.
bool may_lend(const Medium& medium) {
  return medium.info().kind != MediumKind::kDeviceDax && medium.info().kind != MediumKind::kFsdaxFile;
}

// A stretch of bytes that is in one segment.
struct Piece {
  std::uint64_t offset, length;  // in the file
  std::uint64_t at;              // on the medium, if it holds data
  bool data;                     // else it reads as zeros
};

// Calls `visit` with each piece of `length` bytes at `offset`, in order, until it fails.
template <class F>
Result<> for_each_piece(const FileView& view, std::uint64_t offset, std::uint64_t length, F&& visit) {
  const std::uint64_t end = offset + length;
  for (const Segment& segment : view.segments) {
    const std::uint64_t first = std::max(offset, byte_offset(segment.range.first));
    const std::uint64_t last = std::min(end, byte_offset(segment.range.end()));
    if (first >= last) continue;
    const bool data = holds_data(segment);
    const std::uint64_t at = data ? byte_offset(segment.entry.block()) + (first - byte_offset(segment.range.first)) : 0;
    TRY(visit(Piece{first, last - first, at, data}));
  }
  return {};
}

// The blocks that the bytes lie in.
BlockRun blocks_of(std::uint64_t at, std::uint64_t length) {
  return {BlockNumber(at / kBlockBytes), blocks_for(at + length) - at / kBlockBytes};
}

// Fills `to` with what is at `offset` of a file; all of that lies before its end.
Result<> copy_data(Store& store, const FileView& view, std::uint64_t offset, std::span<std::byte> to) {
  return for_each_piece(view, offset, to.size(), [&](const Piece& piece) -> Result<> {
    const std::span<std::byte> part = to.subspan(piece.offset - offset, piece.length);
    if (!piece.data) {
      std::memset(part.data(), 0, part.size());
      return {};
    }
    if (store.ledger().touches_bytes(piece.at, piece.length)) return fail(ErrorCode::kPoisoned);
    auto done = store.medium().read(piece.at, part);
    if (!done) store.suspect(blocks_of(piece.at, piece.length));
    return done;
  });
}

// Kept by each thread for its next read: allocating a megabyte costs about as much as copying it.
thread_local std::vector<std::byte> spare_buffer;

}  // namespace

struct ReadLease::Held {
  explicit Held(State& state, std::shared_ptr<InodeState> inode)
      : operation(state), inode_state(std::move(inode)), lock(inode_state->lock) {}
  ~Held() {
    if (copy.size() > spare_buffer.size()) spare_buffer = std::move(copy);
  }
  State::Operation operation;
  std::shared_ptr<InodeState> inode_state;
  std::shared_lock<SharedMutex> lock;
  std::vector<std::byte> copy;  // what the pieces are of, where the mapping must not be lent; may be longer
};

ReadLease::ReadLease() = default;
ReadLease::ReadLease(ReadLease&&) noexcept = default;
ReadLease& ReadLease::operator=(ReadLease&&) noexcept = default;
ReadLease::~ReadLease() = default;

namespace {

// A stretch with blocks of the ledger. What lies in these is copied, as nobody can copy it from the mapping.
Result<> read_around_bad_sectors(Store& store, std::uint64_t offset, std::uint64_t length, boost::container::small_vector_base<iovec>& pieces,
                                 std::vector<std::unique_ptr<std::byte[]>>& copies) {
  if (store.ledger().touches_bytes(offset, length)) return fail(ErrorCode::kPoisoned);
  for (const std::uint64_t end = offset + length; offset < end;) {
    const std::uint64_t count = std::min(end, (offset / kBlockBytes + 1) * kBlockBytes) - offset;
    auto* from = const_cast<std::byte*>(store.medium().mapping()) + offset;
    if (store.ledger().mask(BlockNumber(offset / kBlockBytes)) != 0) {
      from = copies.emplace_back(std::make_unique<std::byte[]>(count)).get();
      if (!store.medium().read(offset, std::span(from, count))) return fail(ErrorCode::kPoisoned);
    }
    pieces.push_back({from, count});
    offset += count;
  }
  return {};
}

}  // namespace

Result<ReadLease> Volume::read(InodeNumber inode, std::uint64_t offset, std::uint64_t length, AccessTime access_time) {
  State& state = *state_;
  ReadLease lease;
  lease.held_ = std::make_unique<ReadLease::Held>(state, state.inodes.get(inode));
  const FileView view = TRY(view_of(state, inode, block_range(offset, std::min(length, format::kMaximumFileBytes - std::min(offset, format::kMaximumFileBytes)))));
  if (offset >= view.record.size_bytes || length == 0) return lease;
  length = std::min(length, view.record.size_bytes - offset);
  if (!may_lend(state.store.medium())) {
    std::vector<std::byte>& copy = lease.held_->copy;
    copy = std::exchange(spare_buffer, {});
    if (copy.size() < length) copy.resize(length);
    TRY(copy_data(state.store, view, offset, std::span(copy).first(length)));
    lease.pieces_.push_back({copy.data(), length});
    lease.bytes_ = length;
    state.note_access(*lease.held_->inode_state, view.record, access_time);
    return lease;
  }
  TRY(for_each_piece(view, offset, length, [&](const Piece& piece) -> Result<> {
    if (!piece.data) {
      for (std::uint64_t rest = piece.length; rest > 0; rest -= std::min(rest, kZeroBytes))
        lease.pieces_.push_back({const_cast<std::byte*>(kZeros), std::min(rest, kZeroBytes)});
      return {};
    }
    if (state.store.ledger().touches(blocks_of(piece.at, piece.length)))
      return read_around_bad_sectors(state.store, piece.at, piece.length, lease.pieces_, lease.copies_);
    lease.pieces_.push_back({const_cast<std::byte*>(state.store.medium().mapping()) + piece.at, piece.length});
    return {};
  }));
  lease.bytes_ = length;
  state.note_access(*lease.held_->inode_state, view.record, access_time);
  return lease;
}

void Volume::suspect(const ReadLease& lease) {
  Store& store = state_->store;
  const std::byte* const mapping = store.medium().mapping();
  for (const iovec& piece : lease.pieces_) {
    const auto* const bytes = static_cast<const std::byte*>(piece.iov_base);
    if (bytes < mapping || bytes >= mapping + store.medium().size_bytes()) continue;
    const auto offset = static_cast<std::uint64_t>(bytes - mapping);
    for (BlockNumber block(offset / kBlockBytes); byte_offset(block) < offset + piece.iov_len; ++block) {
      Block content;
      if (!store.medium().read(byte_offset(block), content.bytes)) store.suspect({block, 1});
    }
  }
}

Result<std::uint64_t> State::read_locked(InodeNumber inode, std::uint64_t offset, std::span<std::byte> to) {
  const FileView view = TRY(view_of(*this, inode, block_range(offset, to.size())));
  if (offset >= view.record.size_bytes) return 0;
  const std::uint64_t length = std::min(to.size(), view.record.size_bytes - offset);
  TRY(copy_data(store, view, offset, to.first(length)));
  return length;
}

Result<std::uint64_t> Volume::read(InodeNumber inode, std::uint64_t offset, std::span<std::byte> to) {
  State& state = *state_;
  const State::Operation operation(state);
  const auto held = state.inodes.get(inode);
  const std::shared_lock lock(held->lock);
  return state.read_locked(inode, offset, to);
}

namespace {

// Fills `to` sector by sector with what can be read of a block, and the rest with zeros. True if there was such a rest.
bool read_readable(Store& store, std::uint64_t at, std::span<std::byte> to) {
  bool zeroed = false;
  while (!to.empty()) {
    const std::uint64_t count = std::min<std::uint64_t>(to.size(), kSectorBytes - at % kSectorBytes);
    const auto part = to.first(count);
    if (store.ledger().touches_bytes(at, count) || !store.medium().read(at, part)) {
      std::ranges::fill(part, std::byte{0});
      zeroed = true;
    }
    at += count;
    to = to.subspan(count);
  }
  return zeroed;
}

}  // namespace

Result<std::uint64_t> Volume::read_with_zeros(InodeNumber inode, std::uint64_t offset, std::span<std::byte> to) {
  State& state = *state_;
  std::vector<std::pair<FileBlock, BlockNumber>> zeroed;
  std::uint64_t length = 0;
  {  // not around what follows: the path is asked for through the gate, which nobody may enter twice
    const State::Operation operation(state);
    const auto held = state.inodes.get(inode);
    const std::shared_lock lock(held->lock);
    const FileView view = TRY(view_of(state, inode, block_range(offset, to.size())));
    if (offset >= view.record.size_bytes) return 0;
    length = std::min(to.size(), view.record.size_bytes - offset);
    std::ranges::fill(to.first(length), std::byte{0});
    TRY(for_each_piece(view, offset, length, [&](const Piece& piece) -> Result<> {
      for (std::uint64_t done = 0, count = 0; piece.data && done < piece.length; done += count) {
        const std::uint64_t from = piece.offset + done;
        count = std::min(piece.length - done, kBlockBytes - from % kBlockBytes);
        if (read_readable(state.store, piece.at + done, to.subspan(from - offset, count)))
          zeroed.emplace_back(FileBlock(from / kBlockBytes), BlockNumber((piece.at + done) / kBlockBytes));
      }
      return {};
    }));
  }
  for (const auto& [block, lost] : zeroed) {
    if (!state.note_zeroed(inode, block, lost)) continue;
    Event event;
    event.kind = EventKind::kDataZeroed;
    event.volume = name_;
    event.inode = inode;
    event.path = path_of(inode).value_or("inode " + std::to_string(inode.value));
    event.offset_bytes = byte_offset(block);
    event.length_bytes = kBlockBytes;
    event.text = "lost data read as zeros, as " + std::string(kPoisonPolicyAttribute) + " says: volume " + name_ + ", " + event.path +
                 ", in the block at byte " + std::to_string(event.offset_bytes);
    state.store.log(event.text);
    state.store.events().publish(std::move(event));
  }
  return length;
}

bool State::note_zeroed(InodeNumber inode, FileBlock block, BlockNumber lost) {
  const LockGuard guard(zeroed_mutex);
  const std::pair place(inode.value, block.value);
  if (zeroed.size() >= kMaximumZeroed && !zeroed.contains(place)) return false;
  const auto [it, is_new] = zeroed.emplace(place, lost);
  return std::exchange(it->second, lost) != lost || is_new;
}

void State::forget_zeroed(InodeNumber inode) {
  const LockGuard guard(zeroed_mutex);
  zeroed.erase(zeroed.lower_bound({inode.value, 0}), zeroed.lower_bound({inode.value + 1, 0}));
}

bool State::may_have_been_zeroed(InodeNumber inode, FileBlock block) {
  const LockGuard guard(zeroed_mutex);
  return zeroed.size() >= kMaximumZeroed || zeroed.contains({inode.value, block.value});
}

PoisonPolicy Volume::poison_policy(InodeNumber inode) {
  constexpr int kMaximumDepth = 4096;  // longer chains are a circle
  State& state = *state_;
  const State::Operation operation(state);
  const auto found = state.store.read_consistent([&](BlockReader& reader) -> Result<PoisonPolicy> {
    const auto attribute = TRY(parse_attribute_name(kPoisonPolicyAttribute));
    InodeNumber at = inode;
    for (int depth = 0; depth < kMaximumDepth; ++depth) {
      const InodeRecord record = TRY(state.table.read(reader, at));
      if (record.attribute_bytes != 0) {
        AttributeList list = TRY(AttributeList::read(reader, record));
        const auto* item = list.find(attribute.space, attribute.name);
        const auto policy = item != nullptr ? parse_poison_policy(item->value) : std::nullopt;
        if (policy) return *policy;
      }
      if (at == format::kRootInode) break;
      at = record.parent != 0 ? InodeNumber(record.parent) : format::kRootInode;  // what has no name follows the volume
    }
    return PoisonPolicy{};
  });
  return found.value_or(PoisonPolicy{});
}

// --- writing -----------------------------------------------------------------------------------------------------------

Result<> Volume::write(InodeNumber inode, std::uint64_t offset, std::span<const std::byte> from, WriteOptions options) {
  State& state = *state_;
  TRY(state.writable());
  const auto attempt = [&]() -> Result<> {
    const State::Operation operation(state);
    const auto held = state.inodes.get(inode);
    const std::unique_lock lock(held->lock);
    return state.write_locked(*held, offset, from, options);
  };
  // (What was appended in part would be appended again.)
  return options.append || !options.waits_for_space ? attempt() : state.with_space(attempt);
}

namespace {

bool has_block(const FileView& view, BlockNumber block) {
  return !view.segments.empty() && holds_data(view.segments.front()) && view.segments.front().entry.block() == block;
}

}  // namespace

Result<bool> State::holds(InodeNumber inode, FileBlock at, BlockNumber block) {
  const Operation operation(*this);
  const auto held = inodes.get(inode);
  const std::shared_lock lock(held->lock);
  return has_block(TRY(view_of(*this, inode, {at, 1})), block);
}

Result<bool> State::restore_page(InodeNumber inode, FileBlock at, BlockNumber bad, const Block& page) {
  TRY(writable());
  const Kept kept(*this, inode);
  const Operation operation(*this);
  const auto held = inodes.get(inode);
  const std::unique_lock lock(held->lock);
  const FileView view = TRY(view_of(*this, inode, {at, 1}));
  const std::uint64_t offset = byte_offset(at);
  if (!has_block(view, bad)) return false;
  if (offset >= view.record.size_bytes) return false;
  const std::uint64_t length = std::min(kBlockBytes, view.record.size_bytes - offset);
  TRY(write_locked(*held, offset, std::span(page.bytes).first(length), {.restores = true}));
  return true;
}

// --- truncation --------------------------------------------------------------------------------------------------------

Result<> State::truncate_locked(InodeState& state, std::uint64_t size_bytes,
                              const std::function<void(Transaction&, InodeRecord&)>& also) {
  if (size_bytes > format::kMaximumFileBytes) return fail(ErrorCode::kFileTooBig);
  const std::uint64_t keep = blocks_for(size_bytes);
  const InodeRecord before = TRY(read_record(state.number));
  TRY(check_regular(before));
  const bool shrinks = size_bytes <= before.size_bytes;  // what is allocated behind the end goes too
  TRY(zero_behind_end(*this, state, size_bytes));
  const FileRange cut{FileBlock(keep), kMaximumFileBlocks - keep};
  const Timestamp now = current_time();
  const TransactionClass kind = !shrinks     ? TransactionClass::kNormal
                                : keep != 0 ? TransactionClass::kShrinking
                                            : TransactionClass::kFreeing;
  TRY(store.run(kind, [&](Transaction& transaction) -> Result<Step> {
    if (TRY(own_inode(transaction, state.number))) return Step::kAgain;
    if (keep != 0 && shrinks && TRY(own_data(transaction, state.number, cut, Unshare::kEdges))) return Step::kAgain;
    InodeRecord* record = TRY(table.edit(transaction, state.number));
    const ForkEdit fork = edit_data_fork(*record, LeafKind::kData);
    if (keep == 0) {
      // Also with the size 0 already: blocks allocated beyond the end go too.
      TRY(services.graveyard.bury_fork(transaction, fork));
    } else if (shrinks) {
      TRY(clear(transaction, fork, cut, services.graveyard));
    }
    record->size_bytes = size_bytes;
    take_times(transaction, state, *record);
    set_time(*record, kModification, now);
    set_time(*record, kChange, now);
    also(transaction, *record);
    return Step::kDone;
  }));
  state.exclusive.forget();
  if (shrinks && services.wake_background) services.wake_background();
  return {};
}

}  // namespace daxcow
