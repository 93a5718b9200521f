#include "engine/metadata.h"

#include <bit>
#include <cstring>
#include <utility>

#include "engine/check.h"
#include "engine/checksum.h"

namespace daxcow {

using format::BlockDescriptor;
using format::BlockType;
using format::ChunkHeader;
using format::kChunkBlocks;
using format::kChunkPayload;

Metadata::Metadata(Medium& medium, std::uint64_t cache_bytes)
    : medium_(medium),
      shard_limit_(std::max<std::size_t>(1, cache_bytes / sizeof(Block) / kShards)),
      chunk_slots_(medium.block_count() / kChunkBlocks + 1) {
  chunks_ = std::make_unique<std::atomic<Chunk*>[]>(chunk_slots_);
}

Metadata::~Metadata() {
  for (const BlockNumber base : chunk_list_) delete chunks_[base.value / kChunkBlocks].load();
}

Metadata::Chunk* Metadata::chunk_of(BlockNumber block) const {
  const std::uint64_t slot = block.value / kChunkBlocks;
  return slot < chunk_slots_ ? chunks_[slot].load(std::memory_order_acquire) : nullptr;
}

bool Metadata::is_described(BlockNumber block) const {
  const std::uint64_t index = block.value % kChunkBlocks;
  return index >= 1 && index <= kChunkPayload && in_chunk(block);
}

BlockDescriptor Metadata::descriptor(BlockNumber block) const {
  const std::uint64_t index = block.value % kChunkBlocks;
  const Chunk* chunk = chunk_of(block);
  if (chunk == nullptr || index < 1 || index > kChunkPayload) return {};
  return std::bit_cast<BlockDescriptor>(chunk->descriptors[index - 1].load(std::memory_order_acquire));
}

void Metadata::publish_descriptor(BlockNumber block, const BlockDescriptor& descriptor) {
  CHECK(is_described(block));
  chunk_of(block)->descriptors[block.value % kChunkBlocks - 1].store(std::bit_cast<std::uint64_t>(descriptor),
                                                                    std::memory_order_release);
}

Result<ChunkHeader> Metadata::read_header(BlockNumber base, Copy copy) const {
  ChunkHeader header;
  const BlockNumber at = copy == Copy::kPrimary ? base : mirror_of(base);
  TRY(medium_.read(byte_offset(at), std::as_writable_bytes(std::span(&header, 1))));
  if (header.magic != format::kChunkMagic || header.self != base.value || header.crc != chunk_header_crc(header))
    return fail(ErrorCode::kDamaged);
  return header;
}

Result<> Metadata::verify_header_copy(BlockNumber base, Copy copy) const {
  const ChunkHeader on_medium = TRY(read_header(base, copy));
  ChunkHeader expected;
  make_header(base, expected);
  if (std::memcmp(&on_medium, &expected, sizeof expected) != 0) return fail(ErrorCode::kDamaged);
  return {};
}

Result<> Metadata::load_chunks(BlockNumber first) {
  for (BlockNumber base = first; base.value != 0;) {
    const std::string where = "metadata chunk at block " + std::to_string(base.value);
    if (base.value % kChunkBlocks != 0 || base.value + kChunkBlocks > medium_.block_count())
      return fail(ErrorCode::kDamaged, where + ": outside of the pool");
    if (chunk_of(base) != nullptr) return fail(ErrorCode::kDamaged, where + ": the chain of chunks runs in a circle");
    auto header = read_header(base, Copy::kPrimary);
    auto mirror = read_header(base, Copy::kMirror);
    // A copy that could not be written once and can be read again is good but old.
    const bool primary_good = header && (!mirror || header->sequence >= mirror->sequence);
    const bool mirror_good = mirror && (!header || mirror->sequence >= header->sequence);
    if (!primary_good) header = std::move(mirror);
    if (!header) return fail(ErrorCode::kDamaged, where + ": both copies of its header are damaged; run fsck.daxcow");
    for (const BlockDescriptor& block : header->blocks) {
      const bool node = block.type == BlockType::kMapNode;
      if (static_cast<std::uint8_t>(block.type) >= format::kBlockTypeCount ||
          (node ? !format::is_valid_level(block.level) : block.level != 0))
        return fail(ErrorCode::kDamaged, where + ": a block description makes no sense");
    }
    adopt_chunk(base, *header);
    if (!primary_good && on_bad_copy_) on_bad_copy_(BadCopy{base, Copy::kPrimary});
    if (!mirror_good && on_bad_copy_) on_bad_copy_(BadCopy{base, Copy::kMirror});
    base = BlockNumber(header->next);
  }
  return {};
}

void Metadata::add_chunk(BlockNumber base) { adopt_chunk(base, ChunkHeader{}); }

void Metadata::adopt_chunk(BlockNumber base, const ChunkHeader& header) {
  CHECK(base.value % kChunkBlocks == 0 && chunk_of(base) == nullptr);
  auto chunk = std::make_unique<Chunk>();
  chunk->next = header.next;
  chunk->sequence = header.sequence;
  for (std::uint64_t i = 0; i < kChunkPayload; ++i) chunk->descriptors[i] = std::bit_cast<std::uint64_t>(header.blocks[i]);
  for (std::uint64_t i = kChunkPayload; i > 0; --i)  // the lowest block is taken first
    if (header.blocks[i - 1].type == BlockType::kFree) free_.push_back(base.value + i);
  chunks_[base.value / kChunkBlocks].store(chunk.release(), std::memory_order_release);
  chunk_list_.push_back(base);
}

void Metadata::set_header_sequence(BlockNumber base, std::uint64_t sequence) { chunk_of(base)->sequence = sequence; }

void Metadata::set_next_chunk(BlockNumber base, BlockNumber next) { chunk_of(base)->next = next.value; }

void Metadata::make_header(BlockNumber base, ChunkHeader& header) const {
  describe_chunk(base, header);
  header.crc = chunk_header_crc(header);
}

void Metadata::describe_chunk(BlockNumber base, ChunkHeader& header) const {
  const Chunk* chunk = chunk_of(base);
  CHECK(chunk != nullptr);
  std::memset(&header, 0, sizeof header);
  header.magic = format::kChunkMagic;
  header.self = base.value;
  header.next = chunk->next.load(std::memory_order_relaxed);
  header.sequence = chunk->sequence.load(std::memory_order_relaxed);
  for (std::uint64_t i = 0; i < kChunkPayload; ++i)
    header.blocks[i] = std::bit_cast<BlockDescriptor>(chunk->descriptors[i].load(std::memory_order_relaxed));
}

std::optional<BlockNumber> Metadata::take_free() {
  if (free_.empty()) return std::nullopt;
  const BlockNumber block(free_.back());
  free_.pop_back();
  return block;
}

Result<BlockPtr> Metadata::read_copy(BlockNumber block, Copy copy) const {
  if (!is_described(block)) return fail(ErrorCode::kDamaged);
  auto version = make_block_for_overwrite();
  const BlockNumber at = copy == Copy::kPrimary ? block : mirror_of(block);
  TRY(medium_.read(byte_offset(at), version->bytes));
  const BlockDescriptor expected = descriptor(block);
  if (block_crc(block, expected, *version) != expected.crc) return fail(ErrorCode::kDamaged);
  return version;
}

Result<> Metadata::verify_copy(BlockNumber block, Copy copy) const {
  if (block == chunk_base(block)) return verify_header_copy(block, copy);
  if (descriptor(block).type == BlockType::kFree) return {};
  TRY(read_copy(block, copy));
  return {};
}

Result<BlockPtr> Metadata::read(BlockNumber block, BlockType type) {
  if (descriptor(block).type != type || type == BlockType::kFree) return fail(ErrorCode::kDamaged);
  Entry& entry = entry_of(block);
  Shard& shard = shard_of(block);
  const LockGuard guard(shard.mutex);
  if (entry.version) {
    entry.used = true;
    return entry.version;
  }
  auto version = read_copy(block, Copy::kPrimary);
  if (!version) {
    version = read_copy(block, Copy::kMirror);
    if (on_bad_copy_) on_bad_copy_(BadCopy{block, Copy::kPrimary});
    if (!version) {
      if (on_bad_copy_) on_bad_copy_(BadCopy{block, Copy::kMirror});
      return fail(ErrorCode::kDamaged, "metadata block " + std::to_string(block.value) + ": both copies are damaged");
    }
  }
  keep(shard, block, *version);
  return version;
}

void Metadata::keep(Shard& shard, BlockNumber block, BlockPtr version) {
  make_room(shard);
  Entry& entry = entry_of(block);
  entry.version = std::move(version);
  entry.used = true;
  ++shard.cached;
  if (!std::exchange(entry.in_ring, true)) shard.ring.push_back(block);
}

void Metadata::make_room(Shard& shard) {
  // Clock: an entry is evicted when the hand meets it twice without a use in between. Those that were freed fall out on the
  // way. One turn over everything at most; pinned entries are few.
  for (std::size_t steps = 2 * shard.ring.size(); shard.cached >= shard_limit_ && steps > 0; --steps) {
    if (shard.hand >= shard.ring.size()) shard.hand = 0;
    Entry& entry = entry_of(shard.ring[shard.hand]);
    if (entry.version && (entry.used || entry.pins != 0)) {
      entry.used = false;
      ++shard.hand;
      continue;
    }
    if (std::exchange(entry.version, nullptr)) --shard.cached;
    entry.in_ring = false;
    shard.ring[shard.hand] = shard.ring.back();
    shard.ring.pop_back();
  }
}

void Metadata::publish(BlockNumber block, BlockPtr version) {
  CHECK(is_described(block));
  Shard& shard = shard_of(block);
  const LockGuard guard(shard.mutex);
  Entry& entry = entry_of(block);
  ++entry.pins;
  if (entry.version)
    entry.version = std::move(version);
  else
    keep(shard, block, std::move(version));
}

void Metadata::unpin(BlockNumber block) {
  Shard& shard = shard_of(block);
  const LockGuard guard(shard.mutex);
  Entry& entry = entry_of(block);
  CHECK(entry.version && entry.pins > 0);
  --entry.pins;
}

void Metadata::forget(BlockNumber block) {
  Shard& shard = shard_of(block);
  const LockGuard guard(shard.mutex);
  Entry& entry = entry_of(block);
  if (std::exchange(entry.version, nullptr)) --shard.cached;
  entry.pins = 0;
}

std::uint64_t Metadata::cached_bytes() const {
  std::uint64_t blocks = 0;
  for (const Shard& shard : shards_) {
    const LockGuard guard(shard.mutex);
    blocks += shard.cached;
  }
  return blocks * sizeof(Block);
}

}  // namespace daxcow
