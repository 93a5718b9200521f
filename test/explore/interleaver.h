// Runs a few threads one at a time, and decides by a seed which one goes on at each point of engine/schedule.h: the same
// seed gives the same order again, as long as the threads themselves do the same.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/schedule.h"

namespace daxcow::test {

struct Order {
  std::uint64_t seed = 0;
  // Any thread may go on, after one in so many points on average; or 0: always the one of the highest priority, which loses
  // it at `changes` points among the first `length` ones (few preemptions in the right places find most faults; after
  // Burckhardt and others, "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", 2010).
  unsigned switch_every = 4;
  unsigned changes = 3;
  std::uint64_t length = 2'000;
  std::string text() const;
};

class Interleaver final : public Scheduler {
 public:
  explicit Interleaver(const Order& order);
  ~Interleaver() override;

  // Returns when all have. When all wait for one another, or nobody gets anywhere, it prints who waits where, calls
  // `give_up` and ends the process: nothing could be saved.
  void run(const std::vector<std::function<void()>>& bodies, const std::function<void()>& give_up);

  std::uint64_t points() const { return points_; }
  std::uint64_t switches() const { return switches_; }
  std::uint64_t fingerprint() const { return fingerprint_; }  // of the order that was taken

  void yield() override;
  void pause() override;
  void block(const void* what) override;
  void wake(const void* what) override;

 private:
  struct Participant;
  static constexpr std::size_t kNobody = ~std::size_t{0};
  static thread_local std::size_t self_;

  std::size_t choose(bool others_only);
  void hand_over(std::size_t to);
  void wait_for_turn();
  void stuck(const char* why);

  Order order_;
  std::mt19937_64 random_;
  std::vector<std::uint64_t> changes_;
  std::vector<std::unique_ptr<Participant>> threads_;
  const std::function<void()>* give_up_ = nullptr;
  std::uint64_t lowest_ = 0;
  std::uint64_t points_ = 0, switches_ = 0, fingerprint_ = 0xcbf29ce484222325;
  std::size_t finished_ = 0;
  std::atomic<bool> reporting_{false};
};

}  // namespace daxcow::test
