#include "tools/block_index.h"

#include <utility>

namespace daxcow::tools {

namespace {
constexpr std::size_t kFirstSlots = 1 << 12;
constexpr std::uint64_t kFileBytes = 128;  // of DRAM for a file, beside its path
}  // namespace

BlockIndex::BlockIndex(std::uint64_t memory_bytes) : memory_bytes_(memory_bytes), slots_(kFirstSlots) {}

std::uint32_t BlockIndex::add_file(std::string path) {
  path_bytes_ += path.size() + kFileBytes;
  files_[next_file_].path = std::move(path);
  return next_file_++;
}

void BlockIndex::end_file(std::uint32_t file) {
  const auto found = files_.find(file);
  if (found == files_.end()) return;
  found->second.ended = true;
  if (found->second.blocks != 0) return;
  path_bytes_ -= found->second.path.size() + kFileBytes;
  files_.erase(found);
}

// Low bits choose what is kept, so high bits choose the place.
std::size_t BlockIndex::slot_of(std::uint64_t hash) const {
  std::size_t at = (hash * 0x9e3779b97f4a7c15ull >> 20) % slots_.size();
  while (slots_[at].block != kEmpty && slots_[at].hash != hash) at = (at + 1) % slots_.size();
  return at;
}

std::optional<BlockIndex::Place> BlockIndex::find(std::uint64_t hash) const {
  if (!wants(hash)) return std::nullopt;
  const Slot& slot = slots_[slot_of(hash)];
  if (slot.block == kEmpty) return std::nullopt;
  return Place{slot.file, slot.block};
}

std::uint64_t BlockIndex::memory_used() const { return slots_.size() * sizeof(Slot) + path_bytes_; }

void BlockIndex::add(std::uint64_t hash, Place place) {
  if (!wants(hash)) return;
  if (used_ >= slots_.size() / 4 * 3) {
    // Old and new table are there for a moment.
    if (memory_used() + 2 * slots_.size() * sizeof(Slot) <= memory_bytes_)
      resize(2 * slots_.size());
    else
      thin_out();
  } else if (memory_used() > memory_bytes_ && used_ > kFirstSlots / 4) {
    thin_out();
  }
  if (!wants(hash)) return;
  Slot& slot = slots_[slot_of(hash)];
  if (slot.block != kEmpty) return;
  slot = {hash, place.block, place.file};
  ++used_;
  ++files_[place.file].blocks;
}

void BlockIndex::resize(std::size_t slots) {
  const auto old = std::exchange(slots_, std::vector<Slot>(slots));
  for (const Slot& slot : old)
    if (slot.block != kEmpty) slots_[slot_of(slot.hash)] = slot;
}

void BlockIndex::thin_out() {
  interval_ *= 2;
  const auto old = std::exchange(slots_, std::vector<Slot>(slots_.size()));
  for (const Slot& slot : old) {
    if (slot.block == kEmpty) continue;
    if (wants(slot.hash)) {
      slots_[slot_of(slot.hash)] = slot;
      continue;
    }
    --used_;
    if (const auto file = files_.find(slot.file); --file->second.blocks == 0 && file->second.ended) end_file(slot.file);
  }
}

}  // namespace daxcow::tools
