// Looking at a file's map: holes and data, extents and their owners.
#include <algorithm>
#include <optional>

#include "engine/file_data.h"
#include "engine/owners.h"
#include "engine/volume.h"

namespace daxcow {

using format::InodeRecord;
using format::LeafKind;
using State = Volume::State;

Result<std::uint64_t> Volume::seek(InodeNumber inode, std::uint64_t offset, bool data) {
  State& state = *state_;
  const State::Operation operation(state);
  const auto held = state.inodes.get(inode);
  const std::shared_lock lock(held->lock);
  return state.store.read_consistent([&](BlockReader& reader) -> Result<std::uint64_t> {
    const InodeRecord record = TRY(state.table.read(reader, inode));
    TRY(check_regular(record));
    if (offset >= record.size_bytes) return fail(ErrorCode::kNoData);
    const auto found = TRY(
        first_block(reader, data_fork(record, LeafKind::kData), block_range(offset, record.size_bytes - offset), data));
    if (found) return std::max(offset, byte_offset(*found));
    if (data) return fail(ErrorCode::kNoData);
    return record.size_bytes;  // there is a hole behind every file
  });
}

namespace {

constexpr std::size_t kCountedOwners = 10'000;
constexpr std::size_t kSegmentsAtOnce = 10'000;

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
  // A part at a time: whoever asks may have seen enough.
  while (from.value < blocks) {
    const FileView view = TRY(view_of(state, inode, {from, blocks - from.value}, kSegmentsAtOnce));
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
    if (view.segments.empty()) break;
    from = view.segments.back().range.end();
  }
  if (pending) visit(*pending);
  return {};
}

}  // namespace daxcow
