#include "fuse/reflink_sources.h"

#include <sys/random.h>

#include "engine/check.h"

namespace daxcow {

namespace {

std::uint64_t random_number() {
  std::uint64_t number = 0;
  CHECK(::getrandom(&number, sizeof number, 0) == sizeof number);  // never short for so few bytes
  return number;
}

}  // namespace

ReflinkSources::ReflinkSources() : daemon_(random_number()) {}

ReflinkTicket ReflinkSources::offer(const ReflinkSource& source, const ReflinkCaller& caller) {
  ReflinkTicket ticket{.magic = kReflinkMagic, .daemon = daemon_, .slot = 0, .secret = {random_number() | 1, random_number()}};
  std::lock_guard lock(mutex_);
  ticket.slot = next_++ % kSlots;
  if (ticket.slot == slots_.size()) slots_.emplace_back();
  slots_[ticket.slot] = {.secret = {ticket.secret[0], ticket.secret[1]},
                         .volume = source.volume,
                         .inode = source.inode,
                         .generation = source.generation,
                         .caller = caller,
                         .offered = Clock::now()};
  return ticket;
}

Result<ReflinkSource> ReflinkSources::take(const ReflinkTicket& ticket, const ReflinkCaller& caller) {
  if (ticket.magic != kReflinkMagic || ticket.daemon != daemon_) return fail(ErrorCode::kCrossVolume);
  std::lock_guard lock(mutex_);
  if (ticket.slot >= slots_.size()) return fail(ErrorCode::kBusy);
  Slot& slot = slots_[ticket.slot];
  if (slot.secret[0] == 0 || slot.secret[0] != ticket.secret[0] || slot.secret[1] != ticket.secret[1] || slot.caller != caller ||
      Clock::now() - slot.offered > kLifetime)
    return fail(ErrorCode::kBusy);
  slot.secret[0] = 0;
  ReflinkSource source{slot.volume.lock(), slot.inode, slot.generation};
  if (source.volume == nullptr) return fail(ErrorCode::kStale);
  return source;
}

}  // namespace daxcow
