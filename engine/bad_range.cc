#include "engine/bad_range.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include "engine/check.h"
#include "engine/ledger.h"

namespace daxcow {

namespace {

std::uint64_t end_of(const BadRange& range) { return range.offset_bytes + range.length_bytes; }

std::string_view without_blanks_before(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r");
  return first == text.npos ? std::string_view{} : text.substr(first);
}

// Takes a decimal number off the front of the text.
std::optional<std::uint64_t> take_number(std::string_view& text) {
  text = without_blanks_before(text);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

std::optional<BadRange> parse_line(std::string_view line) {
  const auto sector = take_number(line);
  if (!sector || (!line.starts_with(' ') && !line.starts_with('\t'))) return std::nullopt;
  const auto count = take_number(line);
  if (!count || *count == 0 || !without_blanks_before(line).empty()) return std::nullopt;
  constexpr std::uint64_t kSectorLimit = std::numeric_limits<std::uint64_t>::max() / kSectorBytes;
  if (*sector >= kSectorLimit) return std::nullopt;
  return BadRange{*sector * kSectorBytes, std::min(*count, kSectorLimit - *sector) * kSectorBytes};
}

}  // namespace

BadRanges normalise(BadRanges ranges) {
  std::erase_if(ranges, [](const BadRange& range) { return range.length_bytes == 0; });
  std::ranges::sort(ranges);
  BadRanges merged;
  for (const BadRange& range : ranges) {
    if (!merged.empty() && range.offset_bytes <= end_of(merged.back())) {
      merged.back().length_bytes = std::max(end_of(merged.back()), end_of(range)) - merged.back().offset_bytes;
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

BadRanges unite(BadRanges a, const BadRanges& b) {
  a.insert(a.end(), b.begin(), b.end());
  return normalise(std::move(a));
}

BadRanges subtract(BadRanges a, BadRanges b) {
  a = normalise(std::move(a));
  b = normalise(std::move(b));
  BadRanges left;
  auto hole = b.begin();
  for (const BadRange& range : a) {
    std::uint64_t from = range.offset_bytes;
    while (hole != b.end() && end_of(*hole) <= from) ++hole;
    // A hole may reach into the next range of `a`, so the outer iterator stays on the last one looked at.
    for (auto cut = hole; cut != b.end() && cut->offset_bytes < end_of(range); ++cut) {
      if (cut->offset_bytes > from) left.push_back({from, cut->offset_bytes - from});
      from = end_of(*cut);
    }
    if (from < end_of(range)) left.push_back({from, end_of(range) - from});
  }
  return left;
}

BadRanges intersect(BadRanges a, BadRanges b) {
  a = normalise(std::move(a));
  b = normalise(std::move(b));
  BadRanges common;
  for (auto x = a.begin(), y = b.begin(); x != a.end() && y != b.end();) {
    const std::uint64_t from = std::max(x->offset_bytes, y->offset_bytes);
    const std::uint64_t to = std::min(end_of(*x), end_of(*y));
    if (from < to) common.push_back({from, to - from});
    if (end_of(*x) < end_of(*y)) {
      ++x;
    } else {
      ++y;
    }
  }
  return common;
}

BadRanges clip(BadRanges ranges, std::uint64_t start_bytes, std::uint64_t length_bytes) {
  const std::uint64_t limit = std::numeric_limits<std::uint64_t>::max() - start_bytes;
  ranges = intersect(std::move(ranges), {{start_bytes, std::min(length_bytes, limit)}});
  for (BadRange& range : ranges) range.offset_bytes -= start_bytes;
  return ranges;
}

BadRanges whole_blocks(BadRanges ranges) {
  ranges = normalise(std::move(ranges));  // an empty range must not become a block
  for (BadRange& range : ranges) {
    const std::uint64_t first = range.offset_bytes / kBlockBytes * kBlockBytes;
    range.length_bytes = blocks_for(end_of(range) - first) * kBlockBytes;
    range.offset_bytes = first;
  }
  return normalise(std::move(ranges));
}

bool overlaps(const BadRanges& normalised, BadRange range) {
  if (range.length_bytes == 0) return false;
  const auto after = std::ranges::upper_bound(normalised, range.offset_bytes, {}, end_of);
  return after != normalised.end() && after->offset_bytes < end_of(range);
}

std::uint8_t unreadable_sectors(Medium& medium, BlockNumber block) {
  std::uint8_t bad = 0;
  for (std::uint64_t sector = 0; sector < kSectorsPerBlock; ++sector) {
    std::byte content[kSectorBytes];
    if (!medium.read(byte_offset(block) + sector * kSectorBytes, content)) bad |= static_cast<std::uint8_t>(1u << sector);
  }
  return bad != 0 ? bad : kWholeBlock;
}

BadRanges parse_badblocks(std::string_view text) {
  BadRanges ranges;
  while (!text.empty()) {
    const std::size_t newline = text.find('\n');
    if (const auto range = parse_line(text.substr(0, newline))) ranges.push_back(*range);
    text.remove_prefix(newline == text.npos ? text.size() : newline + 1);
  }
  return normalise(std::move(ranges));
}

std::string format_badblocks(const BadRanges& ranges) {
  std::string text;
  for (const BadRange& range : ranges) {
    CHECK(range.offset_bytes % kSectorBytes == 0 && range.length_bytes % kSectorBytes == 0);
    text += std::to_string(range.offset_bytes / kSectorBytes) + ' ' +
            std::to_string(range.length_bytes / kSectorBytes) + '\n';
  }
  return text;
}

}  // namespace daxcow
