// How the explorations open the pool of a recording, and what the checker says of it.
#pragma once

#include <memory>
#include <string>

#include "engine/checker.h"
#include "engine/patrol.h"
#include "engine/pool.h"
#include "test/recording_medium.h"

namespace daxcow::test {

inline Result<std::unique_ptr<Pool>> open_pool(Recording& recording, bool small_cache = false) {
  PoolOptions options{.background = false, .leaves_reclaiming = true, .log = {}};
  if (small_cache) options.cache_bytes = options.directory_bytes = 0;
  return Pool::open(std::make_unique<RecordingMedium>(recording), options);
}

// The first inconsistency, in words; "" if there is none but bad blocks.
inline std::string first_inconsistency(const CheckReport& report) {
  for (const Finding& finding : report.findings)
    if (finding.severity != Severity::kNote && finding.kind != FindingKind::kPoisoned)
      return std::string(name_of(finding.kind)) + ": block " + std::to_string(finding.block.value) + ": " +
             finding.where + ": " + finding.what;
  return "";
}

// What is remembered of the scrub, but for its amount.
inline bool is_same(const ScrubStatus& a, const ScrubStatus& b) {
  return a.state == b.state && a.place == b.place && a.bytes_per_second == b.bytes_per_second &&
         a.found_blocks == b.found_blocks && a.started_seconds == b.started_seconds &&
         a.finished_seconds == b.finished_seconds && a.passes == b.passes;
}

inline std::string text_of(const ScrubStatus& status) {
  return std::string(name_of(status.state)) + " at " + std::to_string(status.place) + ", " +
         std::to_string(status.found_blocks) + " found, begun " + std::to_string(status.started_seconds) + ", ended " +
         std::to_string(status.finished_seconds) + ", pass " + std::to_string(status.passes);
}

// "" if the checker finds nothing.
inline std::string check_clean(Pool& pool, const std::string& when) {
  const auto report = check(pool, {.progress = {}});
  const std::string found = report ? first_inconsistency(*report) : describe(report.error());
  return found.empty() ? "" : when + ": check: " + found;
}

}  // namespace daxcow::test
