#include "engine/inode_table.h"

#include <algorithm>
#include <cstring>

#include "engine/check.h"

namespace daxcow {

using format::BlockType;
using format::InodeRecord;
using format::kInodesPerBlock;
using format::LeafKind;

namespace {

FileBlock table_block(InodeNumber inode) { return FileBlock(inode.value / kInodesPerBlock); }

// Inode table edits never bury anything: they only add leaves or clear single ones.
class NoGraveyard final : public Graveyard {
  Result<> bury(Transaction&, MapEntry, std::uint8_t) override { return fail(ErrorCode::kDamaged, "inode table entry out of place"); }
};

// Levels are used in shifts, and sizes added to offsets: nobody gets to see a record with one that the format does not have.
bool makes_sense(const InodeRecord& record) { return has_valid_levels(record) && record.size_bytes <= format::kMaximumFileBytes; }

Result<InodeRecord> record_in(BlockReader& reader, const Fork& table, InodeNumber inode) {
  if (inode.value / kInodesPerBlock >= kMaximumFileBlocks) return fail(ErrorCode::kStale);
  const MapEntry entry = TRY(entry_at(reader, table, table_block(inode)));
  if (!entry.present()) return fail(ErrorCode::kStale);
  const BlockPtr block = TRY(reader.read(entry.block(), BlockType::kInodes));
  const InodeRecord& record = block->as<format::InodeBlock>().inodes[inode.value % kInodesPerBlock];
  if (record.mode == 0) return fail(ErrorCode::kStale);
  if (!makes_sense(record)) return fail(ErrorCode::kDamaged, "an inode makes no sense; run fsck.daxcow");
  return record;
}

// The first table block from `from` on that may have a free inode: one without the full hint, or a hole.
struct FreeSearch {
  BlockReader& reader;
  FileBlock from;

  Result<FileBlock> below(const std::uint64_t* entries, std::uint64_t count, std::uint8_t log512, FileBlock base) const {
    const std::uint64_t span = blocks_spanned(log512);
    const std::uint64_t skip = from > base ? (from - base) / span : 0;
    for (std::uint64_t i = skip; i < count; ++i) {
      const MapEntry entry{entries[i]};
      const FileBlock start = std::max(from, base + i * span);
      if (!entry.present()) return start;
      if (entry.full()) continue;
      if (log512 == 0) return start;
      if (!entry.is_node()) return fail(ErrorCode::kDamaged, "an inode table holds a run");
      const BlockPtr node = TRY(reader.read(entry.block(), BlockType::kMapNode));
      const FileBlock found = TRY(below(node->as<format::MapNode>().data(), format::kMapFanout,
                                        static_cast<std::uint8_t>(log512 - 1), base + i * span));
      if (found < base + (i + 1) * span) return found;
    }
    return base + count * span;
  }
};

// Sets the hint of one entry and of the nodes above it; returns whether all entries of this level are full now.
Result<bool> mark_full(Transaction& transaction, std::uint64_t* entries, std::uint64_t count, std::uint8_t log512,
                       FileBlock base, FileBlock block, bool full) {
  const std::uint64_t i = (block - base) / blocks_spanned(log512);
  if (i >= count || !MapEntry{entries[i]}.present()) return fail(ErrorCode::kDamaged, "an inode's table entry is missing");
  bool entry_full = full;
  if (log512 > 0) {
    Block* node = TRY(transaction.edit(MapEntry{entries[i]}.block(), BlockType::kMapNode));
    entry_full = TRY(mark_full(transaction, node->as<format::MapNode>().data(), format::kMapFanout,
                               static_cast<std::uint8_t>(log512 - 1), base + i * blocks_spanned(log512), block, full));
  }
  entries[i] = entry_full ? entries[i] | format::kEntryFull : entries[i] & ~format::kEntryFull;
  return entry_full &&
         std::all_of(entries, entries + count, [](std::uint64_t raw) { return MapEntry{raw}.present() && MapEntry{raw}.full(); });
}

}  // namespace

bool has_valid_levels(const InodeRecord& record) {
  return format::is_valid_level(record.data_level) && format::is_valid_level(record.attribute_level);
}

Result<Fork> InodeTable::root(BlockReader& reader, VolumeNumber volume) {
  const BlockPtr roots = TRY(reader.read(format::kRootsBlock, BlockType::kRoots));
  const Fork zero = data_fork(roots->as<format::Roots>().volume_zero, LeafKind::kInodes);
  if (volume == kVolumeZero) return zero;
  const InodeRecord record = TRY(record_in(reader, zero, volume));
  if ((record.flags & static_cast<std::uint32_t>(format::InodeFlag::kVolume)) == 0) return fail(ErrorCode::kStale);
  return data_fork(record, LeafKind::kInodes);
}

Result<InodeRecord> InodeTable::read(BlockReader& reader, VolumeNumber volume, InodeNumber inode) {
  const Fork table = TRY(root(reader, volume));
  return record_in(reader, table, inode);
}

Result<ForkEdit> InodeTable::edit_root(Transaction& transaction) {
  Block* roots = TRY(transaction.edit(format::kRootsBlock, BlockType::kRoots));
  InodeRecord& zero = roots->as<format::Roots>().volume_zero;
  if (!has_valid_levels(zero)) return fail(ErrorCode::kDamaged, "the root of the inode tables makes no sense");
  if (volume_ == kVolumeZero) return edit_data_fork(zero, LeafKind::kInodes);
  const MapEntry entry = TRY(entry_at(transaction, data_fork(zero, LeafKind::kInodes), table_block(volume_)));
  if (!entry.present()) return fail(ErrorCode::kStale);
  Block* block = TRY(transaction.edit(entry.block(), BlockType::kInodes));
  InodeRecord& record = block->as<format::InodeBlock>().inodes[volume_.value % kInodesPerBlock];
  if (record.mode == 0 || !has_valid_levels(record)) return fail(ErrorCode::kStale);
  return edit_data_fork(record, LeafKind::kInodes);
}

Result<bool> InodeTable::unshare_path(Transaction& transaction, InodeNumber inode) {
  if (volume_ == kVolumeZero) return false;  // never shared: nothing can refer to volume 0's table but the roots
  const FileBlock block = table_block(inode);
  if (exclusive_.contains(block.value)) return false;
  const Fork table = TRY(root(transaction, volume_));
  if (TRY(unshare(transaction, table, {block, 1}, Unshare::kLeaves, [&] { return edit_root(transaction); }))) return true;
  if (exclusive_.size() > 100'000) exclusive_.clear();  // a bound on memory; what is forgotten is asked again
  exclusive_[block.value] = true;
  return false;
}

Result<InodeRecord*> InodeTable::edit(Transaction& transaction, InodeNumber inode) {
  const Fork table = TRY(root(transaction, volume_));
  const MapEntry entry = TRY(entry_at(transaction, table, table_block(inode)));
  if (!entry.present()) return fail(ErrorCode::kStale);
  Block* block = TRY(transaction.edit(entry.block(), BlockType::kInodes));
  InodeRecord& record = block->as<format::InodeBlock>().inodes[inode.value % kInodesPerBlock];
  if (record.mode == 0) return fail(ErrorCode::kStale);
  if (!makes_sense(record)) return fail(ErrorCode::kDamaged, "an inode makes no sense; run fsck.daxcow");
  return &record;
}

Result<InodeNumber> InodeTable::find_free(Transaction& transaction) {
  const Fork table = TRY(root(transaction, volume_));
  for (FileBlock block = std::max(first_maybe_free_, table_block(format::kFirstInode));; ++block) {
    const FreeSearch search{transaction, block};
    block = TRY(search.below(table.slots.data(), format::kRootSlots, static_cast<std::uint8_t>(table.level - 1), FileBlock(0)));
    first_maybe_free_ = block;
    const MapEntry entry = TRY(entry_at(transaction, table, block));
    if (!entry.present()) return InodeNumber(block.value * kInodesPerBlock);
    const BlockPtr inodes = TRY(transaction.read(entry.block(), BlockType::kInodes));
    for (std::uint64_t i = 0; i < kInodesPerBlock; ++i)
      if (inodes->as<format::InodeBlock>().inodes[i].mode == 0) return InodeNumber(block.value * kInodesPerBlock + i);
  }
}

Result<InodeRecord*> InodeTable::occupy(Transaction& transaction, InodeNumber inode) {
  // The blocks above it are edited only if they change: each that is edited is copied and compared.
  const MapEntry entry = TRY(entry_at(transaction, TRY(root(transaction, volume_)), table_block(inode)));
  NoGraveyard none;
  Block* block = entry.present() ? TRY(transaction.edit(entry.block(), BlockType::kInodes))
                                 : TRY(edit_leaf(transaction, TRY(edit_root(transaction)), table_block(inode), none));
  InodeRecord& record = block->as<format::InodeBlock>().inodes[inode.value % kInodesPerBlock];
  if (record.mode != 0) return fail(ErrorCode::kDamaged, "an inode that was free is in use");
  std::memset(&record, 0, sizeof record);
  record.data_level = record.attribute_level = 1;
  return &record;
}

Result<> InodeTable::note_used(Transaction& transaction, InodeNumber inode) {
  const Fork table = TRY(root(transaction, volume_));
  const MapEntry entry = TRY(entry_at(transaction, table, table_block(inode)));
  const BlockPtr inodes = TRY(transaction.read(entry.block(), BlockType::kInodes));
  const auto& all = inodes->as<format::InodeBlock>().inodes;
  if (!std::ranges::all_of(all, [](const InodeRecord& record) { return record.mode != 0; })) return {};
  return set_full(transaction, table_block(inode), true);
}

Result<> InodeTable::set_full(Transaction& transaction, FileBlock block, bool full) {
  ForkEdit root = TRY(edit_root(transaction));
  TRY(mark_full(transaction, root.slots, format::kRootSlots, static_cast<std::uint8_t>(*root.level - 1), FileBlock(0), block, full));
  return {};
}

Result<> InodeTable::free(Transaction& transaction, InodeNumber inode) {
  InodeRecord* record = TRY(edit(transaction, inode));
  std::memset(record, 0, sizeof *record);
  const FileBlock block = table_block(inode);
  const Fork table = TRY(root(transaction, volume_));
  const MapEntry entry = TRY(entry_at(transaction, table, block));
  const BlockPtr inodes = TRY(transaction.read(entry.block(), BlockType::kInodes));
  if (TRY(slot_of(transaction, table, block)).entry.full()) TRY(set_full(transaction, block, false));
  if (std::ranges::all_of(inodes->as<format::InodeBlock>().inodes, [](const InodeRecord& r) { return r.mode == 0; })) {
    NoGraveyard none;
    ForkEdit root = TRY(edit_root(transaction));
    TRY(clear(transaction, root, {block, 1}, none));
    exclusive_.erase(block.value);
  }
  first_maybe_free_ = std::min(first_maybe_free_, block);
  return {};
}

Result<std::uint64_t> next_generation(Transaction& transaction) {
  transaction.store().mutex.assert_held();  // as long as there is a transaction
  return transaction.store().take_generation(transaction);
}

}  // namespace daxcow
