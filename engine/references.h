// What a metadata block refers to: the one function that commit, checker and repair share.
//
// A record stands for a maximal run of consecutive slots of one source block that point to consecutive pool blocks with
// equal flags, never across inodes or forks. So the records of a block follow from its content alone, and the change of
// the reverse map in a transaction is the difference between the records of the old and of the new version.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/block.h"
#include "engine/format.h"
#include "engine/types.h"

namespace daxcow {

// A map entry with meaning.
struct MapEntry {
  std::uint64_t raw = 0;

  bool present() const { return raw & format::kEntryPresent; }
  bool is_node() const { return raw & format::kEntryNode; }
  bool unwritten() const { return raw & format::kEntryUnwritten; }
  bool full() const { return raw & format::kEntryFull; }
  BlockNumber block() const { return BlockNumber(raw >> format::kEntryBlockShift); }
  // Graveyard slots carry the level that the entry had: log512 of the blocks it spans.
  std::uint8_t graveyard_level() const { return static_cast<std::uint8_t>((raw & format::kEntryLevelMask) >> format::kEntryLevelShift); }

  static MapEntry node(BlockNumber block) {
    return MapEntry{block.value << format::kEntryBlockShift | format::kEntryPresent | format::kEntryNode};
  }
  static MapEntry leaf(BlockNumber block, bool unwritten) {
    return MapEntry{block.value << format::kEntryBlockShift | format::kEntryPresent |
                    (unwritten ? format::kEntryUnwritten : 0)};
  }
  MapEntry with_level(std::uint8_t level) const {
    return MapEntry{(raw & ~format::kEntryLevelMask) | static_cast<std::uint64_t>(level) << format::kEntryLevelShift};
  }
  MapEntry with_block(BlockNumber block) const {
    constexpr std::uint64_t kBelow = (1ull << format::kEntryBlockShift) - 1;
    return MapEntry{(raw & kBelow) | block.value << format::kEntryBlockShift};
  }
  // Without what only its holder knows (the full hint, the graveyard's level).
  MapEntry plain() const { return MapEntry{raw & ~(format::kEntryFull | format::kEntryLevelMask)}; }
  friend bool operator==(MapEntry, MapEntry) = default;
};

// Blocks of a file that an entry spans, by log512.
constexpr std::uint64_t blocks_spanned(std::uint8_t log512) { return 1ull << (log512 * format::kMapFanoutBits); }

// The part of a leaf entry (a run of the entry's span) from `skip` blocks on.
inline MapEntry advance(MapEntry entry, std::uint64_t skip) {
  return MapEntry{entry.plain().raw + (skip << format::kEntryBlockShift)};
}

// Fills a node with what one leaf entry stands for. Each slot of the node spans 512^log512 blocks, the entry 512 times that.
void spell_out(MapEntry entry, std::uint8_t log512, format::MapNode& node);

// True for types whose blocks hold references.
bool holds_references(format::BlockType type);

// The number of reference slots of a block of this type.
std::uint64_t slot_count(format::BlockType type);

// Entry and level (log512 of the file blocks a slot spans) at a slot. `node_level`: the descriptor's level of a map node.
struct SlotView {
  MapEntry entry;
  std::uint8_t log512 = 0;
};
SlotView slot_at(format::BlockType type, std::uint8_t node_level, const Block& content, std::uint64_t slot);

// A slot for changing: its entry, and the level of the root that it belongs to (null in nodes, which have theirs in the
// descriptor).
struct SlotPlace {
  std::uint64_t* entry = nullptr;
  std::uint8_t* level = nullptr;
};
SlotPlace slot_place(format::BlockType type, Block& content, std::uint64_t slot);

// All records of a block.
std::vector<format::ReverseRecord> records_of(BlockNumber source, format::BlockType type, std::uint8_t node_level,
                                              const Block& content);

// What a tree record says of its slots: the blocks of the pool that each spans, their number, the entry of the n-th.
inline std::uint64_t blocks_per_slot(const format::ReverseRecord& record) {
  return record.flags & format::kRecordNode ? 1 : blocks_spanned(record.level);
}
inline std::uint64_t slots_of(const format::ReverseRecord& record) { return record.length_blocks / blocks_per_slot(record); }
inline MapEntry entry_of(const format::ReverseRecord& record, std::uint64_t n) {
  const BlockNumber block(record.first + n * blocks_per_slot(record));
  return record.flags & format::kRecordNode ? MapEntry::node(block) : MapEntry::leaf(block, record.flags & format::kRecordUnwritten);
}

// The record of a block in the poison ledger.
format::ReverseRecord ledger_record(BlockNumber block, std::uint8_t sector_mask);

struct RecordChanges {
  std::vector<format::ReverseRecord> erased;
  std::vector<format::ReverseRecord> inserted;
  // Same key, other length: .first as it was, .second as it will be.
  std::vector<std::pair<format::ReverseRecord, format::ReverseRecord>> replaced;
};
// Appends the difference between two versions of a block of the same type and level. A block of zeros has no references
// (new or freed). `lines`: where they differ (engine/lines.h).
void append_changes(BlockNumber source, format::BlockType type, std::uint8_t node_level, const Block& before,
                    const Block& after, std::uint64_t lines, RecordChanges& changes);

}  // namespace daxcow
