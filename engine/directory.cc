#include "engine/directory.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>

#include "engine/check.h"
#include "engine/checksum.h"

namespace daxcow {

using format::BlockType;
using format::DirectoryEntry;
using format::InodeRecord;
using format::kGranuleBytes;
using format::kGranulesPerBlock;
using format::LeafKind;

namespace {

constexpr std::uint64_t kMaximumBlocks = (1ull << 32) / kGranulesPerBlock - 1;  // positions fit the index's 32 bits

const DirectoryEntry& entry_in(const Block& block, std::uint64_t granule) {
  return *reinterpret_cast<const DirectoryEntry*>(block.bytes + granule * kGranuleBytes);
}

std::string_view name_of(const DirectoryEntry& entry) {
  return {reinterpret_cast<const char*>(&entry) + sizeof entry, entry.name_bytes};
}

bool makes_sense(const DirectoryEntry& entry, std::uint64_t granule) {
  return entry.name_bytes != 0 && entry.granules == granules_for(entry.name_bytes) && granule + entry.granules <= kGranulesPerBlock;
}

Result<Block*> edit_block(Transaction& transaction, InodeRecord& directory, FileBlock block, Graveyard& graveyard) {
  return edit_leaf(transaction, edit_data_fork(directory, LeafKind::kDirectory), block, graveyard);
}

// Bits [granule, granule + count) of a block's use.
std::array<std::uint64_t, 2> bits(std::uint64_t granule, std::uint64_t count) {
  std::array<std::uint64_t, 2> mask{};
  for (std::uint64_t i = granule; i < granule + count; ++i) mask[i / 64] |= 1ull << (i % 64);
  return mask;
}

std::optional<std::uint64_t> room_in(const std::array<std::uint64_t, 2>& use, std::uint8_t granules) {
  std::uint64_t run = 0;
  for (std::uint64_t i = 0; i < kGranulesPerBlock; ++i) {
    run = use[i / 64] >> (i % 64) & 1 ? 0 : run + 1;
    if (run == granules) return i + 1 - granules;
  }
  return std::nullopt;
}

}  // namespace

std::uint32_t name_hash(std::string_view name) { return name_hash(std::as_bytes(std::span(name.data(), name.size()))); }

Result<bool> for_each_entry(const Block& block, std::uint64_t from,
                            FunctionRef<bool(std::uint64_t, const DirectoryEntry&, std::string_view)> visit) {
  for (std::uint64_t granule = 0; granule < kGranulesPerBlock;) {
    const DirectoryEntry& entry = entry_in(block, granule);
    if (entry.granules == 0) {
      ++granule;
      continue;
    }
    if (!makes_sense(entry, granule)) return fail(ErrorCode::kDamaged, "a directory block makes no sense");
    if (granule >= from && !visit(granule, entry, name_of(entry))) return false;
    granule += entry.granules;
  }
  return true;
}

Result<> for_each_directory_block(BlockReader& reader, const InodeRecord& directory,
                                  FunctionRef<Result<>(FileBlock, const Block&)> visit) {
  Result<> outcome{};
  std::unordered_set<std::uint64_t> seen;
  const FileRange all{FileBlock(0), TRY(directory_blocks(directory))};
  TRY(for_each_segment(reader, data_fork(directory, LeafKind::kDirectory), all, [&](const Segment& segment) {
    for (std::uint64_t i = 0; segment.entry.present() && i < segment.range.count && outcome; ++i) {
      const BlockNumber number = segment.entry.block() + i;
      const auto block = reader.read(number, BlockType::kDirectory);
      if (!block)
        outcome = std::unexpected(block.error());
      else if (!seen.insert(number.value).second)
        outcome = fail(ErrorCode::kDamaged, "a directory has the same block twice");
      else
        outcome = visit(segment.range.first + i, **block);
    }
    return outcome.has_value();
  }));
  return outcome;
}

Result<std::uint64_t> directory_blocks(const InodeRecord& directory) {
  const std::uint64_t blocks = blocks_for(directory.size_bytes);
  if (blocks > kMaximumBlocks) return fail(ErrorCode::kDamaged, "a directory is too large");
  return blocks;
}

// --- index -------------------------------------------------------------------------------------------------------------

Result<std::shared_ptr<DirectoryIndex>> DirectoryIndex::build(BlockReader& reader, const InodeRecord& directory) {
  auto index = std::make_shared<DirectoryIndex>();
  index->slots_.resize(16);
  TRY(for_each_directory_block(reader, directory, [&](FileBlock at, const Block& block) -> Result<> {
    TRY(for_each_entry(block, 0, [&](std::uint64_t granule, const DirectoryEntry& entry, std::string_view) {
      index->insert(entry.hash, at.value * kGranulesPerBlock + granule, entry.granules);
      return true;
    }));
    return {};
  }));
  return index;
}

void DirectoryIndex::place(Slot slot) {
  for (std::size_t i = slot.hash & (slots_.size() - 1);; i = (i + 1) & (slots_.size() - 1)) {
    if (slots_[i].position_plus_one == 0) {
      slots_[i] = slot;
      return;
    }
  }
}

void DirectoryIndex::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  for (const Slot& slot : old)
    if (slot.position_plus_one != 0) place(slot);
}

void DirectoryIndex::for_each(std::uint32_t hash, FunctionRef<bool(DirectoryPosition)> visit) const {
  for (std::size_t i = hash & (slots_.size() - 1); slots_[i].position_plus_one != 0; i = (i + 1) & (slots_.size() - 1))
    if (slots_[i].hash == hash && !visit(slots_[i].position_plus_one - 1)) return;
}

void DirectoryIndex::insert(std::uint32_t hash, DirectoryPosition position, std::uint8_t granules) {
  if ((used_ + 1) * 4 > slots_.size() * 3) grow();
  place({hash, static_cast<std::uint32_t>(position + 1)});
  ++used_;
  const std::uint64_t block = position / kGranulesPerBlock;
  if (blocks_.size() <= block) blocks_.resize(block + 1);
  const auto mask = bits(position % kGranulesPerBlock, granules);
  for (std::size_t i = 0; i < 2; ++i) blocks_[block][i] |= mask[i];
}

void DirectoryIndex::erase(std::uint32_t hash, DirectoryPosition position, std::uint8_t granules) {
  const std::size_t last = slots_.size() - 1;
  std::size_t i = hash & last;
  while (slots_[i].position_plus_one != position + 1) {
    CHECK(slots_[i].position_plus_one != 0);
    i = (i + 1) & last;
  }
  // Close the gap: move back every slot behind that may stand here.
  for (std::size_t j = (i + 1) & last; slots_[j].position_plus_one != 0; j = (j + 1) & last) {
    const std::size_t home = slots_[j].hash & last;
    if (((j - home) & last) >= ((j - i) & last)) {
      slots_[i] = slots_[j];
      i = j;
    }
  }
  slots_[i] = Slot{};
  --used_;
  const std::uint64_t block = position / kGranulesPerBlock;
  const auto mask = bits(position % kGranulesPerBlock, granules);
  for (std::size_t k = 0; k < 2; ++k) blocks_[block][k] &= ~mask[k];
  for (std::uint64_t& hint : first_with_room_) hint = std::min(hint, block);
}

DirectoryPosition DirectoryIndex::find_room(std::uint8_t granules) {
  std::uint64_t& block = first_with_room_[granules];
  for (; block < blocks_.size(); ++block)
    if (const auto granule = room_in(blocks_[block], granules)) return block * kGranulesPerBlock + *granule;
  return block * kGranulesPerBlock;
}

// --- entries -----------------------------------------------------------------------------------------------------------

Result<std::optional<FoundEntry>> find_entry(BlockReader& reader, const InodeRecord& directory, const DirectoryIndex& index,
                                             std::string_view name) {
  std::optional<FoundEntry> found;
  Result<> outcome{};
  const Fork fork = data_fork(directory, LeafKind::kDirectory);
  index.for_each(name_hash(name), [&](DirectoryPosition position) {
    const auto at = entry_at(reader, fork, block_of(position));
    if (!at) {
      outcome = std::unexpected(at.error());
      return false;
    }
    if (!at->present()) return true;
    const auto block = reader.read(at->block(), BlockType::kDirectory);
    if (!block) {
      outcome = std::unexpected(block.error());
      return false;
    }
    const std::uint64_t granule = position % kGranulesPerBlock;
    const DirectoryEntry& entry = entry_in(**block, granule);
    if (entry.granules == 0 || !makes_sense(entry, granule) || name_of(entry) != name) return true;
    found = FoundEntry{position, InodeNumber(entry.inode), entry.type};
    return false;
  });
  if (!outcome) return std::unexpected(outcome.error());
  return found;
}

Result<> write_entry(Transaction& transaction, InodeRecord& directory, DirectoryPosition position, std::string_view name,
                     InodeNumber inode, std::uint8_t type, Graveyard& graveyard) {
  if (block_of(position).value >= kMaximumBlocks) return fail(ErrorCode::kNoSpace, "the directory is full");
  Block* block = TRY(edit_block(transaction, directory, block_of(position), graveyard));
  std::byte* at = block->bytes + position % kGranulesPerBlock * kGranuleBytes;
  const DirectoryEntry entry{inode.value, name_hash(name), static_cast<std::uint8_t>(name.size()), type, granules_for(name.size()), 0};
  const std::uint64_t bytes = entry.granules * kGranuleBytes;
  if (!std::all_of(at, at + bytes, [](std::byte b) { return b == std::byte{0}; })) return fail(ErrorCode::kDamaged, "a directory block makes no sense");
  std::memcpy(at, &entry, sizeof entry);
  std::memcpy(at + sizeof entry, name.data(), name.size());
  directory.size_bytes = std::max(directory.size_bytes, byte_offset(block_of(position) + 1));
  ++directory.entry_count;
  return {};
}

Result<> retarget_entry(Transaction& transaction, InodeRecord& directory, DirectoryPosition position, InodeNumber inode,
                        std::uint8_t type, Graveyard& graveyard) {
  Block* block = TRY(edit_block(transaction, directory, block_of(position), graveyard));
  auto* entry = reinterpret_cast<DirectoryEntry*>(block->bytes + position % kGranulesPerBlock * kGranuleBytes);
  if (entry->granules == 0) return fail(ErrorCode::kDamaged, "a directory entry is gone");
  entry->inode = inode.value;
  entry->type = type;
  return {};
}

Result<> erase_entry(Transaction& transaction, InodeRecord& directory, DirectoryPosition position, Graveyard& graveyard) {
  Block* block = TRY(edit_block(transaction, directory, block_of(position), graveyard));
  std::byte* at = block->bytes + position % kGranulesPerBlock * kGranuleBytes;
  const auto* entry = reinterpret_cast<const DirectoryEntry*>(at);
  if (!makes_sense(*entry, position % kGranulesPerBlock) || directory.entry_count == 0)
    return fail(ErrorCode::kDamaged, "a directory makes no sense");
  std::memset(at, 0, entry->granules * kGranuleBytes);
  --directory.entry_count;
  const bool empty = std::ranges::all_of(block->bytes, [](std::byte b) { return b == std::byte{0}; });
  if (empty) TRY(clear(transaction, edit_data_fork(directory, LeafKind::kDirectory), {block_of(position), 1}, graveyard));
  if (directory.entry_count == 0) directory.size_bytes = 0;
  return {};
}

Result<std::optional<std::string>> name_at(BlockReader& reader, const InodeRecord& directory, DirectoryPosition position) {
  const MapEntry at = TRY(entry_at(reader, data_fork(directory, LeafKind::kDirectory), block_of(position)));
  if (!at.present()) return std::nullopt;
  const BlockPtr block = TRY(reader.read(at.block(), BlockType::kDirectory));
  const std::uint64_t granule = position % kGranulesPerBlock;
  const DirectoryEntry& entry = entry_in(*block, granule);
  if (entry.granules == 0 || !makes_sense(entry, granule)) return std::nullopt;
  return std::string(name_of(entry));
}

}  // namespace daxcow
