// One leaf of the reverse map: its bitmap, its records, and what the index needs to know of it.
//
// Records lie where there was room, so that a change dirties the line of one record and the line of the bitmap and
// nothing else. No count is kept on the medium: whatever a leaf says, these functions stay within its slots.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "engine/check.h"
#include "engine/format.h"
#include "engine/leaf_index.h"
#include "engine/record_key.h"
#include "engine/types.h"

namespace daxcow::reverse_leaf {

inline constexpr unsigned kSlots = format::kRecordsPerLeaf;

// A bit for each slot.
using SlotMask = std::array<std::uint64_t, 2>;
inline constexpr SlotMask kUsableBits = {~0ull, ~0ull >> (128 - kSlots)};

template <class Visit>
void for_each_bit(const SlotMask& mask, Visit visit) {
  for (unsigned word = 0; word < mask.size(); ++word)
    for (std::uint64_t bits = mask[word]; bits != 0; bits &= bits - 1)
      visit(word * 64 + static_cast<unsigned>(std::countr_zero(bits)));
}

inline bool is_used(const format::ReverseLeaf& leaf, unsigned slot) {
  return (leaf.used[slot / 64] >> (slot % 64) & 1) != 0;
}

inline SlotMask used_slots(const format::ReverseLeaf& leaf) {
  return {leaf.used[0] & kUsableBits[0], leaf.used[1] & kUsableBits[1]};
}

template <class Visit>
void for_each_record(const format::ReverseLeaf& leaf, Visit visit) {
  for_each_bit(used_slots(leaf), [&](unsigned slot) { visit(leaf.records[slot]); });
}

inline unsigned used_count(const format::ReverseLeaf& leaf) {
  const SlotMask used = used_slots(leaf);
  return static_cast<unsigned>(std::popcount(used[0]) + std::popcount(used[1]));
}

// The lowest free slot, so that leaves filled in order of keys stay in order. kSlots if the leaf is full.
inline unsigned free_slot(const format::ReverseLeaf& leaf) {
  for (unsigned word = 0; word < leaf.used.size(); ++word) {
    const std::uint64_t free = ~leaf.used[word] & kUsableBits[word];
    if (free != 0) return word * 64 + static_cast<unsigned>(std::countr_zero(free));
  }
  return kSlots;
}

// kSlots if there is none.
inline unsigned slot_of(const format::ReverseLeaf& leaf, const RecordKey& key) {
  for (unsigned slot = 0; slot < kSlots; ++slot) {
    const format::ReverseRecord& record = leaf.records[slot];
    if (record.first == key.first && record.source == key.source && record.slot == key.slot &&
        record.kind == key.kind && is_used(leaf, slot))
      return slot;
  }
  return kSlots;
}

// A free slot stays all zero: the lines it shares with the leaf's older versions then differ in nothing else.
inline void put(format::ReverseLeaf& leaf, unsigned slot, const format::ReverseRecord& record) {
  leaf.records[slot] = record;
  leaf.used[slot / 64] |= 1ull << (slot % 64);
}
inline void clear(format::ReverseLeaf& leaf, unsigned slot) {
  leaf.records[slot] = {};
  leaf.used[slot / 64] &= ~(1ull << (slot % 64));
}

inline std::uint64_t end_of(const format::ReverseRecord& record) { return record.first + record.length_blocks; }

inline bool same(const format::ReverseRecord& a, const format::ReverseRecord& b) {
  return key_of(a) == key_of(b) && a.length_blocks == b.length_blocks && a.level == b.level && a.flags == b.flags &&
         a.sector_mask == b.sector_mask && a.reserved == b.reserved;
}

// The index's view of a leaf that is not empty.
inline LeafSummary summarise(BlockNumber block, const format::ReverseLeaf& leaf, unsigned last_slot) {
  LeafSummary summary;
  summary.leaf = block;
  summary.last_slot = static_cast<std::uint16_t>(last_slot);
  for_each_bit(used_slots(leaf), [&](unsigned slot) {
    const RecordKey key = key_of(leaf.records[slot]);
    if (summary.count++ == 0 || key < summary.smallest) summary.smallest = key;
    summary.end = std::max(summary.end, end_of(leaf.records[slot]));
  });
  CHECK(summary.count > 0);
  return summary;
}

// The used slots whose records cover any block of [low, high). Free of branches on the records: which of them cover a
// block cannot be predicted.
inline SlotMask covering_slots(const format::ReverseLeaf& leaf, std::uint64_t low, std::uint64_t high) {
  SlotMask mask = used_slots(leaf);
  for (unsigned word = 0; word < mask.size(); ++word) {
    std::uint64_t covers = 0;
    for (unsigned bit = 0; bit < std::min(64u, kSlots - word * 64); ++bit) {
      const format::ReverseRecord& record = leaf.records[word * 64 + bit];
      covers |= static_cast<std::uint64_t>((record.first < high) & (end_of(record) > low)) << bit;
    }
    mask[word] &= covers;
  }
  return mask;
}

struct Slots {
  std::array<std::uint8_t, kSlots> slot;
  unsigned count = 0;

  auto begin() const { return slot.begin(); }
  auto end() const { return slot.begin() + count; }
};

// Sorts by first block and slot as one integer, which is faster than comparing keys; records with equal first blocks
// are rare in most pools and are put in order of their keys afterwards.
inline Slots in_key_order(const format::ReverseLeaf& leaf, const SlotMask& mask) {
  static_assert(format::kMaximumPoolBytes / kBlockBytes <= 1ull << 56);
  std::array<std::uint64_t, kSlots> items;
  Slots slots;
  bool sorted = true;
  for_each_bit(mask, [&](unsigned slot) {
    const std::uint64_t item = leaf.records[slot].first << 8 | slot;
    sorted = sorted && (slots.count == 0 || items[slots.count - 1] < item);
    items[slots.count++] = item;
  });
  if (!sorted) std::sort(items.begin(), items.begin() + slots.count);  // leaves filled by appends are sorted
  for (unsigned i = 0; i < slots.count; ++i) slots.slot[i] = static_cast<std::uint8_t>(items[i]);
  for (unsigned i = 0, next = 0; i < slots.count; i = next) {
    for (next = i + 1; next < slots.count && items[next] >> 8 == items[i] >> 8;) ++next;
    if (next - i == 1) continue;
    std::sort(slots.slot.begin() + i, slots.slot.begin() + next,
              [&](std::uint8_t a, std::uint8_t b) { return key_of(leaf.records[a]) < key_of(leaf.records[b]); });
  }
  return slots;
}

}  // namespace daxcow::reverse_leaf
