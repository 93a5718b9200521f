#include "engine/health.h"

#include <bit>
#include <string>

#include "engine/owners.h"
#include "engine/store.h"

namespace daxcow {

const char* name_of(HealthState state) {
  switch (state) {
    case HealthState::kGood:
      return "good";
    case HealthState::kDegraded:
      return "degraded";
    case HealthState::kDataLost:
      return "data-lost";
    case HealthState::kMetadataLost:
      return "metadata-lost";
  }
  return "unknown";
}

Result<PoolHealth> health_of(Store& store) {
  PoolHealth health;
  for (const auto& [block, sectors] : store.ledger().all()) {
    switch (TRY(classify(store, block))) {
      case BlockUse::kData:
        health.lost_blocks += 1;
        health.lost_bytes += static_cast<std::uint64_t>(std::popcount(sectors)) * kSectorBytes;
        break;
      case BlockUse::kMetadata:
      case BlockUse::kMetadataMirror:
      case BlockUse::kJournal:
      case BlockUse::kSuperblock:
        health.bad_copies += 1;
        break;
      case BlockUse::kFree:
      case BlockUse::kQuarantined:
      case BlockUse::kInFlight:
        health.quarantined_blocks += 1;
        break;
    }
  }
  const auto events = store.events().counts();
  if (const auto lost = events.find(EventKind::kMetadataLost); lost != events.end())
    health.metadata_lost = lost->second;
  if (health.metadata_lost != 0)
    health.state = HealthState::kMetadataLost;
  else if (health.lost_blocks != 0)
    health.state = HealthState::kDataLost;
  else if (health.quarantined_blocks != 0 || health.bad_copies != 0)
    health.state = HealthState::kDegraded;
  return health;
}

}  // namespace daxcow
