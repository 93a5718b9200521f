#include "test/fuzz/input.h"

#include <algorithm>
#include <cstring>

namespace daxcow::fuzz {

namespace {
constexpr std::size_t kHeaderBytes = 2;
}

Input decode(std::span<const std::uint8_t> bytes) {
  Input input;
  if (bytes.size() < kHeaderBytes) return input;
  input.base = bytes[0];
  input.flags = bytes[1];
  bytes = bytes.subspan(kHeaderBytes);
  while (bytes.size() >= sizeof(Record) && input.records.size() < kMaximumRecords) {
    Record record;
    std::memcpy(&record, bytes.data(), sizeof record);
    const auto target = static_cast<std::uint8_t>(record.target);
    record.target = static_cast<Target>(target < kFirstOperation ? target % kEdits : kFirstOperation + (target - kFirstOperation) % kOperations);
    record.value_kind = static_cast<ValueKind>(static_cast<std::uint8_t>(record.value_kind) % static_cast<std::uint8_t>(ValueKind::kCount));
    input.records.push_back(record);
    bytes = bytes.subspan(sizeof record);
  }
  return input;
}

std::size_t encode(const Input& input, std::span<std::uint8_t> bytes) {
  if (bytes.size() < kHeaderBytes) return 0;
  bytes[0] = input.base;
  bytes[1] = input.flags;
  const std::size_t records = std::min(input.records.size(), (bytes.size() - kHeaderBytes) / sizeof(Record));
  if (records != 0) std::memcpy(bytes.data() + kHeaderBytes, input.records.data(), records * sizeof(Record));
  return kHeaderBytes + records * sizeof(Record);
}

}  // namespace daxcow::fuzz
