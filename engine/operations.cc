#include "engine/operations.h"

#include <algorithm>

#include "engine/schedule.h"

namespace daxcow {

Operations::Scope::Scope(Operations& operations) : slot_(nullptr) {
  static std::atomic<std::size_t> next_thread{0};
  thread_local const std::size_t home = next_thread.fetch_add(1, std::memory_order_relaxed);
  for (std::size_t i = home;; ++i) {
    auto& epoch = operations.slots_[i % kSlots].epoch;
    std::uint64_t expected = 0;
    // The epoch is read before the slot shows it; reading an older one only delays a reuse.
    const std::uint64_t now = operations.epoch_.load(std::memory_order_seq_cst);
    if (epoch.load(std::memory_order_relaxed) == 0 &&
        epoch.compare_exchange_strong(expected, now, std::memory_order_seq_cst)) {
      slot_ = &epoch;
      return;
    }
    if (i - home >= kSlots) yield_thread();
  }
}

Operations::Scope& Operations::Scope::operator=(Scope&& other) noexcept {
  if (this != &other) {
    if (slot_) slot_->store(0, std::memory_order_release);
    slot_ = other.slot_;
    other.slot_ = nullptr;
  }
  return *this;
}

Operations::Scope::~Scope() {
  if (slot_) slot_->store(0, std::memory_order_release);
}

std::uint64_t Operations::oldest() const {
  std::uint64_t oldest = epoch_.load(std::memory_order_seq_cst);
  for (const Slot& slot : slots_) {
    const std::uint64_t epoch = slot.epoch.load(std::memory_order_seq_cst);
    if (epoch != 0) oldest = std::min(oldest, epoch);
  }
  return oldest;
}

}  // namespace daxcow
