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

ReflinkSources::Slot* ReflinkSources::find(const ReflinkTicket& ticket) {
  if (ticket.magic != kReflinkMagic || ticket.daemon != daemon_ || ticket.slot >= slots_.size()) return nullptr;
  Slot& slot = slots_[ticket.slot];
  const bool same = slot.secret[0] != 0 && slot.secret[0] == ticket.secret[0] && slot.secret[1] == ticket.secret[1];
  return same ? &slot : nullptr;
}

Result<ReflinkSource> ReflinkSources::take(const ReflinkTicket& ticket, const ReflinkCaller& caller, bool answer_comes_later) {
  const std::lock_guard lock(mutex_);
  if (ticket.magic != kReflinkMagic || ticket.daemon != daemon_) return fail(ErrorCode::kCrossVolume);
  Slot* const slot = find(ticket);
  if (slot == nullptr || slot->is_call || slot->caller != caller || Clock::now() - slot->offered > kLifetime)
    return fail(ErrorCode::kBusy);
  ReflinkSource source{slot->volume.lock(), slot->inode, slot->generation};
  slot->is_call = answer_comes_later && source.volume != nullptr;
  if (!slot->is_call) slot->secret[0] = 0;
  if (source.volume == nullptr) return fail(ErrorCode::kStale);
  return source;
}

void ReflinkSources::answer(const ReflinkTicket& ticket, const ReflinkAnswer& answer) {
  const std::lock_guard lock(mutex_);
  if (Slot* const slot = find(ticket)) slot->answer = answer;  // else others' offers have displaced it: the caller begins anew
}

Result<std::optional<ReflinkAnswer>> ReflinkSources::ask_again(const ReflinkTicket& ticket, const ReflinkCaller& caller) {
  const std::lock_guard lock(mutex_);
  Slot* const slot = find(ticket);
  if (slot == nullptr || !slot->is_call || slot->caller != caller) return fail(ErrorCode::kNotFound);
  if (slot->answer) slot->secret[0] = 0;
  return slot->answer;
}

}  // namespace daxcow
