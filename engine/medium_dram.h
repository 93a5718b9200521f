// A medium in anonymous memory, for tests: blocks go bad when told, and the whole content can be taken out as an image.
//
// Bad blocks are checked in software by read() and store(): what looks at mapping() directly sees no poison.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <utility>

#include "engine/bad_range.h"
#include "engine/file_descriptor.h"
#include "engine/medium.h"
#include "engine/mutex.h"

namespace daxcow {

class DramMedium final : public Medium {
 public:
  enum class Injection {
    kListed,  // the device knows and lists it
    kLatent,  // nobody knows until something touches it and says so by note_fault()
  };

  // The size is rounded down to a block; what remains must not be zero.
  static Result<std::unique_ptr<DramMedium>> create(std::uint64_t size_bytes);
  // A good medium with this content.
  static Result<std::unique_ptr<DramMedium>> from_image(std::span<const std::byte> image);
  ~DramMedium() override;

  // Makes the bytes bad; multiples of kSectorBytes within the medium. Accesses fail by whole blocks.
  void inject(BadRange range, Injection injection = Injection::kListed);
  void inject(BlockNumber block, Injection injection = Injection::kListed);
  // Makes wait_bad_change() return, as a scrub without findings does.
  void wake();
  // What identity() says from now on; at first it is not supported.
  void set_identity(Identity identity) { identity_ = std::move(identity); }
  // The content, bad blocks included.
  std::vector<std::byte> snapshot() const;

  Result<> read(std::uint64_t offset, std::span<std::byte> to) override;
  Result<> store(std::uint64_t offset, std::span<const std::byte> from) override;
  Result<> store_zeros(std::uint64_t offset, std::uint64_t length_bytes) override;
  Result<> drain() override { return {}; }
  Result<std::vector<BadRange>> bad_ranges() override;
  Result<> clear_bad(BlockRun run) override;
  Result<bool> wait_bad_change(int stop_fd) override;
  void note_fault(BlockNumber block) override;
  Result<Identity> identity() override;

 private:
  DramMedium(std::byte* memory, std::uint64_t size_bytes, FileDescriptor event);
  Result<> check_access(BadRange range) const;

  FileDescriptor event_;
  std::optional<Identity> identity_;
  mutable Mutex mutex_;
  BadRanges listed_ GUARDED_BY(mutex_);
  BadRanges latent_ GUARDED_BY(mutex_);
  std::atomic<bool> any_bad_{false};  // spares good media the mutex
};

}  // namespace daxcow
