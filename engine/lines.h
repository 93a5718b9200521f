// The lines of a metadata block, as masks: what a change journals and stores is the lines that differ.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "engine/block.h"
#include "engine/medium.h"
#include "engine/types.h"

namespace daxcow {

// Every commit does this for each block it touches: without calls, and without branches that cannot be foreseen.
inline std::uint64_t changed_lines(const Block& before, const Block& after) {
  constexpr std::size_t kWords = kLineBytes / sizeof(std::uint64_t);
  std::uint64_t mask = 0;
  for (std::uint64_t line = 0; line < kLinesPerBlock; ++line) {
    std::uint64_t a[kWords], b[kWords], difference = 0;
    std::memcpy(a, before.bytes + line * kLineBytes, sizeof a);
    std::memcpy(b, after.bytes + line * kLineBytes, sizeof b);
    for (std::size_t i = 0; i < kWords; ++i) difference |= a[i] ^ b[i];
    mask |= static_cast<std::uint64_t>(difference != 0) << line;
  }
  return mask;
}

// Stores these lines of one copy, a stretch of neighbours at a time. False if any of them failed; the others are stored.
inline bool store_lines(Medium& medium, BlockNumber at, std::uint64_t mask, const Block& content) {
  bool stored = true;
  for (std::uint64_t rest = mask; rest != 0;) {
    const auto first = static_cast<std::uint64_t>(std::countr_zero(rest));
    const auto count = static_cast<std::uint64_t>(std::countr_one(rest >> first));
    const std::uint64_t offset = first * kLineBytes;
    stored &= medium.store(byte_offset(at) + offset, {content.bytes + offset, count * kLineBytes}).has_value();
    if (first + count == kLinesPerBlock) break;
    rest &= ~0ull << (first + count);
  }
  return stored;
}

}  // namespace daxcow
