#include "test/recording_medium.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>

#include "engine/check.h"
#include "test/unseen.h"

namespace daxcow::test {
namespace {

// The threads that meet here must not seem to be ordered by it.
class Guard {
 public:
  explicit Guard(std::mutex& mutex) : lock_(mutex) {}

 private:
  Unseen unseen_;
  std::lock_guard<std::mutex> lock_;
};

}  // namespace

void Log::undo(std::span<std::byte> memory) const {
  for (auto event = events.rbegin(); event != events.rend(); ++event)
    if (event->kind == Event::Kind::kStore || event->kind == Event::Kind::kMadeGood)
      std::memcpy(memory.data() + event->line * kLineBytes, lines[event->data].data(), kLineBytes);
}

std::size_t Log::drain_count() const {
  return static_cast<std::size_t>(std::ranges::count(events, Log::Event::Kind::kDrain, &Event::kind));
}

void Recording::arm() {
  const Guard guard(mutex_);
  log_ = {};
  log_.bad_before = listed_;
  armed_ = true;
}

Log Recording::take_log() {
  const Guard guard(mutex_);
  armed_ = false;
  return std::exchange(log_, {});
}

std::size_t Recording::event_count() {
  const Guard guard(mutex_);
  return log_.events.size();
}

void Recording::inject(BlockNumber block, bool latent) {
  const Guard guard(mutex_);
  inject_locked(block, latent);
}

void Recording::inject_locked(BlockNumber block, bool latent) {
  BadRanges& list = latent ? latent_ : listed_;
  list = unite(std::move(list), {range_of({block, 1})});
  bad_ = whole_blocks(unite(listed_, latent_));
  if (armed_) log_.events.push_back({Log::Event::Kind::kWentBad, thread_index(), block.value * kLinesPerBlock, 0});
}

void Recording::set_listed(BadRanges bad) {
  const Guard guard(mutex_);
  listed_ = std::move(bad);
  latent_ = {};
  bad_ = whole_blocks(listed_);
  pending_injection_.reset();
}

BadRanges Recording::listed() {
  const Guard guard(mutex_);
  return listed_;
}

void Recording::inject_at(std::size_t event_count, BlockNumber block) {
  const Guard guard(mutex_);
  pending_injection_ = {event_count, block};
}

std::uint32_t Recording::thread_index() {
  const auto id = std::hash<std::thread::id>()(std::this_thread::get_id());
  return threads_.try_emplace(id, static_cast<std::uint32_t>(threads_.size())).first->second;
}

Result<> Recording::check_access(std::uint64_t offset, std::uint64_t length) {
  CHECK(offset <= memory_.size() && length <= memory_.size() - offset);
  const Guard guard(mutex_);
  if (pending_injection_ && log_.events.size() >= pending_injection_->first) {
    inject_locked(pending_injection_->second, false);
    pending_injection_.reset();
  }
  if (!bad_.empty() && overlaps(bad_, {offset, length})) return fail(ErrorCode::kPoisoned);
  return {};
}

void Recording::store_line(std::uint64_t line, std::uint64_t begin, std::uint64_t end, const std::byte* from,
                           Log::Event::Kind kind) {
  std::byte* at = memory_.data() + line * kLineBytes;
  if (armed_) {
    log_.events.push_back({kind, thread_index(), line, log_.lines.size()});
    std::memcpy(log_.lines.emplace_back().data(), at, kLineBytes);
  }
  if (from != nullptr) {
    std::memcpy(at + begin, from, end - begin);
  } else {
    std::memset(at + begin, 0, end - begin);
  }
  if (armed_) std::memcpy(log_.lines.emplace_back().data(), at, kLineBytes);
}

Result<> Recording::store(std::uint64_t offset, const std::byte* from, std::uint64_t length) {
  auto access = check_access(offset, length);
  if (!access) return access;
  const Guard guard(mutex_);
  for (std::uint64_t done = 0; done < length;) {
    const std::uint64_t line = (offset + done) / kLineBytes, begin = (offset + done) % kLineBytes;
    const std::uint64_t end = std::min(kLineBytes, begin + length - done);
    store_line(line, begin, end, from == nullptr ? nullptr : from + done, Log::Event::Kind::kStore);
    done += end - begin;
  }
  return {};
}

Result<> Recording::drain() {
  const Guard guard(mutex_);
  if (armed_) log_.events.push_back({Log::Event::Kind::kDrain, thread_index(), 0, 0});
  return {};
}

// The device does it by itself: durable at once, whatever the CPU's caches hold.
Result<> Recording::clear_bad(BlockRun run) {
  const BadRange range = range_of(run);
  CHECK(range.offset_bytes <= memory_.size() && range.length_bytes <= memory_.size() - range.offset_bytes);
  const Guard guard(mutex_);
  const BadRanges found = intersect(bad_, {range});
  for (const BadRange& part : found)
    for (std::uint64_t line = part.offset_bytes / kLineBytes; line < (part.offset_bytes + part.length_bytes) / kLineBytes; ++line)
      store_line(line, 0, kLineBytes, nullptr, Log::Event::Kind::kMadeGood);
  listed_ = subtract(std::move(listed_), found);
  latent_ = subtract(std::move(latent_), found);
  bad_ = whole_blocks(unite(listed_, latent_));
  return {};
}

// --- the medium ----------------------------------------------------------------------------------------------------------

RecordingMedium::RecordingMedium(Recording& recording) : recording_(recording), power_(recording.power_.load()) {
  mapping_ = recording.memory_.data();
  size_bytes_ = recording.memory_.size();
  info_.kind = MediumKind::kDram;
  info_.granularity = StoreGranularity::kCacheLine;
  info_.durability = Durability::kPowerFail;
}

Result<> RecordingMedium::check_power() const {
  if (recording_.on_access) recording_.on_access();
  if (recording_.power_.load() != power_) return fail(ErrorCode::kIo, "the power is off");
  return {};
}

Result<> RecordingMedium::read(std::uint64_t offset, std::span<std::byte> to) {
  auto powered = check_power();
  if (!powered) return powered;
  auto access = recording_.check_access(offset, to.size());
  if (!access) return access;
  std::memcpy(to.data(), mapping_ + offset, to.size());
  return {};
}

Result<> RecordingMedium::store(std::uint64_t offset, std::span<const std::byte> from) {
  auto powered = check_power();
  if (!powered) return powered;
  return recording_.store(offset, from.data(), from.size());
}

Result<> RecordingMedium::store_zeros(std::uint64_t offset, std::uint64_t length_bytes) {
  auto powered = check_power();
  if (!powered) return powered;
  return recording_.store(offset, nullptr, length_bytes);
}

Result<> RecordingMedium::drain() {
  auto powered = check_power();
  if (!powered) return powered;
  return recording_.drain();
}

Result<std::vector<BadRange>> RecordingMedium::bad_ranges() {
  const Guard guard(recording_.mutex_);
  return recording_.listed_;
}

Result<> RecordingMedium::clear_bad(BlockRun run) {
  auto powered = check_power();
  if (!powered) return powered;
  if (!recording_.can_clear_) return fail(ErrorCode::kUnsupported);
  return recording_.clear_bad(run);
}

Result<bool> RecordingMedium::wait_bad_change(int) { return fail(ErrorCode::kUnsupported); }  // no watcher here

void RecordingMedium::note_fault(BlockNumber block) {
  const Guard guard(recording_.mutex_);
  const BadRanges found = intersect(recording_.latent_, {range_of({block, 1})});
  recording_.listed_ = unite(std::move(recording_.listed_), found);
}

Result<Medium::Identity> RecordingMedium::identity() { return fail(ErrorCode::kUnsupported); }

}  // namespace daxcow::test
