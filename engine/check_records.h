// The reverse map against the references that the trees hold: both must be the same multiset of records.
//
// Comparing needs no memory while they are the same: each side is a count and two sums of keyed hashes. Only when these
// differ are the records themselves collected, sorted and compared, in slices that bound the memory.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/check_context.h"
#include "engine/format.h"
#include "engine/function_ref.h"
#include "engine/types.h"

namespace daxcow {
class ReverseMap;
}

namespace daxcow::checker {

// A fingerprint of a multiset of records. The keys are random, so that no image can be made to fit.
class Tally {
 public:
  Tally();
  void add(const format::ReverseRecord& record);
  std::uint64_t count() const { return count_; }
  // With the keys of `other`, so that the two can be compared.
  static Tally like(const Tally& other);
  friend bool operator==(const Tally&, const Tally&) = default;

 private:
  std::array<std::uint64_t, 2> keys_;
  std::array<std::uint64_t, 2> sums_{};
  std::uint64_t count_ = 0;
};

class ReverseScan {
 public:
  explicit ReverseScan(Context& context) : context_(context) {}

  // Reads every leaf: order and sanity, the ledger into context.bad, holds, what is used, shared and free.
  void scan();
  // Compares with the records that `expected` names (it may be called several times and must name the same each time);
  // the system's own are added here.
  using Visit = FunctionRef<void(const format::ReverseRecord&)>;
  void compare(const Tally& expected_trees, FunctionRef<void(Visit)> expected);
  // An empty tally that compare() understands.
  Tally empty_tally() const { return Tally::like(found_); }
  // The parts of the pool without any record, ascending.
  const std::vector<BlockRun>& free_runs() const { return free_; }

 private:
  struct Leaf;
  void read_leaf(BlockNumber block, std::vector<Leaf>& leaves, ReverseMap& probe);
  void sweep(const std::vector<Leaf>& leaves);
  void sweep_record(const format::ReverseRecord& record);
  void for_each_record(Visit visit);
  void compare_slice(std::uint64_t slice, std::uint64_t slices, FunctionRef<void(Visit)> expected);
  void report(const format::ReverseRecord& record, bool missing);

  Context& context_;
  Tally found_;  // kTree and kSystem
  std::vector<BlockNumber> leaf_blocks_;
  std::vector<BlockRun> free_;
  // Of the sweep: everything below is accounted for, is covered by a data reference, by two.
  std::uint64_t covered_ = 0, data_covered_ = 0, shared_covered_ = 0;
};

}  // namespace daxcow::checker
