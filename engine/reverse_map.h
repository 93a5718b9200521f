// The reverse map: every reference to every block of the pool, keyed by the run of blocks it points to. It is the truth
// about space: a block without a record is free, a block that more than one reference covers is shared.
//
// Records live in leaf blocks (format::ReverseLeaf), unsorted inside a leaf; the index over the leaves lives in DRAM
// only and is rebuilt by the scan at open.
//
// Not thread-safe: the transaction mutex guards it. Changes belong to a transaction (the editor) and must be followed
// by keep_changes() when it has committed or drop_changes() when it was aborted, which restores the index.
//
// Worked example: a transaction splits a leaf (63 records move to a new leaf block) and the machine stops. Before the
// commit point neither block is on the medium, after it both are: the scan at the next open finds the records in one
// leaf or in two, never in both, and builds the index from what it finds. The index itself has nothing to recover.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "engine/block.h"
#include "engine/format.h"
#include "engine/record_key.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

class ReverseMap {
 public:
  ReverseMap();
  ~ReverseMap();

  // --- open: every leaf once, in any order, then finish ---

  // Takes note of a leaf found in a chunk. kDamaged if its records make no sense (outside of `pool_blocks`, empty runs,
  // unknown kinds, duplicate keys), if it is empty or if something is in a slot that is not used.
  Result<> add_leaf(BlockNumber leaf, const format::ReverseLeaf& content, std::uint64_t pool_blocks);
  // kDamaged if leaves overlap.
  Result<> finish_open();

  // --- changes ---
  //
  // What a change may cost the transaction at most: an insert that splits a leaf allocates one and edits the old one
  // wholly; an erase that merges two leaves releases one and edits up to 33 lines of the other; a replace edits one
  // line. After an error the transaction must be aborted: a change may have been made in part.

  // kDamaged if a record with this key exists, or if the record makes no sense (add_leaf would refuse it).
  Result<> insert(BlockEditor& editor, const format::ReverseRecord& record);
  // Erases the record with this key. kDamaged if there is none, or if it differs from `record` in any field.
  Result<> erase(BlockEditor& editor, const format::ReverseRecord& record);
  // Replaces a record by one with the same key (a run grew or shrank at its end). kDamaged if there is none, if it differs
  // from `before` in any field, or if the new one makes no sense.
  Result<> replace(BlockEditor& editor, const format::ReverseRecord& before, const format::ReverseRecord& record);
  // Gives a leaf's records another block and releases the leaf. kDamaged if it is none. Linear in the number of leaves.
  Result<> move_leaf(BlockEditor& editor, BlockNumber leaf);
  void keep_changes();
  void drop_changes();

  // --- questions: answered as of the reader's view (a transaction sees its own changes) ---
  //
  // The callbacks must not change the map.

  // Calls visit for every record that covers any block of `run`, in key order. Stops when visit returns false. The cost
  // is O(log leaves) for each leaf that holds such records.
  Result<> for_each_covering(BlockReader& reader, BlockRun run,
                             const std::function<bool(const format::ReverseRecord&)>& visit) const;
  // Number of references (kTree and kHold records) that cover `block`, counted up to `limit`; the search ends there.
  Result<unsigned> count_references(BlockReader& reader, BlockNumber block, unsigned limit) const;
  // True if some block in `run` is covered by two or more references (kTree, kHold). For data runs. The search ends at
  // the first such block.
  Result<bool> any_shared(BlockReader& reader, BlockRun run) const;
  // The parts of `run` that no kTree, kHold or kSystem record covers, ascending. However many records cover a block,
  // those beyond the first few are not looked at.
  Result<> for_each_unreferenced(BlockReader& reader, BlockRun run, const std::function<void(BlockRun)>& visit) const;
  // All records in key order, so with ascending `first` (for the scan that builds free space, the checker, repair).
  Result<> for_each_record(BlockReader& reader, const std::function<bool(const format::ReverseRecord&)>& visit) const;

  // Which keys a leaf has, and how many, from the index alone. Linear in the number of leaves.
  struct LeafKeys {
    RecordKey smallest;
    std::optional<RecordKey> next;  // the smallest of the leaf behind it
    unsigned count = 0;
  };
  std::optional<LeafKeys> keys_of_leaf(BlockNumber leaf) const;

  std::uint64_t leaf_count() const;
  std::uint64_t record_count() const;
  std::size_t memory_bytes() const;  // DRAM used by the index
  // Compares the index with the leaves; kDamaged where they differ. Reads every leaf: for tests and the checker.
  Result<> verify(BlockReader& reader) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace daxcow
