#include "engine/repair_pool.h"

#include "engine/check_context.h"
#include "engine/checksum.h"
#include "engine/reverse_leaf.h"

namespace daxcow::repairer {

using format::BlockType;

namespace {
constexpr std::uint64_t kCacheBytes = 256ull << 20;
}

void Actions::add(BlockNumber block, std::string where, std::string what) {
  add(RepairAction{block, std::move(where), std::move(what), false});
}

void Actions::add_loss(BlockNumber block, std::string where, std::string what) {
  add(RepairAction{block, std::move(where), std::move(what), true});
}

void Actions::add(RepairAction action) {
  ++report_.action_count;
  if (report_.actions.size() < RepairReport::kMaximumActions) report_.actions.push_back(std::move(action));
}

RepairPool::RepairPool(Medium& m, const format::Superblock& sb, Actions& a)
    : medium(m),
      superblock(sb),
      pool_blocks(sb.pool_bytes / kBlockBytes),
      actions(a),
      metadata(m, kCacheBytes),
      journal(m, format::kJournalChunk, crc64(0, std::as_bytes(std::span(sb.uuid)))),
      editor(m, metadata, journal) {}

bool RepairPool::is_data_space(BlockRun run) const {
  if (run.count == 0 || run.first.value >= pool_blocks || run.count > pool_blocks - run.first.value) return false;
  if (run.first == format::kSuperblockPrimary || run.end().value == pool_blocks) return false;
  if (run.first < format::kJournalChunk + format::kChunkBlocks && run.end() > format::kJournalChunk) return false;
  // Runs are long, chunks are few.
  if (run.count > metadata.chunks().size() * format::kChunkBlocks) {
    for (const BlockNumber chunk : metadata.chunks())
      if (chunk < run.end() && run.first < chunk + format::kChunkBlocks) return false;
    return true;
  }
  for (BlockNumber base = Metadata::chunk_base(run.first); base < run.end(); base += format::kChunkBlocks)
    if (metadata.in_chunk(base)) return false;
  return true;
}

void RepairPool::for_each_block(FunctionRef<void(BlockNumber, const format::BlockDescriptor&)> visit) const {
  for (const BlockNumber base : metadata.chunks())
    for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i) visit(base + i, editor.descriptor(base + i));
}

void RepairPool::for_each_record(FunctionRef<bool(BlockNumber, const format::ReverseRecord&)> visit) {
  bool go_on = true;
  for_each_block([&](BlockNumber block, const format::BlockDescriptor& descriptor) {
    if (!go_on || descriptor.type != BlockType::kReverseLeaf) return;
    const auto content = editor.read(block, BlockType::kReverseLeaf);
    if (!content) return;
    const auto& leaf = (*content)->as<format::ReverseLeaf>();
    reverse_leaf::for_each_bit(reverse_leaf::used_slots(leaf), [&](unsigned slot) {
      if (go_on) go_on = visit(block, leaf.records[slot]);
    });
  });
}

std::string block_place(BlockType type, BlockNumber block) {
  return std::string(checker::name_of(type)) + ", " + checker::block_name(block);
}

}  // namespace daxcow::repairer
