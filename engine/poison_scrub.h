// The search for latent poison: reads everything that is in use once, in an order in which a place is a number. So a
// pass that ended in the middle goes on where it stopped, in another process too.
//
// In a pool of N blocks the places 0 to N-1 are its superblocks, journal and chunks, which come from their own records
// of the reverse map; N to 2N-1 are its data, which comes from the references. What can be mended is read first: what a
// pass finds in data is told, which changes metadata.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/block.h"
#include "engine/metadata.h"
#include "engine/result.h"
#include "engine/store.h"
#include "engine/types.h"

namespace daxcow {

// One pass. Of superblocks, journal, chunks and data in use it reads what is not in the ledger, by guarded reads and
// without the mutex while it reads; of metadata it verifies both copies. What fails goes to Store::suspect() and
// bad_copy(). May run beside everything else. For one thread at a time.
class ScrubPass {
 public:
  explicit ScrubPass(Store& store, std::uint64_t place = 0);

  // Reads on: at most 2 MiB. Returns the blocks read; 0 at the end of the pool.
  Result<std::uint64_t> step() EXCLUDES(store_.mutex);
  // Everything before it has been read.
  std::uint64_t place() const { return place_; }
  // Blocks found bad that nobody knew of.
  std::uint64_t found() const { return found_; }

 private:
  struct Piece {
    BlockRun run;
    bool is_chunk = false;
  };
  Result<> gather() EXCLUDES(store_.mutex);
  void read_run(BlockRun run);
  void read_chunk(BlockNumber base);
  bool read_blocks(BlockRun run);
  void suspect(BlockNumber block);
  void verify(BadCopy copy) EXCLUDES(store_.mutex);

  Store& store_;
  const std::uint64_t pool_blocks_;
  std::uint64_t place_;
  std::vector<Piece> ahead_;  // gathered and not read yet, the nearest last
  std::uint64_t gathered_;    // up to this place
  std::vector<std::byte> buffer_;
  std::uint64_t found_ = 0;
};

// Blocks that a whole pass reads, about.
std::uint64_t blocks_to_scrub(Store& store) EXCLUDES(store.mutex);

}  // namespace daxcow
