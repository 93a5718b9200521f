// daxcow_exercise: random operations on files of any filesystem, held against a model in memory.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/program_options.hpp>
#include <fmt/core.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <new>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "engine/file_descriptor.h"
#include "test/exercise/exerciser.h"
#include "test/exercise/failure.h"
#include "test/exercise/features.h"

using namespace daxcow::exercise;
namespace po = boost::program_options;
using Clock = std::chrono::steady_clock;

namespace {

constexpr unsigned kMostProcesses = 64;

// What the processes share.
struct Shared {
  std::atomic<bool> stop{false};
  std::array<Progress, kMostProcesses> progress;
};
Shared* shared = nullptr;

std::optional<std::uint64_t> parse_bytes(const std::string& text) {
  std::size_t end = 0;
  std::uint64_t value = 0;
  try {
    value = std::stoull(text, &end);
  } catch (const std::exception&) {
    return std::nullopt;
  }
  const std::string unit = text.substr(end);
  if (unit.empty()) return value;
  if (unit == "K") return value << 10;
  if (unit == "M") return value << 20;
  if (unit == "G") return value << 30;
  return std::nullopt;
}

struct Child {
  unsigned number;
  pid_t process;
  bool running = true;
  std::uint64_t operations_seen = 0;
  unsigned looks = 0;  // since it got on; not the time, so that all of this can be stopped and continued
};

Child start(const Options& options, const Features& features, unsigned number) {
  std::fflush(nullptr);
  const pid_t process = fork();
  if (process < 0) fail_call("fork");
  if (process != 0) return {.number = number, .process = process};
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::string text;
  try {
    text = exercise(options, features, number, shared->progress[number], shared->stop);
  } catch (const std::exception& error) {
    text = fmt::format("process {}: {}\n", number, error.what());
  }
  if (!text.empty()) {
    text = "FAILED: " + text;
    (void)!write(STDOUT_FILENO, text.data(), text.size());  // at once, so that lines of two failures do not mix
  }
  _exit(text.empty() ? 0 : 1);
}

// Waits for all; one that fails stops the others, and so does one that does not get on.
bool wait_for(std::vector<Child>& children, unsigned stuck_seconds) {
  constexpr unsigned kLooksPerSecond = 50;
  bool good = true;
  for (std::size_t running = children.size(); running != 0;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1000 / kLooksPerSecond));
    for (auto& child : children) {
      if (!child.running) continue;
      int status = 0;
      if (waitpid(child.process, &status, WNOHANG) == child.process) {
        child.running = false;
        --running;
        if (status == 0) continue;
        if (WIFSIGNALED(status)) fmt::print("FAILED: process {} ends with signal {}\n", child.number, WTERMSIG(status));
        good = false;
        shared->stop = true;
        continue;
      }
      const auto operations = shared->progress[child.number].operations.load();
      if (operations != child.operations_seen) {
        child.operations_seen = operations;
        child.looks = 0;
      } else if (++child.looks > stuck_seconds * kLooksPerSecond) {
        fmt::print("FAILED: process {} (pid {}) has been in operation {} for {} s\n", child.number, child.process, operations + 1,
                   stuck_seconds);
        std::fflush(nullptr);
        shared->stop = true;
        kill(child.process, SIGKILL);  // if that helps
        return false;
      }
    }
  }
  return good;
}

void print_figures(const std::vector<Child>& children, double seconds) {
  std::uint64_t operations = 0;
  for (const auto& child : children) operations += shared->progress[child.number].operations;
  std::string line;
  for (std::size_t kind = 0; kind < static_cast<std::size_t>(Kind::kCount); ++kind) {
    std::uint64_t count = 0;
    for (const auto& child : children) count += shared->progress[child.number].of_kind[kind];
    if (count == 0) continue;
    const auto part = fmt::format("{} {}", about(static_cast<Kind>(kind)).name, count);
    if (line.size() + part.size() > 120) {
      fmt::print("  {},\n", line);
      line.clear();
    }
    line += (line.empty() ? "" : ", ") + part;
  }
  fmt::print("  {}\n{} operations in {:.1f} s, {:.0f} a second\n", line, operations, seconds, static_cast<double>(operations) / seconds);
}

std::string describe(const Features& features) {
  std::string text = features.daxcow ? "daxcow" : "another filesystem";
  text += fmt::format(", blocks of {}", features.block_bytes);
  text += features.direct_alignment != 0 ? fmt::format(", direct I/O in units of {}", features.direct_alignment) : ", no direct I/O";
  for (const auto& [there, name] : {std::pair(features.allocate, "allocation"),
                                    {features.punch, "holes"},
                                    {features.zero_range, "zeroing"},
                                    {features.copy, "copy_file_range"},
                                    {features.sparse, "SEEK_DATA"},
                                    {features.exchange, "exchange"}})
    if (!there) text += fmt::format(", no {}", name);
  return text;
}

// The directory that everything happens in. One that a failure has left stays for a look.
std::string make_place(const std::string& directory) {
  const std::string place = std::filesystem::canonical(directory) / "exercise";
  if (mkdir(place.c_str(), 0755) != 0) fail_call("making " + place);
  return place;
}

void make_shared_file(const Options& options) {
  const std::string path = options.directory + "/" + kSharedFile;
  const daxcow::FileDescriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!file || ftruncate(file.get(), static_cast<off_t>(options.maximum_bytes)) != 0) fail_call("making " + path);
}

int run(Options options, const std::string& command_line) {
  const std::string below = std::filesystem::canonical(options.directory);
  options.directory = make_place(below);
  const auto features = probe(options.directory);
  if ((options.snapshot_every != 0 || options.clone_every != 0) && !features.daxcow)
    fail("{} is not on a daxcow mount: there are no snapshots and clones", below);
  if (options.sharing != Sharing::kNone) make_shared_file(options);
  fmt::print("{}: {}\n", below, describe(features));

  void* const memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail_call("mmap");
  shared = new (memory) Shared;
  for (const int signal : {SIGINT, SIGTERM}) ::signal(signal, [](int) { shared->stop = true; });

  const auto begin = Clock::now();
  std::vector<Child> children;
  for (unsigned number = 0; number < options.processes; ++number)
    if (options.only_process < 0 || static_cast<unsigned>(options.only_process) == number)
      children.push_back(start(options, features, number));
  const bool good = wait_for(children, options.stuck_seconds);
  print_figures(children, std::chrono::duration<double>(Clock::now() - begin).count());
  if (!good) {
    fmt::print("replay with: {} --seed {}\n", command_line, options.seed);
    return 1;
  }
  if (!options.keep) std::filesystem::remove_all(options.directory);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  Options options;
  std::string maximum = "256K", longest = "64K", sharing = "none";
  po::options_description visible(
      "Usage: daxcow_exercise [OPTION...] DIRECTORY\n\n"
      "Does random things to files in DIRECTORY/exercise, on whatever filesystem that is, and compares all that can be seen\n"
      "with what should be there. The same seed and options do the same again.\n\nOptions");
  // clang-format off
  visible.add_options()
    ("help,h", "print this")
    ("seed", po::value(&options.seed), "of all choices (default: a new one, printed)")
    ("processes", po::value(&options.processes)->default_value(1), "that work at the same time, each on files of its own")
    ("only-process", po::value(&options.only_process), "replay this one alone")
    ("operations", po::value(&options.operations)->default_value(100'000), "of each process; 0: no limit")
    ("seconds", po::value(&options.seconds)->default_value(0), "end after so many; 0: no limit")
    ("files", po::value(&options.files)->default_value(4), "of each process")
    ("max-size", po::value(&maximum)->default_value(maximum), "of a file")
    ("max-length", po::value(&longest)->default_value(longest), "of what one operation works on")
    ("shared", po::value(&sharing)->default_value(sharing),
      "bytes or pages: all processes also work on one file, of which each owns every n-th stripe; stripes share pages or do not")
    ("snapshot-every", po::value(&options.snapshot_every)->default_value(0), "operations, on daxcow: take, mount, compare, change and delete snapshots")
    ("clone-every", po::value(&options.clone_every)->default_value(0), "operations, on daxcow: clone a file with the command line")
    ("volume", po::value(&options.volume)->default_value("main"), "that is mounted there")
    ("tools", po::value(&options.tools), "directory with daxcow and mount.daxcow (default: where this program is)")
    ("no-mmap", "no mappings")
    ("no-direct", "no O_DIRECT")
    ("no-copy", "no copy_file_range")
    ("no-allocate", "no fallocate of any kind")
    ("no-seek", "no SEEK_DATA and SEEK_HOLE")
    ("no-names", "no rename, link, unlink")
    ("no-times", "do not check times")
    ("no-blocks", "do not check how much is allocated")
    ("keep", "leave the files there")
    ("stuck-seconds", po::value(&options.stuck_seconds)->default_value(300), "an operation that takes so long is a failure");
  // clang-format on
  po::options_description all = visible;
  all.add_options()("directory", po::value(&options.directory));
  po::positional_options_description positional;
  positional.add("directory", 1);
  po::variables_map given;
  const auto usage = [](const std::string& what) {
    std::cerr << "daxcow_exercise: " << what << "; see --help\n";
    return 2;
  };
  try {
    po::store(po::command_line_parser(argc, argv).options(all).positional(positional).run(), given);
    po::notify(given);
  } catch (const po::error& error) {
    return usage(error.what());
  }
  if (given.count("help")) {
    std::cout << visible;
    return 0;
  }
  if (options.directory.empty()) return usage("DIRECTORY is missing");
  if (!given.count("seed")) options.seed = std::random_device()();
  const auto maximum_bytes = parse_bytes(maximum), longest_bytes = parse_bytes(longest);
  if (!maximum_bytes || *maximum_bytes == 0) return usage("--max-size wants a size such as 256K");
  if (!longest_bytes || *longest_bytes == 0) return usage("--max-length wants a size such as 64K");
  constexpr std::uint64_t kPage = 4096;
  options.maximum_bytes = (*maximum_bytes + kPage - 1) / kPage * kPage;
  options.longest_bytes = *longest_bytes;
  if (sharing == "bytes") options.sharing = Sharing::kBytes;
  else if (sharing == "pages") options.sharing = Sharing::kPages;
  else if (sharing != "none") return usage("--shared wants none, bytes or pages");
  if (options.processes == 0 || options.processes > kMostProcesses) return usage(fmt::format("--processes wants 1 to {}", kMostProcesses));
  if (options.files == 0) return usage("--files wants at least 1");
  if (options.tools.empty()) options.tools = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  options.mapped = !given.count("no-mmap");
  options.direct = !given.count("no-direct");
  options.copy = !given.count("no-copy");
  options.allocate = !given.count("no-allocate");
  options.sparse = !given.count("no-seek");
  options.names = !given.count("no-names");
  options.times = !given.count("no-times");
  options.blocks = !given.count("no-blocks");
  options.keep = given.count("keep") != 0;

  std::string command_line = "daxcow_exercise";
  for (int i = 1; i < argc; ++i)
    if (std::string(argv[i]) == "--seed")
      ++i;
    else if (!std::string(argv[i]).starts_with("--seed="))
      command_line += std::string(" ") + argv[i];
  fmt::print("seed {}\n", options.seed);
  try {
    return run(options, command_line);
  } catch (const std::exception& error) {
    std::cerr << "daxcow_exercise: " << error.what() << "\n";
    return 1;
  }
}
