// A device that cannot clear bad blocks.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "engine/medium_dram.h"

namespace daxcow::test {

class StubbornMedium final : public Medium {
 public:
  explicit StubbornMedium(std::unique_ptr<DramMedium> inner) : inner_(std::move(inner)) {
    info_ = inner_->info();
    mapping_ = const_cast<std::byte*>(inner_->mapping());
    size_bytes_ = inner_->size_bytes();
  }
  Result<> read(std::uint64_t offset, std::span<std::byte> to) override { return inner_->read(offset, to); }
  Result<> store(std::uint64_t offset, std::span<const std::byte> from) override { return inner_->store(offset, from); }
  Result<> store_zeros(std::uint64_t offset, std::uint64_t length) override {
    return inner_->store_zeros(offset, length);
  }
  Result<> drain() override { return inner_->drain(); }
  Result<std::vector<BadRange>> bad_ranges() override { return inner_->bad_ranges(); }
  Result<> clear_bad(BlockRun) override {
    ++clears;
    return fail(ErrorCode::kUnsupported);
  }
  Result<bool> wait_bad_change(int stop_fd) override { return inner_->wait_bad_change(stop_fd); }
  void note_fault(BlockNumber block) override { inner_->note_fault(block); }
  Result<Identity> identity() override { return inner_->identity(); }
  DramMedium& inner() { return *inner_; }
  int clears = 0;

 private:
  std::unique_ptr<DramMedium> inner_;
};

}  // namespace daxcow::test
