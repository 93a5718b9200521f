#include "engine/reverse_map.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/check.h"
#include "engine/leaf_index.h"
#include "engine/reverse_leaf.h"

namespace daxcow {

using format::RecordKind;
using format::ReverseLeaf;
using format::ReverseRecord;
using namespace reverse_leaf;  // NOLINT: this file is what that one is for

namespace {

constexpr unsigned kSparse = kSlots / 4;            // a leaf with fewer records looks for a neighbour to merge with,
constexpr unsigned kMergedAtMost = kSlots * 3 / 4;  // and finds it where the two leave room for inserts
constexpr std::uint64_t kMaximumPoolBlocks = format::kMaximumPoolBytes / kBlockBytes;
constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

// --- What a record may say -------------------------------------------------------------------------------------------

bool is_reference(const ReverseRecord& record) {
  return record.kind == RecordKind::kTree || record.kind == RecordKind::kHold;
}
bool makes_used(const ReverseRecord& record) { return is_reference(record) || record.kind == RecordKind::kSystem; }

// What is wrong with a record in a pool of that many blocks; nullptr if nothing is.
const char* fault_of(const ReverseRecord& record, std::uint64_t pool_blocks) {
  if (record.length_blocks == 0) return "an empty run";
  if (record.first >= pool_blocks || record.length_blocks > pool_blocks - record.first) return "a run outside the pool";
  if (record.reserved != 0) return "reserved bytes that are not zero";
  if (record.kind == RecordKind::kLedger) {
    if (record.length_blocks != 1) return "a ledger record of more than one block";
    if (record.sector_mask == 0) return "a ledger record of no sector";
  } else if (record.sector_mask != 0) {
    return "a sector mask outside the ledger";
  }
  if ((record.flags & ~(format::kRecordNode | format::kRecordUnwritten)) != 0) return "unknown flags";
  if (record.level > format::kMaximumLevel) return "a level that is too high";
  switch (record.kind) {
    case RecordKind::kTree:
      if (record.slot >= format::kMapFanout) return "a slot that no block has";
      [[fallthrough]];
    case RecordKind::kSystem:
      return record.source < pool_blocks ? nullptr : "a source outside the pool";
    case RecordKind::kHold:
    case RecordKind::kLedger:
      return nullptr;
  }
  return "an unknown kind";
}

// A table of a leaf's keys by hash: the scan at open looks at every record of the pool and must not sort each leaf.
bool has_equal_keys(const ReverseLeaf& leaf) {
  constexpr unsigned kTableSize = 256;  // at least twice the slots, so that a free place is never far
  constexpr std::uint8_t kVacant = 0xff;
  static_assert(kTableSize >= 2 * kSlots && kSlots <= kVacant);
  std::array<std::uint8_t, kTableSize> table;
  table.fill(kVacant);
  bool equal = false;
  for_each_bit(used_slots(leaf), [&](unsigned slot) {
    const ReverseRecord& record = leaf.records[slot];
    std::uint64_t hash = record.first * 0x9e3779b97f4a7c15ull;
    hash ^= (record.source + (std::uint64_t{record.slot} << 40)) * 0xc2b2ae3d27d4eb4full;
    hash *= 0x94d049bb133111ebull;
    unsigned at = static_cast<unsigned>(hash >> 56);
    for (; table[at] != kVacant; at = (at + 1) % kTableSize)
      if (key_of(leaf.records[table[at]]) == key_of(record)) equal = true;
    table[at] = static_cast<std::uint8_t>(slot);
  });
  return equal;
}

std::unexpected<Error> damaged_leaf(BlockNumber leaf, const std::string& what) {
  return fail(ErrorCode::kDamaged, "reverse map leaf in block " + std::to_string(leaf.value) + " has " + what);
}
std::unexpected<Error> damaged_record(const ReverseRecord& record, const std::string& what) {
  return fail(ErrorCode::kDamaged, "reverse map: " + what + ": run " + std::to_string(record.first) + "+" +
                                       std::to_string(record.length_blocks) + ", source " +
                                       std::to_string(record.source) + ", slot " + std::to_string(record.slot) +
                                       ", kind " + std::to_string(static_cast<unsigned>(record.kind)));
}

// Asks for all of a leaf at once: it is scanned from its first line to its last, and fetched one after the other as the
// scan goes, 64 lines from cold memory take half as long again.
void prefetch(const Block& block) {
  for (std::size_t at = 0; at < kBlockBytes; at += kLineBytes) __builtin_prefetch(block.bytes + at, 0, 2);
}

Result<ReverseLeaf*> edit_leaf(BlockEditor& editor, BlockNumber block) {
  return &TRY(editor.edit(block, format::BlockType::kReverseLeaf))->as<ReverseLeaf>();
}

}  // namespace

// --- State -----------------------------------------------------------------------------------------------------------

struct ReverseMap::State {
  // A leaf that add_leaf saw. Its largest key is needed once, to see that it ends before the next begins.
  struct Found {
    LeafSummary summary;
    RecordKey largest;
  };

  LeafIndex index;
  std::vector<Found> found;
  std::uint64_t records = 0;
  std::uint64_t records_kept = 0;  // `records` as of the last keep_changes

  std::optional<LeafSummary> find(BlockNumber leaf) const;  // looks at all of them
  Result<BlockPtr> read(BlockReader& reader, const LeafSummary& summary) const;
  Result<> put_into(BlockEditor& editor, const LeafSummary& summary, const ReverseRecord& record);
  Result<> insert_into_full(BlockEditor& editor, const LeafSummary& summary, const ReverseLeaf& leaf,
                            const ReverseRecord& record);
  Result<> start_leaf(BlockEditor& editor, const ReverseRecord& record);
  Result<> split(BlockEditor& editor, const LeafSummary& summary, const std::vector<unsigned>& moving,
                 const RecordKey& boundary, const ReverseRecord& record);
  Result<> merge_if_sparse(BlockEditor& editor, const LeafSummary& summary);
  template <class Visit>
  Result<> visit_leaves(BlockReader& reader, BlockRun run, Visit visit) const;
};

// A leaf as the index knows it. The number of its records is compared on every read: it costs two instructions and
// stops a leaf that went back to an older version (a store that never arrived, a cache that was not invalidated) here.
Result<BlockPtr> ReverseMap::State::read(BlockReader& reader, const LeafSummary& summary) const {
  BlockPtr block = TRY(reader.read(summary.leaf, format::BlockType::kReverseLeaf));
  prefetch(*block);
  if (used_count(block->as<ReverseLeaf>()) != summary.count)
    return damaged_leaf(summary.leaf, "other records than the index");
  return block;
}

// Calls visit(leaf, low, high) for the leaves that may hold records that cover blocks of `run`, in key order. It
// returns the block from which on more is wanted: run.end() to stop.
template <class Visit>
Result<> ReverseMap::State::visit_leaves(BlockReader& reader, BlockRun run, Visit visit) const {
  std::uint64_t low = run.first.value;
  const std::uint64_t high = run.end().value;
  std::optional<RecordKey> after;
  while (low < high) {
    const auto summary = index.next_reaching(after, low, high);
    if (!summary) break;
    const BlockPtr block = TRY(read(reader, *summary));
    low = visit(block->as<ReverseLeaf>(), low, high);
    after = summary->smallest;
  }
  return {};
}

// --- Inserts ---------------------------------------------------------------------------------------------------------

Result<> ReverseMap::State::start_leaf(BlockEditor& editor, const ReverseRecord& record) {
  const BlockNumber block = TRY(editor.allocate(format::BlockType::kReverseLeaf, 0, format::LeafKind::kData));
  ReverseLeaf& leaf = *TRY(edit_leaf(editor, block));
  put(leaf, 0, record);
  index.insert(summarise(block, leaf, 0));
  return {};
}

// The leaf has room and no record with this key.
Result<> ReverseMap::State::put_into(BlockEditor& editor, const LeafSummary& summary, const ReverseRecord& record) {
  ReverseLeaf& leaf = *TRY(edit_leaf(editor, summary.leaf));
  const unsigned slot = free_slot(leaf);
  CHECK(slot < kSlots);
  put(leaf, slot, record);
  LeafSummary changed = summary;
  changed.smallest = std::min(summary.smallest, key_of(record));
  changed.end = std::max(summary.end, end_of(record));
  ++changed.count;
  changed.last_slot = static_cast<std::uint16_t>(slot);
  index.update(summary, changed);
  return {};
}

// Where the records of a full leaf go. Inserts in ascending order (each follows the leaf's last insert) must leave full
// leaves behind, not half-full ones; but only when half of the leaf lies below the new key, or a pattern of a few
// ascending inserts here and there would split off one tiny leaf after the other.
Result<> ReverseMap::State::insert_into_full(BlockEditor& editor, const LeafSummary& summary, const ReverseLeaf& leaf,
                                             const ReverseRecord& record) {
  struct Item {
    RecordKey key;
    unsigned slot;
  };
  std::array<Item, kSlots> items;
  const RecordKey key = key_of(record);
  unsigned below = 0;
  std::optional<Item> predecessor;
  for (unsigned slot = 0; slot < kSlots; ++slot) {
    items[slot] = {key_of(leaf.records[slot]), slot};
    if (items[slot].key > key) continue;
    ++below;
    if (!predecessor || predecessor->key < items[slot].key) predecessor = items[slot];
  }
  const bool ascending = predecessor && predecessor->slot == summary.last_slot;

  if (below == kSlots) {
    // Above all others: the next leaf can take it as its smallest. Without this, descending inserts between two leaves
    // would start a leaf each.
    const auto next = index.after(summary.smallest);
    if (next && next->count < kSlots) {
      TRY(read(editor, *next));
      return put_into(editor, *next, record);
    }
    if (ascending) return start_leaf(editor, record);
  }

  const unsigned staying = ascending && below > kSlots / 2 && below < kSlots ? below : kSlots / 2;
  std::nth_element(items.begin(), items.begin() + staying, items.end(),
                   [](const Item& a, const Item& b) { return a.key < b.key; });
  std::vector<unsigned> moving;
  for (unsigned i = staying; i < kSlots; ++i) moving.push_back(items[i].slot);
  return split(editor, summary, moving, items[staying].key, record);
}

// Moves the records in these slots, those from `boundary` up, to a new leaf and inserts the new record into its half.
Result<> ReverseMap::State::split(BlockEditor& editor, const LeafSummary& summary, const std::vector<unsigned>& moving,
                                  const RecordKey& boundary, const ReverseRecord& record) {
  const BlockNumber upper_block = TRY(editor.allocate(format::BlockType::kReverseLeaf, 0, format::LeafKind::kData));
  ReverseLeaf& upper = *TRY(edit_leaf(editor, upper_block));
  ReverseLeaf& lower = *TRY(edit_leaf(editor, summary.leaf));
  unsigned upper_last = kSlots;
  unsigned lower_last = summary.last_slot;
  for (unsigned filled = 0; filled < moving.size(); ++filled) {
    put(upper, filled, lower.records[moving[filled]]);
    clear(lower, moving[filled]);
    if (moving[filled] == summary.last_slot) upper_last = filled;
  }
  if (key_of(record) < boundary) {
    lower_last = free_slot(lower);
    put(lower, lower_last, record);
  } else {
    upper_last = free_slot(upper);
    put(upper, upper_last, record);
  }
  index.update(summary, summarise(summary.leaf, lower, lower_last));
  index.insert(summarise(upper_block, upper, upper_last));
  return {};
}

// --- Erases ----------------------------------------------------------------------------------------------------------

// Called for a leaf that lost a record. Moves the records of the smaller of two neighbours, so never more than a sparse
// leaf has.
Result<> ReverseMap::State::merge_if_sparse(BlockEditor& editor, const LeafSummary& summary) {
  if (summary.count >= kSparse) return {};
  auto neighbour = index.after(summary.smallest);
  const auto left = index.before(summary.smallest);
  if (left && (!neighbour || left->count < neighbour->count)) neighbour = left;
  if (!neighbour || summary.count + neighbour->count > kMergedAtMost) return {};

  const LeafSummary& from = summary.count <= neighbour->count ? summary : *neighbour;
  const LeafSummary& to = summary.count <= neighbour->count ? *neighbour : summary;
  const BlockPtr source = TRY(read(editor, from));
  TRY(read(editor, to));
  ReverseLeaf& target = *TRY(edit_leaf(editor, to.leaf));
  reverse_leaf::for_each_record(source->as<ReverseLeaf>(), [&](const ReverseRecord& record) {
    const unsigned slot = free_slot(target);
    CHECK(slot < kSlots);
    put(target, slot, record);
  });
  editor.release(from.leaf);
  index.erase(from);
  index.update(to, summarise(to.leaf, target, kSlots));
  return {};
}

// --- The map ---------------------------------------------------------------------------------------------------------

ReverseMap::ReverseMap() : state_(std::make_unique<State>()) {}
ReverseMap::~ReverseMap() = default;

Result<> ReverseMap::add_leaf(BlockNumber leaf, const ReverseLeaf& content, std::uint64_t pool_blocks) {
  if (leaf.value >= pool_blocks) return damaged_leaf(leaf, "an address outside the pool");
  if (content.used != used_slots(content)) return damaged_leaf(leaf, "more slots than there are");
  for (const std::uint64_t reserved : content.reserved)
    if (reserved != 0) return damaged_leaf(leaf, "reserved bytes that are not zero");
  RecordKey largest;
  unsigned largest_slot = kSlots;
  for (unsigned slot = 0; slot < kSlots; ++slot) {
    const ReverseRecord& record = content.records[slot];
    if (!is_used(content, slot)) {
      if (!same(record, ReverseRecord{})) return damaged_leaf(leaf, "a free slot that is not zero");
      continue;
    }
    if (const char* fault = fault_of(record, pool_blocks)) return damaged_leaf(leaf, fault);
    const RecordKey key = key_of(record);
    if (largest_slot != kSlots && key < largest) continue;
    largest = key;
    largest_slot = slot;
  }
  if (largest_slot == kSlots) return damaged_leaf(leaf, "no records");
  if (has_equal_keys(content)) return damaged_leaf(leaf, "two equal records");
  // The slot of the largest key stands in for that of the last insert: appends then go on as before the last close.
  state_->found.push_back({summarise(leaf, content, largest_slot), largest});
  return {};
}

Result<> ReverseMap::finish_open() {
  CHECK(state_->index.size() == 0);
  auto found = std::exchange(state_->found, {});
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.summary.smallest < b.summary.smallest; });
  for (std::size_t i = 1; i < found.size(); ++i)
    if (found[i - 1].largest >= found[i].summary.smallest)
      return damaged_leaf(found[i].summary.leaf,
                          "keys that belong to the leaf in block " + std::to_string(found[i - 1].summary.leaf.value));
  for (const auto& leaf : found) {
    state_->index.insert(leaf.summary);
    state_->index.keep();  // one by one: the log of a million inserts would be as large as the index
    state_->records += leaf.summary.count;
  }
  state_->records_kept = state_->records;
  return {};
}

Result<> ReverseMap::insert(BlockEditor& editor, const ReverseRecord& record) {
  if (const char* fault = fault_of(record, kMaximumPoolBlocks)) return damaged_record(record, fault);
  const RecordKey key = key_of(record);
  const auto owner = state_->index.owner(key);
  if (!owner) {
    TRY(state_->start_leaf(editor, record));
  } else {
    const BlockPtr block = TRY(state_->read(editor, *owner));
    const ReverseLeaf& leaf = block->as<ReverseLeaf>();
    if (slot_of(leaf, key) != kSlots) return damaged_record(record, "a reference is there already");
    if (owner->count < kSlots)
      TRY(state_->put_into(editor, *owner, record));
    else
      TRY(state_->insert_into_full(editor, *owner, leaf, record));
  }
  ++state_->records;
  return {};
}

Result<> ReverseMap::erase(BlockEditor& editor, const ReverseRecord& record) {
  const RecordKey key = key_of(record);
  const auto owner = state_->index.owner(key);
  if (!owner) return damaged_record(record, "no such reference");
  unsigned slot = kSlots;
  {
    const BlockPtr block = TRY(state_->read(editor, *owner));
    slot = slot_of(block->as<ReverseLeaf>(), key);
    if (slot == kSlots) return damaged_record(record, "no such reference");
    if (!same(block->as<ReverseLeaf>().records[slot], record))
      return damaged_record(record, "a reference is recorded otherwise");
  }
  if (owner->count == 1) {
    editor.release(owner->leaf);
    state_->index.erase(*owner);
    --state_->records;
    return {};
  }
  ReverseLeaf& leaf = *TRY(edit_leaf(editor, owner->leaf));
  clear(leaf, slot);
  LeafSummary changed = *owner;
  --changed.count;
  if (key == owner->smallest || end_of(record) == owner->end) changed = summarise(owner->leaf, leaf, owner->last_slot);
  state_->index.update(*owner, changed);
  --state_->records;
  return state_->merge_if_sparse(editor, changed);
}

Result<> ReverseMap::replace(BlockEditor& editor, const ReverseRecord& before, const ReverseRecord& record) {
  if (const char* fault = fault_of(record, kMaximumPoolBlocks)) return damaged_record(record, fault);
  const RecordKey key = key_of(record);
  const auto owner = state_->index.owner(key);
  if (!owner) return damaged_record(record, "no such reference");
  std::uint64_t old_end = 0;
  unsigned slot = kSlots;
  {
    const BlockPtr block = TRY(state_->read(editor, *owner));
    slot = slot_of(block->as<ReverseLeaf>(), key);
    if (slot == kSlots) return damaged_record(record, "no such reference");
    const ReverseRecord& old = block->as<ReverseLeaf>().records[slot];
    if (!same(old, before)) return damaged_record(before, "a reference is recorded otherwise");
    if (same(old, record)) return {};
    old_end = end_of(old);
  }
  ReverseLeaf& leaf = *TRY(edit_leaf(editor, owner->leaf));
  put(leaf, slot, record);
  LeafSummary changed = *owner;
  if (end_of(record) >= owner->end)
    changed.end = end_of(record);
  else if (old_end == owner->end)
    changed = summarise(owner->leaf, leaf, owner->last_slot);
  state_->index.update(*owner, changed);
  return {};
}

void ReverseMap::keep_changes() {
  state_->index.keep();
  state_->records_kept = state_->records;
}

void ReverseMap::drop_changes() {
  state_->index.drop();
  state_->records = state_->records_kept;
}

// --- Questions -------------------------------------------------------------------------------------------------------

Result<> ReverseMap::for_each_covering(BlockReader& reader, BlockRun run,
                                       const std::function<bool(const ReverseRecord&)>& visit) const {
  return state_->visit_leaves(reader, run, [&](const ReverseLeaf& leaf, std::uint64_t low, std::uint64_t high) {
    for (const unsigned slot : in_key_order(leaf, covering_slots(leaf, low, high)))
      if (!visit(leaf.records[slot])) return high;
    return low;
  });
}

Result<unsigned> ReverseMap::count_references(BlockReader& reader, BlockNumber block, unsigned limit) const {
  unsigned count = 0;
  if (limit == 0) return count;
  TRY(state_->visit_leaves(reader, {block, 1}, [&](const ReverseLeaf& leaf, std::uint64_t low, std::uint64_t high) {
    for_each_bit(covering_slots(leaf, low, high), [&](unsigned slot) { count += is_reference(leaf.records[slot]); });
    return count < limit ? low : high;
  }));
  return std::min(count, limit);
}

// In ascending order of their first blocks, a run that begins before the furthest end so far overlaps the run that
// reached it. References that overlap none before them are at most as many as the run has blocks, however many owners
// its blocks have.
Result<bool> ReverseMap::any_shared(BlockReader& reader, BlockRun run) const {
  bool shared = false;
  std::uint64_t reached = run.first.value;
  TRY(state_->visit_leaves(reader, run, [&](const ReverseLeaf& leaf, std::uint64_t low, std::uint64_t high) {
    for (const unsigned slot : in_key_order(leaf, covering_slots(leaf, low, high))) {
      const ReverseRecord& record = leaf.records[slot];
      if (!is_reference(record)) continue;
      shared = std::max(record.first, run.first.value) < reached;
      if (shared) return high;
      reached = end_of(record);
    }
    return low;
  }));
  return shared;
}

// In ascending order of first blocks: what lies between the furthest end so far and the next run that begins beyond it
// is covered by none. Blocks before that end are settled, so the search goes on from there and passes over the leaves
// full of further owners.
Result<> ReverseMap::for_each_unreferenced(BlockReader& reader, BlockRun run,
                                           const std::function<void(BlockRun)>& visit) const {
  std::uint64_t reached = run.first.value;
  TRY(state_->visit_leaves(reader, run, [&](const ReverseLeaf& leaf, std::uint64_t low, std::uint64_t high) {
    for (const unsigned slot : in_key_order(leaf, covering_slots(leaf, low, high))) {
      const ReverseRecord& record = leaf.records[slot];
      if (!makes_used(record)) continue;
      if (record.first > reached) visit({BlockNumber(reached), record.first - reached});
      reached = std::max(reached, end_of(record));
    }
    return reached;
  }));
  if (reached < run.end().value) visit({BlockNumber(reached), run.end().value - reached});
  return {};
}

Result<> ReverseMap::for_each_record(BlockReader& reader,
                                     const std::function<bool(const ReverseRecord&)>& visit) const {
  return for_each_covering(reader, {BlockNumber(0), kNoLimit}, visit);
}

std::optional<LeafSummary> ReverseMap::State::find(BlockNumber leaf) const {
  auto summary = index.owner(RecordKey{});
  while (summary && summary->leaf != leaf) summary = index.after(summary->smallest);
  return summary;
}

std::optional<ReverseMap::LeafKeys> ReverseMap::keys_of_leaf(BlockNumber leaf) const {
  const auto summary = state_->find(leaf);
  if (!summary) return std::nullopt;
  LeafKeys keys{.smallest = summary->smallest, .next = std::nullopt, .count = summary->count};
  if (const auto next = state_->index.after(summary->smallest)) keys.next = next->smallest;
  return keys;
}

Result<> ReverseMap::move_leaf(BlockEditor& editor, BlockNumber leaf) {
  const auto summary = state_->find(leaf);
  if (!summary) return damaged_leaf(leaf, "no place in the index");
  const BlockPtr content = TRY(state_->read(editor, *summary));
  LeafSummary moved = *summary;
  moved.leaf = TRY(editor.allocate(format::BlockType::kReverseLeaf, 0, format::LeafKind::kData));
  *TRY(edit_leaf(editor, moved.leaf)) = content->as<ReverseLeaf>();
  state_->index.update(*summary, moved);
  editor.release(leaf);
  return {};
}

std::uint64_t ReverseMap::leaf_count() const { return state_->index.size(); }
std::uint64_t ReverseMap::record_count() const { return state_->records; }
std::size_t ReverseMap::memory_bytes() const {
  return sizeof(State) + state_->index.memory_bytes() + state_->found.capacity() * sizeof(State::Found);
}

Result<> ReverseMap::verify(BlockReader& reader) const {
  state_->index.verify();
  std::uint64_t records = 0;
  std::optional<RecordKey> last;
  for (auto summary = state_->index.next_reaching({}, 0, kNoLimit); summary;
       summary = state_->index.after(summary->smallest)) {
    const BlockPtr block = TRY(state_->read(reader, *summary));
    const ReverseLeaf& leaf = block->as<ReverseLeaf>();
    if (summarise(summary->leaf, leaf, summary->last_slot) != *summary || (last && *last >= summary->smallest))
      return damaged_leaf(summary->leaf, "other records than the index");
    reverse_leaf::for_each_record(leaf, [&](const ReverseRecord& record) {
      if (!last || *last < key_of(record)) last = key_of(record);
    });
    records += summary->count;
  }
  if (records != state_->records) return fail(ErrorCode::kDamaged, "reverse map: records were miscounted");
  return {};
}

}  // namespace daxcow
