// The poison ledger as it is asked on every read: which blocks of the pool have lost sectors. The truth is in the reverse
// map (kLedger records); this is its copy in DRAM.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "engine/mutex.h"
#include "engine/types.h"

namespace daxcow {

inline constexpr std::uint8_t kWholeBlock = 0xff;  // the mask of all sectors of a block

// Thread-safe (one leaf lock; no lock at all while the ledger is empty).
class Ledger {
 public:
  void set(BlockNumber block, std::uint8_t sector_mask);  // mask 0: removes
  std::uint8_t mask(BlockNumber block) const;             // 0: not in the ledger
  bool touches(BlockRun run) const;
  // Whether any of these bytes of the pool lies in a lost sector.
  bool touches_bytes(std::uint64_t offset, std::uint64_t length) const;
  // Blocks of the ledger inside `run`, ascending.
  std::vector<std::pair<BlockNumber, std::uint8_t>> in(BlockRun run) const;
  std::vector<std::pair<BlockNumber, std::uint8_t>> all() const;
  std::uint64_t size() const { return count_.load(std::memory_order_acquire); }

 private:
  mutable SharedMutex mutex_;
  std::map<std::uint64_t, std::uint8_t> blocks_ GUARDED_BY(mutex_);
  std::atomic<std::uint64_t> count_{0};
};

}  // namespace daxcow
