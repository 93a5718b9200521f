// A metadata block in memory, and the two ways to get at one: as a reader, or through a transaction as an editor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "engine/format.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

struct alignas(kLineBytes) Block {
  std::byte bytes[kBlockBytes];

  template <class T>
  const T& as() const {
    static_assert(sizeof(T) == kBlockBytes);
    return *reinterpret_cast<const T*>(bytes);
  }
  template <class T>
  T& as() {
    static_assert(sizeof(T) == kBlockBytes);
    return *reinterpret_cast<T*>(bytes);
  }
};

inline constexpr Block kZeroBlock{};
inline bool is_zero(const Block& block) { return std::memcmp(block.bytes, kZeroBlock.bytes, kBlockBytes) == 0; }

// A version of a block. Published versions never change; holding one keeps it alive, not current.
using BlockPtr = std::shared_ptr<const Block>;

// A block that becomes a version: of zeros, a copy, or with any content. Thread-safe.
std::shared_ptr<Block> make_block();
std::shared_ptr<Block> copy_block(const Block& from);
std::shared_ptr<Block> make_block_for_overwrite();

class BlockReader {
 public:
  virtual ~BlockReader() = default;
  // The block's current version, verified. kDamaged if no copy is good, or the block is not of this type (also when
  // `block` is not a metadata block at all: addresses come from images that may be hostile).
  virtual Result<BlockPtr> read(BlockNumber block, format::BlockType type) = 0;
};

// What a transaction offers to the layers above it. One thread only.
class BlockEditor : public BlockReader {
 public:
  // A private, writable copy of the block, the same one for every call within this transaction; read() sees it too.
  // The pointer is valid until the transaction ends.
  virtual Result<Block*> edit(BlockNumber block, format::BlockType type) = 0;
  // A new zeroed metadata block. `level` and `leaf_kind` are for map nodes, else 0 and kData. kNeedChunk or kNoSpace when
  // the transaction's class may not take another block.
  virtual Result<BlockNumber> allocate(format::BlockType type, std::uint8_t level, format::LeafKind leaf_kind) = 0;
  // Frees a block that nothing refers to by nature (reverse-map leaves). All other blocks are freed by commit, when their
  // last reference is gone.
  virtual void release(BlockNumber block) = 0;
};

}  // namespace daxcow
