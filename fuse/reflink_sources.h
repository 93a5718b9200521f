// The tickets of fuse/reflink_protocol.h: which file was offered as a source, by whom, until it is taken.
//
// A fixed number of slots, used in turn, bounds the memory: who floods the daemon with offers makes others ask twice.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/result.h"
#include "engine/volume.h"
#include "fuse/reflink_protocol.h"

namespace daxcow {

struct ReflinkSource {
  std::shared_ptr<Volume> volume;
  InodeNumber inode;
  std::uint64_t generation = 0;
};

// Whom a ticket is for, as the kernel tells the daemon with each request. Processes of other pid namespaces are all 0.
struct ReflinkCaller {
  std::int64_t thread = 0;
  std::uint32_t uid = 0;
  friend bool operator==(const ReflinkCaller&, const ReflinkCaller&) = default;
};

// The answer to a call that was told to ask again.
struct ReflinkAnswer {
  int error = 0;  // an errno
  ReflinkCall call{};
};

// Thread-safe.
class ReflinkSources {
 public:
  ReflinkSources();
  ReflinkTicket offer(const ReflinkSource& source, const ReflinkCaller& caller);
  // kCrossVolume: a ticket of another daemon, or none. kBusy: expired. kStale: the volume is not mounted any more. A ticket taken
  // for a call whose answer comes later stands for the call from now on: its caller asks again, until answer() has been called.
  Result<ReflinkSource> take(const ReflinkTicket& ticket, const ReflinkCaller& caller, bool answer_comes_later = false);
  void answer(const ReflinkTicket& ticket, const ReflinkAnswer& answer);
  // Nothing while the answer is not there. kNotFound for a ticket that stands for no call.
  Result<std::optional<ReflinkAnswer>> ask_again(const ReflinkTicket& ticket, const ReflinkCaller& caller);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::size_t kSlots = 16384;
  static constexpr auto kLifetime = std::chrono::seconds(10);
  struct Slot {
    std::uint64_t secret[2] = {0, 0};  // zero: taken
    bool is_call = false;
    std::optional<ReflinkAnswer> answer = std::nullopt;
    std::weak_ptr<Volume> volume;      // an offer does not keep a volume from being unmounted
    InodeNumber inode;
    std::uint64_t generation = 0;
    ReflinkCaller caller;
    Clock::time_point offered;
  };
  // The slot of a ticket, or null if the ticket is not what the slot is for.
  Slot* find(const ReflinkTicket& ticket);

  const std::uint64_t daemon_;
  std::mutex mutex_;
  std::vector<Slot> slots_;  // grows to kSlots
  std::uint64_t next_ = 0;
};

}  // namespace daxcow
