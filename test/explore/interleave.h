// Runs plans: opens a pool on a recording, lets the threads of a plan go in the order that its seed says, and looks whether
// their answers and the pool's content can be explained (history.h), also after a crash at some point of it.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "test/explore/plan.h"

namespace daxcow::test {

struct InterleaveOptions {
  unsigned threads = 0;  // of a run; 0: 2 to 4
  bool free = false;     // threads run as they like, and no order is chosen
  unsigned crash_states = 12;  // looked at in a run with a crash, about
};

struct InterleaveTally {
  std::uint64_t runs = 0, calls = 0, refused = 0, points = 0, switches = 0, crash_states = 0, fingerprint = 0;
  std::vector<std::string> failures;
  void add(const InterleaveTally& other);
};

class Interleaving {
 public:
  explicit Interleaving(const InterleaveOptions& options) : options_(options) {}
  // Whether all was well.
  bool run(std::uint64_t seed);
  const InterleaveTally& tally() const { return tally_; }
  bool say_all = false;  // prints every run's calls

 private:
  std::span<std::byte> load(Scene scene);
  std::string perform(const Plan& plan, Recording& recording, std::vector<Call>& calls);
  std::string finish(const Plan& plan, Stage& stage, Dump& live);
  std::string crash(const Plan& plan, Recording& recording, const Log& log, const ModelState& start, const std::vector<Call>& calls);
  std::string look(const Plan& plan, Recording& recording, const ModelState& start, const std::vector<Call>& calls, std::size_t position);

  InterleaveOptions options_;
  std::map<Scene, std::vector<std::byte>> images_;  // undone after each run
  std::map<Scene, ModelState> contents_;
  InterleaveTally tally_;
};

}  // namespace daxcow::test
