#include "engine/repoint.h"

#include <algorithm>
#include <vector>

#include "engine/references.h"

namespace daxcow {

namespace {

// With the records that it splits and the nodes that it spells out, each fits a transaction with ease.
constexpr std::size_t kReferencesAtOnce = 8;

struct Place {
  BlockNumber source;
  std::uint64_t slot;
};

// Some of the places that refer to the block, but those of the graveyard.
Result<std::vector<Place>> some_places(Transaction& transaction, BlockNumber block) {
  std::vector<Place> places;
  bool damaged = false;
  const format::BlockDescriptor own = transaction.descriptor(block);
  transaction.store().mutex.assert_held();
  TRY(transaction.store().reverse_map().for_each_covering(
      transaction, {block, 1}, [&](const format::ReverseRecord& record) {
        if (record.kind != format::RecordKind::kTree) return true;
        const BlockNumber source(record.source);
        const format::BlockDescriptor holder = transaction.descriptor(source);
        if (holder.type == format::BlockType::kGraveyard) return true;
        places.push_back({source, record.slot + (block.value - record.first) / blocks_per_slot(record)});
        // In a hostile image: slots that there are not, and nodes that refer to themselves, whose copies would too.
        damaged = places.back().slot >= slot_count(holder.type) ||
                  (holder.type == format::BlockType::kMapNode && own.type == holder.type && own.level >= holder.level);
        return !damaged && places.size() < kReferencesAtOnce;
      }));
  if (damaged) return fail(ErrorCode::kDamaged, "a reverse map record that makes no sense; run fsck.daxcow");
  return places;
}

// Makes one slot refer to `to` where it refers to `from`. A run of which `from` is one block is spelled out down to it.
Result<> move_reference(Transaction& transaction, Place place, BlockNumber from, BlockNumber to) {
  const format::BlockDescriptor descriptor = transaction.descriptor(place.source);
  Block* content = TRY(transaction.edit(place.source, descriptor.type));
  const SlotView view = slot_at(descriptor.type, descriptor.level, *content, place.slot);
  const std::uint64_t length = blocks_spanned(view.log512);
  if (!view.entry.present() || view.entry.is_node() || from < view.entry.block() || from - view.entry.block() >= length)
    return fail(ErrorCode::kDamaged, "a reverse map record and its slot differ");
  std::uint64_t* slot = slot_place(descriptor.type, *content, place.slot).entry;
  MapEntry entry = view.entry.plain();
  for (std::uint8_t log512 = view.log512; log512-- > 0;) {
    const BlockNumber made = TRY(transaction.allocate(format::BlockType::kMapNode, static_cast<std::uint8_t>(log512 + 1),
                                                      format::LeafKind::kData));
    auto& node = TRY(transaction.edit(made, format::BlockType::kMapNode))->as<format::MapNode>();
    spell_out(entry, log512, node);
    *slot = MapEntry::node(made).raw;
    slot = &node[(from - entry.block()) / blocks_spanned(log512)];
    entry = MapEntry{*slot};
  }
  *slot = MapEntry::leaf(to, view.entry.unwritten()).raw;
  return {};
}

// The same for a block of metadata: to its holder the other one is what this one was.
Result<> exchange_reference(Transaction& transaction, Place place, BlockNumber from, BlockNumber to) {
  const format::BlockDescriptor descriptor = transaction.descriptor(place.source);
  Block* content = TRY(transaction.edit(place.source, descriptor.type));
  std::uint64_t* slot = slot_place(descriptor.type, *content, place.slot).entry;
  const MapEntry entry{*slot};
  if (!entry.present() || entry.block() != from)
    return fail(ErrorCode::kDamaged, "a reverse map record and its slot differ");
  *slot = entry.with_block(to).raw;
  return {};
}

}  // namespace

Result<std::uint64_t> repoint(Store& store, BlockNumber from, const Block& content) {
  for (std::uint64_t moved = 0;;) {
    auto reservation = TRY(store.reserve_and_store(from, content));
    const BlockNumber to = reservation.run().first;
    std::size_t count = 0;
    TRY(store.run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
      const std::vector<Place> places = TRY(some_places(transaction, from));
      count = places.size();
      for (const Place& place : places) TRY(move_reference(transaction, place, from, to));
      return Step::kDone;
    }));
    if (count == 0) return moved;
    reservation.keep();
    moved += count;
  }
}

Result<bool> move_metadata(Store& store, BlockNumber from) {
  bool moved = false;
  TRY(store.run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
    const format::BlockDescriptor descriptor = transaction.descriptor(from);
    switch (descriptor.type) {
      case format::BlockType::kFree:
        return Step::kDone;
      case format::BlockType::kRoots:
        return fail(ErrorCode::kUnsupported, "the roots have no other place");
      case format::BlockType::kReverseLeaf:
        store.mutex.assert_held();
        TRY(store.reverse_map().move_leaf(transaction, from));
        moved = true;
        return Step::kDone;
      default:
        break;
    }
    const std::vector<Place> places = TRY(some_places(transaction, from));
    if (places.empty()) return Step::kDone;  // what only the graveyard has is on its way out
    const BlockNumber to = TRY(transaction.allocate(descriptor.type, descriptor.level, descriptor.leaf_kind));
    const BlockPtr content = TRY(transaction.read(from, descriptor.type));
    *TRY(transaction.edit(to, descriptor.type)) = *content;
    for (const Place& place : places) TRY(exchange_reference(transaction, place, from, to));
    moved = true;
    return places.size() < kReferencesAtOnce ? Step::kDone : Step::kAgain;
  }));
  return moved;
}

}  // namespace daxcow
