// Repair of a pool that is not mounted: makes it what the checker (engine/checker.h) finds clean, and keeps all that
// can be known. What is lost is said.
//
// The order makes it safe. First everything that is kept twice is made good twice; then blocks that are lost in both
// copies are rebuilt from the reverse map, and what the trees cannot keep is removed from them; then the reverse map is
// made to say what the trees say. From there on the pool is one that can be opened, and names, links and orphans are
// put right by ordinary transactions. Every step is a journalled transaction or a store to the copy that is not in use:
// a repair that is stopped at any point leaves a pool that the next one repairs as well.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checker.h"
#include "engine/medium.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

enum class RepairMode {
  kSafe,  // only what loses nothing and needs nobody's decision; nothing at all if there is more than that to do
  kAll,
};

struct RepairOptions {
  RepairMode mode = RepairMode::kAll;
  // What is going on, and how far that has come; may be empty.
  std::function<void(std::string_view phase, std::uint64_t done, std::uint64_t total)> progress;
};

// One thing that was changed.
struct RepairAction {
  BlockNumber block;
  std::string where;  // for people
  std::string what;
  bool loss = false;  // something that the pool held could not be kept
};

struct RepairReport {
  CheckReport before;                 // what was found
  CheckReport after;                  // what is left; the same as `before` if nothing was done
  std::vector<RepairAction> actions;  // in their order; at most kMaximumActions are kept
  std::uint64_t action_count = 0;
  bool needs_all = false;  // mode kSafe: there is damage that only kAll repairs
  bool clean() const { return after.clean(); }
  static constexpr std::size_t kMaximumActions = 10'000;
};

// The medium must be writable, and nobody else may use it. kReadOnly; kNotAPool, kVersion; kDamaged and kNoSpace for
// what cannot be repaired (what was repaired before stays so); kIo. Whatever the image says, it ends and stays in its
// bounds.
Result<RepairReport> repair(std::unique_ptr<Medium> medium, const RepairOptions& options);

}  // namespace daxcow
