#include "test/fuzz/working_image.h"

#include <poll.h>
#include <sys/mman.h>

#include <cstring>

#include "engine/check.h"
#include "engine/format.h"

namespace daxcow::fuzz {

namespace {
constexpr std::uint64_t kGuardBytes = 1ull << 30;  // address space only
}

class WorkingImage::View final : public Medium {
 public:
  View(WorkingImage& image, bool read_only) : image_(image) {
    mapping_ = image.memory_;
    size_bytes_ = image.size_bytes_;
    info_.granularity = StoreGranularity::kByte;
    info_.read_only = read_only;
  }

  Result<> read(std::uint64_t offset, std::span<std::byte> to) override {
    TRY(check_access(offset, to.size()));
    std::memcpy(to.data(), mapping_ + offset, to.size());
    return {};
  }
  Result<> store(std::uint64_t offset, std::span<const std::byte> from) override {
    CHECK(!info_.read_only);
    TRY(check_access(offset, from.size()));
    image_.note_store(offset, from.size());
    std::memcpy(mapping_ + offset, from.data(), from.size());
    return {};
  }
  Result<> store_zeros(std::uint64_t offset, std::uint64_t length_bytes) override {
    CHECK(!info_.read_only);
    TRY(check_access(offset, length_bytes));
    image_.note_store(offset, length_bytes);
    std::memset(mapping_ + offset, 0, length_bytes);
    return {};
  }
  Result<> drain() override {
    if (image_.capturing_ && image_.journal_stored_) image_.captured_.assign(mapping_, mapping_ + size_bytes_);
    image_.journal_stored_ = false;
    return {};
  }
  Result<std::vector<BadRange>> bad_ranges() override {
    std::vector<BadRange> ranges;
    for (const std::uint64_t block : image_.bad_) ranges.push_back({block * kBlockBytes, kBlockBytes});
    return ranges;
  }
  Result<> clear_bad(BlockRun run) override {
    CHECK(!info_.read_only && run.first.value <= block_count() && run.count <= block_count() - run.first.value);
    for (std::uint64_t block = run.first.value; block < run.end().value; ++block)
      if (image_.bad_.erase(block) != 0) TRY(store_zeros(block * kBlockBytes, kBlockBytes));
    return {};
  }
  Result<bool> wait_bad_change(int stop_fd) override {
    pollfd entry{.fd = stop_fd, .events = POLLIN, .revents = 0};
    poll(&entry, 1, -1);
    return false;
  }
  void note_fault(BlockNumber) override {}
  Result<Identity> identity() override { return Identity{3, {1, 2, 3}}; }

 private:
  Result<> check_access(std::uint64_t offset, std::uint64_t length_bytes) const {
    CHECK(offset <= size_bytes_ && length_bytes <= size_bytes_ - offset);
    if (image_.bad_.empty() || length_bytes == 0) return {};
    const auto bad = image_.bad_.lower_bound(offset / kBlockBytes);
    if (bad != image_.bad_.end() && *bad <= (offset + length_bytes - 1) / kBlockBytes) return fail(ErrorCode::kPoisoned);
    return {};
  }

  WorkingImage& image_;
};

WorkingImage::WorkingImage(std::span<const std::byte> base)
    : base_(base), size_bytes_(base.size()), dirty_(base.size() / kBlockBytes) {
  const std::uint64_t mapped_bytes = size_bytes_ + 2 * kGuardBytes;
  void* const all = mmap(nullptr, mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(all != MAP_FAILED);
  memory_ = static_cast<std::byte*>(all) + kGuardBytes;
  CHECK(mprotect(memory_, size_bytes_, PROT_READ | PROT_WRITE) == 0);
  std::memcpy(memory_, base.data(), size_bytes_);
}

WorkingImage::~WorkingImage() { munmap(memory_ - kGuardBytes, size_bytes_ + 2 * kGuardBytes); }

void WorkingImage::reset() {
  for (const std::uint64_t block : dirty_list_) {
    std::memcpy(memory_ + block * kBlockBytes, base_.data() + block * kBlockBytes, kBlockBytes);
    dirty_[block] = false;
  }
  dirty_list_.clear();
  bad_.clear();
}

Block& WorkingImage::edit(BlockNumber block) {
  CHECK(block.value < block_count());
  note_store(byte_offset(block), kBlockBytes);
  return *reinterpret_cast<Block*>(memory_ + byte_offset(block));
}

void WorkingImage::note_store(std::uint64_t offset, std::uint64_t length_bytes) {
  if (length_bytes == 0) return;
  for (std::uint64_t block = offset / kBlockBytes; block <= (offset + length_bytes - 1) / kBlockBytes; ++block) {
    if (dirty_[block]) continue;
    dirty_[block] = true;
    dirty_list_.push_back(block);
  }
  if (offset / kBlockBytes == format::kJournalChunk.value) journal_stored_ = true;
}

std::unique_ptr<Medium> WorkingImage::medium(bool read_only) { return std::make_unique<View>(*this, read_only); }

}  // namespace daxcow::fuzz
