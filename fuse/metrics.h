// A pool's figures for Prometheus, in its text format (version 0.0.4), which node_exporter's textfile collector reads
// too.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "engine/events.h"
#include "engine/health.h"
#include "engine/patrol.h"
#include "engine/pool.h"

namespace daxcow {

// One family of samples for each figure, each with the label `pool` (its path), in base units: bytes, seconds. What is
// counted "ever" lives in the pool and survives everything; events are counted since the pool was opened.
std::string metrics_text(const PoolStatistics& statistics, const PoolHealth& health, const ScrubStatus& scrub,
                         const std::map<EventKind, std::uint64_t>& events);

}  // namespace daxcow
