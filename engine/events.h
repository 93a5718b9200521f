// What happened to the pool, for people and programs: a bounded list in memory that followers read as it grows.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/mutex.h"
#include "engine/types.h"

namespace daxcow {

enum class EventKind {
  kPoisonFound,       // the device reports a bad block
  kDataLost,          // one owner's range of it is lost
  kDataRescued,       // the kernel still had the page of an owner: nothing is lost
  kDataHealed,        // an owner has replaced its range
  kBlockCleared,      // the device works again at this block
  kClearFailed,       // the device could not clear it; the block stays quarantined
  kMetadataRepaired,  // a metadata block was rewritten from its other copy
  kMetadataLost,      // both copies are gone
  kPoisonGone,        // the device no longer lists the block (cleared by somebody else)
  kProcessSignalled,  // a process that maps a lost range was sent SIGBUS
  kPowerLost,         // the device lost power without flushing while the pool was in use (engine/shutdown.h)
};
const char* name_of(EventKind kind);  // "poison-found", ...

struct Event {
  std::uint64_t sequence = 0;  // from 1, without gaps, per opening of the pool
  Timestamp time;
  EventKind kind{};
  BlockNumber block;
  std::string volume;  // kDataLost, kDataRescued, kDataHealed, kProcessSignalled
  InodeNumber inode;
  std::string path;
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  std::int64_t process = 0;  // kProcessSignalled
  std::string text;          // one line for people
};

class EventLog {
 public:
  static constexpr std::size_t kCapacity = 10'000;
  void publish(Event event);  // sets sequence and time
  // Events after `sequence`, at most `limit`. Waits up to `milliseconds` for one. Older ones may be gone: the first
  // returned then has a higher sequence than sequence + 1.
  std::vector<Event> after(std::uint64_t sequence, std::size_t limit, unsigned milliseconds);
  std::uint64_t last_sequence() const;
  // How many there were of each kind, those that are no longer kept included.
  std::map<EventKind, std::uint64_t> counts() const;
  // From now on after() waits for nothing.
  void end_waiting();

 private:
  mutable Mutex mutex_;
  Condition changed_;
  std::deque<Event> events_ GUARDED_BY(mutex_);
  std::map<EventKind, std::uint64_t> counts_ GUARDED_BY(mutex_);
  std::uint64_t last_ GUARDED_BY(mutex_) = 0;
  bool waiting_ended_ GUARDED_BY(mutex_) = false;
};

}  // namespace daxcow
