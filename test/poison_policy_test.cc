#include "engine/poison_policy.h"

#include "catch.h"

using namespace daxcow;

TEST_CASE("poison policy: words", "[poison]") {
  using Signal = PoisonPolicy::Signal;
  const auto is = [](const char* text, Signal signal, bool zero) {
    const auto policy = parse_poison_policy(text);
    return policy && policy->signal == signal && policy->zero == zero;
  };
  CHECK(is("early", Signal::kEarly, false));
  CHECK(is("late", Signal::kLate, false));
  CHECK(is("none,error", Signal::kNone, false));
  CHECK(is("zero", Signal::kEarly, true));
  CHECK(is("zero,late,zero", Signal::kLate, true));
  for (const char* text : {"", "late,", ",late", "early,late", "error,zero", "Late", "late zero"})
    CHECK_FALSE(parse_poison_policy(text).has_value());
}
