// The graveyard: inode 3 of volume 0, a stack of references to subtrees that were dropped and are too big to free in the
// transaction that dropped them. Its references count like any other, so what it holds is neither free nor lost; a climb
// that ends here finds no owner. Emptied in bounded steps, by this mount or the next.
//
// Worked example: a file of 10 GiB in fragments is unlinked. The unlink moves its root entries here, which costs the same
// for any size. A step pops one: still shared with a clone, and only this reference goes; exclusive, and its child nodes
// take its place on the stack while the node itself is freed. A crash between two steps loses nothing.
#pragma once

#include <cstdint>

#include "engine/inode_table.h"
#include "engine/map.h"
#include "engine/result.h"
#include "engine/store.h"

namespace daxcow {

class PoolGraveyard final : public Graveyard {
 public:
  explicit PoolGraveyard(Store& store) : store_(store), table_(kVolumeZero) {}

  // Under the transaction mutex.
  Result<> bury(Transaction& transaction, MapEntry entry, std::uint8_t log512) override;
  // Buries every node that the fork's root refers to and empties the root. Leaves go with the commit.
  Result<> bury_fork(Transaction& transaction, ForkEdit fork);
  // One bounded step; false if there was nothing to do. Takes the mutex.
  Result<bool> step();

 private:
  Result<> bury_children(Transaction& transaction, MapEntry entry, std::uint8_t log512);
  Result<std::uint64_t> entry_count(const format::InodeRecord& inode) const;
  Result<std::uint64_t*> edit_entry(Transaction& transaction, ForkEdit fork, std::uint64_t index);
  // Swaps an entry with the lowest that is not known to be stuck: what is lost in both copies must not keep the rest.
  Result<> set_aside(std::uint64_t index, std::uint64_t entry);

  Store& store_;
  InodeTable table_;
  // Entries at the bottom that cannot be taken apart; tried again at the next open. Under the transaction mutex.
  std::uint64_t stuck_ = 0;
};

}  // namespace daxcow
