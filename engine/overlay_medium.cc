#include "engine/overlay_medium.h"

#include <algorithm>
#include <cstring>

namespace daxcow {

OverlayMedium::OverlayMedium(std::unique_ptr<Medium> base) : base_(std::move(base)) {
  info_ = base_->info();
  info_.read_only = true;
  mapping_ = const_cast<std::byte*>(base_->mapping());
  size_bytes_ = base_->size_bytes();
}

Result<> OverlayMedium::begin_writing() {
  if (base_->info().read_only) return fail(ErrorCode::kReadOnly, info_.path + " cannot be written");
  writing_ = true;
  return {};
}

void OverlayMedium::forget_aside() {
  mutex_.lock();
  aside_ = false;
  blocks_.clear();
  mutex_.unlock();
}

Result<> OverlayMedium::read(std::uint64_t offset, std::span<std::byte> to) {
  if (!aside_) return base_->read(offset, to);
  while (!to.empty()) {
    const std::uint64_t block = offset / kBlockBytes, within = offset % kBlockBytes;
    const std::size_t length = std::min<std::size_t>(to.size(), kBlockBytes - within);
    mutex_.lock_shared();
    const auto it = blocks_.find(block);
    if (it != blocks_.end()) std::memcpy(to.data(), it->second->bytes + within, length);
    const bool found = it != blocks_.end();
    mutex_.unlock_shared();
    if (!found) TRY(base_->read(offset, to.first(length)));
    offset += length;
    to = to.subspan(length);
  }
  return {};
}

Result<> OverlayMedium::store(std::uint64_t offset, std::span<const std::byte> from) {
  return writing_ ? base_->store(offset, from) : store_aside(offset, from);
}

Result<> OverlayMedium::store_aside(std::uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    const std::uint64_t block = offset / kBlockBytes, within = offset % kBlockBytes;
    const std::size_t length = std::min<std::size_t>(from.size(), kBlockBytes - within);
    {
      const LockGuard lock(mutex_);
      auto found = blocks_.find(block);
      if (found == blocks_.end()) {
        auto copy = std::make_unique<Block>();
        // A part stored over poison would make the rest of the block look readable.
        if (length != kBlockBytes) TRY(base_->read(block * kBlockBytes, copy->bytes));
        found = blocks_.emplace(block, std::move(copy)).first;
      }
      std::memcpy(found->second->bytes + within, from.data(), length);
    }
    offset += length;
    from = from.subspan(length);
  }
  return {};
}

Result<> OverlayMedium::store_zeros(std::uint64_t offset, std::uint64_t length_bytes) {
  if (writing_) return base_->store_zeros(offset, length_bytes);
  const std::vector<std::byte> zeros(length_bytes);
  return store(offset, zeros);
}

}  // namespace daxcow
