// The part of a file that one process owns: all of it, or every n-th stripe.
#pragma once

#include <algorithm>
#include <cstdint>

#include "test/exercise/random.h"

namespace daxcow::exercise {

struct Range {
  std::uint64_t offset = 0, length = 0;
  std::uint64_t end() const { return offset + length; }
};

class Territory {
 public:
  explicit Territory(std::uint64_t file_bytes) : file_bytes_(file_bytes), stripe_bytes_(file_bytes) {}
  Territory(std::uint64_t file_bytes, std::uint64_t stripe_bytes, unsigned owners, unsigned owner)
      : file_bytes_(file_bytes), stripe_bytes_(stripe_bytes), owners_(owners), owner_(owner) {}

  bool is_whole() const { return owners_ == 1; }

  // A range of its own, of 1 to `longest` bytes, that ends at `limit` at most. Empty if there is none.
  Range pick(Random& random, std::uint64_t limit, std::uint64_t longest) const {
    limit = std::min(limit, file_bytes_);
    const std::uint64_t stripes = (limit + stripe_bytes_ - 1) / stripe_bytes_;
    const std::uint64_t own = (stripes + owners_ - 1 - owner_) / owners_;
    if (own == 0) return {};
    const std::uint64_t start = (random.below(own) * owners_ + owner_) * stripe_bytes_;
    return pick_within(random, start, std::min(start + stripe_bytes_, limit), longest);
  }

  // Calls `use` for each part of the range that is its own.
  template <class Use>
  void each(Range range, Use use) const {
    for (auto offset = range.offset; offset < range.end();) {
      const auto stripe = offset / stripe_bytes_;
      const auto end = std::min((stripe + 1) * stripe_bytes_, range.end());
      if (stripe % owners_ == owner_) use(Range{offset, end - offset});
      offset = end;
    }
  }

 private:
  // Short, medium and long ones; some that begin at pages, some that end at them or where the room ends.
  static Range pick_within(Random& random, std::uint64_t start, std::uint64_t end, std::uint64_t longest) {
    constexpr std::uint64_t kPage = 4096;
    const std::uint64_t room = end - start;
    longest = std::min(longest, room);
    const std::uint64_t length = random.between(1, std::min<std::uint64_t>(longest, std::uint64_t{64} << (5 * random.below(3))));
    std::uint64_t offset = start + random.below(room - length + 1);
    Range range{offset, length};
    switch (random.below(8)) {
      case 0:
      case 1:
        range.offset = std::max(start, offset / kPage * kPage);
        break;
      case 2:  // whole pages, if one fits
        if (length >= kPage) {
          range.offset = std::max(start, offset / kPage * kPage);
          range.length = length / kPage * kPage;
        }
        break;
      case 3:
        range.offset = end - length;
        break;
    }
    return range;
  }

  std::uint64_t file_bytes_, stripe_bytes_;
  unsigned owners_ = 1, owner_ = 0;
};

}  // namespace daxcow::exercise
