// The index over the leaves of the reverse map, in DRAM only: an ordered tree (a B+-tree of fan-out 64) of what is
// worth remembering of each leaf, so that one leaf block is read where the map would otherwise have to look at many.
//
// Leaves are ordered by their smallest keys, and a leaf owns the keys from its own smallest to the next leaf's
// smallest. Runs of different owners overlap with different boundaries, so the records that cover a block may lie in
// leaves far before the one that owns its key. Each subtree therefore knows the highest block end below it: a search
// for all that reach beyond a block skips every subtree that ends before it. Of the leaves it yields, at most the last
// can hold no such record: in all others every record begins before the searched run's end, the one that gave the leaf
// its `end` too.
//
// Changes are logged until keep(); drop() undoes them, newest first. Worked example: an insert splits leaf A into A and
// B (A updated, B inserted), then the transaction is aborted: drop() erases B and gives A its old summary, which is
// what the unchanged leaf block on the medium says.
//
// Not thread-safe: the owner's lock guards it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/record_key.h"
#include "engine/types.h"

namespace daxcow {

// What the index knows of a leaf.
struct LeafSummary {
  RecordKey smallest;           // of the leaf's records; unique among leaves
  std::uint64_t end = 0;        // the highest first + length_blocks of its records
  BlockNumber leaf;             // where it is
  std::uint16_t count = 0;      // records in it
  std::uint16_t last_slot = 0;  // where the newest record went; a hint for splits
  friend constexpr bool operator==(const LeafSummary&, const LeafSummary&) = default;
};

class LeafIndex {
 public:
  LeafIndex();
  ~LeafIndex();

  // The new leaf's smallest key must not be in the index.
  void insert(const LeafSummary& leaf);
  // `leaf` as it is in the index.
  void erase(const LeafSummary& leaf);
  // Replaces `from`, as it is in the index. The smallest key may change, but not past a neighbour's.
  void update(const LeafSummary& from, const LeafSummary& to);

  // Makes the changes since the last keep() or drop() permanent, or undoes them.
  void keep();
  void drop();

  // The leaf that owns `key`: the last whose smallest key is not above it, else the first. Nothing if there is no leaf.
  std::optional<LeafSummary> owner(const RecordKey& key) const;
  // The last leaf whose smallest key is below `key`, and the first whose smallest key is above.
  std::optional<LeafSummary> before(const RecordKey& key) const;
  std::optional<LeafSummary> after(const RecordKey& key) const;
  // The first leaf, in key order and after the one whose smallest key is `after`, that may hold a record that covers
  // any block of [low, high): its end is above `low`, its smallest key's first block below `high`. O(log n).
  std::optional<LeafSummary> next_reaching(const std::optional<RecordKey>& after, std::uint64_t low,
                                           std::uint64_t high) const;

  std::size_t size() const { return size_; }
  std::size_t memory_bytes() const;
  // CHECKs that the tree is ordered, its summaries of subtrees are exact and its depth is uniform. For tests.
  void verify() const;

 private:
  struct Node;
  struct Entry;

  struct Change {  // an insert has no `from`, an erase no `to`
    std::optional<LeafSummary> from;
    std::optional<LeafSummary> to;
  };

  void apply(const Change& change);
  std::unique_ptr<Node> place(Node& node, unsigned at, Entry entry);
  std::unique_ptr<Node> insert_below(Node& node, const LeafSummary& leaf);
  void erase_below(Node& node, const LeafSummary& leaf);
  void merge_children(Node& node, unsigned left);
  static void update_below(Node& node, const LeafSummary& from, const LeafSummary& to);
  static std::optional<LeafSummary> reaching_below(const Node& node, const RecordKey* after, std::uint64_t low,
                                                   std::uint64_t high);

  std::unique_ptr<Node> root_;  // never null; a bottom node without entries when there is no leaf
  std::size_t size_ = 0;
  std::size_t node_count_ = 1;
  std::vector<Change> log_;
};

}  // namespace daxcow
