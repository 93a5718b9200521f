// Gives a block's content another place: every reference to the block is made to refer to a copy of it.
//
// This is the one change of shared metadata in place. It is none of content: whoever reads through a shared node finds
// the same bytes, or the same references, at another address.
//
// Each transaction moves a few references, to a block of their own. So a copy has all its owners from the moment it has
// any, and nobody who finds himself its only owner can change it before the others have come. What many files share
// through few map nodes has few references, and stays shared by all.
//
// Worked example: a block has 20 references, and the machine stops after the second transaction. 16 of them are at
// their new places; the others still refer to the block, which is in the ledger, and are lost as they would have been
// without this.
#pragma once

#include <cstdint>

#include "engine/block.h"
#include "engine/result.h"
#include "engine/store.h"
#include "engine/types.h"

namespace daxcow {

// Moves the references to data block `from`, but those of the graveyard, to blocks with this content. Returns how many
// references were moved; an error (kNoSpace, say) tells that some are left. `from` must not change meanwhile: it must
// be in the ledger, with the operations that may still store to it irrelevant to the content. Not in an operation.
Result<std::uint64_t> repoint(Store& store, BlockNumber from, const Block& content) EXCLUDES(store.mutex);

// The same for a block of metadata of which one copy can be read and the other does not keep what is written to it. It is in
// the ledger, so it is not used again. False if nobody but the graveyard refers to it, or if it is no metadata block in use. kUnsupported for the roots, which everything
// else is found from.
Result<bool> move_metadata(Store& store, BlockNumber from) EXCLUDES(store.mutex);

}  // namespace daxcow
