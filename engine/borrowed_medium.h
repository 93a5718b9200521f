// Lends a medium to somebody who wants to own one.
#pragma once

#include <span>
#include <vector>

#include "engine/medium.h"

namespace daxcow {

// The lender must outlive it.
class BorrowedMedium final : public Medium {
 public:
  explicit BorrowedMedium(Medium& base) : base_(base) {
    info_ = base.info();
    mapping_ = const_cast<std::byte*>(base.mapping());
    size_bytes_ = base.size_bytes();
  }
  Result<> read(std::uint64_t offset, std::span<std::byte> to) override { return base_.read(offset, to); }
  Result<> store(std::uint64_t offset, std::span<const std::byte> from) override { return base_.store(offset, from); }
  Result<> store_zeros(std::uint64_t offset, std::uint64_t length) override {
    return base_.store_zeros(offset, length);
  }
  Result<> drain() override { return base_.drain(); }
  Result<std::vector<BadRange>> bad_ranges() override { return base_.bad_ranges(); }
  Result<> clear_bad(BlockRun run) override { return base_.clear_bad(run); }
  Result<bool> wait_bad_change(int stop_fd) override { return base_.wait_bad_change(stop_fd); }
  void note_fault(BlockNumber block) override { base_.note_fault(block); }
  Result<Identity> identity() override { return base_.identity(); }

 private:
  Medium& base_;
};

}  // namespace daxcow
