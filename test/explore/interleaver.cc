#include "test/explore/interleaver.h"

#include <execinfo.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "test/unseen.h"

namespace daxcow::test {
namespace {

constexpr std::uint64_t kMaximumPoints = 20'000'000;

constexpr auto kAcquire = std::memory_order_acquire, kRelease = std::memory_order_release;

class Turn {
 public:
  void give() {
    word_.store(1, kRelease);
    syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }
  void await() {
    while (word_.load(kAcquire) == 0) syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, 0, nullptr, nullptr, 0);
    word_.store(0, std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint32_t> word_{0};
};

}  // namespace

struct Interleaver::Participant {
  Turn turn;
  const void* waits_for = nullptr;
  bool finished = false;
  std::uint64_t priority = 0;
  bool runnable() const { return !finished && waits_for == nullptr; }
};

thread_local std::size_t Interleaver::self_ = Interleaver::kNobody;

std::string Order::text() const {
  if (switch_every != 0) return "one switch in " + std::to_string(switch_every);
  return std::to_string(changes) + " changes of priority in " + std::to_string(length);
}

Interleaver::Interleaver(const Order& order) : order_(order), random_(order.seed) {
  for (unsigned i = 0; i < order.changes; ++i) changes_.push_back(random_() % std::max<std::uint64_t>(order.length, 1));
}

Interleaver::~Interleaver() = default;

void Interleaver::run(const std::vector<std::function<void()>>& bodies, const std::function<void()>& give_up) {
  give_up_ = &give_up;
  lowest_ = 1'000'000;
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    threads_.push_back(std::make_unique<Participant>());
    threads_.back()->priority = lowest_ + 1 + random_() % 1'000'000;
  }
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < bodies.size(); ++i)
    threads.emplace_back([this, i, &bodies] {
      self_ = i;
      {
        const Unseen unseen;
        wait_for_turn();
      }
      internal::scheduler_of_thread = this;
      bodies[i]();
      internal::scheduler_of_thread = nullptr;
      const Unseen unseen;
      threads_[i]->finished = true;
      if (++finished_ == threads_.size()) return;
      const std::size_t next = choose(true);
      if (next == kNobody) return stuck("the others wait for one another");
      threads_[next]->turn.give();
    });
  {
    const Unseen unseen;
    threads_[choose(false)]->turn.give();
  }
  for (std::thread& thread : threads) thread.join();
}

void Interleaver::wait_for_turn() {
  threads_[self_]->turn.await();
  if (!reporting_.load(kAcquire)) return;
  void* frames[64];
  std::fprintf(stderr, "thread %zu waits for %p:\n", self_, threads_[self_]->waits_for);
  backtrace_symbols_fd(frames, backtrace(frames, 64), STDERR_FILENO);
  reporting_.store(false, kRelease);
  for (;;) threads_[self_]->turn.await();
}

void Interleaver::stuck(const char* why) {
  std::fprintf(stderr, "after %llu points: %s\n", static_cast<unsigned long long>(points_), why);
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    if (threads_[i]->finished) continue;
    if (i == self_) {
      void* frames[64];
      std::fprintf(stderr, "thread %zu (running) waits for %p:\n", i, threads_[i]->waits_for);
      backtrace_symbols_fd(frames, backtrace(frames, 64), STDERR_FILENO);
      continue;
    }
    reporting_.store(true, kRelease);
    threads_[i]->turn.give();
    while (reporting_.load(kAcquire)) std::this_thread::yield();
  }
  (*give_up_)();
  std::_Exit(1);
}

// Which thread goes on.
std::size_t Interleaver::choose(bool others_only) {
  const auto eligible = [&](std::size_t i) { return threads_[i]->runnable() && !(others_only && i == self_); };
  std::size_t count = 0, best = kNobody;
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    if (!eligible(i)) continue;
    ++count;
    if (best == kNobody || threads_[i]->priority > threads_[best]->priority) best = i;
  }
  if (count == 0 || order_.switch_every == 0) return best;
  std::size_t pick = random_() % count;
  for (std::size_t i = 0; i < threads_.size(); ++i)
    if (eligible(i) && pick-- == 0) return i;
  return kNobody;
}

void Interleaver::hand_over(std::size_t to) {
  if (to == self_) return;
  ++switches_;
  fingerprint_ = ((fingerprint_ ^ points_) * 0x100000001b3 ^ to) * 0x100000001b3;
  threads_[to]->turn.give();
  wait_for_turn();
}

void Interleaver::yield() {
  const Unseen unseen;
  if (++points_ > kMaximumPoints) stuck("nobody gets anywhere");
  if (order_.switch_every == 0) {
    if (std::ranges::find(changes_, points_) != changes_.end()) threads_[self_]->priority = --lowest_;
  } else if (random_() % order_.switch_every != 0) {
    return;
  }
  hand_over(choose(false));
}

void Interleaver::pause() {
  const Unseen unseen;
  if (++points_ > kMaximumPoints) stuck("nobody gets anywhere");
  threads_[self_]->priority = --lowest_;
  const std::size_t next = choose(true);
  if (next == kNobody) {
    usleep(20);
    return;
  }
  hand_over(next);
}

void Interleaver::block(const void* what) {
  const Unseen unseen;
  ++points_;
  threads_[self_]->waits_for = what;
  const std::size_t next = choose(false);
  if (next == kNobody) stuck("all wait for one another");
  hand_over(next);
}

void Interleaver::wake(const void* what) {
  const Unseen unseen;
  for (auto& thread : threads_)
    if (thread->waits_for == what) thread->waits_for = nullptr;
}

}  // namespace daxcow::test
