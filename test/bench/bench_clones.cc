// Clones, and writing to what is shared.
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <span>

#include "engine/types.h"
#include "test/bench/bench_peer.h"

namespace daxcow::bench {

namespace {

constexpr std::uint64_t kMinimumRoundNs = 200'000'000;  // repeats what is short; what is long is done once

// Makes the source, and sees whether it can be cloned here.
bool can_clone(const Peer& peer, const std::string& source, std::uint64_t length_bytes) {
  fill_file(peer.path(source), length_bytes);
  const auto from = open_file(peer.path(source), O_RDONLY);
  const auto to = open_file(peer.path("can-clone"), O_RDWR | O_CREAT | O_TRUNC);
  const bool can = clone_file(peer, from.get(), to.get());
  remove_file(peer.path("can-clone"));
  return can;
}

void measure_clones(const Peer& peer, const std::string& source, const std::string& metric, unsigned maximum,
                    const Report& report) {
  const auto from = open_file(peer.path(source), O_RDONLY);
  const auto target = peer.path("clone");
  Samples clones, deletions;
  const auto start = now_ns();
  for (unsigned i = 0; i < maximum && (i == 0 || now_ns() - start < kMinimumRoundNs); ++i) {
    {
      const auto to = open_file(target, O_RDWR | O_CREAT | O_TRUNC);
      bool done = false;
      clones.time([&] { done = clone_file(peer, from.get(), to.get()); });
      if (!done) fail_with_errno("clone on " + peer.name);
    }
    deletions.time([&] { remove_file(target); });
  }
  report.samples(peer, metric, clones);
  report.samples(peer, "delete_" + metric, deletions);
}

bool prepare_4k(const Peer& peer, const Parameters&) {
  return can_clone(peer, "source-4k", kBlockBytes);
}
void clone_4k(const Peer& peer, const Parameters&, const Report& report) {
  measure_clones(peer, "source-4k", "clone_4k", 300, report);
}
void finish_4k(const Peer& peer, const Parameters&) { remove_file(peer.path("source-4k")); }

bool prepare_contiguous(const Peer& peer, const Parameters& parameters) {
  if (!can_clone(peer, "source", kBlockBytes)) return false;
  fill_file(peer.path("source"), parameters.file_bytes);
  return true;
}
void clone_contiguous(const Peer& peer, const Parameters&, const Report& report) {
  measure_clones(peer, "source", "clone_contiguous", 50, report);
}
void finish_source(const Peer& peer, const Parameters&) { remove_file(peer.path("source")); }

bool prepare_fragmented(const Peer& peer, const Parameters& parameters) {
  if (!can_clone(peer, "source", kBlockBytes)) return false;
  fill_fragmented_file(peer, "source", parameters.file_bytes, parameters.extents);
  return true;
}
void clone_fragmented(const Peer& peer, const Parameters&, const Report& report) {
  measure_clones(peer, "source", "clone_fragmented", 50, report);
}

// A chain of clones, each changed in one place before it is cloned.
std::string generation(unsigned i) { return "generation-" + std::to_string(i); }

bool prepare_deep(const Peer& peer, const Parameters& parameters) {
  constexpr std::uint64_t kBytes = 4 << 20;
  if (!can_clone(peer, generation(0), kBytes)) return false;
  const std::vector<char> block(kBlockBytes, 'x');
  for (unsigned i = 1; i < parameters.depth; ++i) {
    const auto from = open_file(peer.path(generation(i - 1)), O_RDONLY);
    const auto to = open_file(peer.path(generation(i)), O_RDWR | O_CREAT | O_TRUNC);
    if (!clone_file(peer, from.get(), to.get())) fail_with_errno("clone on " + peer.name);
    write_all(to.get(), i * kBlockBytes % kBytes, block.data(), block.size());
  }
  return true;
}
void clone_deep(const Peer& peer, const Parameters& parameters, const Report& report) {
  measure_clones(peer, generation(parameters.depth - 1), "clone_deep", 300, report);
}
void finish_deep(const Peer& peer, const Parameters& parameters) {
  for (unsigned i = 0; i < parameters.depth; ++i) remove_file(peer.path(generation(i)));
}

// 4 KiB overwrites, each made durable: of a file of its own; then of a clone, first the first one in each 2 MiB (which
// finds the map shared too), then others.
bool prepare_overwrite(const Peer& peer, const Parameters& parameters) {
  fill_fragmented_file(peer, "source", parameters.random_file_bytes, parameters.random_file_bytes / kBlockBytes);
  return true;
}

void overwrite(const Peer& peer, const Parameters& parameters, const Report& report) {
  constexpr std::uint64_t kArea = 512;
  const std::uint64_t blocks = parameters.random_file_bytes / kBlockBytes;
  const std::vector<char> block(kBlockBytes, static_cast<char>(report.round));
  std::vector<std::uint64_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::shuffle(order, std::mt19937_64(report.round));
  const auto time_writes = [&](int file, std::span<const std::uint64_t> places, const std::string& metric) {
    Samples samples;
    for (const auto place : places)
      samples.time([&] {
        write_all(file, place * kBlockBytes, block.data(), block.size());
        if (::fdatasync(file) != 0) fail_with_errno("fdatasync");
      });
    report.samples(peer, metric, samples);
  };
  const auto some = std::span(order).first(std::min<std::uint64_t>(blocks, parameters.random_operations));
  const auto source = open_file(peer.path("source"), O_RDWR);
  time_writes(source.get(), some, "overwrite_unshared");
  const auto target = open_file(peer.path("clone"), O_RDWR | O_CREAT | O_TRUNC);
  if (clone_file(peer, source.get(), target.get())) {
    std::vector<std::uint64_t> first, later;
    std::vector<bool> seen(blocks / kArea + 1);
    for (const auto place : order) {
      (seen[place / kArea] ? later : first).push_back(place);
      seen[place / kArea] = true;
    }
    later.resize(std::min<std::uint64_t>(later.size(), parameters.random_operations));
    time_writes(target.get(), first, "overwrite_shared_first");
    time_writes(target.get(), later, "overwrite_shared");
  }
  remove_file(peer.path("clone"));
}

}  // namespace

const std::vector<Case> kCloneCases = {
    {"clone_4k", prepare_4k, clone_4k, finish_4k},
    {"clone_contiguous", prepare_contiguous, clone_contiguous, finish_source},
    {"clone_fragmented", prepare_fragmented, clone_fragmented, finish_source},
    {"clone_deep", prepare_deep, clone_deep, finish_deep},
    {"overwrite", prepare_overwrite, overwrite, finish_source},
};

}  // namespace daxcow::bench
