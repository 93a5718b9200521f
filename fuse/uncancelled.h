// libfuse ends its threads by cancelling them: those that read from /dev/fuse while they read, those that serve an io_uring
// whatever they do. What runs in them of ours has locks, and must not end half-way.
#pragma once

#include <pthread.h>

namespace daxcow {

// While it lives, a cancellation of this thread waits.
class Uncancelled {
 public:
  Uncancelled() { ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  ~Uncancelled() { ::pthread_setcancelstate(before_, nullptr); }
  Uncancelled(const Uncancelled&) = delete;
  Uncancelled& operator=(const Uncancelled&) = delete;

 private:
  int before_ = PTHREAD_CANCEL_ENABLE;
};

}  // namespace daxcow
