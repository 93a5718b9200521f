#include "engine/space.h"

#include <algorithm>
#include <array>
#include <bit>
#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <iterator>
#include <memory>
#include <set>

#include "engine/check.h"
#include "engine/format.h"

namespace daxcow {

namespace {

namespace intrusive = boost::intrusive;

// A request of so many blocks is aligned to them, as are chunks: huge pages of 2 MiB.
constexpr std::uint64_t kAlignment = format::kChunkBlocks;
// Runs looked at before the search for a good one gives up: a fragmented pool must not make an allocation linear.
constexpr unsigned kNeighbours = 32;

constexpr std::uint64_t align_up(std::uint64_t block) { return (block + kAlignment - 1) / kAlignment * kAlignment; }

struct Run {
  std::uint64_t first;
  std::uint64_t count;
  intrusive::set_member_hook<intrusive::link_mode<intrusive::normal_link>, intrusive::optimize_size<true>> by_position;
  intrusive::list_member_hook<intrusive::link_mode<intrusive::normal_link>> by_count;

  std::uint64_t end() const { return first + count; }
  // True if `wanted` blocks from an aligned one on lie in it.
  bool fits_aligned(std::uint64_t wanted) const {
    const std::uint64_t aligned = align_up(first);
    return aligned < end() && wanted <= end() - aligned;
  }
};

struct PositionOf {
  using type = std::uint64_t;
  std::uint64_t operator()(const Run& run) const { return run.first; }
};
using ByPosition = intrusive::set<Run, intrusive::member_hook<Run, decltype(Run::by_position), &Run::by_position>,
                                  intrusive::key_of_value<PositionOf>, intrusive::constant_time_size<true>>;
using SameCount = intrusive::list<Run, intrusive::member_hook<Run, decltype(Run::by_count), &Run::by_count>,
                                  intrusive::constant_time_size<false>>;

struct BelowInCount {
  using is_transparent = void;
  bool operator()(const Run* a, const Run* b) const {
    return a->count != b->count ? a->count < b->count : a->first < b->first;
  }
  bool operator()(const Run* a, std::uint64_t count) const { return a->count < count; }
  bool operator()(std::uint64_t count, const Run* b) const { return count < b->count; }
};
struct BelowInPosition {
  bool operator()(const Run* a, const Run* b) const { return a->first < b->first; }
};

}  // namespace

// Free runs by position, and by length: a fragmented pool has millions of short runs but few long ones (no more than
// one for each 2 MiB), so runs below kAlignment are in a list for each length, where a change costs O(1), and only the
// others are in ordered sets.
class Space::Runs {
 public:
  Runs() = default;
  Runs(const Runs&) = delete;
  Runs& operator=(const Runs&) = delete;
  ~Runs() { by_position_.clear_and_dispose(std::default_delete<Run>()); }

  void add(BlockRun added) {
    const std::uint64_t first = added.first.value;
    constexpr std::uint64_t kBeyondAnyPool = std::uint64_t{1} << 60;
    CHECK(first < kBeyondAnyPool && added.count < kBeyondAnyPool);
    const auto next = by_position_.empty() || by_position_.rbegin()->first < first ? by_position_.end()
                                                                                   : by_position_.lower_bound(first);
    Run* const after = next == by_position_.end() ? nullptr : &*next;
    Run* const before = next == by_position_.begin() ? nullptr : &*std::prev(next);
    CHECK(after == nullptr || first + added.count <= after->first);
    CHECK(before == nullptr || before->end() <= first);

    free_ += added.count;
    const bool touches_before = before != nullptr && before->end() == first;
    const bool touches_after = after != nullptr && first + added.count == after->first;
    if (touches_before && touches_after) {
      const std::uint64_t count = before->count + added.count + after->count;
      remove(*after);
      resize(*before, before->first, count);
    } else if (touches_before) {
      resize(*before, before->first, before->count + added.count);
    } else if (touches_after) {
      resize(*after, first, after->count + added.count);
    } else {
      create(next, first, added.count);
    }
  }

  // Takes `count` blocks from `first` on, all of them in `run`.
  BlockRun take(Run& run, std::uint64_t first, std::uint64_t count) {
    CHECK(count > 0 && run.first <= first && first < run.end() && count <= run.end() - first);
    free_ -= count;
    const std::uint64_t head = first - run.first;
    const std::uint64_t tail = run.end() - first - count;
    if (head > 0) {
      const auto next = std::next(by_position_.iterator_to(run));
      resize(run, run.first, head);
      if (tail > 0) create(next, first + count, tail);
    } else if (tail > 0) {
      resize(run, first + count, tail);
    } else {
      remove(run);
    }
    return {BlockNumber(first), count};
  }

  // True if no free run reaches beyond `block`.
  bool lies_below(std::uint64_t block) const { return by_position_.empty() || by_position_.rbegin()->end() <= block; }
  // nullptr if the block is not free.
  Run* containing(std::uint64_t block) {
    const auto next = by_position_.upper_bound(block);
    if (next == by_position_.begin()) return nullptr;
    Run& run = *std::prev(next);
    return block < run.end() ? &run : nullptr;
  }
  // The first run that begins at `block` or beyond, nullptr if there is none.
  Run* at_or_after(std::uint64_t block) {
    const auto run = by_position_.lower_bound(block);
    return run == by_position_.end() ? nullptr : &*run;
  }

  // The run to take `wanted` blocks from when the goal is not free. There must be one.
  Run& choose(std::uint64_t goal, std::uint64_t wanted) {
    Run* const shortest = shortest_from(wanted);
    if (shortest == nullptr) return longest();
    Run* const near = near_goal(goal, wanted);
    if (wanted < kAlignment) return near != nullptr ? *near : *shortest;
    if (near != nullptr && near->fits_aligned(wanted)) return *near;
    auto long_enough = long_runs_.lower_bound(wanted);
    for (unsigned seen = 0; seen < kNeighbours && long_enough != long_runs_.end(); ++seen, ++long_enough)
      if ((*long_enough)->fits_aligned(wanted)) return **long_enough;
    const auto aligned_anyhow = long_runs_.lower_bound(wanted + kAlignment - 1);  // wherever it begins
    if (aligned_anyhow != long_runs_.end()) return **aligned_anyhow;
    return near != nullptr ? *near : *shortest;
  }

  // The highest run with an aligned chunk in it, nullptr if there is none.
  Run* highest_with_chunk() const { return with_chunk_.empty() ? nullptr : *with_chunk_.rbegin(); }

  std::uint64_t free_blocks() const { return free_; }
  std::vector<BlockRun> all() const {
    std::vector<BlockRun> runs;
    runs.reserve(by_position_.size());
    for (const Run& run : by_position_) runs.push_back({BlockNumber(run.first), run.count});
    return runs;
  }
  std::size_t memory_bytes() const {
    constexpr std::size_t kSetNodeBytes = 48;  // of the standard library, with the heap's header
    return sizeof(*this) + by_position_.size() * (sizeof(Run) + sizeof(void*)) +
           (long_runs_.size() + with_chunk_.size()) * kSetNodeBytes;
  }

 private:
  void create(ByPosition::iterator next, std::uint64_t first, std::uint64_t count) {
    auto run = std::make_unique<Run>();
    run->first = first;
    run->count = count;
    index(*run);
    by_position_.insert_before(next, *run.release());
  }
  void remove(Run& run) {
    unindex(run);
    by_position_.erase_and_dispose(by_position_.iterator_to(run), std::default_delete<Run>());
  }
  // The run's place among the others must stay the same.
  void resize(Run& run, std::uint64_t first, std::uint64_t count) {
    unindex(run);
    run.first = first;
    run.count = count;
    index(run);
  }

  void index(Run& run) {
    if (run.count < kAlignment) {
      short_runs_[run.count].push_front(run);
      lengths_[run.count / 64] |= 1ull << (run.count % 64);
      return;
    }
    long_runs_.insert(&run);
    if (run.fits_aligned(kAlignment)) with_chunk_.insert(&run);
  }
  void unindex(Run& run) {
    if (run.count < kAlignment) {
      SameCount& list = short_runs_[run.count];
      list.erase(list.iterator_to(run));
      if (list.empty()) lengths_[run.count / 64] &= ~(1ull << (run.count % 64));
      return;
    }
    long_runs_.erase(&run);
    if (run.fits_aligned(kAlignment)) with_chunk_.erase(&run);
  }

  // The first of the next runs from the goal on that holds all of `wanted`, preferably aligned if it is that long.
  Run* near_goal(std::uint64_t goal, std::uint64_t wanted) {
    Run* unaligned = nullptr;
    auto run = by_position_.lower_bound(goal);
    for (unsigned seen = 0; seen < kNeighbours && run != by_position_.end(); ++seen, ++run) {
      if (run->count < wanted) continue;
      if (wanted < kAlignment || run->fits_aligned(wanted)) return &*run;
      if (unaligned == nullptr) unaligned = &*run;
    }
    return unaligned;
  }

  // The shortest run of at least so many blocks, nullptr if there is none.
  Run* shortest_from(std::uint64_t count) {
    if (count >= kAlignment) {
      const auto run = long_runs_.lower_bound(count);
      return run == long_runs_.end() ? nullptr : *run;
    }
    for (std::uint64_t word = count / 64; word < lengths_.size(); ++word) {
      const std::uint64_t bits = lengths_[word] & (word == count / 64 ? ~0ull << (count % 64) : ~0ull);
      if (bits != 0) return &short_runs_[word * 64 + static_cast<unsigned>(std::countr_zero(bits))].front();
    }
    return long_runs_.empty() ? nullptr : *long_runs_.begin();
  }
  Run& longest() {
    if (!long_runs_.empty()) return **long_runs_.rbegin();
    std::size_t word = lengths_.size() - 1;
    while (word > 0 && lengths_[word] == 0) --word;
    CHECK(lengths_[word] != 0);
    return short_runs_[word * 64 + 63 - static_cast<unsigned>(std::countl_zero(lengths_[word]))].front();
  }

  ByPosition by_position_;
  std::array<SameCount, kAlignment> short_runs_;          // by length; the latest first
  std::array<std::uint64_t, kAlignment / 64> lengths_{};  // bit n: there are short runs of length n
  std::set<Run*, BelowInCount> long_runs_;                // kAlignment blocks and more
  std::set<Run*, BelowInPosition> with_chunk_;            // those that hold an aligned chunk
  std::uint64_t free_ = 0;
};

Space::Space() : runs_(std::make_unique<Runs>()) {}
Space::~Space() = default;

std::uint64_t Space::release(BlockRun run) {
  LockGuard lock(mutex_);
  if (run.count != 0 && runs_->lies_below(run.first.value)) {
    runs_->add(run);
    return run.count;
  }
  std::uint64_t added = 0;
  for (std::uint64_t from = run.first.value; from < run.end().value;) {
    if (const Run* free = runs_->containing(from)) {
      from = free->end();
      continue;
    }
    const Run* const next = runs_->at_or_after(from);
    const std::uint64_t end = next == nullptr ? run.end().value : std::min(run.end().value, next->first);
    runs_->add({BlockNumber(from), end - from});
    added += end - from;
    from = end;
  }
  return added;
}

bool Space::touches(BlockRun run) const {
  LockGuard lock(mutex_);
  if (runs_->containing(run.first.value) != nullptr) return true;
  const Run* const next = runs_->at_or_after(run.first.value);
  return next != nullptr && next->first < run.end().value;
}

BlockRun Space::allocate(BlockNumber goal, std::uint64_t wanted, std::uint64_t keep) {
  LockGuard lock(mutex_);
  if (wanted == 0 || runs_->free_blocks() <= keep) return {};
  wanted = std::min(wanted, runs_->free_blocks() - keep);
  if (Run* run = runs_->containing(goal.value))
    return runs_->take(*run, goal.value, std::min(wanted, run->end() - goal.value));

  Run& run = runs_->choose(goal.value, wanted);
  std::uint64_t first = run.first;
  // What precedes the first aligned block stays free; of a run too short for all of it, only if a huge page remains.
  if (wanted >= kAlignment && run.fits_aligned(run.count < wanted ? kAlignment : wanted)) first = align_up(first);
  return runs_->take(run, first, std::min(wanted, run.end() - first));
}

BlockRun Space::allocate_chunk() {
  LockGuard lock(mutex_);
  Run* const run = runs_->highest_with_chunk();
  if (run == nullptr) return {};
  const std::uint64_t first = run->end() / kAlignment * kAlignment - kAlignment;
  return runs_->take(*run, first, kAlignment);
}

std::vector<BlockRun> Space::withdraw(BlockRun run) {
  LockGuard lock(mutex_);
  std::vector<BlockRun> taken;
  const std::uint64_t end = run.end().value;
  std::uint64_t from = run.first.value;
  while (from < end) {
    Run* free = runs_->containing(from);
    if (free == nullptr) free = runs_->at_or_after(from);
    if (free == nullptr || free->first >= end) break;
    const std::uint64_t first = std::max(from, free->first);
    taken.push_back(runs_->take(*free, first, std::min(end, free->end()) - first));
    from = taken.back().end().value;
  }
  return taken;
}

bool Space::is_free(BlockNumber block) const {
  LockGuard lock(mutex_);
  return runs_->containing(block.value) != nullptr;
}

std::uint64_t Space::free_blocks() const {
  LockGuard lock(mutex_);
  return runs_->free_blocks();
}

std::vector<BlockRun> Space::free_runs() const {
  LockGuard lock(mutex_);
  return runs_->all();
}

std::size_t Space::memory_bytes() const {
  LockGuard lock(mutex_);
  return runs_->memory_bytes();
}

}  // namespace daxcow
