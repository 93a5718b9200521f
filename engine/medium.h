// The only seam to hardware: a flat range of bytes that can be read, stored to, made durable, and that can go bad.
//
// Every copy is guarded: a machine check, or a page that the kernel refuses because it is on the list of bad blocks,
// becomes Error{kPoisoned}, never a signal that ends the process.
//
// Implementations: Pmem2Medium (engine/medium_pmem2.h: devdax, files on fsdax, regular files as emulation) and
// DramMedium (engine/medium_dram.h: tests).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

// How far a store must be pushed before it survives a power failure, as libpmem2 reports it for the mapping.
enum class StoreGranularity { kByte, kCacheLine, kPage };

enum class MediumKind { kDeviceDax, kFsdaxFile, kEmulatedFile, kDram };

// What Medium::drain() promises.
enum class Durability {
  kPowerFail,  // survives power failure: CPU flush and fence, or eADR
  kSync,       // survives power failure: msync (a regular file on a disk)
  kProcess,    // survives the process only: tmpfs, hugetlbfs, DRAM, or --relaxed
};

struct MediumInfo {
  MediumKind kind = MediumKind::kDram;
  StoreGranularity granularity = StoreGranularity::kPage;
  Durability durability = Durability::kProcess;
  std::string path;             // as the user named it; empty for DRAM
  std::string badblocks_source; // the file that is watched for bad blocks, for people; empty if there is none
  bool read_only = false;
};

// Bytes of the pool that the device says are bad. Offsets count from the start of the pool; multiples of kSectorBytes.
struct BadRange {
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  friend constexpr auto operator<=>(const BadRange&, const BadRange&) = default;
};

class Medium {
 public:
  virtual ~Medium() = default;
  Medium(const Medium&) = delete;
  Medium& operator=(const Medium&) = delete;

  const MediumInfo& info() const { return info_; }
  std::uint64_t size_bytes() const { return size_bytes_; }
  std::uint64_t block_count() const { return size_bytes_ / kBlockBytes; }

  // The mapping itself, size_bytes() long, valid as long as the medium. Only for handing to system calls, which answer
  // poison with EFAULT; reading it directly can raise SIGBUS.
  const std::byte* mapping() const { return mapping_; }

  // All ranges must lie within the medium (checked: CHECK). Thread-safe; concurrent copies of overlapping ranges may
  // tear.
  //
  // Copies from the medium. kPoisoned if any byte could not be read; `to` is then undefined. What of a page is good can
  // be read beside bad sectors where the device can do that: of emulation and of files on fsdax, not of devdax.
  virtual Result<> read(std::uint64_t offset, std::span<std::byte> to) = 0;
  // Stores to the medium, non-temporal where that pays. Durable once the same thread's drain() returns. kPoisoned if a
  // page could not be stored to; what else was stored is undefined.
  virtual Result<> store(std::uint64_t offset, std::span<const std::byte> from) = 0;
  virtual Result<> store_zeros(std::uint64_t offset, std::uint64_t length_bytes) = 0;
  // Makes this thread's stores since its last drain() durable as info().durability says. kIo if msync fails.
  virtual Result<> drain() = 0;

  // What the device lists as bad now, sorted, not overlapping. Does not touch the blocks.
  virtual Result<std::vector<BadRange>> bad_ranges() = 0;
  // Asks the device to make the blocks usable again; their content is zero afterwards. Only for blocks that nobody refers
  // to, or whose content the caller rewrites. Does nothing to blocks that are good. kUnsupported where it cannot.
  virtual Result<> clear_bad(BlockRun run) = 0;
  // Waits until the list of bad ranges may have changed (also returns now and then without a change), or until `stop_fd`
  // is readable. For one thread at a time. Returns false when told to stop.
  virtual Result<bool> wait_bad_change(int stop_fd) = 0;
  // A copy or a system call by this process failed at this block: tells the device, so that what was latent is listed.
  // Real devices know already.
  virtual void note_fault(BlockNumber block) = 0;

  // Unsafe-shutdown count and an id of the device (up to 64 bytes); kUnsupported on emulation.
  struct Identity {
    std::uint64_t unsafe_shutdowns = 0;
    std::vector<std::uint8_t> device_id;
  };
  virtual Result<Identity> identity() = 0;

 protected:
  Medium() = default;
  MediumInfo info_;
  std::byte* mapping_ = nullptr;
  std::uint64_t size_bytes_ = 0;
};

}  // namespace daxcow
