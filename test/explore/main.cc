// daxcow_explore: crashes small workloads everywhere, and looks at what is left.
#include <boost/program_options.hpp>
#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iostream>
#include <mutex>
#include <random>
#include <sstream>
#include <thread>

#include "test/explore/explorer.h"

using namespace daxcow::test;
namespace po = boost::program_options;

namespace {

struct Job {
  Workload workload;
  bool poison = false;
};

const Setup* find_setup(const std::string& name) {
  for (const Setup& setup : setups())
    if (name == setup.name) return &setup;
  return nullptr;
}

const Operation* find_operation(const std::string& name) {
  for (const Operation& operation : operations())
    if (name == operation.name) return &operation;
  return nullptr;
}

// "plain: create rename"
std::optional<Workload> parse_workload(const std::string& text) {
  const auto colon = text.find(':');
  if (colon == text.npos) return std::nullopt;
  Workload workload;
  workload.setup = find_setup(text.substr(0, colon));
  std::istringstream rest(text.substr(colon + 1));
  for (std::string name; rest >> name;) {
    workload.operations.push_back(find_operation(name));
    if (workload.operations.back() == nullptr) return std::nullopt;
  }
  if (workload.setup == nullptr || workload.operations.empty()) return std::nullopt;
  return workload;
}

// Singles first, then what `depth` and `sample` ask for, in a random order.
std::vector<Job> make_jobs(unsigned depth, double pair_share, std::size_t triples, double poison_share, std::mt19937_64& random) {
  std::vector<Job> singles, rest;
  const auto chosen = [&](double share) { return std::uniform_real_distribution<>(0, 1)(random) < share; };
  for (const Setup& setup : setups())
    for (const Operation& one : operations()) {
      singles.push_back({{&setup, {&one}}, false});
      if (chosen(poison_share)) rest.push_back({{&setup, {&one}}, true});
      if (depth < 2) continue;
      for (const Operation& two : operations())
        if (chosen(pair_share)) rest.push_back({{&setup, {&one, &two}}, false});
    }
  if (depth >= 3) {
    const auto any = [&] { return &operations()[random() % operations().size()]; };
    for (std::size_t i = 0; i < triples; ++i)
      rest.push_back({{&setups()[random() % setups().size()], {any(), any(), any()}}, false});
  }
  std::shuffle(rest.begin(), rest.end(), random);
  singles.insert(singles.end(), rest.begin(), rest.end());
  return singles;
}

}  // namespace

int main(int argc, char** argv) {
  po::options_description options("Usage: daxcow_explore [OPTION...]\n\nOptions");
  std::uint64_t seed = 0;
  unsigned depth = 2, threads = 0, seconds = 0;
  double pairs = 1, poison = 1;
  std::size_t triples = 2'000;
  ExploreOptions explore;
  // clang-format off
  options.add_options()
    ("help,h", "print this")
    ("seed", po::value(&seed), "of all choices (default: a new one, printed)")
    ("depth", po::value(&depth)->default_value(2), "operations in a workload, 1 to 3; the last one is crashed")
    ("pairs", po::value(&pairs)->default_value(1), "share of all pairs, 0 to 1")
    ("triples", po::value(&triples)->default_value(2000), "how many at depth 3, chosen at random")
    ("poison", po::value(&poison)->default_value(1), "share of the operations that are also crashed with each class of block bad")
    ("samples", po::value(&explore.crash.samples)->default_value(explore.crash.samples), "crash states at a drain with many lines under way")
    ("exhaustive", po::value(&explore.crash.exhaustive_lines)->default_value(explore.crash.exhaustive_lines), "all subsets up to so many lines")
    ("nested-every", po::value(&explore.nested_every)->default_value(explore.nested_every), "crash the recovery of one state in so many again")
    ("seconds", po::value(&seconds)->default_value(0), "start no further workload after so many; 0: no limit")
    ("threads", po::value(&threads)->default_value(0), "0: as many as there are CPUs")
    ("replay", po::value<std::string>(), "one workload, such as \"plain: create rename\"")
    ("replay-poison", po::value<std::string>(), "one workload with bad blocks")
    ("stop-at-failure", "start no further workload after a failure")
    ("list", "print setups and operations");
  // clang-format on
  po::variables_map given;
  try {
    po::store(po::parse_command_line(argc, argv, options), given);
    po::notify(given);
  } catch (const po::error& error) {
    std::cerr << "daxcow_explore: " << error.what() << "; see --help\n";
    return 2;
  }
  if (given.count("help")) {
    std::cout << options;
    return 0;
  }
  if (given.count("list")) {
    for (const Setup& setup : setups()) std::cout << "setup " << setup.name << ": " << setup.what << "\n";
    for (const Operation& operation : operations()) std::cout << "operation " << operation.name << "\n";
    return 0;
  }
  if (!given.count("seed")) seed = std::random_device()();
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  explore.seed = seed;
  std::cout << "seed " << seed << std::endl;

  std::mt19937_64 random(seed);
  std::vector<Job> jobs;
  for (const char* option : {"replay", "replay-poison"}) {
    if (!given.count(option)) continue;
    const auto workload = parse_workload(given[option].as<std::string>());
    if (!workload) {
      std::cerr << "daxcow_explore: --" << option << " wants \"SETUP: OPERATION...\"; see --list\n";
      return 2;
    }
    jobs.push_back({*workload, std::string(option) == "replay-poison"});
  }
  if (jobs.empty()) jobs = make_jobs(depth, pairs, triples, poison, random);

  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  Tally total;
  std::vector<std::thread> workers;
  for (unsigned i = 0; i < std::min<std::size_t>(threads, jobs.size()); ++i)
    workers.emplace_back([&] {
      Explorer explorer(explore);
      while ((seconds == 0 || elapsed() < seconds) && !stop) {
        const std::size_t job = next++;
        if (job >= jobs.size()) break;
        if (jobs[job].poison)
          explorer.explore_poison(jobs[job].workload);
        else
          explorer.explore(jobs[job].workload);
        if (explorer.tally().failure_count != 0 && given.count("stop-at-failure")) stop = true;
      }
      const std::lock_guard guard(mutex);
      total.add(explorer.tally());
    });
  for (auto& worker : workers) worker.join();

  for (const std::string& failure : total.failures) std::cout << "FAILED " << failure << "\n";
  std::cout << fmt::format(
      "{} of {} workloads, {} operations ({} refused), {} drains crashed\n"
      "{} crash states, {} of a crashed recovery, {} used afterwards\n"
      "{} poison positions with {} crash states, {} with both copies bad and repaired\n"
      "{} failures in {:.1f} s, seed {}\n",
      std::min(next.load(), jobs.size()), jobs.size(), total.operations, total.refused, total.drains, total.states,
      total.nested_states, total.used, total.poison_positions, total.poison_states, total.repaired, total.failure_count, elapsed(), seed);
  return total.failure_count == 0 ? 0 : 1;
}
