// An atomic change of metadata blocks.
//
// A transaction builds new versions of the blocks it edits and publishes them at commit. What it must not forget is
// computed, not requested: the dirty lines by comparing versions, the reverse map's records by comparing what the versions
// refer to, and the freed blocks as those that the reverse map no longer covers. So to drop a reference, clear its slot.
//
// One at a time, under the transaction mutex (Store::run makes and commits them). Aborting, also in the middle of commit()
// before the journal record is written, leaves no trace.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <boost/container/flat_map.hpp>
#include <boost/container/small_vector.hpp>

#include "engine/block.h"
#include "engine/format.h"
#include "engine/references.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

class Store;

// Who may take the last free metadata blocks: removing may take some to begin with (paths that a snapshot shares are copied, a
// long run is split), so each class leaves some to those that can be relied on more to give back.
enum class TransactionClass {
  kNormal,     // makes things: leaves the whole reserve alone
  kShrinking,  // removes parts of files
  kRemoving,   // removes names
  kFreeing,    // empties and reclaims files
  kReleasing,  // certain to release, or keeps the pool sound: takes the last one
};
constexpr std::uint64_t blocks_left_by(TransactionClass transaction_class) {
  constexpr std::uint64_t kBlocks[] = {96, 72, 48, 24, 0};
  return kBlocks[static_cast<std::size_t>(transaction_class)];
}

class Transaction final : public BlockEditor {
 public:
  Transaction(Store& store, TransactionClass transaction_class);
  ~Transaction() override;
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  // BlockEditor
  Result<BlockPtr> read(BlockNumber block, format::BlockType type) override;
  Result<Block*> edit(BlockNumber block, format::BlockType type) override;
  Result<BlockNumber> allocate(format::BlockType type, std::uint8_t level, format::LeafKind leaf_kind) override;
  void release(BlockNumber block) override;
  // A block in use, of a type that refers to nothing, whose content is lost: starts from zeros.
  Result<Block*> remake(BlockNumber block);

  // The descriptor as this transaction sees it.
  format::BlockDescriptor descriptor(BlockNumber block) const;
  // Number of references to a block as of before this transaction's edits (they reach the reverse map at commit).
  Result<unsigned> references_before(BlockNumber block, unsigned limit);

  // Records that no block's content implies: holds, the ledger, chunks.
  Result<> insert_record(const format::ReverseRecord& record);
  Result<> erase_record(const format::ReverseRecord& record);
  // Sets a block's entry in the poison ledger (mask 0: removes it), in the reverse map and, at commit, in DRAM.
  Result<> set_ledger(BlockNumber block, std::uint8_t sector_mask);
  // Hooks a new chunk behind the last one.
  void link_chunk(BlockNumber last, BlockNumber next) { linked_chunk_ = {last, next}; }

  // Runs after the commit, still under the mutex; not at all when the transaction is aborted.
  void on_commit(std::function<void()> action) { on_commit_.push_back(std::move(action)); }

  Store& store() { return store_; }

 private:
  friend class Store;
  // By block number. Most transactions concern four or five blocks of one or two chunks.
  template <class T>
  using Few = boost::container::flat_map<std::uint64_t, T, std::less<>, boost::container::small_vector<std::pair<std::uint64_t, T>, 8>>;
  struct Dirty {
    std::shared_ptr<Block> copy;  // null for a block that is only freed
    BlockPtr before;              // null for a new block
    format::BlockDescriptor descriptor{};
    bool is_new = false;
    bool freed = false;
    std::uint64_t line_mask = 0;  // computed at commit
  };

  Result<> commit();
  Result<> update_reverse_map();
  Result<> free_unreferenced(std::vector<BlockRun>& candidates);
  Result<> free_block(BlockNumber block, std::vector<BlockRun>& candidates);
  Result<> check_target(BlockRun run) const;
  Result<> apply_changes(const RecordChanges& changes, std::vector<BlockRun>& candidates);
  Result<> write_new_blocks();
  void seal_blocks();
  void make_headers();
  void write_home();
  void publish();
  void abort();

  Store& store_;
  TransactionClass class_;
  Few<Dirty> dirty_;
  std::vector<BlockNumber> new_blocks_;
  std::vector<BlockNumber> withheld_;
  std::vector<std::function<void()>> on_commit_;
  std::vector<BlockRun> freed_data_;
  std::vector<std::pair<BlockNumber, std::uint8_t>> ledger_changes_;
  std::pair<BlockNumber, BlockNumber> linked_chunk_{};
  struct Header {
    std::shared_ptr<Block> content;
    std::uint64_t line_mask;
  };
  Few<Header> headers_;
  bool done_ = false;
};

}  // namespace daxcow
