// What the parts of the checker share: the pool as it is looked at, and what has been learned about its blocks.
//
// The checker works on the medium and its metadata blocks, not on an open Store, so that it has as much to say about a
// pool that does not open. It trusts no count and no address of the image: blocks are read through Metadata (which
// verifies them), every metadata block's content is walked once, and recursion follows levels that only go down.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/check_findings.h"
#include "engine/check_paths.h"
#include "engine/checker.h"
#include "engine/format.h"
#include "engine/medium.h"
#include "engine/metadata.h"
#include "engine/types.h"

namespace daxcow::checker {

// Numbers the blocks that descriptors describe 0, 1, 2, ..., so that what is known of them fits vectors.
class DescribedBlocks {
 public:
  DescribedBlocks(const std::vector<BlockNumber>& chunks, std::uint64_t pool_blocks);

  std::size_t size() const { return size_; }
  // Of a described block; others are the caller's error.
  std::size_t index(BlockNumber block) const {
    return ordinals_[block.value / format::kChunkBlocks] * format::kMirrorBlocks + block.value % format::kChunkBlocks;
  }

 private:
  std::vector<std::uint32_t> ordinals_;  // by 2 MiB of the pool; 0 where there is no chunk
  std::size_t size_;
};

// Blocks with lost sectors: those of the ledger, and those that only the device knows of yet.
class BadBlocks {
 public:
  struct Bad {
    std::uint64_t block;
    bool in_ledger;
  };
  void add(BlockNumber block, bool in_ledger) { blocks_.push_back({block.value, in_ledger}); }
  void sort();  // after the last add(); a block added twice stays as the ledger knows it
  bool empty() const { return blocks_.empty(); }
  bool in_ledger(BlockNumber block) const;
  bool touches(BlockRun run) const;
  // Those inside `run`, ascending.
  std::pair<const Bad*, const Bad*> in(BlockRun run) const;

 private:
  std::vector<Bad> blocks_;
};

struct Context {
  Context(Medium& m, Metadata& md, const format::Superblock& sb, const CheckOptions& o, CheckReport& r);

  Medium& medium;
  Metadata& metadata;
  const format::Superblock& superblock;
  const CheckOptions& options;
  CheckReport& report;
  const std::uint64_t pool_blocks;
  const DescribedBlocks described;
  Paths paths;
  Findings findings;
  BadBlocks bad;

  // Counts work; `total` was set by whoever knew it.
  void advance();
  std::uint64_t work_done = 0, work_total = 0;
};

std::string block_name(BlockNumber block);
const char* name_of(format::BlockType type);

}  // namespace daxcow::checker
