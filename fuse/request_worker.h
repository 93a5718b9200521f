// A thread for requests of one session that the session's own threads must not do: those during which the kernel is told to
// drop pages. It writes dirty ones first, and the write needs a thread that answers it.
//
// Jobs are done one after the other.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace daxcow {

class RequestWorker {
 public:
  ~RequestWorker() { close(); }
  // Not by a thread of the session: those that serve an io_uring are bound to a core, and so would be this one.
  void open();
  // False before open() and after close(): the caller answers the request itself.
  bool submit(std::function<void()> job);
  // Does what was submitted, and nothing more. Before the session stops answering.
  void close();

 private:
  void run();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool open_ = false;
  std::thread thread_;
};

}  // namespace daxcow
