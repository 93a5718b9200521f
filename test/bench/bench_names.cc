// Names: files made, looked at, listed and removed; a source tree unpacked and removed.
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "test/bench/bench_peer.h"

namespace daxcow::bench {

namespace {

bool prepare_names(const Peer& peer, const Parameters&) {
  if (::mkdir(peer.path("names").c_str(), 0755) != 0) fail_with_errno("mkdir on " + peer.name);
  return true;
}

std::uint64_t list(const std::string& path) {
  DIR* const directory = ::opendir(path.c_str());
  if (directory == nullptr) fail_with_errno("opendir " + path);
  std::uint64_t entries = 0;
  while (::readdir(directory) != nullptr) ++entries;
  ::closedir(directory);
  return entries;
}

void names_round(const Peer& peer, const Parameters& parameters, const Report& report) {
  const auto path = [&](std::uint64_t i) { return peer.path("names/file-" + std::to_string(i)); };
  Samples creates, stats, cached, unlinks;
  for (std::uint64_t i = 0; i < parameters.names; ++i) {
    const auto name = path(i);
    creates.time([&] { open_file(name, O_WRONLY | O_CREAT | O_EXCL); });
  }
  struct statx status {};
  for (std::uint64_t i = 0; i < parameters.names; ++i) {
    const auto name = path(i);
    stats.time([&] {  // asks the filesystem, whatever the kernel remembers
      if (::statx(AT_FDCWD, name.c_str(), AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &status) != 0)
        fail_with_errno("stat");
    });
    cached.time([&] {
      if (::statx(AT_FDCWD, name.c_str(), 0, STATX_BASIC_STATS, &status) != 0) fail_with_errno("stat");
    });
  }
  Samples lists, lists_again;
  for (Samples* samples : {&lists, &lists_again}) {
    samples->time([&] {
      if (list(peer.path("names")) < parameters.names) fail_with_errno("list");
    });
  }
  for (std::uint64_t i = 0; i < parameters.names; ++i) {
    const auto name = path(i);
    unlinks.time([&] { remove_file(name); });
  }
  report.samples(peer, "create", creates);
  report.samples(peer, "stat", stats);
  report.samples(peer, "stat_cached", cached);
  report.value(peer, "readdir_entry", lists.median() / static_cast<double>(parameters.names));
  report.value(peer, "readdir_entry_again", lists_again.median() / static_cast<double>(parameters.names));
  report.samples(peer, "unlink", unlinks);
}

void finish_names(const Peer& peer, const Parameters&) {
  if (::rmdir(peer.path("names").c_str()) != 0) fail_with_errno("rmdir on " + peer.name);
}

bool prepare_tree(const Peer&, const Parameters& parameters) { return !parameters.archive.empty(); }

void tree_round(const Peer& peer, const Parameters& parameters, const Report& report) {
  const auto shell = [&](const std::string& command, const std::string& metric) {
    Samples samples;
    samples.time([&] {
      if (std::system(command.c_str()) != 0) fail_with_errno(command);
    });
    report.samples(peer, metric, samples);
  };
  const auto tree = peer.path("tree");
  if (::mkdir(tree.c_str(), 0755) != 0) fail_with_errno("mkdir on " + peer.name);
  shell("tar -xf '" + parameters.archive + "' -C '" + tree + "'", "untar");
  shell("rm -r '" + tree + "'", "rm_tree");
}
void finish_tree(const Peer&, const Parameters&) {}

}  // namespace

const std::vector<Case> kNameCases = {
    {"names", prepare_names, names_round, finish_names},
    {"tree", prepare_tree, tree_round, finish_tree},
};

}  // namespace daxcow::bench
