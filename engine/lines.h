// The lines of a metadata block, as masks: what a change journals and stores is the lines that differ.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "engine/block.h"
#include "engine/medium.h"
#include "engine/types.h"

namespace daxcow {

// Every commit does this for each block it touches: in wide words, without calls or branches.
inline std::uint64_t changed_lines(const Block& before, const Block& after) {
  using Word = std::uint64_t __attribute__((vector_size(16), may_alias));
  constexpr std::uint64_t kWords = kLineBytes / sizeof(Word);
  static_assert(kWords == 4 && alignof(Block) % sizeof(Word) == 0);
  const auto* a = reinterpret_cast<const Word*>(before.bytes);
  const auto* b = reinterpret_cast<const Word*>(after.bytes);
  std::uint64_t mask = 0;
  for (std::uint64_t line = 0; line < kLinesPerBlock; ++line, a += kWords, b += kWords) {
    const Word difference = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]);
    mask |= static_cast<std::uint64_t>((difference[0] | difference[1]) != 0) << line;
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
