// Mutexes that clang's thread-safety analysis understands, and that tests can interleave (schedule.h).
//
// Lock order (each level only before those below it):
//   volume gate -> inode lock, ascending by (volume, number) -> the transaction mutex -> leaf locks
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <shared_mutex>

#include "engine/schedule.h"

#if defined(__clang__)
#define DAXCOW_TS(x) __attribute__((x))
#else
#define DAXCOW_TS(x)
#endif

#define CAPABILITY(x) DAXCOW_TS(capability(x))
#define SCOPED_CAPABILITY DAXCOW_TS(scoped_lockable)
#define GUARDED_BY(x) DAXCOW_TS(guarded_by(x))
#define PT_GUARDED_BY(x) DAXCOW_TS(pt_guarded_by(x))
#define REQUIRES(...) DAXCOW_TS(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) DAXCOW_TS(requires_shared_capability(__VA_ARGS__))
#define ACQUIRE(...) DAXCOW_TS(acquire_capability(__VA_ARGS__))
#define ACQUIRE_SHARED(...) DAXCOW_TS(acquire_shared_capability(__VA_ARGS__))
#define RELEASE(...) DAXCOW_TS(release_capability(__VA_ARGS__))
#define RELEASE_SHARED(...) DAXCOW_TS(release_shared_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) DAXCOW_TS(try_acquire_capability(__VA_ARGS__))
#define EXCLUDES(...) DAXCOW_TS(locks_excluded(__VA_ARGS__))
#define ASSERT_CAPABILITY(x) DAXCOW_TS(assert_capability(x))
#define RETURN_CAPABILITY(x) DAXCOW_TS(lock_returned(x))
#define NO_THREAD_SAFETY_ANALYSIS DAXCOW_TS(no_thread_safety_analysis)

namespace daxcow {

// How a lock is taken and given back when somebody decides about the order of threads.
namespace internal {
template <class Try>
void acquire(Scheduler& s, const void* lock, Try try_to) {
  s.yield();
  while (!try_to()) s.block(lock);
}
[[gnu::noinline, gnu::cold]] inline void released(Scheduler& s, const void* lock) {
  s.wake(lock);
  s.yield();
}
}  // namespace internal

class CAPABILITY("mutex") Mutex {
 public:
  void lock() ACQUIRE() {
    if (Scheduler* s = scheduler()) [[unlikely]]
      return lock_scheduled(*s);
    mutex_.lock();
  }
  void unlock() RELEASE() {
    mutex_.unlock();
    if (Scheduler* s = scheduler()) [[unlikely]]
      internal::released(*s, this);
  }
  bool try_lock() TRY_ACQUIRE(true) { return mutex_.try_lock(); }
  // Tells the analysis that the caller holds the mutex where it cannot see that (callbacks).
  void assert_held() const ASSERT_CAPABILITY(this) {}

 private:
  friend class Condition;
  [[gnu::noinline, gnu::cold]] void lock_scheduled(Scheduler& s) NO_THREAD_SAFETY_ANALYSIS {
    internal::acquire(s, this, [this] { return mutex_.try_lock(); });
  }
  std::mutex mutex_;
};

class CAPABILITY("shared_mutex") SharedMutex {
 public:
  void lock() ACQUIRE() {
    if (Scheduler* s = scheduler()) [[unlikely]]
      return lock_scheduled(*s);
    mutex_.lock();
  }
  void unlock() RELEASE() {
    mutex_.unlock();
    if (Scheduler* s = scheduler()) [[unlikely]]
      internal::released(*s, this);
  }
  void lock_shared() ACQUIRE_SHARED() {
    if (Scheduler* s = scheduler()) [[unlikely]]
      return lock_shared_scheduled(*s);
    mutex_.lock_shared();
  }
  void unlock_shared() RELEASE_SHARED() {
    mutex_.unlock_shared();
    if (Scheduler* s = scheduler()) [[unlikely]]
      internal::released(*s, this);
  }
  bool try_lock() TRY_ACQUIRE(true) { return mutex_.try_lock(); }
  void assert_held() const ASSERT_CAPABILITY(this) {}

 private:
  [[gnu::noinline, gnu::cold]] void lock_scheduled(Scheduler& s) NO_THREAD_SAFETY_ANALYSIS {
    internal::acquire(s, this, [this] { return mutex_.try_lock(); });
  }
  [[gnu::noinline, gnu::cold]] void lock_shared_scheduled(Scheduler& s) NO_THREAD_SAFETY_ANALYSIS {
    internal::acquire(s, this, [this] { return mutex_.try_lock_shared(); });
  }
  std::shared_mutex mutex_;
};

// What threads wait for with a Mutex held (by a std::unique_lock).
class Condition {
 public:
  template <class Predicate>
  void wait(std::unique_lock<Mutex>& lock, Predicate done) {
    if (Scheduler* s = scheduler()) [[unlikely]] {
      while (!done()) wait_scheduled(*s, *lock.mutex());
      return;
    }
    with_native(lock, [&](auto& native) { changed_.wait(native, done); });
  }
  // Whether `done` holds. Where the order is decided from outside, the time may be over at once.
  template <class Predicate>
  bool wait_for(std::unique_lock<Mutex>& lock, std::chrono::milliseconds time, Predicate done) {
    if (Scheduler* s = scheduler()) [[unlikely]] {
      lock.unlock();
      s->pause();
      lock.lock();
      return done();
    }
    bool is_done = false;
    with_native(lock, [&](auto& native) { is_done = changed_.wait_for(native, time, done); });
    return is_done;
  }
  void notify_one() {
    changed_.notify_one();
    if (Scheduler* s = scheduler()) [[unlikely]]
      s->wake(this);
  }
  void notify_all() {
    changed_.notify_all();
    if (Scheduler* s = scheduler()) [[unlikely]]
      s->wake(this);
  }

 private:
  template <class Wait>
  static void with_native(std::unique_lock<Mutex>& lock, Wait wait) {
    std::unique_lock<std::mutex> native(lock.mutex()->mutex_, std::adopt_lock);
    wait(native);
    native.release();
  }
  // Nobody goes between the release of the mutex and the beginning of the wait.
  void wait_scheduled(Scheduler& s, Mutex& mutex) NO_THREAD_SAFETY_ANALYSIS {
    mutex.mutex_.unlock();
    s.wake(&mutex);
    s.block(this);
    mutex.lock();
  }
  std::condition_variable changed_;
};

template <class AnyMutex>
class SCOPED_CAPABILITY LockGuard {
 public:
  explicit LockGuard(AnyMutex& m) ACQUIRE(m) : mutex_(m) { mutex_.lock(); }
  ~LockGuard() RELEASE() { mutex_.unlock(); }
  LockGuard(const LockGuard&) = delete;
  LockGuard& operator=(const LockGuard&) = delete;

 private:
  AnyMutex& mutex_;
};

}  // namespace daxcow
