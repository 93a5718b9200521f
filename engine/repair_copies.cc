// Everything that is kept twice is made good twice, from the copy that verifies. Nothing is changed here but the copy
// that nobody could use, so a crash in between leaves what was there before.
#include <cstring>

#include "engine/repair_pool.h"

namespace daxcow::repairer {

using format::BlockType;

namespace {

Result<> rewrite(RepairPool& pool, BlockNumber at, std::span<const std::byte> content, std::string where) {
  TRY(store_mended(pool.medium, at, content));
  pool.actions.add(at, std::move(where), "written again from its other copy");
  return {};
}

Result<> repair_header(RepairPool& pool, BlockNumber base) {
  const bool primary = pool.metadata.verify_header_copy(base, Copy::kPrimary).has_value();
  const bool mirror = pool.metadata.verify_header_copy(base, Copy::kMirror).has_value();
  if (primary == mirror) return {};  // both lost: written as a whole once it is known what it described
  Block header;
  pool.metadata.make_header(base, header.as<format::ChunkHeader>());
  return rewrite(pool, primary ? Metadata::mirror_of(base) : base, header.bytes,
                 "chunk at block " + std::to_string(base.value));
}

Result<> repair_block(RepairPool& pool, BlockNumber block, BlockType type) {
  const auto primary = pool.metadata.read_copy(block, Copy::kPrimary);
  const auto mirror = pool.metadata.read_copy(block, Copy::kMirror);
  if (!primary && !mirror) return {};  // repair_blocks
  if (primary && mirror && std::memcmp((*primary)->bytes, (*mirror)->bytes, kBlockBytes) == 0) return {};
  return rewrite(pool, primary ? Metadata::mirror_of(block) : block, (primary ? *primary : *mirror)->bytes,
                 block_place(type, block));
}

}  // namespace

Result<> repair_copies(RepairPool& pool) {
  for (const BlockNumber base : pool.metadata.chunks()) {
    TRY(repair_header(pool, base));
    for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i) {
      const BlockType type = pool.metadata.descriptor(base + i).type;
      if (type != BlockType::kFree) TRY(repair_block(pool, base + i, type));
    }
  }
  return pool.medium.drain();
}

}  // namespace daxcow::repairer
