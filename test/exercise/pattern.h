// The bytes that each operation writes: a piece of a table of random bytes, from a place that the operation's number gives.
// So content that is found where it should not be tells which operation wrote it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "test/exercise/random.h"

namespace daxcow::exercise {

class Pattern {
 public:
  Pattern(std::uint64_t seed, unsigned process, std::uint64_t longest_bytes) {
    constexpr std::uint64_t kStreamOfPatterns = 1u << 31;
    Random random(seed, kStreamOfPatterns + process);
    words_.resize((kPlaces + longest_bytes) / sizeof(std::uint64_t) + 1);
    for (auto& word : words_) word = random.next();
  }

  std::span<const std::byte> of(std::uint64_t operation, std::uint64_t length) const {
    return table().subspan(place_of(operation), length);
  }

  // The place in the table where these bytes are, if they are long enough to be no chance.
  std::optional<std::uint64_t> find(std::span<const std::byte> bytes) const;
  static std::uint64_t place_of(std::uint64_t operation) { return (operation * 0x9e3779b97f4a7c15ull) >> 44; }

 private:
  static constexpr std::uint64_t kPlaces = 1u << 20;

  std::span<const std::byte> table() const { return std::as_bytes(std::span(words_)); }

  std::vector<std::uint64_t> words_;
};

}  // namespace daxcow::exercise
