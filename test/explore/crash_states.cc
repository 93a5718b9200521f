#include "test/explore/crash_states.h"

#include <cstring>
#include <map>
#include <vector>

#include "engine/check.h"

namespace daxcow::test {
namespace {

constexpr unsigned kWords = kLineBytes / 8;

// A line that was stored to and not drained: what a crash can leave there.
struct UnderWay {
  std::vector<Line> versions;  // [0] is what was there before
  std::vector<std::uint32_t> threads;  // of versions[i + 1]
};

class Walk {
 public:
  Walk(std::span<std::byte> memory, const Log& log, const CrashOptions& options, std::mt19937_64& random,
       const std::function<bool(const CrashPoint&)>& visit)
      : memory_(memory), log_(log), options_(options), random_(random), visit_(visit), bad_(log.bad_before) {}

  bool run() {
    for (const Log::Event& event : log_.events) {
      switch (event.kind) {
        case Log::Event::Kind::kStore: {
          UnderWay& line = lines_[event.line];
          if (line.versions.empty()) line.versions.push_back(log_.lines[event.data]);
          line.versions.push_back(log_.lines[event.data + 1]);
          line.threads.push_back(event.thread);
          changed_ = true;
          break;
        }
        case Log::Event::Kind::kMadeGood:
          lines_.erase(event.line);
          put(event.line, log_.lines[event.data + 1]);
          bad_ = subtract(std::move(bad_), {{event.line * kLineBytes, kLineBytes}});
          changed_ = true;
          break;
        case Log::Event::Kind::kWentBad:
          bad_ = unite(std::move(bad_), {{event.line * kLineBytes, kBlockBytes}});
          changed_ = true;
          break;
        case Log::Event::Kind::kDrain:
          if (!crash_here()) return false;
          drain(event.thread);
          ++drains_;
          break;
      }
    }
    changed_ = true;  // the end is a state of its own, with whatever was left undrained
    if (!crash_here()) return false;
    for (const auto& [line, under_way] : lines_) put(line, under_way.versions.back());
    return true;
  }

 private:
  void put(std::uint64_t line, const Line& content) {
    std::memcpy(memory_.data() + line * kLineBytes, content.data(), kLineBytes);
  }

  // What this thread stored has arrived; stores of other threads to the same line may still be missing.
  void drain(std::uint32_t thread) {
    for (auto it = lines_.begin(); it != lines_.end();) {
      UnderWay& line = it->second;
      std::size_t arrived = 0;
      for (std::size_t i = 0; i < line.threads.size(); ++i)
        if (line.threads[i] == thread) arrived = i + 1;
      if (arrived == 0) {
        ++it;
        continue;
      }
      put(it->first, line.versions[arrived]);
      line.versions.erase(line.versions.begin(), line.versions.begin() + static_cast<std::ptrdiff_t>(arrived));
      line.threads.erase(line.threads.begin(), line.threads.begin() + static_cast<std::ptrdiff_t>(arrived));
      it = line.threads.empty() ? lines_.erase(it) : std::next(it);
    }
  }

  bool crash_here() {
    if (!changed_) return true;  // nothing since the last crash point: the same states
    changed_ = false;
    std::vector<std::pair<std::uint64_t, const UnderWay*>> lines;
    for (const auto& [number, line] : lines_) lines.emplace_back(number, &line);
    if (lines.size() <= options_.exhaustive_lines) {
      for (std::uint64_t subset = 0; subset < 1ull << lines.size(); ++subset)
        if (!try_choice(lines, "subset " + std::to_string(subset), [&](std::size_t i, unsigned) { return subset >> i & 1 ? last(lines[i]) : 0; }))
          return false;
      return true;
    }
    if (!try_choice(lines, "none", [](std::size_t, unsigned) { return 0u; })) return false;
    if (!try_choice(lines, "all", [&](std::size_t i, unsigned) { return last(lines[i]); })) return false;
    for (unsigned sample = 2; sample < options_.samples; ++sample)
      if (!try_sample(lines, sample)) return false;
    return true;
  }

  using Lines = std::vector<std::pair<std::uint64_t, const UnderWay*>>;
  static unsigned last(const Lines::value_type& line) { return static_cast<unsigned>(line.second->versions.size() - 1); }

  bool try_sample(const Lines& lines, unsigned sample) {
    const std::uint64_t seed = random_();
    std::mt19937_64 choose(seed);
    const std::string name = " (" + std::to_string(seed) + ")";
    const std::size_t cut = choose() % lines.size();
    switch (sample % 6) {
      case 0:
        return try_choice(lines, "all but line " + std::to_string(cut), [&](std::size_t i, unsigned) { return i == cut ? 0 : last(lines[i]); });
      case 1:  // every word for itself
        return try_choice(lines, "torn" + name, [&](std::size_t i, unsigned) { return static_cast<unsigned>(choose() % (last(lines[i]) + 1)); });
      case 2:
        return try_choice(lines, "lines below " + std::to_string(cut), [&](std::size_t i, unsigned) { return i < cut ? last(lines[i]) : 0; });
      case 3:
        return try_choice(lines, "lines from " + std::to_string(cut), [&](std::size_t i, unsigned) { return i >= cut ? last(lines[i]) : 0; });
      case 4: {  // one line torn, the others there
        return try_choice(lines, "all, line " + std::to_string(cut) + " torn" + name,
                          [&](std::size_t i, unsigned) { return i == cut && choose() % 2 ? 0 : last(lines[i]); });
      }
      default: {
        const std::uint64_t chance = 1 + choose() % 15;  // of 16
        std::vector<unsigned> versions;
        for (const auto& line : lines) versions.push_back(choose() % 16 < chance ? static_cast<unsigned>(1 + choose() % last(line)) : 0);
        return try_choice(lines, "any" + name, [&](std::size_t i, unsigned) { return versions[i]; });
      }
    }
  }

  // Makes the state in which word w of lines[i] holds version_of(i, w), and undoes it after the visit.
  bool try_choice(const Lines& lines, std::string choice, const std::function<unsigned(std::size_t, unsigned)>& version_of) {
    for (std::size_t i = 0; i < lines.size(); ++i) {
      Line content;
      for (unsigned word = 0; word < kWords; ++word) {
        const Line& from = lines[i].second->versions[version_of(i, word)];
        std::memcpy(content.data() + word * 8, from.data() + word * 8, 8);
      }
      put(lines[i].first, content);
    }
    const bool go_on = visit_({drains_, lines.size(), std::move(choice), whole_blocks(bad_)});
    for (const auto& [number, line] : lines) put(number, line->versions.front());
    return go_on;
  }

  std::span<std::byte> memory_;
  const Log& log_;
  const CrashOptions& options_;
  std::mt19937_64& random_;
  const std::function<bool(const CrashPoint&)>& visit_;
  BadRanges bad_;
  std::map<std::uint64_t, UnderWay> lines_;
  std::size_t drains_ = 0;
  bool changed_ = true;  // the state before the first event is one too
};

}  // namespace

bool for_each_crash(std::span<std::byte> memory, const Log& log, const CrashOptions& options, std::mt19937_64& random,
                    const std::function<bool(const CrashPoint&)>& visit) {
  return Walk(memory, log, options, random, visit).run();
}

}  // namespace daxcow::test
