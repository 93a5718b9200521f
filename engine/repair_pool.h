// What the steps of a repair share: the pool as blocks, chunks and journal, without a Store, which opens sound pools
// only; and the list of what was done.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/format.h"
#include "engine/function_ref.h"
#include "engine/journal.h"
#include "engine/medium.h"
#include "engine/metadata.h"
#include "engine/pool_layout.h"
#include "engine/raw_editor.h"
#include "engine/repair.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow::repairer {

class Actions {
 public:
  explicit Actions(RepairReport& report) : report_(report) {}
  void add(BlockNumber block, std::string where, std::string what);
  // Something that the pool held is gone.
  void add_loss(BlockNumber block, std::string where, std::string what);
  std::uint64_t count() const { return report_.action_count; }
  // False when no more are kept, only counted: nobody will read where it was.
  bool has_room() const { return report_.actions.size() < RepairReport::kMaximumActions; }

 private:
  void add(RepairAction action);
  RepairReport& report_;
};

class RepairPool {
 public:
  RepairPool(Medium& m, const format::Superblock& sb, Actions& a);

  Medium& medium;
  const format::Superblock superblock;
  const std::uint64_t pool_blocks;
  Actions& actions;
  Metadata metadata;
  Journal journal;
  RawEditor editor;
  // Blocks of which the chunk's header does not say what they are: its copies are lost, or their descriptor makes no
  // sense.
  std::set<std::uint64_t> undescribed;

  // Commits when much is pending.
  Result<> commit_if_large() { return editor.large() ? editor.commit() : Result<>{}; }
  bool is_data_space(BlockRun run) const { return daxcow::is_data_space(metadata, pool_blocks, run); }
  // Visits all described blocks and their descriptors, pending changes included.
  void for_each_block(FunctionRef<void(BlockNumber, const format::BlockDescriptor&)> visit) const;
  // Visits the records of all reverse-map leaves that can be read, whatever they say, until it returns false.
  void for_each_record(FunctionRef<bool(BlockNumber leaf, const format::ReverseRecord&)> visit);
};

// "map node, block 1234"
std::string block_place(format::BlockType type, BlockNumber block);

// --- the steps, in their order ---------------------------------------------------------------------------------------

// repair_superblock.cc: the superblock that describes the pool, written to where its copies belong. kNotAPool and
// kDamaged if there is nothing to make one from.
Result<format::Superblock> repair_superblock(Medium& medium, Actions& actions);
// repair_chunks.cc: applies the journal, follows the chain of chunks and closes its gaps. What lost headers described
// is `undescribed` afterwards.
Result<> recover_journal(RepairPool& pool);
Result<> repair_chunks(RepairPool& pool);
// The content of a block whose description is lost, if that can be a leaf of the reverse map.
std::optional<Block> leaf_without_description(RepairPool& pool, BlockNumber block);
// repair_descriptors.cc: finds out what undescribed blocks are. Writes the headers.
Result<> repair_descriptors(RepairPool& pool);
// repair_copies.cc: makes both copies of everything equal that is good in one.
Result<> repair_copies(RepairPool& pool);
// repair_blocks.cc: rebuilds blocks that are lost in both copies; gives those back that cannot be rebuilt.
Result<> repair_blocks(RepairPool& pool);
// repair_trees.cc: removes what trees cannot keep and corrects what follows from content alone.
Result<> repair_trees(RepairPool& pool);
// repair_records.cc: frees what nothing leads to and makes the reverse map equal to the references.
Result<> repair_records(RepairPool& pool);
// repair_names.cc: names, links, orphans and bad data, by transactions of an open pool.
Result<> repair_names(Medium& medium, Actions& actions);

}  // namespace daxcow::repairer
