#include "engine/check_context.h"

#include <algorithm>

namespace daxcow::checker {

using format::BlockType;

DescribedBlocks::DescribedBlocks(const std::vector<BlockNumber>& chunks, std::uint64_t pool_blocks)
    : ordinals_(pool_blocks / format::kChunkBlocks + 1), size_(chunks.size() * format::kMirrorBlocks) {
  for (std::size_t i = 0; i < chunks.size(); ++i)
    if (chunks[i].value < pool_blocks)
      ordinals_[chunks[i].value / format::kChunkBlocks] = static_cast<std::uint32_t>(i);
}

void BadBlocks::sort() {
  std::ranges::sort(blocks_, [](const Bad& a, const Bad& b) {
    return a.block != b.block ? a.block < b.block : a.in_ledger && !b.in_ledger;
  });
  const auto rest = std::ranges::unique(blocks_, {}, &Bad::block);
  blocks_.erase(rest.begin(), rest.end());
}

std::pair<const BadBlocks::Bad*, const BadBlocks::Bad*> BadBlocks::in(BlockRun run) const {
  const auto first = std::ranges::lower_bound(blocks_, run.first.value, {}, &Bad::block);
  const auto end = std::ranges::lower_bound(blocks_, run.end().value, {}, &Bad::block);
  return {blocks_.data() + (first - blocks_.begin()), blocks_.data() + (end - blocks_.begin())};
}

bool BadBlocks::touches(BlockRun run) const {
  if (blocks_.empty()) return false;
  const auto [first, end] = in(run);
  return first != end;
}

bool BadBlocks::in_ledger(BlockNumber block) const {
  if (blocks_.empty()) return false;
  const auto [first, end] = in({block, 1});
  return first != end && first->in_ledger;
}

Context::Context(Medium& m, Metadata& md, const format::Superblock& sb, const CheckOptions& o, CheckReport& r)
    : medium(m),
      metadata(md),
      superblock(sb),
      options(o),
      report(r),
      pool_blocks(sb.pool_bytes / kBlockBytes),
      described(md.chunks(), std::max(pool_blocks, m.block_count())),
      paths(md),
      findings(r, paths) {}

void Context::advance() {
  constexpr std::uint64_t kBlocksPerCall = 1024;
  if (++work_done % kBlocksPerCall == 0 && options.progress)
    options.progress(std::min(work_done, work_total), work_total);
}

std::string block_name(BlockNumber block) { return "block " + std::to_string(block.value); }

const char* name_of(BlockType type) {
  switch (type) {
    case BlockType::kFree:
      return "free";
    case BlockType::kRoots:
      return "roots";
    case BlockType::kMapNode:
      return "map node";
    case BlockType::kInodes:
      return "inodes";
    case BlockType::kDirectory:
      return "directory";
    case BlockType::kAttributes:
      return "attributes";
    case BlockType::kSymlink:
      return "symlink";
    case BlockType::kOrphans:
      return "orphans";
    case BlockType::kGraveyard:
      return "graveyard";
    case BlockType::kReverseLeaf:
      return "reverse-map leaf";
  }
  return "unknown";
}

}  // namespace daxcow::checker
