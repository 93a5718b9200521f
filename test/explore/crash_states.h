// Every state in which a power failure during a recorded change could have left the pool.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <string>

#include "test/recording_medium.h"

namespace daxcow::test {

struct CrashOptions {
  // All subsets of the lines under way are made as long as there are at most so many lines...
  unsigned exhaustive_lines = 4;
  // ... and so many samples of them otherwise: none, all, all but some, the first or the last ones, any, torn ones.
  unsigned samples = 12;
};

// Where in a change the power fails.
struct CrashPoint {
  std::size_t drain = 0;   // so many drains have ended
  std::size_t lines = 0;   // lines under way
  std::string choice;      // which of them arrived, for people
  BadRanges bad;           // what the device lists then
};

// Walks the log. `memory` must be as before its first event, and is afterwards as after its last. For each crash state,
// makes it in memory and calls `visit`, which must leave memory as it found it; stops early when that returns false.
// Returns whether the end was reached.
bool for_each_crash(std::span<std::byte> memory, const Log& log, const CrashOptions& options, std::mt19937_64& random,
                    const std::function<bool(const CrashPoint&)>& visit);

}  // namespace daxcow::test
