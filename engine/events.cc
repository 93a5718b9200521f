#include "engine/events.h"

#include <chrono>
#include <ctime>

namespace daxcow {

const char* name_of(EventKind kind) {
  switch (kind) {
    case EventKind::kPoisonFound: return "poison-found";
    case EventKind::kDataLost: return "data-lost";
    case EventKind::kDataRescued: return "data-rescued";
    case EventKind::kDataHealed: return "data-healed";
    case EventKind::kBlockCleared: return "block-cleared";
    case EventKind::kClearFailed: return "clear-failed";
    case EventKind::kMetadataRepaired: return "metadata-repaired";
    case EventKind::kMetadataLost: return "metadata-lost";
    case EventKind::kPoisonGone: return "poison-gone";
    case EventKind::kProcessSignalled: return "process-signalled";
    case EventKind::kPowerLost: return "power-lost";
  }
  return "unknown";
}

void EventLog::publish(Event event) {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  event.time = {now.tv_sec, static_cast<std::uint32_t>(now.tv_nsec)};
  {
    const LockGuard guard(mutex_);
    event.sequence = ++last_;
    ++counts_[event.kind];
    events_.push_back(std::move(event));
    if (events_.size() > kCapacity) events_.pop_front();
  }
  changed_.notify_all();
}

std::vector<Event> EventLog::after(std::uint64_t sequence, std::size_t limit, unsigned milliseconds) {
  std::unique_lock guard(mutex_);
  mutex_.assert_held();
  changed_.wait_for(guard, std::chrono::milliseconds(milliseconds), [&] {
    mutex_.assert_held();
    return last_ > sequence || waiting_ended_;
  });
  std::vector<Event> found;
  for (const Event& event : events_) {
    if (event.sequence <= sequence) continue;
    if (found.size() >= limit) break;
    found.push_back(event);
  }
  return found;
}

std::uint64_t EventLog::last_sequence() const {
  const LockGuard guard(mutex_);
  return last_;
}

std::map<EventKind, std::uint64_t> EventLog::counts() const {
  const LockGuard guard(mutex_);
  return counts_;
}

void EventLog::end_waiting() {
  {
    const LockGuard guard(mutex_);
    waiting_ended_ = true;
  }
  changed_.notify_all();
}

}  // namespace daxcow
