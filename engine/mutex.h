// Mutexes that clang's thread-safety analysis understands.
//
// Lock order (each level only before those below it):
//   volume gate -> inode lock, ascending by (volume, number) -> the transaction mutex -> leaf locks
#pragma once

#include <mutex>
#include <shared_mutex>

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

class CAPABILITY("mutex") Mutex {
 public:
  void lock() ACQUIRE() { mutex_.lock(); }
  void unlock() RELEASE() { mutex_.unlock(); }
  bool try_lock() TRY_ACQUIRE(true) { return mutex_.try_lock(); }
  // Tells the analysis that the caller holds the mutex where it cannot see that (callbacks).
  void assert_held() const ASSERT_CAPABILITY(this) {}
  std::mutex& native() { return mutex_; }

 private:
  std::mutex mutex_;
};

class CAPABILITY("shared_mutex") SharedMutex {
 public:
  void lock() ACQUIRE() { mutex_.lock(); }
  void unlock() RELEASE() { mutex_.unlock(); }
  void lock_shared() ACQUIRE_SHARED() { mutex_.lock_shared(); }
  void unlock_shared() RELEASE_SHARED() { mutex_.unlock_shared(); }
  bool try_lock() TRY_ACQUIRE(true) { return mutex_.try_lock(); }
  void assert_held() const ASSERT_CAPABILITY(this) {}

 private:
  std::shared_mutex mutex_;
};

class SCOPED_CAPABILITY LockGuard {
 public:
  explicit LockGuard(Mutex& m) ACQUIRE(m) : mutex_(m) { mutex_.lock(); }
  ~LockGuard() RELEASE() { mutex_.unlock(); }
  LockGuard(const LockGuard&) = delete;
  LockGuard& operator=(const LockGuard&) = delete;

 private:
  Mutex& mutex_;
};

}  // namespace daxcow
