// Durations of single operations, for medians and tails.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

namespace daxcow::bench {

inline std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count());
}

class Samples {
 public:
  template <class F>
  std::uint64_t time(F&& operation) {
    const auto start = now_ns();
    operation();
    const auto taken = now_ns() - start;
    nanoseconds_.push_back(taken);
    return taken;
  }
  void add(std::uint64_t nanoseconds) { nanoseconds_.push_back(nanoseconds); }
  std::size_t count() const { return nanoseconds_.size(); }
  // The smallest sample that `share` (0 to 1) of all are not above; 0 without samples.
  double quantile(double share) {
    if (nanoseconds_.empty()) return 0;
    const auto place =
        std::min(nanoseconds_.size() - 1, static_cast<std::size_t>(share * static_cast<double>(nanoseconds_.size())));
    std::nth_element(nanoseconds_.begin(), nanoseconds_.begin() + static_cast<std::ptrdiff_t>(place),
                     nanoseconds_.end());
    return static_cast<double>(nanoseconds_[place]);
  }
  double median() { return quantile(0.5); }

 private:
  std::vector<std::uint64_t> nanoseconds_;
};

}  // namespace daxcow::bench
