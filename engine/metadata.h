// Metadata chunks and the cache of verified block versions.
//
// A chunk is 2 MiB: 256 blocks and, 1 MiB further, their mirror. Its first block (format::ChunkHeader) describes the other
// 255. The descriptors of all chunks are kept in DRAM; everything else is loaded on demand: guarded copy, CRC, and the
// mirror if the primary fails.
//
// Cached versions are immutable and replaced as a whole by publish(). The order in a commit is: journal record durable,
// publish the blocks (pinned), then publish the descriptors, copy home, drain, unpin. A load holds its cache shard's lock
// from the look-up to the insertion, so it sees either the old block with the old descriptor, or finds the new version.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/block.h"
#include "engine/format.h"
#include "engine/medium.h"
#include "engine/mutex.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

enum class Copy { kPrimary, kMirror };
struct BadCopy {
  BlockNumber block;  // the primary's number, whichever copy is bad
  Copy copy;
  friend constexpr auto operator<=>(const BadCopy&, const BadCopy&) = default;
};

class Metadata final : public BlockReader {
 public:
  Metadata(Medium& medium, std::uint64_t cache_bytes);
  ~Metadata() override;

  // --- chunks (changes: under the transaction mutex) ---------------------------------------------------------------------
  // Follows the chain of chunks from `first`. kDamaged when a header is bad in both copies or the chain makes no sense.
  Result<> load_chunks(BlockNumber first);
  // Takes note of a chunk that is on the medium already and linked.
  void add_chunk(BlockNumber base);
  // Takes note of a chunk with this header, which the caller has verified or made up. For repair.
  void adopt_chunk(BlockNumber base, const format::ChunkHeader& header);
  // What a copy of a header says, if it verifies.
  Result<format::ChunkHeader> read_header(BlockNumber base, Copy copy) const;
  BlockNumber last_chunk() const { return chunk_list_.back(); }
  const std::vector<BlockNumber>& chunks() const { return chunk_list_; }
  // The header block of a chunk as it has to be on the medium now, CRC included.
  void make_header(BlockNumber base, format::ChunkHeader& header) const;
  // The same without the CRC, for one that changes it.
  void describe_chunk(BlockNumber base, format::ChunkHeader& header) const;
  void set_next_chunk(BlockNumber base, BlockNumber next);
  void set_header_sequence(BlockNumber base, std::uint64_t sequence);

  // True for every block of a chunk: header, primary or mirror.
  bool in_chunk(BlockNumber block) const { return chunk_of(block) != nullptr; }
  // True for the blocks that a descriptor describes (primaries).
  bool is_described(BlockNumber block) const;
  static BlockNumber chunk_base(BlockNumber block) { return BlockNumber(block.value / format::kChunkBlocks * format::kChunkBlocks); }
  static BlockNumber mirror_of(BlockNumber block) { return block + format::kMirrorBlocks; }

  // The published descriptor; type kFree for anything that is not a described block. Any thread.
  format::BlockDescriptor descriptor(BlockNumber block) const;
  void publish_descriptor(BlockNumber block, const format::BlockDescriptor& descriptor);

  // --- free blocks inside chunks (under the transaction mutex) -------------------------------------------------------------
  std::uint64_t free_count() const { return free_.size(); }
  std::uint64_t block_count() const { return chunk_list_.size() * format::kChunkPayload; }
  std::optional<BlockNumber> take_free();
  void give_back(BlockNumber block) { free_.push_back(block.value); }
  // Takes this block out of the free ones, if it is one. Linear in their number: for repair.
  void withdraw_free(BlockNumber block) { std::erase(free_, block.value); }

  // --- versions (any thread) -----------------------------------------------------------------------------------------------
  Result<BlockPtr> read(BlockNumber block, format::BlockType type) override;
  // Reads one copy from the medium and verifies it, past the cache.
  Result<BlockPtr> read_copy(BlockNumber block, Copy copy) const;
  Result<> verify_header_copy(BlockNumber base, Copy copy) const;
  // Either of the two, as the block is; a free one has nothing to verify.
  Result<> verify_copy(BlockNumber block, Copy copy) const;

  // Makes `version` what read() returns; it stays cached until unpin().
  void publish(BlockNumber block, BlockPtr version);
  void unpin(BlockNumber block);
  void forget(BlockNumber block);  // the block was freed
  std::uint64_t cached_bytes() const;

  // Called (from any thread, no locks held but the shard's) when a copy failed verification.
  void set_bad_copy_handler(std::function<void(BadCopy)> handler) { on_bad_copy_ = std::move(handler); }

 private:
  struct Entry {
    BlockPtr version;  // null: not cached
    std::uint32_t pins = 0;
    bool used = false;
    bool in_ring = false;  // its shard's; also after it was freed, until the hand comes by
  };
  struct Chunk {
    std::atomic<std::uint64_t> next{0};
    std::atomic<std::uint64_t> sequence{0};
    std::array<std::atomic<std::uint64_t>, format::kChunkPayload> descriptors;
    std::array<Entry, format::kChunkPayload> entries;  // the cache, by place; each guarded by its block's shard
  };
  struct Shard {
    mutable Mutex mutex;
    std::size_t cached GUARDED_BY(mutex) = 0;           // entries with a version
    std::vector<BlockNumber> ring GUARDED_BY(mutex);  // in clock order
    std::size_t hand GUARDED_BY(mutex) = 0;
  };
  static constexpr std::size_t kShards = 64;

  Chunk* chunk_of(BlockNumber block) const;
  Shard& shard_of(BlockNumber block) { return shards_[std::hash<BlockNumber>{}(block) % kShards]; }
  Entry& entry_of(BlockNumber block) { return chunk_of(block)->entries[block.value % format::kChunkBlocks - 1]; }
  void keep(Shard& shard, BlockNumber block, BlockPtr version) REQUIRES(shard.mutex);
  void make_room(Shard& shard) REQUIRES(shard.mutex);

  Medium& medium_;
  std::size_t shard_limit_;
  // One pointer for each 2 MiB of the pool; null where there is no chunk.
  std::unique_ptr<std::atomic<Chunk*>[]> chunks_;
  std::uint64_t chunk_slots_;
  std::vector<BlockNumber> chunk_list_;
  std::vector<std::uint64_t> free_;
  std::array<Shard, kShards> shards_;
  std::function<void(BadCopy)> on_bad_copy_;
};

}  // namespace daxcow
