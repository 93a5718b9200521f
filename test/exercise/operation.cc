#include "test/exercise/operation.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace daxcow::exercise {

const KindOfOperation& about(Kind kind) {
  // clang-format off
  static constexpr std::array<KindOfOperation, static_cast<std::size_t>(Kind::kCount)> kKinds = {{
      {"read", 100, true},
      {"readv", 20, true},
      {"read, O_DIRECT", 30, true},
      {"read, mapped", 60, true},
      {"store, private mapping", 5, true},
      {"touch behind the end", 2, false},
      {"write", 100, true, true},
      {"writev", 20, true, true},
      {"write, O_DIRECT", 30, true, true},
      {"write, O_SYNC", 10, true, true},
      {"append", 20, false, true},
      {"store, mapped", 60, true, true},
      {"truncate", 40, false},
      {"punch hole", 30, true},
      {"zero range", 15, false},
      {"zero range, keep size", 15, true},
      {"allocate", 15, false},
      {"allocate, keep size", 15, true},
      {"copy within", 25, true},
      {"copy between", 25, true},
      {"copy overlapping", 2, false},
      {"sync", 20, true},
      {"unmap", 10, true},
      {"drop pages", 25, true},
      {"reopen", 10, true},
      {"sparse check", 15, true},
      {"attributes", 40, true},
      {"set times", 4, false},
      {"set mode", 4, false},
      {"compare all", 8, true},
      {"rename", 6, false},
      {"rename over", 4, false},
      {"exchange", 4, false},
      {"link", 4, false},
      {"unlink", 4, false},
      {"replace", 2, false},
      {"list", 3, false},
      {"clone", 0, false},
      {"snapshot", 0, false},
      {"snapshot compared", 0, false},
  }};
  // clang-format on
  return kKinds.at(static_cast<std::size_t>(kind));
}

std::string describe(const Operation& operation) {
  auto text = fmt::format("#{} {}", operation.number, about(operation.kind).name);
  if (operation.world != 0) text += (operation.kind == Kind::kSnapshot ? " " : " in snapshot ") + std::to_string(operation.world);
  if (operation.kind == Kind::kList || operation.kind == Kind::kSnapshot) return text;
  text += fmt::format(" file {}", operation.file);
  if (operation.offset != 0 || operation.length != 0)
    text += fmt::format(", {:#x}+{:#x}", operation.offset, operation.length);
  if (operation.other_file) text += fmt::format(" with file {}, {:#x}", *operation.other_file, operation.other_offset);
  if (operation.variant != 0) text += fmt::format(", variant {}", operation.variant);
  return text + fmt::format(", size was {:#x}", operation.size_before);
}

Operation& History::add(const Operation& operation) {
  auto& place = ring_[count_ % kLength];
  place = operation;
  place.number = ++count_;
  return place;
}

std::string History::last(unsigned file, std::size_t lines) const {
  std::vector<std::string> found;
  for (std::uint64_t back = 0; back < std::min<std::uint64_t>(count_, kLength) && found.size() < lines; ++back) {
    const auto& operation = ring_[(count_ - 1 - back) % kLength];
    if (operation.file == file || operation.other_file == file) found.push_back(describe(operation));
  }
  std::string text;
  for (auto line = found.rbegin(); line != found.rend(); ++line) text += "  " + *line + "\n";
  return text;
}

std::string History::origin(std::span<const std::byte> bytes, const Pattern& pattern) const {
  if (std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; })) return "zeros";
  const auto place = pattern.find(bytes);
  if (!place) return "bytes that this process has not written";
  for (std::uint64_t back = 0; back < std::min<std::uint64_t>(count_, kLength); ++back) {
    const auto& operation = ring_[(count_ - 1 - back) % kLength];
    if (!about(operation.kind).writes) continue;
    const auto start = Pattern::place_of(operation.number);
    if (*place < start || *place - start >= operation.length) continue;
    return fmt::format("what {} had for {:#x}", describe(operation), operation.offset + (*place - start));
  }
  return "bytes that this process has written long ago";
}

}  // namespace daxcow::exercise
