#include "test/fuzz/image_mutator.h"

#include <algorithm>
#include <random>

#include "engine/format.h"
#include "test/fuzz/base_images.h"

namespace daxcow::fuzz {

namespace {

using Random = std::mt19937_64;

std::uint64_t below(Random& random, std::uint64_t limit) { return random() % limit; }
bool once_in(Random& random, std::uint64_t times) { return below(random, times) == 0; }

// Small numbers mostly.
std::uint16_t ordinal(Random& random) {
  return static_cast<std::uint16_t>(below(random, 1ull << (1 + below(random, once_in(random, 4) ? 16 : 6))));
}

std::uint64_t entry_flags(Random& random) {
  static constexpr std::uint64_t kFlags[] = {1, 3, 1, 3, 5, 7, 9, 11, 0, 2};
  return once_in(random, 5) ? below(random, 4096) : kFlags[below(random, std::size(kFlags))] | below(random, 8) << format::kEntryLevelShift * once_in(random, 3);
}

void choose_value(Record& record, Random& random) {
  record.value_kind = static_cast<ValueKind>(below(random, static_cast<std::uint64_t>(ValueKind::kCount)));
  const std::uint64_t flags = entry_flags(random) << 32;
  switch (record.value_kind) {
    case ValueKind::kLiteral: record.value = below(random, 1ull << below(random, 64)); break;
    case ValueKind::kAdd: record.value = below(random, 4) - 2 + (below(random, 3) - 1) * (1ull << below(random, 64)); break;
    case ValueKind::kXor: record.value = 1ull << below(random, 64) | (once_in(random, 3) ? 1ull << below(random, 64) : 0); break;
    case ValueKind::kInteresting: record.value = below(random, 256); break;
    case ValueKind::kBlock:
    case ValueKind::kEntry: {
      const std::uint64_t distance = once_in(random, 4) ? below(random, 256) << 24 : 0;
      record.value = ordinal(random) | below(random, format::kBlockTypeCount) << 16 | distance | flags;
      break;
    }
    case ValueKind::kDataEntry: record.value = below(random, 4100) | flags; break;
    case ValueKind::kSelf: record.value = below(random, 3) - 1; break;
    case ValueKind::kSelfEntry: record.value = flags; break;
    case ValueKind::kOther:
    case ValueKind::kCount: record.value = below(random, 512) | below(random, 64) << 16; break;
  }
}

void choose_how(Record& record, Random& random) {
  record.how = 0;
  if (once_in(random, 12)) record.how |= once_in(random, 2) ? kPrimaryOnly : kMirrorOnly;
  if (once_in(random, 24)) record.how |= kLeaveBlockCrc;
  if (once_in(random, 48)) record.how |= kLeaveHeaderCrc;
  if (once_in(random, 4)) record.how |= kAnySlot;
}

void choose_target(Record& record, Random& random) {
  static constexpr Target kLikely[] = {Target::kMapEntry, Target::kMapEntry, Target::kInode, Target::kInode, Target::kInode, Target::kGranule,
                                       Target::kDescriptor, Target::kRecord, Target::kRecord, Target::kGraveyard, Target::kAttribute};
  if (once_in(random, 3))
    record.target = static_cast<Target>(kFirstOperation + below(random, kOperations));
  else if (once_in(random, 2))
    record.target = kLikely[below(random, std::size(kLikely))];
  else
    record.target = static_cast<Target>(below(random, kEdits));
}

Record new_record(Random& random) {
  Record record;
  choose_target(record, random);
  choose_how(record, random);
  choose_value(record, random);
  record.block = ordinal(random);
  record.slot = ordinal(random);
  record.field = static_cast<std::uint8_t>(random());
  return record;
}

void change(Record& record, Random& random, const std::function<void(std::span<std::uint8_t>)>& any) {
  switch (below(random, 9)) {
    case 0: choose_target(record, random); break;
    case 1: choose_how(record, random); break;
    case 2: record.block = ordinal(random); break;
    case 3: record.slot = ordinal(random); break;
    case 4: record.field = static_cast<std::uint8_t>(random()); break;
    case 5: record.value += below(random, 3) - 1; break;
    case 6:
      if (record.value_kind == ValueKind::kLiteral || !record.is_edit()) {
        any({reinterpret_cast<std::uint8_t*>(&record.value), sizeof record.value});
        break;
      }
      [[fallthrough]];
    default: choose_value(record, random); break;
  }
}

}  // namespace

Input mutate(Input input, std::uint64_t seed, const std::function<void(std::span<std::uint8_t>)>& any) {
  Random random(seed);
  auto& records = input.records;
  for (std::uint64_t steps = 1 + below(random, 4); steps > 0; --steps) {
    const std::uint64_t at = records.empty() ? 0 : below(random, records.size());
    const std::uint64_t what = below(random, 16);
    if (records.empty() || (what < 6 && records.size() < kMaximumRecords)) {
      records.insert(records.begin() + static_cast<std::ptrdiff_t>(at), new_record(random));
    } else if (what < 12) {
      change(records[at], random, any);
    } else if (what == 12) {
      records.erase(records.begin() + static_cast<std::ptrdiff_t>(at));
    } else if (what == 13) {
      if (records.size() < kMaximumRecords) records.push_back(records[at]);
      change(records.back(), random, any);
    } else if (what == 14) {
      std::swap(records[at], records[below(random, records.size())]);
    } else if (once_in(random, 3)) {
      input.base = static_cast<std::uint8_t>(below(random, kBaseKinds));
    } else {
      input.flags = static_cast<std::uint8_t>(input.flags ^ 1u << below(random, 8));
    }
  }
  return input;
}

Input cross(const Input& one, const Input& other, std::uint64_t seed) {
  Random random(seed);
  Input made{.base = once_in(random, 2) ? one.base : other.base, .flags = once_in(random, 2) ? one.flags : other.flags, .records = {}};
  for (const Record& record : one.records)
    if (!once_in(random, 3)) made.records.push_back(record);
  for (const Record& record : other.records)
    if (!once_in(random, 3) && made.records.size() < kMaximumRecords) made.records.push_back(record);
  return made;
}

}  // namespace daxcow::fuzz
