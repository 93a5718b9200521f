// Where the order of threads can be decided from outside: tests run a pool's threads one at a time and choose at each of
// these points which one goes on, so that an order that fails can be had again (test/explore/interleaver.h).
//
// Every lock of the engine is a Mutex or SharedMutex, every wait a Condition (all mutex.h) or one of the functions below;
// they ask scheduler(). It is null but in tests, and costs one load and one branch.
#pragma once

#include <chrono>
#include <thread>

namespace daxcow {

class Scheduler {
 public:
  virtual ~Scheduler() = default;
  // Others may go first.
  virtual void yield() = 0;
  // The caller waits for others without knowing whom, and will look again: others should go first, if there are any.
  virtual void pause() = 0;
  // The caller cannot go on before wake(what). May return earlier.
  virtual void block(const void* what) = 0;
  // Does not give way to anyone.
  virtual void wake(const void* what) = 0;
};

namespace internal {
inline constinit thread_local Scheduler* scheduler_of_thread = nullptr;
}

// Of the calling thread.
inline Scheduler* scheduler() { return internal::scheduler_of_thread; }

inline void yield_thread() {
  if (Scheduler* s = scheduler()) [[unlikely]]
    return s->pause();
  std::this_thread::yield();
}

inline void sleep_thread(std::chrono::microseconds time) {
  if (Scheduler* s = scheduler()) [[unlikely]]
    return s->pause();
  std::this_thread::sleep_for(time);
}

}  // namespace daxcow
