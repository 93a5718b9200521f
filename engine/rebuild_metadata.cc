#include "engine/rebuild_metadata.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "engine/checksum.h"
#include "engine/content_from_records.h"
#include "engine/pool_layout.h"
#include "engine/references.h"
#include "engine/reverse_leaf.h"

namespace daxcow {

using format::BlockDescriptor;
using format::BlockType;
using format::ReverseRecord;

namespace {

bool is_full(const format::InodeBlock& block) {
  return std::ranges::all_of(block.inodes, [](const format::InodeRecord& inode) { return inode.mode != 0; });
}

// Inode tables remember which inode blocks are full, which no record says.
void guess_full_hints(Store& store, format::MapNode& node) {
  for (std::uint64_t& raw : node) {
    const MapEntry entry{raw};
    if (!entry.present() || entry.is_node()) continue;
    const auto inodes = store.metadata().read(entry.block(), BlockType::kInodes);
    if (inodes && is_full((*inodes)->as<format::InodeBlock>())) raw |= format::kEntryFull;
  }
}

Result<> rebuild_from_records(Store& store, BlockNumber block, const BlockDescriptor& descriptor)
    REQUIRES(store.mutex) {
  std::vector<ReverseRecord> records;
  TRY(store.reverse_map().for_each_record(store.metadata(), [&](const ReverseRecord& record) {
    if (record.kind == format::RecordKind::kTree && record.source == block.value) records.push_back(record);
    return true;
  }));
  auto content = make_block();
  content_from_records(descriptor, records, *content);
  const auto is_proved = [&] { return block_crc(block, descriptor, *content) == descriptor.crc; };
  if (!is_proved() && descriptor.leaf_kind == format::LeafKind::kInodes && descriptor.level == 1)
    guess_full_hints(store, content->as<format::MapNode>());
  if (!is_proved()) return fail(ErrorCode::kDamaged);
  store.metadata().publish(block, std::move(content));
  store.metadata().unpin(block);
  return {};
}

// What the rest of the pool implies of the records with keys from `lost.smallest` to before `lost.next`.
Result<std::vector<ReverseRecord>> implied_records(Store& store, const ReverseMap::LeafKeys& lost)
    REQUIRES(store.mutex) {
  std::vector<ReverseRecord> records;
  const auto add = [&](const ReverseRecord& record) {
    const RecordKey key = key_of(record);
    if (key >= lost.smallest && (!lost.next || key < *lost.next)) records.push_back(record);
  };
  Metadata& metadata = store.metadata();
  for (const BlockNumber chunk : metadata.chunks()) {
    for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i) {
      const BlockNumber source = chunk + i;
      const BlockDescriptor descriptor = metadata.descriptor(source);
      if (!holds_references(descriptor.type)) continue;
      const BlockPtr content = TRY(metadata.read(source, descriptor.type));
      for (const ReverseRecord& record : records_of(source, descriptor.type, descriptor.level, *content)) add(record);
    }
  }
  for_each_system_record(metadata.chunks(), store.pool_blocks(), add);
  for (const auto& [bad, sectors] : store.ledger().all()) add(ledger_record(bad, sectors));
  return records;
}

Result<> rebuild_leaf(Store& store, BlockNumber leaf) REQUIRES(store.mutex) {
  const auto keys = store.reverse_map().keys_of_leaf(leaf);
  if (!keys) return fail(ErrorCode::kDamaged);
  std::vector<ReverseRecord> records = TRY(implied_records(store, *keys));
  // A block of the ledger that has no record yet is in DRAM only.
  if (records.size() > keys->count)
    std::erase_if(records, [](const ReverseRecord& record) { return record.kind == format::RecordKind::kLedger; });
  if (records.size() != keys->count) return fail(ErrorCode::kDamaged);
  return store.run_locked(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
    auto& content = TRY(transaction.remake(leaf))->as<format::ReverseLeaf>();
    for (unsigned slot = 0; slot < records.size(); ++slot) reverse_leaf::put(content, slot, records[slot]);
    return Step::kDone;
  });
}

}  // namespace

Result<> rebuild_metadata(Store& store, BlockNumber block) {
  const BlockDescriptor descriptor = store.metadata().descriptor(block);
  switch (descriptor.type) {
    case BlockType::kMapNode:
    case BlockType::kGraveyard:
      return rebuild_from_records(store, block, descriptor);
    case BlockType::kReverseLeaf:
      return rebuild_leaf(store, block);
    default:
      return fail(ErrorCode::kDamaged);
  }
}

}  // namespace daxcow
