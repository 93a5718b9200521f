#include "fuse/notify.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "fuse/mappers.h"

namespace daxcow {

namespace {

// Whether a page of the file cannot be read: the kernel reads, and maps, whole pages.
bool is_lost(Volume& volume, InodeNumber inode, std::uint64_t page_offset) {
  const auto lease = volume.read(inode, page_offset, kBlockBytes, AccessTime::kKeep);
  return !lease && lease.error().code == ErrorCode::kPoisoned;
}

// The first pages from `offset` to `end` that are lost still, after dirty pages were written; length 0 if none is.
LostRange first_lost_pages(Volume& volume, const LostRange& range, std::uint64_t offset, std::uint64_t end) {
  LostRange part = range;
  while (offset < end && !is_lost(volume, range.inode, offset)) offset += kBlockBytes;
  part.offset_bytes = offset;
  while (offset < end && is_lost(volume, range.inode, offset)) offset += kBlockBytes;
  part.length_bytes = offset - part.offset_bytes;
  return part;
}

}  // namespace

Notifier::Notifier(Pool& pool, FindSession find_session) : pool_(pool), find_session_(std::move(find_session)) {
  thread_ = std::thread([this] { run(); });
  pool_.set_poison_observer(this);
}

Notifier::~Notifier() {
  pool_.set_poison_observer(nullptr);
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Notifier::on_lost(const LostRange& range) {
  std::lock_guard lock(mutex_);
  queue_.push_back(range);
  changed_.notify_all();
}

std::uint64_t Notifier::read_cached(const LostRange& page, std::span<std::byte> to) {
  const auto session = find_session_(page.volume);
  return session == nullptr ? 0 : session->read_cached(page.inode, page.offset_bytes, to);
}

void Notifier::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return (queue_.empty() && !busy_) || stop_; });
}

void Notifier::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (stop_) return;
    const auto taken = std::exchange(queue_, {});
    busy_ = true;
    lock.unlock();
    std::vector<Loss> losses;
    for (const LostRange& range : taken) invalidate(range, losses);
    signal(losses);
    losses.clear();  // volumes may be waited for
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

void Notifier::invalidate(const LostRange& range, std::vector<Loss>& losses) {
  const auto session = find_session_(range.volume);
  if (session == nullptr) return;
  const auto volume = session->volume();
  if (volume == nullptr) return;
  const PoisonPolicy policy = volume->poison_policy(range.inode);
  if (policy.signal == PoisonPolicy::Signal::kNone) return;
  const std::uint64_t first = range.offset_bytes / kBlockBytes * kBlockBytes;
  const std::uint64_t end = blocks_for(range.offset_bytes + range.length_bytes) * kBlockBytes;
  session->invalidate(range.inode, first, end - first);
  if (policy.signal == PoisonPolicy::Signal::kLate || policy.zero) return;
  for (std::uint64_t offset = first; offset < end;) {
    const auto part = first_lost_pages(*volume, range, offset, end);
    if (part.length_bytes == 0) break;
    losses.push_back({part, session->device(), session, volume});
    offset = part.offset_bytes + part.length_bytes;
  }
}

void Notifier::signal(const std::vector<Loss>& losses) {
  std::vector<MappedRange> ranges;
  for (const Loss& loss : losses)
    ranges.push_back({loss.device, loss.range.inode, loss.range.offset_bytes, loss.range.length_bytes});
  // As long as the connection is there, no other filesystem has got its number.
  const auto is_mounted = [&](std::size_t which) {
    const auto session = losses[which].session.lock();
    return session != nullptr && session->is_connected();
  };
  signal_mappers(ranges, is_mounted, [&](std::size_t which, pid_t process, std::uint64_t address) {
    const auto& [range, device, session, volume] = losses[which];
    Event event;
    event.kind = EventKind::kProcessSignalled;
    event.block = range.block;
    event.volume = volume->name();
    event.inode = range.inode;
    event.path = volume->path_of(range.inode).value_or(fmt::format("inode {}", range.inode.value));
    event.offset_bytes = range.offset_bytes;
    event.length_bytes = range.length_bytes;
    event.process = process;
    event.text = fmt::format("process {} maps {} of volume {} at byte {} (address {:#x}), which is lost: sent SIGBUS",
                             process, event.path, event.volume, event.offset_bytes, address);
    spdlog::warn("{}", event.text);
    pool_.events().publish(std::move(event));
  });
}

}  // namespace daxcow
