// Free runs of the pool, in DRAM only: the complement of the reverse map, built by the scan at open.
//
// Nothing here is on the medium: after a crash the runs that were handed out but not yet referenced are free again,
// because the scan finds no record of them.
//
// Thread-safe (one leaf lock). A run handed out belongs to the caller until it is referenced by a committed transaction
// or given back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/mutex.h"
#include "engine/types.h"

namespace daxcow {

class Space {
 public:
  Space();
  ~Space();

  // Adds a free run. Merges with its neighbours. O(log runs); O(1) where the run lies beyond all others, as in the scan at
  // open. Returns how many blocks of it were not free before: all of them, but for damage.
  std::uint64_t release(BlockRun run);

  // Takes between 1 and `wanted` contiguous blocks: at `goal` if that is free, else where the most of `wanted` fits
  // (near the goal where there is a choice; a request of 512 blocks or more starts at a multiple of 512 when it can).
  // At least `keep` blocks stay free. Returns a run of count 0 if nothing is free beyond them.
  BlockRun allocate(BlockNumber goal, std::uint64_t wanted, std::uint64_t keep = 0);
  // Takes a chunk: kChunkBlocks blocks aligned to kChunkBlocks, the highest there is, so that chunks gather at the end
  // of the pool and data stays contiguous. Count 0 if there is none.
  BlockRun allocate_chunk();
  // Takes those parts of `run` that are free out of circulation and returns them, ascending.
  std::vector<BlockRun> withdraw(BlockRun run);

  bool is_free(BlockNumber block) const;
  // True if any block of the run is free.
  bool touches(BlockRun run) const;
  std::uint64_t free_blocks() const;
  // All free runs, ascending.
  std::vector<BlockRun> free_runs() const;
  std::size_t memory_bytes() const;

 private:
  class Runs;  // the free runs and the indexes over them

  mutable Mutex mutex_;
  std::unique_ptr<Runs> runs_ PT_GUARDED_BY(mutex_);
};

}  // namespace daxcow
