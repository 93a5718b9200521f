// What is to happen when data of a file is lost, as its users want it.
//
// An extended attribute of the file, or of the nearest directory above it that has one; that of the volume's root is
// the volume's. So what is below a directory follows it at once, however old it is, and creating files costs nothing.
// Words separated by commas:
//
//   early   processes that map lost pages are sent SIGBUS at once (if nothing is said)
//   late    they get it when they touch such a page
//   none    nor are pages taken from the kernel that it still has
//   error   reading what is lost fails with EIO (if nothing is said)
//   zero    it reads as zeros, and that is logged: for caches and the like, whose users check what they read. Nobody
//           is signalled
#pragma once

#include <optional>
#include <string_view>

namespace daxcow {

struct PoisonPolicy {
  enum class Signal { kEarly, kLate, kNone };
  Signal signal = Signal::kEarly;
  bool zero = false;
};

inline constexpr std::string_view kPoisonPolicyAttribute = "user.daxcow.on_poison";

// Nothing if a word is unknown, or contradicts another.
std::optional<PoisonPolicy> parse_poison_policy(std::string_view text);

}  // namespace daxcow
