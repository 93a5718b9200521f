#include "test/explore/interleave.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <thread>

#include "engine/check.h"
#include "test/explore/crash_states.h"
#include "test/explore/inspect.h"

namespace daxcow::test {
namespace {

constexpr std::size_t kKeptFailures = 20;

Observation observe(const Dump& dump) {
  Observation seen;
  for (const auto& [name, volume] : dump.volumes) seen.volumes[name] = model_of(volume);
  return seen;
}

std::string check_times(const Dump& dump) {
  for (const auto& [name, volume] : dump.volumes)
    for (const auto& [path, inode] : volume.names)
      if (inode.times[1] < inode.times[3] || inode.times[2] < inode.times[3]) return name + ":" + path + " was changed before it was made";
  return "";
}

// Only who owns a bad block may have lost something.
std::string check_losses(const Dump& dump, Stage& stage) {
  for (const auto& [name, volume] : stage.volumes) {
    const auto dumped = dump.volumes.find(name);
    if (dumped == dump.volumes.end()) continue;
    for (const auto& [path, inode] : dumped->second.names)
      for (const std::uint64_t lost : inode.lost) {
        bool bad = false;
        (void)volume->for_each_extent(InodeNumber(inode.number), FileBlock(lost), false, [&](const FileExtent& extent) {
          bad = extent.state == ExtentState::kWritten && stage.bad.contains((extent.block + (FileBlock(lost) - extent.start)).value);
          return false;
        });
        if (!bad) return name + ":" + path + ": block " + std::to_string(lost) + " is lost without being bad";
      }
  }
  return "";
}

// Each pass that was begun may come to its end once, and those that were waited for have.
std::string check_scrub(const ScrubStatus& scrub, const std::vector<Call>& calls) {
  const auto count = [&](auto is_one) { return static_cast<std::uint64_t>(std::ranges::count_if(calls, is_one)); };
  const std::uint64_t ended = count([](const Call& call) { return call.kind == CallKind::kScrub && !call.error; });
  const std::uint64_t begun = count([](const Call& call) {
    return call.kind == CallKind::kScrub || (call.kind == CallKind::kPatrol && call.first <= 1 && !call.error);
  });
  if (scrub.passes >= ended && scrub.passes <= begun) return "";
  return std::to_string(begun) + " passes of the scrub begun, " + std::to_string(ended) +
         " waited for to the end, but: " + text_of(scrub);
}

}  // namespace

void InterleaveTally::add(const InterleaveTally& other) {
  runs += other.runs;
  calls += other.calls;
  refused += other.refused;
  points += other.points;
  switches += other.switches;
  crash_states += other.crash_states;
  fingerprint ^= other.fingerprint;
  failures.insert(failures.end(), other.failures.begin(), other.failures.end());
}

std::span<std::byte> Interleaving::load(Scene scene) {
  auto& image = images_[scene];
  if (!image.empty()) return image;
  image = make_scene(scene);
  // Looked up here and not in each run, which begins with a cold cache so.
  Recording recording(image);
  recording.arm();
  {
    const auto pool = open_pool(recording);
    CHECK(pool.has_value());
    const auto content = dump(**pool);
    CHECK(content.has_value());
    contents_[scene] = {observe(*content).volumes};
    recording.cut_power();
  }
  recording.take_log().undo(image);
  return image;
}

bool Interleaving::run(std::uint64_t seed) {
  const Plan plan = make_plan(seed, options_.threads);
  Recording recording(load(plan.scene));
  std::vector<Call> calls;
  const std::string wrong = perform(plan, recording, calls);
  ++tally_.runs;
  for (const Call& call : calls) {
    ++tally_.calls;
    if (call.error) ++tally_.refused;
  }
  if (wrong.empty() && !say_all) return true;
  std::string text = "seed " + std::to_string(seed) + ": " + plan.text();
  std::ranges::sort(calls, {}, &Call::begin);
  for (const Call& call : calls) text += "    " + call.text() + "\n";
  if (say_all) std::fputs(text.c_str(), stdout);
  if (wrong.empty()) return true;
  if (tally_.failures.size() < kKeptFailures) tally_.failures.push_back(text + "  " + wrong);
  images_.erase(plan.scene);  // whatever is in it now
  return false;
}

std::string Interleaving::perform(const Plan& plan, Recording& recording, std::vector<Call>& calls) {
  recording.arm();
  auto pool = open_pool(recording, plan.small_cache);
  if (!pool) return "does not open: " + describe(pool.error());
  auto stage = Stage::open(**pool, recording, plan);
  if (!stage) return "does not mount: " + describe(stage.error());
  const ModelState start = start_of(contents_.at(plan.scene), plan);
  const Log opening = recording.take_log();
  recording.arm();

  // --- the threads ---
  std::vector<std::vector<Call>> done(plan.threads.size());
  std::vector<std::function<void()>> bodies;
  Patrol& patrol = (*pool)->patrol();
  if (plan.patrol) CHECK(patrol.prepare(0).has_value());
  std::atomic<std::size_t> unfinished = plan.threads.size();
  for (std::size_t t = 0; t < plan.threads.size(); ++t)
    bodies.emplace_back([&, t] {
      for (Call call : plan.threads[t])
        if ((*stage)->perform(call)) done[t].push_back(std::move(call));
      if (--unfinished == 0 && plan.patrol) patrol.stop_thread();
    });
  if (plan.patrol) bodies.emplace_back([&] { patrol.serve(); });
  if (options_.free) {
    std::vector<std::thread> threads;
    for (auto& body : bodies) threads.emplace_back(body);
    for (auto& thread : threads) thread.join();
  } else {
    recording.on_access = [] {
      if (Scheduler* s = scheduler()) s->yield();
    };
    Interleaver interleaver(plan.order);
    interleaver.run(bodies, [&] {
      std::string text = "FAILED seed " + std::to_string(plan.seed) + ": " + plan.text();
      for (const auto& thread : plan.threads)
        for (const Call& call : thread) text += "    " + call.text() + "\n";
      std::fprintf(stderr, "%s", text.c_str());
    });
    recording.on_access = {};
    tally_.points += interleaver.points();
    tally_.switches += interleaver.switches();
    tally_.fingerprint ^= interleaver.fingerprint();
  }
  for (auto& thread : done) calls.insert(calls.end(), thread.begin(), thread.end());

  // --- what they leave ---
  Dump live;
  std::string wrong = [&] {
    const auto seen = dump(**pool, (*stage)->volumes, {.tolerate_losses = plan.poison});
    if (!seen) return "dump: " + describe(seen.error());
    std::vector<const Call*> pointers;
    for (const Call& call : calls) pointers.push_back(&call);
    return explain(start, pointers, {}, observe(*seen), {plan.scene == Scene::kFull, plan.poison, plan.patrol});
  }();
  const ScrubStatus scrub = patrol.status();
  if (wrong.empty()) wrong = check_scrub(scrub, calls);
  if (wrong.empty()) wrong = finish(plan, **stage, live);
  const auto statistics = (*pool)->statistics();
  const Log log = recording.take_log();
  recording.cut_power();
  stage->reset();
  pool->reset();
  if (wrong.empty()) {
    recording.arm();
    wrong = [&]() -> std::string {
      auto again = open_pool(recording);
      if (!again) return "does not open again: " + describe(again.error());
      if (plan.poison) (*again)->settle();
      const auto content = dump(**again, {}, {.tolerate_losses = plan.poison});
      if (!content) return "dump after the next open: " + describe(content.error());
      if (const auto differs = difference(live, *content)) return "after the next open: " + *differs;
      if (const ScrubStatus now = (*again)->patrol().status(); !is_same(scrub, now))
        return "after the next open: scrub: " + text_of(scrub) + " and " + text_of(now);
      const auto free_now = (*again)->statistics();
      if (!statistics || !free_now || statistics->data_free_blocks != free_now->data_free_blocks ||
          statistics->metadata_free_blocks != free_now->metadata_free_blocks)
        return "free blocks: " + std::to_string(statistics ? statistics->data_free_blocks : 0) + " and " +
               std::to_string(statistics ? statistics->metadata_free_blocks : 0) + " of metadata, after the next open " +
               std::to_string(free_now ? free_now->data_free_blocks : 0) + " and " + std::to_string(free_now ? free_now->metadata_free_blocks : 0);
      return check_clean(**again, "after the next open");
    }();
    recording.cut_power();
    recording.take_log().undo(recording.memory());
  }
  log.undo(recording.memory());
  if (wrong.empty() && plan.crash) wrong = crash(plan, recording, log, start, calls);
  opening.undo(recording.memory());
  return wrong;
}

std::string Interleaving::finish(const Plan& plan, Stage& stage, Dump& live) {
  for (const auto& [name, volume] : stage.volumes) {
    volume->forget_all();
    if (const auto done = volume->sync_all(); !done) return "sync: " + describe(done.error());
  }
  stage.pool.settle();
  const auto seen = dump(stage.pool, stage.volumes, {.tolerate_losses = plan.poison});
  if (!seen) return "dump: " + describe(seen.error());
  live = *seen;
  if (std::string wrong = check_losses(live, stage); !wrong.empty()) return wrong;
  if (std::string wrong = check_times(live); !wrong.empty()) return wrong;
  return check_clean(stage.pool, "at the end");
}

std::string Interleaving::crash(const Plan& plan, Recording& recording, const Log& log, const ModelState& start, const std::vector<Call>& calls) {
  std::mt19937_64 random(plan.seed + 1);
  std::vector<std::size_t> drains;  // where in the log
  for (std::size_t i = 0; i < log.events.size(); ++i)
    if (log.events[i].kind == Log::Event::Kind::kDrain) drains.push_back(i);
  drains.push_back(log.events.size());
  std::size_t end_of_calls = 0;
  for (const Call& call : calls) end_of_calls = std::max(end_of_calls, call.log_end);
  const std::size_t of_calls = static_cast<std::size_t>(std::ranges::lower_bound(drains, end_of_calls) - drains.begin()) + 1;
  std::set<std::size_t> chosen;
  for (unsigned i = 0; i < std::max(1u, options_.crash_states / 12); ++i) chosen.insert(random() % std::min(of_calls, drains.size()));
  std::string wrong;
  for_each_crash(recording.memory(), log, {}, random, [&](const CrashPoint& point) {
    if (point.drain > *chosen.rbegin() || !wrong.empty()) return false;
    if (!chosen.contains(point.drain)) return true;
    ++tally_.crash_states;
    recording.set_listed(point.bad);
    wrong = look(plan, recording, start, calls, drains[point.drain]);
    if (!wrong.empty())
      wrong = "crash after drain " + std::to_string(point.drain) + " (event " + std::to_string(drains[point.drain]) + "), " +
              std::to_string(point.lines) + " lines under way, " + point.choice + ": " + wrong;
    return wrong.empty();
  });
  log.undo(recording.memory());  // stopped early, memory is in between
  recording.set_listed({});
  return wrong;
}

// The pool as a crash at this place of the log left it.
std::string Interleaving::look(const Plan& plan, Recording& recording, const ModelState& start, const std::vector<Call>& calls, std::size_t position) {
  recording.arm();
  const std::string wrong = [&]() -> std::string {
    auto pool = open_pool(recording);
    if (!pool) return "does not open: " + describe(pool.error());
    if (plan.poison) (*pool)->settle();
    if (std::string unclean = check_clean(**pool, "after it"); !unclean.empty()) return unclean;
    const auto seen = dump(**pool, {}, {.tolerate_losses = plan.poison});
    if (!seen) return "dump: " + describe(seen.error());
    std::vector<const Call*> ended, pending;
    for (const Call& call : calls) {
      if (call.log_end <= position) ended.push_back(&call);
      else if (call.log_begin <= position) pending.push_back(&call);
    }
    return explain(start, ended, pending, observe(*seen), {plan.scene == Scene::kFull, plan.poison, plan.patrol});
  }();
  recording.cut_power();
  recording.take_log().undo(recording.memory());
  return wrong;
}

}  // namespace daxcow::test
