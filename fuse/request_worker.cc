#include "fuse/request_worker.h"

namespace daxcow {

void RequestWorker::open() {
  std::lock_guard lock(mutex_);
  open_ = true;
  thread_ = std::thread([this] { run(); });
}

bool RequestWorker::submit(std::function<void()> job) {
  std::lock_guard lock(mutex_);
  if (!open_) return false;
  jobs_.push_back(std::move(job));
  changed_.notify_one();
  return true;
}

void RequestWorker::close() {
  std::thread ended;
  {
    std::lock_guard lock(mutex_);
    open_ = false;
    ended.swap(thread_);
    changed_.notify_one();
  }
  if (ended.joinable()) ended.join();
}

void RequestWorker::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !open_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const auto job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace daxcow
