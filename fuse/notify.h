// The daemon's part of the reaction to lost data: the kernel forgets the pages of each lost range, and the processes
// that map it are told.
//
// In this order: once the pages are gone, whoever touches the range asks the daemon and gets an error; so a process
// that maps the range too late to be signalled cannot miss the loss either. Dirty pages are written when the kernel
// lets go of them, which heals the range: then nobody has lost anything, and nobody is signalled.
//
// A thread of its own does it, in the order of on_lost(), because the kernel may wait for requests that the daemon must
// answer meanwhile. What has gathered while it was busy it takes together: the mappings of all processes are looked at
// once for all of that.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/pool.h"
#include "fuse/session.h"

namespace daxcow {

class Notifier : public PoisonObserver {
 public:
  // The started session of a volume, or null.
  using FindSession = std::function<std::shared_ptr<Session>(VolumeNumber)>;

  // Registers with the pool until destroyed.
  Notifier(Pool& pool, FindSession find_session);
  ~Notifier() override;

  void on_lost(const LostRange& range) override;
  std::uint64_t read_cached(const LostRange& page, std::span<std::byte> to) override;
  // Waits until everything that was reported before has been done.
  void drain();

 private:
  void run();
  // Ranges that are lost and may be mapped, and what is told of them. Not the session itself: a process that is looked at may
  // be waiting for the end of its mount, and that of the session for whoever holds it.
  struct Loss {
    LostRange range;
    dev_t device;
    std::weak_ptr<Session> session;
    std::shared_ptr<Volume> volume;
  };
  void invalidate(const LostRange& range, std::vector<Loss>& losses);
  void signal(const std::vector<Loss>& losses);

  Pool& pool_;
  FindSession find_session_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<LostRange> queue_;
  bool busy_ = false;  // with what it has taken from the queue
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace daxcow
