// The patrol: passes of the scrub that go on in the background, at a bounded rate, over restarts.
//
// A pass is a place that moves (engine/poison_scrub.h). The roots block remembers it (format::ScrubRecord),
// every half minute and at each change, so that a pass of days survives the end of the daemon, and of the machine. A
// thread reads on, and sleeps in between without any lock; who wants something of it, or the end, wakes it. A pass that
// is asked for and waited for is the same with another thread.
//
// Example. A pass over 1 TiB at 32 MiB/s takes nine hours. After four of them the machine stops. The roots block says
// "running, place 120586240", at most 30 seconds old; the next daemon goes on there, and reads 1 GiB a second time.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <thread>

#include "engine/format.h"
#include "engine/mutex.h"
#include "engine/result.h"
#include "engine/store.h"

namespace daxcow {

enum class ScrubState { kIdle, kRunning, kPaused };
const char* name_of(ScrubState state);  // "idle", "running", "paused"

struct ScrubStatus {
  ScrubState state = ScrubState::kIdle;
  std::uint64_t bytes_per_second = 0;  // the bound of this pass; 0: none
  std::uint64_t place = 0;             // that it goes on with (engine/poison_scrub.h)
  std::uint64_t done_bytes = 0, total_bytes = 0;
  std::uint64_t found_blocks = 0;             // bad ones that nobody knew of, in this pass or, when idle, the last one
  std::int64_t started_seconds = 0;           // of this pass, or of the last one; 0: never
  std::int64_t finished_seconds = 0;          // of the last one; 0: never
  std::uint64_t passes = 0;                   // finished, ever
  std::optional<std::uint64_t> rest_seconds;  // running: an estimate
  std::optional<std::int64_t> next_seconds;   // idle: when the next pass begins by itself
};

// Thread-safe. No lock of the caller is waited for; none but the transaction mutex is taken, and that shortly.
class Patrol {
 public:
  // At this rate a pass takes one percent of what such memory can do, and nine hours for 1 TiB.
  static constexpr std::uint64_t kUsualBytesPerSecond = 32ull << 20;
  // From the beginning of a pass to that of the next, where passes begin by themselves.
  static constexpr std::int64_t kInterval = 24 * 3600;

  explicit Patrol(Store& store) : store_(store) {}
  ~Patrol() { stop_thread(); }
  Patrol(const Patrol&) = delete;
  Patrol& operator=(const Patrol&) = delete;

  // The thread, which goes on with what was under way, and begins a pass when one is due, unless `bytes_per_second` is
  // 0. Only while the pool can be written.
  Result<> start_thread(std::uint64_t bytes_per_second);
  // Ends what is under way, to be gone on with, within the time of one read. Does nothing without a thread.
  void stop_thread();
  // start_thread() for who has a thread already: after prepare(), it calls serve(), which returns in stop_thread().
  Result<> prepare(std::uint64_t bytes_per_second);
  void serve();

  // Begins a pass, or goes on with one that is paused, in the thread. kBusy if one is running; kUnsupported without
  // thread.
  Result<> begin(std::uint64_t bytes_per_second);
  // kInvalid if none is running, or none is paused, or neither.
  Result<> pause();
  Result<> resume(std::optional<std::uint64_t> bytes_per_second);
  Result<> stop();

  // A whole pass in the caller's thread, from the beginning; one that was paused is given up. Returns what it found.
  // kBusy while the thread runs one, or if it was told to stop. Waits for others of its kind.
  using Progress = std::function<void(std::uint64_t done, std::uint64_t total)>;
  Result<std::uint64_t> run(std::uint64_t bytes_per_second, const Progress& progress);

  ScrubStatus status();

 private:
  using Clock = std::chrono::steady_clock;

  Result<> load_locked() REQUIRES(mutex_);
  void save_locked() REQUIRES(mutex_);
  Result<> need_thread_locked() const REQUIRES(mutex_);
  void begin_locked(std::uint64_t bytes_per_second) REQUIRES(mutex_);
  bool is_due_locked() const REQUIRES(mutex_);
  bool is_running_locked() const REQUIRES(mutex_);
  void changed_locked() REQUIRES(mutex_);
  Result<bool> execute(std::unique_lock<Mutex>& lock, const Progress& progress) REQUIRES(mutex_);

  Store& store_;
  Mutex mutex_;  // before the transaction mutex
  Condition changed_;
  format::ScrubRecord record_ GUARDED_BY(mutex_){};
  bool loaded_ GUARDED_BY(mutex_) = false;
  bool executing_ GUARDED_BY(mutex_) = false;
  bool by_caller_ GUARDED_BY(mutex_) = false;      // and not by the thread: not to be gone on with
  std::uint64_t orders_ GUARDED_BY(mutex_) = 0;    // counts what the pass is told
  std::uint64_t own_rate_ GUARDED_BY(mutex_) = 0;  // of passes that begin by themselves
  double measured_rate_ GUARDED_BY(mutex_) = 0;    // bytes a second, of what is executing
  bool serving_ GUARDED_BY(mutex_) = false;        // there is a thread, or there will be
  bool stopping_ GUARDED_BY(mutex_) = false;
  bool save_failed_ GUARDED_BY(mutex_) = false;  // said so already
  std::thread thread_;
};

}  // namespace daxcow
