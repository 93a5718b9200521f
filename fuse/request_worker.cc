#include "fuse/request_worker.h"

namespace daxcow {

bool RequestWorker::submit(std::function<void()> job) {
  std::lock_guard lock(mutex_);
  if (closed_) return false;
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  jobs_.push_back(std::move(job));
  changed_.notify_one();
  return true;
}

void RequestWorker::close() {
  std::thread ended;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    ended.swap(thread_);
    changed_.notify_one();
  }
  if (ended.joinable()) ended.join();
}

void RequestWorker::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return closed_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const auto job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace daxcow
