// A read-only medium that can be "written": stores stay in DRAM and reads see them. Lets a pool be opened, its journal
// applied and its structures checked without changing a byte of it.
//
// A pool that is opened so may become writable while it is in use, in two steps: begin_writing() lets stores through, and
// the caller stores once more what was stored aside; forget_aside() ends the overlay. Readers see the same all the time.
#pragma once

#include <atomic>
#include <memory>
#include <unordered_map>

#include "engine/block.h"
#include "engine/medium.h"
#include "engine/mutex.h"

namespace daxcow {

class OverlayMedium final : public Medium {
 public:
  // info().read_only stays true: the layers above must not store but for recovery, until they have begun to write.
  explicit OverlayMedium(std::unique_ptr<Medium> base);

  // kReadOnly if the medium below cannot be written.
  Result<> begin_writing();
  void forget_aside();

  Result<> read(std::uint64_t offset, std::span<std::byte> to) override;
  Result<> store(std::uint64_t offset, std::span<const std::byte> from) override;
  Result<> store_zeros(std::uint64_t offset, std::uint64_t length_bytes) override;
  Result<> drain() override { return writing_ ? base_->drain() : Result<>{}; }
  Result<std::vector<BadRange>> bad_ranges() override { return base_->bad_ranges(); }
  Result<> clear_bad(BlockRun run) override { return writing_ ? base_->clear_bad(run) : fail(ErrorCode::kReadOnly); }
  Result<bool> wait_bad_change(int stop_fd) override { return base_->wait_bad_change(stop_fd); }
  void note_fault(BlockNumber block) override { base_->note_fault(block); }
  Result<Identity> identity() override { return base_->identity(); }

 private:
  Result<> store_aside(std::uint64_t offset, std::span<const std::byte> from);

  std::unique_ptr<Medium> base_;
  std::atomic<bool> writing_ = false;  // stores reach the base
  std::atomic<bool> aside_ = true;     // reads look at what was stored aside first
  mutable SharedMutex mutex_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Block>> blocks_ GUARDED_BY(mutex_);
};

}  // namespace daxcow
