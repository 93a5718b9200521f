// How a pool fares, as one word and the figures behind it: what the ledger says, sorted by what it means for people.
#pragma once

#include <cstdint>

#include "engine/result.h"

namespace daxcow {

class Store;

// From best to worst; what comes later covers what comes before it.
enum class HealthState {
  kGood,          // nothing is known to be wrong
  kDegraded,      // bad blocks that nobody has lost anything by: out of use, or with a second copy
  kDataLost,      // somebody's data cannot be read, until it is replaced or removed
  kMetadataLost,  // both copies of metadata are gone: fsck.daxcow is needed
};
const char* name_of(HealthState state);  // "good", "degraded", "data-lost", "metadata-lost"

struct PoolHealth {
  HealthState state = HealthState::kGood;
  std::uint64_t lost_bytes = 0;   // data in use that cannot be read; once, however many own it
  std::uint64_t lost_blocks = 0;  // the blocks that these bytes are in
  // Bad and out of use: nobody refers to them, and the device did not clear them yet.
  std::uint64_t quarantined_blocks = 0;
  std::uint64_t reserved_blocks = 0;  // bad, in space that files have only reserved: it reads as zeros
  std::uint64_t bad_copies = 0;       // of metadata, journal, superblocks, while the other copy serves
  std::uint64_t metadata_lost = 0;  // metadata blocks that were found lost in both copies since the pool was opened
  bool power_lost = false;          // the platform lost power without flushing during the last use (engine/shutdown.h)
};

// Of all but power_lost. Looks at the ledger and the reverse map, at no block that is bad.
Result<PoolHealth> health_of(Store& store);

}  // namespace daxcow
