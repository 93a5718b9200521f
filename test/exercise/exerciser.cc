#include "test/exercise/exerciser.h"

#include <chrono>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "test/exercise/context.h"
#include "test/exercise/failure.h"
#include "test/exercise/guarded_access.h"
#include "test/exercise/snapshots.h"
#include "test/exercise/world.h"

namespace daxcow::exercise {

namespace {

bool is_possible(Kind kind, const Options& options, const Features& features) {
  switch (kind) {
    case Kind::kReadDirect:
    case Kind::kWriteDirect:
      return options.direct && features.direct_alignment != 0;
    case Kind::kReadMapped:
    case Kind::kStoreMapped:
    case Kind::kStorePrivate:
    case Kind::kTouchBehindEnd:
    case Kind::kUnmap:
      return options.mapped;
    case Kind::kPunch:
      return options.allocate && features.punch;
    case Kind::kZero:
    case Kind::kZeroKeep:
      return options.allocate && features.zero_range;
    case Kind::kAllocate:
    case Kind::kAllocateKeep:
      return options.allocate && features.allocate;
    case Kind::kCopyWithin:
    case Kind::kCopyBetween:
    case Kind::kCopyOverlapping:
      return options.copy && features.copy;
    case Kind::kSparse:
      return options.sparse && features.sparse;
    case Kind::kRename:
    case Kind::kRenameOver:
    case Kind::kExchange:
    case Kind::kLink:
    case Kind::kUnlink:
    case Kind::kReplace:
      return options.names;
    default:
      return true;
  }
}

// The kinds that can be done here, each as often as its weight says.
std::vector<Kind> make_lots(const Options& options, const Features& features) {
  std::vector<Kind> lots;
  for (auto index = 0u; index < static_cast<unsigned>(Kind::kCount); ++index)
    if (const auto kind = static_cast<Kind>(index); is_possible(kind, options, features))
      lots.insert(lots.end(), about(kind).weight, kind);
  return lots;
}

class Exerciser {
 public:
  Exerciser(const Options& options, const Features& features, unsigned process, Progress& progress)
      : options_(options), context_(options, features, process), progress_(progress), lots_(make_lots(options, features)) {}

  std::string run(const std::atomic<bool>& stop) {
    std::optional<World> world;
    try {
      world.emplace(context_, directory_of(options_, context_.process));
      if (options_.snapshot_every != 0)
        snapshots_.emplace(context_, [this](World& other) { step(other); });
      work(*world, stop);
      if (snapshots_) snapshots_->end();
      world->compare();
      publish();
      return {};
    } catch (const Failure& failure) {
      return report(failure, world ? &*world : nullptr);
    }
  }

 private:
  void step(World& world) {
    world.step(lots_[context_.random.below(lots_.size())]);
    publish();
  }

  void publish() {
    const auto count = context_.history.count();
    for (; published_ < count; ++published_)
      progress_.of_kind[static_cast<std::size_t>(context_.history.at(published_).kind)].fetch_add(1, std::memory_order_relaxed);
    progress_.operations.store(count, std::memory_order_relaxed);
  }

  void work(World& world, const std::atomic<bool>& stop) {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::seconds(options_.seconds);
    auto next_snapshot = options_.snapshot_every, next_clone = options_.clone_every;
    const auto is_due = [&](std::uint64_t& next, std::uint64_t every) {
      if (every == 0 || context_.history.count() < next) return false;
      next = context_.history.count() + every;
      return true;
    };
    for (std::uint64_t count = 0; options_.operations == 0 || context_.history.count() < options_.operations; ++count) {
      constexpr std::uint64_t kLookAtClockEvery = 64;
      if (count % kLookAtClockEvery == 0 && (stop || (options_.seconds != 0 && Clock::now() >= end))) return;
      if (is_due(next_clone, options_.clone_every)) world.step(Kind::kClone);
      if (is_due(next_snapshot, options_.snapshot_every)) snapshots_->take(world);
      step(world);
    }
  }

  std::string report(const Failure& failure, const World* world) {
    if (snapshots_ && snapshots_->current() != nullptr) world = snapshots_->current();
    const auto file = world != nullptr ? world->current() : 0;
    constexpr std::size_t kLines = 40;
    return fmt::format("process {}, operation {}, file {}: {}\nthe last operations on this file:\n{}", context_.process,
                       context_.history.count(), file, failure.what(), context_.history.last(file, kLines));
  }

  const Options& options_;
  Context context_;
  Progress& progress_;
  const std::vector<Kind> lots_;
  std::optional<Snapshots> snapshots_;
  std::uint64_t published_ = 0;  // of the history's operations
};

}  // namespace

std::string directory_of(const Options& options, unsigned process) {
  return fmt::format("{}/process-{}", options.directory, process);
}

std::string exercise(const Options& options, const Features& features, unsigned process, Progress& progress,
                     const std::atomic<bool>& stop) {
  catch_bus_errors();
  return Exerciser(options, features, process, progress).run(stop);
}

}  // namespace daxcow::exercise
