#include "test/exercise/pattern.h"

#include <algorithm>
#include <functional>

namespace daxcow::exercise {

std::optional<std::uint64_t> Pattern::find(std::span<const std::byte> bytes) const {
  constexpr std::size_t kTelling = 6;
  if (bytes.size() < kTelling) return std::nullopt;
  const auto all = table();
  const auto found = std::search(all.begin(), all.end(), std::boyer_moore_searcher(bytes.begin(), bytes.end()));
  if (found == all.end()) return std::nullopt;
  return static_cast<std::uint64_t>(found - all.begin());
}

}  // namespace daxcow::exercise
