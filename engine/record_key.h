// The order of reverse-map records, shared by the records' leaves and the index over them.
#pragma once

#include <compare>
#include <cstdint>
#include <cstring>

#include "engine/format.h"

namespace daxcow {

// Records are ordered by first block, then source, slot, kind. No two records have equal keys: the source is part of
// the key so that one of a block's 100,000 owners is found without passing the others.
struct RecordKey {
  std::uint64_t first = 0;
  std::uint64_t source = 0;
  std::uint16_t slot = 0;
  format::RecordKind kind{};
  friend constexpr auto operator<=>(const RecordKey&, const RecordKey&) = default;
};

constexpr RecordKey key_of(const format::ReverseRecord& record) {
  return {.first = record.first, .source = record.source, .slot = record.slot, .kind = record.kind};
}

// A total order, so that equal records of two lists meet.
inline bool record_before(const format::ReverseRecord& a, const format::ReverseRecord& b) {
  const RecordKey left = key_of(a), right = key_of(b);
  return left != right ? left < right : std::memcmp(&a, &b, sizeof a) < 0;
}

}  // namespace daxcow
