#include "engine/transaction.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/check.h"
#include "engine/checksum.h"
#include "engine/lines.h"
#include "engine/store.h"

namespace daxcow {

using format::BlockDescriptor;
using format::BlockType;
using format::RecordKind;
using format::ReverseRecord;

namespace {

// Runs that several references of one transaction let go of are named by each of them.
std::vector<BlockRun> united(std::vector<BlockRun> runs) {
  std::ranges::sort(runs, {}, &BlockRun::first);
  std::vector<BlockRun> result;
  for (const BlockRun& run : runs) {
    if (!result.empty() && run.first <= result.back().end())
      result.back().count = std::max(result.back().end(), run.end()) - result.back().first;
    else
      result.push_back(run);
  }
  return result;
}

}  // namespace

Transaction::Transaction(Store& store, TransactionClass transaction_class) : store_(store), class_(transaction_class) {
  store_.mutex.assert_held();
}

Transaction::~Transaction() {
  if (!done_) abort();
  for (const BlockNumber block : withheld_) store_.metadata_.give_back(block);
}

void Transaction::abort() {
  store_.mutex.assert_held();
  store_.reverse_map().drop_changes();
  for (auto it = new_blocks_.rbegin(); it != new_blocks_.rend(); ++it) store_.metadata_.give_back(*it);
  done_ = true;
}

BlockDescriptor Transaction::descriptor(BlockNumber block) const {
  if (const auto it = dirty_.find(block.value); it != dirty_.end()) return it->second.descriptor;
  return store_.metadata_.descriptor(block);
}

Result<BlockPtr> Transaction::read(BlockNumber block, BlockType type) {
  if (const auto it = dirty_.find(block.value); it != dirty_.end()) {
    if (it->second.freed || it->second.descriptor.type != type) return fail(ErrorCode::kDamaged);
    return BlockPtr(it->second.copy);
  }
  return store_.metadata_.read(block, type);
}

Result<Block*> Transaction::edit(BlockNumber block, BlockType type) {
  if (const auto it = dirty_.find(block.value); it != dirty_.end()) {
    if (it->second.freed || it->second.descriptor.type != type) return fail(ErrorCode::kDamaged);
    return it->second.copy.get();
  }
  BlockPtr before = TRY(store_.metadata_.read(block, type));
  Dirty dirty;
  dirty.copy = copy_block(*before);
  dirty.before = std::move(before);
  dirty.descriptor = store_.metadata_.descriptor(block);
  return dirty_.emplace(block.value, std::move(dirty)).first->second.copy.get();
}

Result<BlockNumber> Transaction::allocate(BlockType type, std::uint8_t level, format::LeafKind leaf_kind) {
  std::optional<BlockNumber> block;
  while (!block) {
    if (store_.metadata_.free_count() <= blocks_left_by(class_))
      return fail(ErrorCode::kNeedChunk);
    block = store_.metadata_.take_free();
    if (!block) return fail(ErrorCode::kNeedChunk);
    if (!store_.ledger_.touches({*block, 1}) && !store_.ledger_.touches({Metadata::mirror_of(*block), 1})) break;
    withheld_.push_back(*block);  // one of its copies is bad: not now
    block.reset();
  }
  new_blocks_.push_back(*block);
  Dirty dirty;
  dirty.copy = make_block();
  dirty.descriptor = BlockDescriptor{type, level, leaf_kind, 0, 0};
  dirty.is_new = true;
  dirty_.emplace(block->value, std::move(dirty));
  return *block;
}

Result<Block*> Transaction::remake(BlockNumber block) {
  const BlockDescriptor descriptor = store_.metadata_.descriptor(block);
  CHECK(!holds_references(descriptor.type) && descriptor.type != BlockType::kFree);
  Dirty dirty;
  dirty.copy = make_block();
  dirty.descriptor = descriptor;
  dirty.is_new = true;
  const auto [it, is_first] = dirty_.emplace(block.value, std::move(dirty));
  if (!is_first) return fail(ErrorCode::kDamaged);
  return it->second.copy.get();
}

void Transaction::release(BlockNumber block) {
  auto& dirty = dirty_[block.value];
  CHECK(!dirty.freed);
  dirty.freed = true;
  dirty.descriptor = BlockDescriptor{};
}

Result<unsigned> Transaction::references_before(BlockNumber block, unsigned limit) {
  store_.mutex.assert_held();
  return store_.reverse_map().count_references(*this, block, limit);
}

Result<> Transaction::insert_record(const ReverseRecord& record) {
  store_.mutex.assert_held();
  return store_.reverse_map().insert(*this, record);
}

Result<> Transaction::erase_record(const ReverseRecord& record) {
  store_.mutex.assert_held();
  return store_.reverse_map().erase(*this, record);
}

Result<> Transaction::set_ledger(BlockNumber block, std::uint8_t sector_mask) {
  store_.mutex.assert_held();
  ReverseRecord existing{};
  TRY(store_.reverse_map().for_each_covering(*this, BlockRun{block, 1}, [&](const ReverseRecord& record) {
    if (record.kind == RecordKind::kLedger) existing = record;
    return existing.length_blocks == 0;
  }));
  if (existing.length_blocks != 0 && existing.sector_mask == sector_mask) return {};
  if (existing.length_blocks != 0) TRY(store_.reverse_map().erase(*this, existing));
  if (sector_mask != 0) {
    TRY(store_.reverse_map().insert(*this, ledger_record(block, sector_mask)));
  }
  ledger_changes_.emplace_back(block, sector_mask);
  return {};
}

// --- commit -------------------------------------------------------------------------------------------------------------

Result<> Transaction::commit() {
  CHECK(!done_);
  CHECK(!store_.read_only() || store_.medium().info().kind == MediumKind::kDram);
  TRY(update_reverse_map());
  seal_blocks();
  make_headers();

  std::vector<JournalChange> changes;
  changes.reserve(dirty_.size() + headers_.size());
  std::uint64_t lines = 0;
  for (const auto& [block, dirty] : dirty_) {
    if (dirty.freed || dirty.is_new || dirty.line_mask == 0) continue;
    changes.push_back({BlockNumber(block), dirty.line_mask, dirty.copy->bytes});
    lines += static_cast<std::uint64_t>(std::popcount(dirty.line_mask));
  }
  for (const auto& [block, header] : headers_) {
    changes.push_back({BlockNumber(block), header.line_mask, header.content->bytes});
    lines += static_cast<std::uint64_t>(std::popcount(header.line_mask));
  }
  if (!Journal::fits(changes.size(), lines)) return fail(ErrorCode::kTooBig, "a transaction does not fit the journal");
  if (changes.empty()) {  // nothing differs: no reader need look again
    abort();
    for (const auto& action : on_commit_) action();
    return {};
  }
  TRY(write_new_blocks());
  const auto committed = store_.journal_.commit(changes);
  for (const BlockRun& run : store_.journal_.take_failed_copies()) store_.suspect(run);
  TRY(committed);
  publish();
  return {};
}

// A damaged map may lead to blocks that are nobody's, without a record that keeps them. No reference to such a block comes to
// life by copying a node: the block would be given out to somebody else, and be freed twice in the end.
Result<> Transaction::check_target(BlockRun run) const {
  store_.mutex.assert_held();
  if (!store_.metadata_.in_chunk(run.first)) {
    if (store_.holds_data(run) && !store_.is_free(run)) return {};
    return fail(ErrorCode::kDamaged, "a map leads to a block that is free or not for data; run fsck.daxcow");
  }
  for (BlockNumber block = run.first; block < run.end(); ++block)
    if (descriptor(block).type == BlockType::kFree)
      return fail(ErrorCode::kDamaged, "a map leads to a metadata block that is free; run fsck.daxcow");
  return {};
}

Result<> Transaction::apply_changes(const RecordChanges& changes, std::vector<BlockRun>& candidates) {
  ReverseMap& reverse_map = store_.reverse_map_;
  // Inserted before erased, so that a block whose reference only moves is never without one.
  for (const ReverseRecord& record : changes.inserted) {
    TRY(check_target({BlockNumber(record.first), record.length_blocks}));
    TRY(reverse_map.insert(*this, record));
  }
  for (const auto& [before, after] : changes.replaced) {
    const BlockNumber end = BlockNumber(before.first) + before.length_blocks;
    if (after.length_blocks > before.length_blocks) TRY(check_target({end, after.length_blocks - before.length_blocks}));
    TRY(reverse_map.replace(*this, before, after));
    if (after.length_blocks < before.length_blocks)
      candidates.push_back({BlockNumber(after.first + after.length_blocks), before.length_blocks - after.length_blocks});
  }
  for (const ReverseRecord& record : changes.erased) {
    TRY(reverse_map.erase(*this, record));
    candidates.push_back({BlockNumber(record.first), record.length_blocks});
  }
  return {};
}

Result<> Transaction::update_reverse_map() {
  std::vector<BlockRun> candidates;
  RecordChanges changes;
  std::vector<BlockNumber> made;
  for (auto& [block, dirty] : dirty_) {
    if (dirty.freed) continue;
    if (dirty.is_new && dirty.descriptor.type != BlockType::kReverseLeaf) made.push_back(BlockNumber(block));
    if (!holds_references(dirty.descriptor.type)) continue;
    const Block& before = dirty.before ? *dirty.before : kZeroBlock;
    dirty.line_mask = changed_lines(before, *dirty.copy);
    append_changes(BlockNumber(block), dirty.descriptor.type, dirty.descriptor.level, before, *dirty.copy, dirty.line_mask, changes);
  }
  TRY(apply_changes(changes, candidates));
  // New blocks that were made but not hooked up (a run collapsed again, say) go like everything without a reference.
  for (const BlockNumber block : made) candidates.push_back({block, 1});
  return free_unreferenced(candidates);
}

Result<> Transaction::free_unreferenced(std::vector<BlockRun>& candidates) {
  while (!candidates.empty()) {
    const BlockRun run = candidates.back();
    candidates.pop_back();
    if (!store_.metadata_.in_chunk(run.first)) {
      TRY(store_.reverse_map_.for_each_unreferenced(*this, run, [&](BlockRun part) { freed_data_.push_back(part); }));
      continue;
    }
    for (BlockNumber block = run.first; block < run.end(); ++block) TRY(free_block(block, candidates));
  }
  return {};
}

Result<> Transaction::free_block(BlockNumber block, std::vector<BlockRun>& candidates) {
  const auto it = dirty_.find(block.value);
  if (it != dirty_.end() && it->second.freed) return {};
  if (TRY(store_.reverse_map_.count_references(*this, block, 1)) != 0) return {};
  const BlockDescriptor descriptor = this->descriptor(block);
  if (descriptor.type == BlockType::kFree) return fail(ErrorCode::kDamaged, "a reference led to a free metadata block");
  if (holds_references(descriptor.type)) {
    // Its own references go with it, as they are now: earlier changes of it are in the reverse map already.
    const BlockPtr content = TRY(read(block, descriptor.type));
    RecordChanges changes;
    append_changes(block, descriptor.type, descriptor.level, *content, kZeroBlock, changed_lines(*content, kZeroBlock), changes);
    TRY(apply_changes(changes, candidates));
  }
  release(block);
  return {};
}

void Transaction::seal_blocks() {
  for (auto& [block, dirty] : dirty_) {
    if (dirty.freed) continue;
    if (!dirty.is_new) {
      // Those with references were compared for the reverse map, and what that led to has changed only its leaves.
      if (!holds_references(dirty.descriptor.type)) dirty.line_mask = changed_lines(*dirty.before, *dirty.copy);
      if (dirty.line_mask == 0) continue;
    }
    dirty.descriptor.crc = block_crc(BlockNumber(block), dirty.descriptor, *dirty.copy);
  }
}

void Transaction::make_headers() {
  constexpr std::uint64_t kFirstLine = 1;  // magic, next, CRC
  const auto header_of = [this](BlockNumber base) -> Header& {
    auto& header = headers_[base.value];
    if (!header.content) {
      header.content = make_block_for_overwrite();
      store_.metadata_.describe_chunk(base, header.content->as<format::ChunkHeader>());
      header.line_mask = kFirstLine;
    }
    return header;
  };
  for (const auto& [block, dirty] : dirty_) {
    if (dirty.is_new ? dirty.freed : !dirty.freed && dirty.line_mask == 0) continue;
    Header& header = header_of(Metadata::chunk_base(BlockNumber(block)));
    const std::uint64_t index = block % format::kChunkBlocks - 1;
    header.content->as<format::ChunkHeader>().blocks[index] = dirty.descriptor;
    header.line_mask |= 1ull << ((offsetof(format::ChunkHeader, blocks) + index * sizeof(BlockDescriptor)) / kLineBytes);
  }
  if (linked_chunk_.second.value != 0) header_of(linked_chunk_.first).content->as<format::ChunkHeader>().next = linked_chunk_.second.value;
  for (auto& [base, header] : headers_) {
    auto& content = header.content->as<format::ChunkHeader>();
    ++content.sequence;
    content.crc = chunk_header_crc(content);
  }
}

// Blocks that nothing refers to yet need no journal: they only have to be there before the record that hooks them up.
Result<> Transaction::write_new_blocks() {
  bool any = false;
  for (const auto& [block, dirty] : dirty_) {
    if (!dirty.is_new || dirty.freed) continue;
    any = true;
    const auto store_at = [&](BlockNumber at) { return store_.medium().store(byte_offset(at), dirty.copy->bytes).has_value(); };
    bool home = store_at(BlockNumber(block)), mirror = store_at(Metadata::mirror_of(BlockNumber(block)));
    if (!home && !mirror) {  // nobody refers to it yet: the device may make it usable again
      for (const BlockNumber at : {BlockNumber(block), Metadata::mirror_of(BlockNumber(block))})
        (void)store_.medium().clear_bad({at, 1});
      home = store_at(BlockNumber(block));
      mirror = store_at(Metadata::mirror_of(BlockNumber(block)));
    }
    if (!home && !mirror) return fail(ErrorCode::kIo, "metadata block " + std::to_string(block) + ": both copies cannot be written");
    if (!home) store_.bad_copy({BlockNumber(block), Copy::kPrimary});
    if (!mirror) store_.bad_copy({BlockNumber(block), Copy::kMirror});
  }
  if (any) TRY(store_.medium().drain());
  return {};
}

void Transaction::write_home() {
  // The journal has the change and the other copy too: a failure is not the transaction's.
  const auto write_lines = [this](BlockNumber block, std::uint64_t mask, const Block& content) {
    if (!store_lines(store_.medium(), block, mask, content)) store_.bad_copy({block, Copy::kPrimary});
    if (!store_lines(store_.medium(), Metadata::mirror_of(block), mask, content)) store_.bad_copy({block, Copy::kMirror});
  };
  for (const auto& [block, dirty] : dirty_)
    if (!dirty.freed && !dirty.is_new && dirty.line_mask != 0) write_lines(BlockNumber(block), dirty.line_mask, *dirty.copy);
  for (const auto& [block, header] : headers_) write_lines(BlockNumber(block), header.line_mask, *header.content);
  if (const auto drained = store_.medium().drain(); !drained) {
    // The journal's record is the only safe copy of this change now: nothing may overwrite it. The next open applies it.
    store_.failed_ = true;
    store_.log("the pool cannot be written any more, unmount it: " + describe(drained.error()));
  }
}

void Transaction::publish() {
  store_.mutex.assert_held();
  Metadata& metadata = store_.metadata_;
  store_.commit_sequence_.fetch_add(1, std::memory_order_acq_rel);
  for (auto& [block, dirty] : dirty_)
    if (!dirty.freed && (dirty.is_new || dirty.line_mask != 0)) metadata.publish(BlockNumber(block), dirty.copy);
  std::vector<BlockNumber> freed_metadata;
  for (const auto& [block, dirty] : dirty_) {
    if (dirty.freed) {
      if (dirty.is_new) {
        metadata.give_back(BlockNumber(block));
        continue;
      }
      metadata.forget(BlockNumber(block));
      freed_metadata.push_back(BlockNumber(block));
    } else if (!dirty.is_new && dirty.line_mask == 0) {
      continue;
    }
    metadata.publish_descriptor(BlockNumber(block), dirty.descriptor);
  }
  for (const auto& [base, header] : headers_)
    metadata.set_header_sequence(BlockNumber(base), header.content->as<format::ChunkHeader>().sequence);
  if (linked_chunk_.second.value != 0) metadata.set_next_chunk(linked_chunk_.first, linked_chunk_.second);
  for (const auto& [block, mask] : ledger_changes_) store_.ledger_.set(block, mask);
  store_.commit_sequence_.fetch_add(1, std::memory_order_acq_rel);

  write_home();
  for (const auto& [block, dirty] : dirty_)
    if (!dirty.freed && (dirty.is_new || dirty.line_mask != 0)) metadata.unpin(BlockNumber(block));
  store_.reverse_map().keep_changes();
  store_.transactions_.fetch_add(1, std::memory_order_relaxed);
  if (!freed_metadata.empty() || !freed_data_.empty()) store_.retire(united(std::move(freed_data_)), std::move(freed_metadata));
  done_ = true;
  for (const auto& action : on_commit_) action();
}

}  // namespace daxcow
