// Programs of the administrator that are told what happens to a pool: the executables of a directory, run one after the
// other, in the order of their names, each time there is news.
//
// A hook gets the events as `daxcow events --json` prints them, one object a line, on its standard input, each with
// "mount_point" where its volume is mounted. Its environment is nothing but PATH, DAXCOW_POOL, DAXCOW_EVENTS (how
// many), DAXCOW_KINDS ("poison-found data-lost", each once) and DAXCOW_TEXT: the lines for people, cut after 16 KiB.
// What it prints goes to the log. No shell is involved, and nothing from the pool is in its arguments.
//
// Events that come together are told together: the first is waited on for a moment, and what happens while hooks run
// is told by the next run. So there is one process at a time, whatever happens to the pool; a hook that takes longer
// than kHookTime is killed, with what it has started. All this happens in a thread of its own that nobody waits for.
//
// The directory and the hooks must be root's and writable for root only; what is not is refused, with a line in the
// log. As with run-parts(8), only names of letters, digits, '_' and '-' count.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/events.h"

namespace daxcow {

inline constexpr const char* kHooksDirectory = "/etc/daxcow/events.d";

class Hooks {
 public:
  // Where a volume is mounted, if it is. Called from the hooks' thread.
  using FindMountPoint = std::function<std::optional<std::string>(const std::string& volume)>;

  // Follows `events` from the first on.
  Hooks(std::string directory, std::string pool_path, EventLog& events, FindMountPoint find_mount_point);
  // Takes what has not been told yet out of the log, which waits for nobody any more and is not looked at afterwards.
  void detach();
  // Tells what is left, for a few seconds at most. After detach() only.
  ~Hooks();
  Hooks(const Hooks&) = delete;
  Hooks& operator=(const Hooks&) = delete;

 private:
  using Clock = std::chrono::steady_clock;

  void follow();
  std::vector<Event> take(std::unique_lock<std::mutex>& lock, unsigned wait_milliseconds);
  void tell(const std::vector<Event>& batch);
  // Paths of the hooks that may be run, in order.
  std::vector<std::string> find();
  // Says each thing once.
  void complain(const std::string& line);
  void run(const std::string& hook, int input, const std::vector<std::string>& environment);
  bool is_too_late();

  const std::string directory_, pool_path_;
  EventLog& events_;
  const FindMountPoint find_mount_point_;
  std::set<std::string> complaints_;  // of the thread

  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t taken_ = 0;  // the last event that the thread has
  bool in_log_ = false;      // the thread is
  bool detached_ = false;
  std::vector<Event> rest_;  // what detach() took
  std::optional<Clock::time_point> last_chance_;
  std::thread thread_;
};

}  // namespace daxcow
