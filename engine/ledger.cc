#include "engine/ledger.h"

#include <algorithm>
#include <shared_mutex>

namespace daxcow {

void Ledger::set(BlockNumber block, std::uint8_t sector_mask) {
  mutex_.lock();
  if (sector_mask != 0)
    blocks_[block.value] = sector_mask;
  else
    blocks_.erase(block.value);
  count_.store(blocks_.size(), std::memory_order_release);
  mutex_.unlock();
}

std::uint8_t Ledger::mask(BlockNumber block) const {
  if (size() == 0) return 0;
  const auto found = in(BlockRun{block, 1});
  return found.empty() ? 0 : found.front().second;
}

bool Ledger::touches(BlockRun run) const {
  if (size() == 0) return false;
  mutex_.lock_shared();
  const auto it = blocks_.lower_bound(run.first.value);
  const bool hit = it != blocks_.end() && it->first < run.end().value;
  mutex_.unlock_shared();
  return hit;
}

bool Ledger::touches_bytes(std::uint64_t offset, std::uint64_t length) const {
  if (size() == 0 || length == 0) return false;
  const BlockNumber first(offset / kBlockBytes);
  const std::uint64_t end = offset + length;
  for (const auto& [block, sectors] : in({first, blocks_for(end) - first.value})) {
    const std::uint64_t start = byte_offset(block);
    const std::uint64_t from = std::max(offset, start) - start, to = std::min(end, start + kBlockBytes) - start;
    for (std::uint64_t sector = from / kSectorBytes; sector * kSectorBytes < to; ++sector)
      if (sectors >> sector & 1) return true;
  }
  return false;
}

std::vector<std::pair<BlockNumber, std::uint8_t>> Ledger::in(BlockRun run) const {
  std::vector<std::pair<BlockNumber, std::uint8_t>> found;
  if (size() == 0) return found;
  mutex_.lock_shared();
  for (auto it = blocks_.lower_bound(run.first.value); it != blocks_.end() && it->first < run.end().value; ++it)
    found.emplace_back(BlockNumber(it->first), it->second);
  mutex_.unlock_shared();
  return found;
}

std::vector<std::pair<BlockNumber, std::uint8_t>> Ledger::all() const {
  return in(BlockRun{BlockNumber(0), ~0ull});
}

}  // namespace daxcow
