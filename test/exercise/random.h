// Random choices that are the same on every machine for the same seed. Nothing else may decide what an exerciser does next:
// neither time nor what the filesystem answers.
#pragma once

#include <cstdint>
#include <random>

namespace daxcow::exercise {

class Random {
 public:
  Random(std::uint64_t seed, std::uint64_t stream) {
    std::seed_seq mixed{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32), static_cast<std::uint32_t>(stream)};
    engine_.seed(mixed);
  }

  std::uint64_t next() { return engine_(); }
  // 0 to limit - 1.
  std::uint64_t below(std::uint64_t limit) {
    return static_cast<std::uint64_t>(static_cast<unsigned __int128>(next()) * limit >> 64);
  }
  std::uint64_t between(std::uint64_t least, std::uint64_t most) { return least + below(most - least + 1); }
  bool one_in(std::uint64_t count) { return below(count) == 0; }

 private:
  std::mt19937_64 engine_;
};

}  // namespace daxcow::exercise
