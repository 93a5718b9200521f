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

namespace {

// Whether anybody has written to the block: who has only reserved it reads zeros, whatever becomes of it.
Result<bool> is_written(Store& store, BlockNumber block) {
  const LockGuard guard(store.mutex);
  bool written = false;
  TRY(store.reverse_map().for_each_covering(store.metadata(), {block, 1}, [&](const format::ReverseRecord& record) {
    if (record.kind == format::RecordKind::kLedger) return true;
    written = (record.flags & format::kRecordUnwritten) == 0;
    return !written;
  }));
  return written;
}

}  // namespace

Result<PoolHealth> health_of(Store& store) {
  PoolHealth health;
  for (const auto& [block, sectors] : store.ledger().all()) {
    switch (TRY(classify(store, block))) {
      case BlockUse::kData:
        if (!TRY(is_written(store, block))) {
          health.reserved_blocks += 1;
          break;
        }
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
  else if (health.quarantined_blocks != 0 || health.reserved_blocks != 0 || health.bad_copies != 0)
    health.state = HealthState::kDegraded;
  return health;
}

}  // namespace daxcow
