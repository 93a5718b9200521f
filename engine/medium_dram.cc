#include "engine/medium_dram.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "engine/check.h"
#include "engine/guarded_copy.h"

namespace daxcow {

Result<std::unique_ptr<DramMedium>> DramMedium::create(std::uint64_t size_bytes) {
  size_bytes -= size_bytes % kBlockBytes;
  if (size_bytes == 0) return fail(ErrorCode::kInvalid, "a medium needs at least one block");
  FileDescriptor event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) return std::unexpected(Error::from_errno(errno, "cannot create an event descriptor"));
  void* memory = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return std::unexpected(Error::from_errno(errno, "cannot get " + std::to_string(size_bytes) + " bytes of memory"));
  }
  return std::unique_ptr<DramMedium>(new DramMedium(static_cast<std::byte*>(memory), size_bytes, std::move(event)));
}

Result<std::unique_ptr<DramMedium>> DramMedium::from_image(std::span<const std::byte> image) {
  auto medium = TRY(create(image.size()));
  std::memcpy(medium->mapping_, image.data(), medium->size_bytes_);
  return medium;
}

DramMedium::DramMedium(std::byte* memory, std::uint64_t size_bytes, FileDescriptor event) : event_(std::move(event)) {
  mapping_ = memory;
  size_bytes_ = size_bytes;
  info_.kind = MediumKind::kDram;
  info_.granularity = StoreGranularity::kByte;
  info_.durability = Durability::kProcess;
}

DramMedium::~DramMedium() { munmap(mapping_, size_bytes_); }

void DramMedium::inject(BadRange range, Injection injection) {
  CHECK(range.offset_bytes % kSectorBytes == 0 && range.length_bytes % kSectorBytes == 0);
  CHECK(range.offset_bytes <= size_bytes_ && range.length_bytes <= size_bytes_ - range.offset_bytes);
  {
    LockGuard guard(mutex_);
    BadRanges& list = injection == Injection::kListed ? listed_ : latent_;
    list = unite(std::move(list), {range});
    any_bad_ = !listed_.empty() || !latent_.empty();
  }
  if (injection == Injection::kListed) wake();
}

void DramMedium::inject(BlockNumber block, Injection injection) { inject(range_of({block, 1}), injection); }

void DramMedium::wake() { CHECK(eventfd_write(event_.get(), 1) == 0); }

std::vector<std::byte> DramMedium::snapshot() const { return {mapping_, mapping_ + size_bytes_}; }

Result<> DramMedium::check_access(BadRange range) const {
  CHECK(range.offset_bytes <= size_bytes_ && range.length_bytes <= size_bytes_ - range.offset_bytes);
  if (!any_bad_.load(std::memory_order_acquire)) [[likely]]
    return {};
  LockGuard guard(mutex_);
  if (!overlaps(whole_blocks(unite(listed_, latent_)), range)) return {};
  return fail(ErrorCode::kPoisoned);
}

Result<> DramMedium::read(std::uint64_t offset, std::span<std::byte> to) {
  TRY(check_access({offset, to.size()}));
  if (!guarded_copy(to.data(), mapping_ + offset, to.size())) return fail(ErrorCode::kPoisoned);
  return {};
}

Result<> DramMedium::store(std::uint64_t offset, std::span<const std::byte> from) {
  TRY(check_access({offset, from.size()}));
  if (!guarded_copy(mapping_ + offset, from.data(), from.size())) return fail(ErrorCode::kPoisoned);
  return {};
}

Result<> DramMedium::store_zeros(std::uint64_t offset, std::uint64_t length_bytes) {
  TRY(check_access({offset, length_bytes}));
  std::memset(mapping_ + offset, 0, length_bytes);
  return {};
}

Result<std::vector<BadRange>> DramMedium::bad_ranges() {
  LockGuard guard(mutex_);
  return listed_;
}

Result<> DramMedium::clear_bad(BlockRun run) {
  const BadRange range = range_of(run);
  CHECK(range.offset_bytes <= size_bytes_ && range.length_bytes <= size_bytes_ - range.offset_bytes);
  {
    LockGuard guard(mutex_);
    const BadRanges bad = intersect(whole_blocks(unite(listed_, latent_)), {range});
    if (bad.empty()) return {};
    for (const BadRange& part : bad) std::memset(mapping_ + part.offset_bytes, 0, part.length_bytes);
    listed_ = subtract(std::move(listed_), bad);
    latent_ = subtract(std::move(latent_), bad);
    any_bad_ = !listed_.empty() || !latent_.empty();
  }
  wake();
  return {};
}

Result<bool> DramMedium::wait_bad_change(int stop_fd) {
  for (;;) {
    pollfd entries[2] = {{.fd = event_.get(), .events = POLLIN, .revents = 0},
                         {.fd = stop_fd, .events = POLLIN, .revents = 0}};
    if (poll(entries, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return std::unexpected(Error::from_errno(errno, "cannot wait for changes of the bad blocks"));
    }
    if (entries[1].revents != 0) return false;
    eventfd_t count = 0;
    if (eventfd_read(event_.get(), &count) == 0) return true;
  }
}

void DramMedium::note_fault(BlockNumber block) {
  {
    LockGuard guard(mutex_);
    const BadRanges found = intersect(latent_, {range_of({block, 1})});
    if (subtract(found, listed_).empty()) return;
    listed_ = unite(std::move(listed_), found);
  }
  wake();
}

Result<Medium::Identity> DramMedium::identity() {
  if (!identity_) return fail(ErrorCode::kUnsupported);
  return *identity_;
}

}  // namespace daxcow
