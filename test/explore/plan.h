// What the threads of one run shall do, all of it from one seed.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/pool.h"
#include "test/explore/history.h"
#include "test/explore/interleaver.h"
#include "test/recording_medium.h"

namespace daxcow::test {

// Pools to begin with. Volume main: a (6 units), b (50 units; its map has a node; also named e), c (a clone of a), d/,
// d/x; volume other: o (a clone of a), p, which begins as d/x does, in blocks of its own.
enum class Scene {
  kPlain,
  kShared,  // with snapshots s1 and s2 of both: every first change copies
  kFull,    // a few data blocks are free: what is freed is soon used again
};
inline constexpr unsigned kScenes = 3;
const char* name_of(Scene scene);
std::vector<std::byte> make_scene(Scene scene);

struct Plan {
  std::uint64_t seed = 0;
  Scene scene{};
  Order order;
  // Files are remembered by each thread, as if it had them open, and what is created by its creator; but this one, which is
  // only read and goes with its names.
  std::optional<std::size_t> not_held;
  bool small_cache = false;  // of metadata and of directory indexes: most look-ups miss
  bool poison = false;
  bool crash = false;
  bool patrol = false;  // the scrub in the background is one more thread
  std::vector<std::vector<Call>> threads;
  std::string text() const;
};
Plan make_plan(std::uint64_t seed, unsigned threads);  // 0: 2 to 4

// The volumes and files of a run.
struct Stage {
  Pool& pool;
  Recording& recording;
  std::map<std::string, std::shared_ptr<Volume>> volumes;
  struct Handle {
    std::string volume;
    std::uint64_t number = 0;
  };
  std::mutex mutex;
  std::vector<Handle> handles;  // those of the scene, then one for each thread: what it has created; mutex
  std::set<std::uint64_t> bad;  // blocks that went bad; mutex
  std::atomic<std::uint64_t> clock{1};

  static Result<std::unique_ptr<Stage>> open(Pool& pool, Recording& recording, const Plan& plan);
  // Fills in what is answered. False if there was nothing to do.
  bool perform(Call& call);
};
// Handles of the scene.
inline constexpr std::size_t kHandles = 6;
// What the model knows at the beginning, given what is in the pool.
ModelState start_of(ModelState content, const Plan& plan);

}  // namespace daxcow::test
