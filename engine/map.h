// Maps: from file blocks to leaf blocks, as radix trees like a page table.
//
// A fork (the data or the attributes of an inode) has 8 root slots of one level in the inode; an entry at level L spans
// 512^(L-1) file blocks and is absent, points to a map node of level L-1, or to that many contiguous leaf blocks. Two
// forks share a subtree when both have an entry for the same node; nothing below a shared node is ever changed.
//
// Editing functions run inside a transaction and need every node that they descend into to be exclusive: call unshare()
// until it returns false, each time in a transaction of its own (it changes no content), before the change itself.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "engine/block.h"
#include "engine/format.h"
#include "engine/function_ref.h"
#include "engine/references.h"
#include "engine/result.h"
#include "engine/transaction.h"
#include "engine/types.h"

namespace daxcow {

struct FileRange {
  FileBlock first;
  std::uint64_t count = 0;
  constexpr FileBlock end() const { return first + count; }
};

inline constexpr std::uint64_t kMaximumFileBlocks = 1ull << 51;  // 2^63 bytes

// A map root, by value.
struct Fork {
  std::array<std::uint64_t, format::kRootSlots> slots{};
  std::uint8_t level = 1;
  format::LeafKind kind = format::LeafKind::kData;

  // File blocks that the root can address.
  std::uint64_t capacity() const { return format::kRootSlots * blocks_spanned(static_cast<std::uint8_t>(level - 1)); }
  bool empty() const;
};
Fork data_fork(const format::InodeRecord& inode, format::LeafKind kind);
Fork attribute_fork(const format::InodeRecord& inode);

// A map root inside an inode that a transaction has in hand. `block_count` counts mapped leaf blocks; may be null.
struct ForkEdit {
  std::uint64_t* slots = nullptr;
  std::uint8_t* level = nullptr;
  std::uint64_t* block_count = nullptr;
  format::LeafKind kind = format::LeafKind::kData;
};
ForkEdit edit_data_fork(format::InodeRecord& inode, format::LeafKind kind);
ForkEdit edit_attribute_fork(format::InodeRecord& inode);

// A stretch of a map: a hole (not present), or `range.count` contiguous leaf blocks from `entry.block()` on.
struct Segment {
  FileRange range;
  MapEntry entry;
};

// --- looking ---------------------------------------------------------------------------------------------------------
// Calls visit for the segments of `range` in order, neighbours merged, clipped to the range, until it returns false.
Result<> for_each_segment(BlockReader& reader, const Fork& fork, FileRange range, FunctionRef<bool(const Segment&)> visit);
// The first segment of `range`.
Result<Segment> first_segment(BlockReader& reader, const Fork& fork, FileRange range);
// The first block of `range` that is written, or the first that is not (a hole, or reserved). Looks at each node once.
Result<std::optional<FileBlock>> first_block(BlockReader& reader, const Fork& fork, FileRange range, bool written);
// The entry that leads to one block as it is in its slot, a run's whole and with what only its holder knows, and the
// slot's span (absent: a hole).
Result<SlotView> slot_of(BlockReader& reader, const Fork& fork, FileBlock block);
// The leaf entry of one block (absent: a hole).
Result<MapEntry> entry_at(BlockReader& reader, const Fork& fork, FileBlock block);
// --- changing ----------------------------------------------------------------------------------------------------------
// Where dropped subtrees go that are too big for one transaction.
class Graveyard {
 public:
  virtual ~Graveyard() = default;
  virtual Result<> bury(Transaction& transaction, MapEntry entry, std::uint8_t log512) = 0;
};

// What unshare() makes exclusive.
enum class Unshare {
  kEdges,   // nodes that `range` covers in part: those that assign() and clear() of the whole range descend into
  kNodes,   // all nodes that `range` touches: before leaves are looked at one by one
  kLeaves,  // and the metadata leaves
};
// Copies at most one shared node (or metadata leaf). Returns true if it did: commit and call again. Top-down, so that what
// is shared below is found by the references of the copy.
Result<bool> unshare(Transaction& transaction, ForkEdit fork, FileRange range, Unshare what);
// The same for a fork as it was read: `edit` is asked for its record only if there is something to copy, for each block that is
// edited is copied and compared.
Result<bool> unshare(Transaction& transaction, const Fork& fork, FileRange range, Unshare what, FunctionRef<Result<ForkEdit>()> edit);
// Makes the root large enough for blocks below `end`.
Result<> raise(Transaction& transaction, ForkEdit fork, FileBlock end);
// Maps `range` to the contiguous blocks from `target` on. What was there is dropped.
Result<> assign(Transaction& transaction, ForkEdit fork, FileRange range, BlockNumber target, bool unwritten,
                Graveyard& graveyard);
// Makes `range` a hole.
Result<> clear(Transaction& transaction, ForkEdit fork, FileRange range, Graveyard& graveyard);
// Makes blocks from range.first on in `to` refer to what `from` has from `source` on; holes too. Whole subtrees where both
// sides allow it, entry by entry elsewhere; unwritten blocks become holes unless they lie in a subtree. Stops when the
// transaction is full enough; returns the blocks done. `from` must not be the edited fork itself if the ranges overlap.
Result<std::uint64_t> share(Transaction& transaction, const Fork& from, FileBlock source, ForkEdit to, FileRange range,
                            Graveyard& graveyard);
// A metadata leaf of the fork for editing: the existing one, which must be exclusive (see unshare), or a new one.
Result<Block*> edit_leaf(Transaction& transaction, ForkEdit fork, FileBlock block, Graveyard& graveyard);

}  // namespace daxcow
