// Rewriting one copy of what the pool has twice: superblocks, the journal's record area, chunk headers, metadata
// blocks.
//
// Always whole blocks, from content that is known to be good: from memory (headers, the journal's record, the
// superblock) or from the version that passed its check. A copy that was bad is never patched, and never trusted before
// it is rewritten: the lines of older commits that could not be stored to it are missing.
#pragma once

#include "engine/metadata.h"
#include "engine/result.h"
#include "engine/store.h"
#include "engine/types.h"

namespace daxcow {

enum class Mended {
  kRewritten,  // from the good copy
  kUnused,     // nothing was in it; the device works again there
  kWasGood,    // nothing done
  kLost,       // the other copy is bad too
};

// Clears the block on the device, rewrites and verifies it. `block`: any for which has_second_copy() is true. The error
// says why the block could not be made to work (kPoisoned, kUnsupported, ...): it is as bad as before.
Result<Mended> mend_poisoned(Store& store, BlockNumber block) EXCLUDES(store.mutex);

// Checks a copy again (who reported it may have read it in the middle of a commit) and rewrites it if it fails its
// check. kPoisoned if it cannot be read: see mend_poisoned().
Result<Mended> mend_failed(Store& store, BadCopy copy) EXCLUDES(store.mutex);

// The block where a copy is, and the other way round.
BlockNumber place_of_copy(BadCopy copy);
BadCopy copy_at(BlockNumber block);

}  // namespace daxcow
