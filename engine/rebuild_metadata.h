// A metadata block that is lost in both copies, made again while the pool is in use.
//
// A map node or a block of the graveyard is nothing but references, and the reverse map has each of them. A leaf of the
// reverse map is nothing but records, and the blocks they come from imply each of them; the index in DRAM knows which
// keys the leaf had, and how many. What comes out is believed only if it is proved to be what was lost: by the checksum
// that the chunk's header still has of the block, or by the number of records. Inodes, names and attributes say more
// than others know of them: they are fsck.daxcow's to save.
//
// Linear in the size of the metadata.
#pragma once

#include "engine/result.h"
#include "engine/store.h"
#include "engine/types.h"

namespace daxcow {

// After success the block is read as before, and a leaf is home already; other types are still to be written home.
// kDamaged if it cannot be had back.
Result<> rebuild_metadata(Store& store, BlockNumber block) REQUIRES(store.mutex);

}  // namespace daxcow
