// A volume's gate: operations pass it shared, a snapshot closes it. Unlike std::shared_mutex it lets a waiting closer in
// before newcomers, so a snapshot is taken under any load. Not to be entered twice by one thread.
#pragma once

#include <cstdint>
#include <mutex>

#include "engine/mutex.h"

namespace daxcow {

class Gate {
 public:
  void lock_shared() {
    std::unique_lock guard(mutex_);
    changed_.wait(guard, [this] { return !closing_; });
    ++inside_;
  }
  // False where that would wait.
  bool try_lock_shared() {
    const LockGuard guard(mutex_);
    if (closing_) return false;
    ++inside_;
    return true;
  }
  void unlock_shared() {
    const LockGuard guard(mutex_);
    if (--inside_ == 0) changed_.notify_all();
  }
  void lock() {
    std::unique_lock guard(mutex_);
    changed_.wait(guard, [this] { return !closing_; });
    closing_ = true;
    changed_.wait(guard, [this] { return inside_ == 0; });
  }
  void unlock() {
    const LockGuard guard(mutex_);
    closing_ = false;
    changed_.notify_all();
  }

 private:
  Mutex mutex_;
  Condition changed_;
  std::uint64_t inside_ = 0;
  bool closing_ = false;
};

}  // namespace daxcow
