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
      journal(m, format::kJournalChunk, journal_seed(sb)),
      editor(m, metadata, journal) {}

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
    reverse_leaf::for_each_record((*content)->as<format::ReverseLeaf>(), [&](const format::ReverseRecord& record) {
      if (go_on) go_on = visit(block, record);
    });
  });
}

std::string block_place(BlockType type, BlockNumber block) {
  return std::string(checker::name_of(type)) + ", " + checker::block_name(block);
}

}  // namespace daxcow::repairer
