#include "engine/poison_policy.h"

namespace daxcow {

std::optional<PoisonPolicy> parse_poison_policy(std::string_view text) {
  std::optional<PoisonPolicy::Signal> signal;
  std::optional<bool> zero;
  while (true) {
    const auto comma = text.find(',');
    const std::string_view word = text.substr(0, comma);
    const auto signal_before = signal;
    const auto zero_before = zero;
    if (word == "early") {
      signal = PoisonPolicy::Signal::kEarly;
    } else if (word == "late") {
      signal = PoisonPolicy::Signal::kLate;
    } else if (word == "none") {
      signal = PoisonPolicy::Signal::kNone;
    } else if (word == "error" || word == "zero") {
      zero = word == "zero";
    } else {
      return std::nullopt;
    }
    if ((signal_before && signal_before != signal) || (zero_before && zero_before != zero)) return std::nullopt;
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
  }
  return PoisonPolicy{.signal = signal.value_or(PoisonPolicy::Signal::kEarly), .zero = zero.value_or(false)};
}

}  // namespace daxcow
