// Runs workloads on a recording, and looks at every state that a crash of their last operation could leave: the pool must
// open, the checker find nothing, and everybody see the operation wholly or not at all.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/patrol.h"
#include "test/dump.h"
#include "test/explore/crash_states.h"
#include "test/explore/world.h"

namespace daxcow::test {

struct Workload {
  const Setup* setup = nullptr;
  std::vector<const Operation*> operations;  // the last one is crashed
  std::string name() const;                  // "plain: create rename"
};

struct ExploreOptions {
  std::uint64_t seed = 0;
  CrashOptions crash;
  // Of so many crash states, one whose recovery is crashed again at each of its drains, and one on which the pool is used
  // afterwards. 0: none.
  unsigned nested_every = 16;
  unsigned use_every = 16;
  CrashOptions nested = {.exhaustive_lines = 2, .samples = 4};
};

struct Tally {
  std::uint64_t workloads = 0, operations = 0, refused = 0, drains = 0, states = 0, nested_states = 0, used = 0;
  std::uint64_t poison_positions = 0, poison_states = 0, repaired = 0;
  std::vector<std::string> failures;  // the first ones
  std::uint64_t failure_count = 0;
  void add(const Tally& other);
};

// One thread's explorer: a pool's memory and the images to begin with.
class Explorer {
 public:
  explicit Explorer(const ExploreOptions& options) : options_(options) {}

  void explore(const Workload& workload);
  // The same change without and with a bad block, of every class in turn: bad before, during and after the last operation,
  // with a crash in it.
  void explore_poison(const Workload& workload);
  const Tally& tally() const { return tally_; }

 private:
  // What can be seen of a pool: by users, and of its scrub.
  struct Seen {
    Dump dump;
    ScrubStatus scrub;
  };
  struct Expected {
    Dump before, after;
    ScrubStatus scrub_before, scrub_after;
    const Operation* operation;
    Atomicity atomicity;
    bool times_are_lazy;  // an operation has overwritten in place: another may commit the times before anything else
  };
  std::vector<std::byte>& load(const Setup& setup);
  // Runs all operations; the log is of the last. Fills what is expected, in which the owners of a block that goes bad
  // sooner or later may have lost it. False if something went wrong already.
  bool run(const Workload& workload, Recording& recording, Log& log, Expected& expected,
           std::optional<BlockNumber> goes_bad = {});
  // Looks at the pool in memory, and leaves memory as it was. An explanation if something is wrong; and the log of the
  // recovery if wanted.
  std::string look(Recording& recording, const Expected& expected, bool use, Log* recovery);
  std::string judge(const Dump& found, const Expected& expected) const;
  std::string compare(Dump found, Dump side, const Expected& expected) const;
  bool may_change(const Expected& expected, const std::string& volume, std::uint64_t number) const;
  std::string judge_scrub(const ScrubStatus& found, const Expected& expected) const;
  std::string check_bystanders(const Expected& expected) const;
  std::string judge_repaired(const Dump& found, const Expected& expected, bool names_may_go) const;
  std::string look_repaired(Recording& recording, const Expected& expected, bool names_may_go);
  void explore_repair(const Workload& workload, BlockNumber block, BlockNumber mirror, const std::string& what,
                      std::mt19937_64& random);
  std::string use(Pool& pool);
  std::string go_on_with_scrub(Pool& pool);
  Result<Seen> seen_as_opened(Recording& recording);
  void fail(const Workload& workload, const std::string& where, const std::string& what);

  ExploreOptions options_;
  std::map<std::string, std::vector<std::byte>> images_;
  std::vector<std::byte> memory_;
  Tally tally_;
};

}  // namespace daxcow::test
