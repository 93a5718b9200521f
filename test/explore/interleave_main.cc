// daxcow_interleave: threads of short random programs on one pool, one at a time in an order that a seed decides, and every
// answer checked against a model. A failure prints the run's seed; --replay SEED does that run again.
#include <atomic>
#include <boost/program_options.hpp>
#include <chrono>
#include <iostream>
#include <mutex>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "test/explore/interleave.h"

using namespace daxcow::test;
namespace po = boost::program_options;

int main(int argc, char** argv) {
  po::options_description options("Usage: daxcow_interleave [OPTION...]\n\nOptions");
  std::uint64_t seed = 0, replay = 0, runs = 0;
  unsigned seconds = 40, workers = 0;
  bool stop = false;
  InterleaveOptions interleave;
  // clang-format off
  options.add_options()
    ("help,h", "print this")
    ("seed", po::value(&seed), "of the first run; the others follow it (default: a new one, printed)")
    ("seconds", po::value(&seconds)->default_value(seconds), "begin no further run after so many; 0: no limit")
    ("runs", po::value(&runs)->default_value(0), "so many at most; 0: no limit")
    ("threads-per-run", po::value(&interleave.threads)->default_value(0), "2 to 4; 0: different from run to run")
    ("free", po::bool_switch(&interleave.free), "let the threads go as they like (for sanitizers); does not replay")
    ("crash-states", po::value(&interleave.crash_states)->default_value(interleave.crash_states), "looked at in a run with a crash, about")
    ("stop-at-failure", po::bool_switch(&stop), "end at the first failure")
    ("workers", po::value(&workers)->default_value(0), "runs at a time; 0: as many as there are CPUs")
    ("replay", po::value(&replay), "do the run with this seed twice, and print it");
  // clang-format on
  po::variables_map given;
  try {
    po::store(po::parse_command_line(argc, argv, options), given);
    po::notify(given);
    if (interleave.threads > 4) throw po::error("more than 4 threads cannot be explained in time");
  } catch (const po::error& error) {
    std::cerr << "daxcow_interleave: " << error.what() << "; see --help\n";
    return 2;
  }
  if (given.count("help")) {
    std::cout << options;
    return 0;
  }
  if (given.count("replay")) {
    std::uint64_t fingerprints[2];
    bool good = true;
    for (std::uint64_t& fingerprint : fingerprints) {
      Interleaving run(interleave);
      run.say_all = &fingerprint == &fingerprints[0];
      good &= run.run(replay);
      fingerprint = run.tally().fingerprint;
      for (const std::string& failure : run.tally().failures)
        if (run.say_all) std::cout << "FAILED " << failure << "\n";
    }
    if (fingerprints[0] != fingerprints[1] && !interleave.free) std::cout << "the two runs took different orders\n";
    return good ? 0 : 1;
  }
  if (!given.count("seed")) seed = (std::uint64_t{std::random_device()()} << 20);
  if (workers == 0) workers = std::max(1u, std::thread::hardware_concurrency());
  std::cout << "seed " << seed << std::endl;

  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  std::atomic<std::uint64_t> next{0}, failed{0};
  std::mutex mutex;
  InterleaveTally total;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < workers; ++i)
    threads.emplace_back([&] {
      Interleaving interleaving(interleave);
      while ((seconds == 0 || elapsed() < seconds) && failed < (stop ? 1 : 10)) {
        const std::uint64_t run = next++;
        if (runs != 0 && run >= runs) break;
        if (interleaving.run(seed + run)) continue;
        if (failed++ != 0) continue;
        const std::lock_guard guard(mutex);
        std::cout << fmt::format("first failure after {:.1f} s and {} runs", elapsed(), next.load()) << std::endl;
      }
      const std::lock_guard guard(mutex);
      total.add(interleaving.tally());
    });
  for (auto& thread : threads) thread.join();

  for (const std::string& failure : total.failures) std::cout << "FAILED " << failure << "\n";
  std::cout << fmt::format(
      "{} interleavings of {} operations ({} refused), {} scheduling points, {} switches\n"
      "{} crash states\n"
      "{} failures in {:.1f} s, seed {}\n",
      total.runs, total.calls, total.refused, total.points, total.switches, total.crash_states, total.failures.size(), elapsed(), seed);
  if (!total.failures.empty())
    std::cout << "replay with: daxcow_interleave --replay SEED" << (interleave.threads != 0 ? fmt::format(" --threads-per-run {}", interleave.threads) : "") << "\n";
  return total.failures.empty() ? 0 : 1;
}
