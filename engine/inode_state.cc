#include "engine/inode_state.h"

#include "engine/check.h"

namespace daxcow {

std::optional<Segment> ExclusiveBlocks::find(FileBlock block, std::uint64_t generation) {
  if (generation != generation_) return std::nullopt;
  auto it = segments_.upper_bound(block.value);
  if (it == segments_.begin()) return std::nullopt;
  --it;
  const std::uint64_t skip = block.value - it->first;
  if (skip >= it->second.first) return std::nullopt;
  return Segment{{block, it->second.first - skip}, MapEntry::leaf(it->second.second + skip, false)};
}

void ExclusiveBlocks::add(const Segment& segment, std::uint64_t generation) {
  if (generation != generation_) segments_.clear();
  generation_ = generation;
  // Overlapping older knowledge goes: the newer map counts.
  auto it = segments_.lower_bound(segment.range.first.value);
  if (it != segments_.begin()) {
    auto before = std::prev(it);
    if (before->first + before->second.first > segment.range.first.value)
      before->second.first = segment.range.first.value - before->first;
    // A run that goes on is one segment, or sequential writes would fill the table with small ones.
    if (before->first + before->second.first == segment.range.first.value &&
        before->second.second + before->second.first == segment.entry.block()) {
      const std::uint64_t end = segment.range.end().value;
      while (it != segments_.end() && it->first < end) it = segments_.erase(it);
      before->second.first = end - before->first;
      return;
    }
  }
  while (it != segments_.end() && it->first < segment.range.end().value) it = segments_.erase(it);
  if (segments_.size() >= kMaximumSegments) segments_.erase(it != segments_.end() ? it : segments_.begin());  // one makes room
  segments_[segment.range.first.value] = {segment.range.count, segment.entry.block()};
}

std::shared_ptr<InodeState> InodeStates::get(InodeNumber inode) {
  Shard& shard = shard_of(inode);
  const LockGuard guard(shard.mutex);
  auto& state = shard.states[inode.value];
  if (state) return state;
  auto made = std::make_shared<InodeState>(inode);
  state = made;
  if (shard.states.size() > kMaximumIdlePerShard) {
    // A few idle ones make room; those in use or with times to commit stay.
    int steps = 8;
    for (auto it = shard.states.begin(); it != shard.states.end() && steps > 0; --steps) {
      const bool idle = it->second.use_count() == 1 && [&] {
        const LockGuard times(it->second->times_mutex);
        return it->second->times.empty();
      }();
      it = idle ? shard.states.erase(it) : std::next(it);
    }
  }
  return made;
}

std::shared_ptr<InodeState> InodeStates::find(InodeNumber inode) {
  Shard& shard = shard_of(inode);
  const LockGuard guard(shard.mutex);
  const auto it = shard.states.find(inode.value);
  return it == shard.states.end() ? nullptr : it->second;
}

void InodeStates::drop(InodeNumber inode) {
  Shard& shard = shard_of(inode);
  const LockGuard guard(shard.mutex);
  shard.states.erase(inode.value);
}

std::vector<std::shared_ptr<InodeState>> InodeStates::all() {
  std::vector<std::shared_ptr<InodeState>> states;
  for (Shard& shard : shards_) {
    const LockGuard guard(shard.mutex);
    for (const auto& [number, state] : shard.states) states.push_back(state);
  }
  return states;
}

void InodeStates::remember(InodeNumber inode, std::uint64_t count) {
  Shard& shard = shard_of(inode);
  const LockGuard guard(shard.mutex);
  shard.remembered[inode.value].count += count;
}

bool InodeStates::forget(InodeNumber inode, std::uint64_t count) {
  Shard& shard = shard_of(inode);
  const LockGuard guard(shard.mutex);
  const auto it = shard.remembered.find(inode.value);
  if (it == shard.remembered.end()) return true;
  if (it->second.count > count) {
    it->second.count -= count;
    return false;
  }
  shard.remembered.erase(it);
  shard.written.erase(inode.value);
  return true;
}

bool InodeStates::is_remembered(InodeNumber inode) const {
  const Shard& shard = shard_of(inode);
  const LockGuard guard(shard.mutex);
  return shard.remembered.contains(inode.value);
}

std::vector<InodeNumber> InodeStates::forget_all() {
  std::vector<InodeNumber> inodes;
  for (Shard& shard : shards_) {
    const LockGuard guard(shard.mutex);
    for (const auto& [inode, kept] : shard.remembered) inodes.push_back(InodeNumber(inode));
    shard.remembered.clear();
    shard.written.clear();
  }
  return inodes;
}

template <class F>
void InodeStates::change_pages(InodeNumber inode, F&& change) {
  Shard& shard = shard_of(inode);
  const LockGuard guard(shard.mutex);
  const auto it = shard.remembered.find(inode.value);
  if (it == shard.remembered.end()) return;
  PageTrust& pages = it->second.pages;
  const bool had_writers = pages.writers != 0;
  change(pages);
  if (!had_writers && pages.writers != 0) shard.written.insert(inode.value);
  if (had_writers && pages.writers == 0) shard.written.erase(inode.value);
}

void InodeStates::open_for_writing(InodeNumber inode) {
  change_pages(inode, [](PageTrust& pages) {
    ++pages.writers;
    ++pages.openings;
  });
}

void InodeStates::close_for_writing(InodeNumber inode) {
  change_pages(inode, [](PageTrust& pages) {
    // The last one's requests have all returned to their callers, so the kernel has dropped the pages they concern.
    if (pages.writers > 0 && --pages.writers == 0) pages.may_be_old = false;
  });
}

void InodeStates::note_change_behind_pages(InodeNumber inode) {
  change_pages(inode, [](PageTrust& pages) {
    if (pages.writers > 0) pages.may_be_old = true;
  });
}

void InodeStates::note_failed_write(InodeNumber inode) {
  change_pages(inode, [](PageTrust& pages) { pages.write_failed = true; });
}

std::vector<InodeNumber> InodeStates::open_for_writing() const {
  std::vector<InodeNumber> inodes;
  for (const Shard& shard : shards_) {
    const LockGuard guard(shard.mutex);
    for (const std::uint64_t inode : shard.written) inodes.push_back(InodeNumber(inode));
  }
  return inodes;
}

std::optional<PageTrust> InodeStates::page_trust(InodeNumber inode) const {
  const Shard& shard = shard_of(inode);
  const LockGuard guard(shard.mutex);
  const auto it = shard.remembered.find(inode.value);
  if (it == shard.remembered.end()) return std::nullopt;
  return it->second.pages;
}

}  // namespace daxcow
