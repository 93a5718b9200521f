// The seed of a random test: printed when it fails, and taken from DAXCOW_SEED to replay that run.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>

namespace daxcow::test {

inline std::uint64_t random_seed() {
  const char* const given = std::getenv("DAXCOW_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
}

inline std::string describe_seed(std::uint64_t seed) { return "replay with DAXCOW_SEED=" + std::to_string(seed); }

}  // namespace daxcow::test
