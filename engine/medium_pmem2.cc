#include "engine/medium_pmem2.h"

#include <fcntl.h>
#include <libpmem2.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include "engine/bad_range.h"
#include "engine/badblocks.h"
#include "engine/check.h"
#include "engine/emulated_badblocks.h"
#include "engine/file_descriptor.h"
#include "engine/guarded_copy.h"
#include "engine/sector_reader.h"

namespace daxcow {

namespace {

std::unexpected<Error> pmem2_failure(int code, const std::string& what) {
  // An errno is negated; libpmem2's own codes lie below PMEM2_E_UNKNOWN. (pmem2_err_to_errno is declared but missing
  // from version 1.12 of the library.)
  if (code > PMEM2_E_UNKNOWN) return std::unexpected(Error::from_errno(-code, what));
  if (code == PMEM2_E_NOSUPP) return fail(ErrorCode::kUnsupported, what + ": not supported");
  return fail(ErrorCode::kIo, what + ": " + pmem2_errormsg());
}

// Owners of libpmem2's objects.
template <class Object, int (*kDelete)(Object**)>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (object_ != nullptr) kDelete(&object_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Object* get() const { return object_; }
  Object** fill() { return &object_; }

 private:
  Object* object_ = nullptr;
};
using Pmem2Source = Owned<pmem2_source, pmem2_source_delete>;
using Pmem2Config = Owned<pmem2_config, pmem2_config_delete>;
using Pmem2Map = Owned<pmem2_map, pmem2_map_delete>;

int delete_badblock_context(pmem2_badblock_context** context) {
  pmem2_badblock_context_delete(context);
  return 0;
}
using Pmem2BadblockContext = Owned<pmem2_badblock_context, delete_badblock_context>;

struct CopyFunctions {
  pmem2_memcpy_fn copy = nullptr;
  pmem2_memset_fn fill = nullptr;
};

// Of a mapping with page granularity libpmem2's own copies end in an msync each, which drain() does when it is due. So
// its copies for persistent memory are borrowed: they do not depend on the mapping that they were asked of. That one
// stays for good, as version 1.12 leaks what is made from an existing mapping when it is deleted.
Result<pmem2_map*> make_lender() {
  void* page = mmap(nullptr, kBlockBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return std::unexpected(Error::from_errno(errno, "cannot get a page of memory"));
  Pmem2Source source;
  pmem2_map* map = nullptr;
  int code = pmem2_source_from_anon(source.fill(), kBlockBytes);
  if (code == 0) code = pmem2_map_from_existing(&map, source.get(), page, kBlockBytes, PMEM2_GRANULARITY_CACHE_LINE);
  if (code == 0) return map;
  munmap(page, kBlockBytes);
  return pmem2_failure(code, "cannot choose copy functions");
}

Result<CopyFunctions> copies_without_msync() {
  static const Result<pmem2_map*> lender = make_lender();
  if (!lender) return std::unexpected(lender.error());
  return CopyFunctions{pmem2_get_memcpy_fn(*lender), pmem2_get_memset_fn(*lender)};
}

void store_fence() {
#if defined(__x86_64__)
  __builtin_ia32_sfence();
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

// What this thread has stored to a medium since its last drain, for the msync to come. Page-aligned.
struct PendingStores {
  std::uint64_t medium_id = 0;
  BadRanges ranges;
};
constexpr std::size_t kPendingLimit = 64;
constexpr unsigned kClearAttempts = 3;
// Pages between two stores that are synced with them: a second call costs more than pages that are clean anyway.
constexpr std::uint64_t kSyncGapBytes = 64 * kBlockBytes;

BadRanges& pending_stores(std::uint64_t medium_id) {
  // A thread serves one pool or a few; entries of media that are gone are reused, as their id never comes back.
  static thread_local std::vector<PendingStores> all;
  PendingStores* free_entry = nullptr;
  for (PendingStores& entry : all) {
    if (entry.medium_id == medium_id) return entry.ranges;
    if (entry.ranges.empty()) free_entry = &entry;
  }
  if (free_entry == nullptr) free_entry = &all.emplace_back();
  free_entry->medium_id = medium_id;
  return free_entry->ranges;
}

void join_over_gaps(BadRanges& ranges, std::uint64_t gap_bytes) {
  BadRanges joined;
  for (const BadRange& range : normalise(std::move(ranges))) {
    if (!joined.empty() && range.offset_bytes - joined.back().offset_bytes - joined.back().length_bytes <= gap_bytes) {
      joined.back().length_bytes = range.offset_bytes + range.length_bytes - joined.back().offset_bytes;
    } else {
      joined.push_back(range);
    }
  }
  ranges = std::move(joined);
}

std::atomic<std::uint64_t> next_medium_id{1};

class Pmem2Medium final : public Medium {
 public:
  Pmem2Medium(const std::string& path, FileDescriptor file, const Pmem2OpenOptions& options)
      : file_(std::move(file)), id_(next_medium_id.fetch_add(1)) {
    info_.path = path;
    info_.read_only = options.read_only;
  }

  Result<> start(const struct stat& status, const Pmem2OpenOptions& options);

  Result<> read(std::uint64_t offset, std::span<std::byte> to) override;
  Result<> store(std::uint64_t offset, std::span<const std::byte> from) override;
  Result<> store_zeros(std::uint64_t offset, std::uint64_t length_bytes) override;
  Result<> drain() override;
  Result<std::vector<BadRange>> bad_ranges() override;
  Result<> clear_bad(BlockRun run) override;
  Result<bool> wait_bad_change(int stop_fd) override;
  void note_fault(BlockNumber block) override;
  Result<Identity> identity() override;

 private:
  Result<> map();
  Result<> choose_copies();
  Result<> read_sectors(std::uint64_t offset, std::span<std::byte> to);
  Result<> find_badblocks(const struct stat& status);
  Durability choose_durability(bool relaxed) const;

  void check_range(std::uint64_t offset, std::uint64_t length_bytes) const {
    CHECK(offset <= size_bytes_ && length_bytes <= size_bytes_ - offset);
  }
  void remember_store(std::uint64_t offset, std::uint64_t length_bytes);
  Result<> sync_pending();
  std::unexpected<Error> fault_error(const MemoryFault& fault) const;
  Result<> clear_listed(BadRange range);
  Result<> clear_on_devdax(const BadRanges& bad);
  Result<> clear_through_filesystem(const BadRanges& bad);
  Result<> verify_zero(const BadRanges& ranges);

  FileDescriptor file_;  // holds the lock
  const std::uint64_t id_;
  Pmem2Source source_;
  Pmem2Map map_;
  CopyFunctions copies_;
  pmem2_drain_fn drain_ = nullptr;
  std::atomic<bool> sync_failed_{false};

  // How bad blocks are learnt of: one of these, or neither.
  std::optional<BadblocksSource> source_of_bad_;
  std::unique_ptr<BadblocksWatch> watch_;
  std::unique_ptr<SectorReader> sectors_;        // of a file on fsdax
  std::unique_ptr<EmulatedBadblocks> emulated_;  // last: it is gone before the mapping
};

Result<> Pmem2Medium::map() {
  const std::string what = "cannot map " + info_.path;
  Pmem2Config config;
  std::size_t size = 0;
  if (const int code = pmem2_source_from_fd(source_.fill(), file_.get())) return pmem2_failure(code, what);
  if (const int code = pmem2_source_size(source_.get(), &size)) return pmem2_failure(code, what);
  size_bytes_ = size - size % kBlockBytes;
  if (size_bytes_ == 0) return fail(ErrorCode::kInvalid, info_.path + " is empty; make a pool in it with mkfs.daxcow");

  if (const int code = pmem2_config_new(config.fill())) return pmem2_failure(code, what);
  int code = pmem2_config_set_required_store_granularity(config.get(), PMEM2_GRANULARITY_PAGE);
  // A device is mapped whole: its length must be a multiple of an alignment of its own.
  if (code == 0 && info_.kind != MediumKind::kDeviceDax) code = pmem2_config_set_length(config.get(), size_bytes_);
  if (code == 0 && info_.read_only) code = pmem2_config_set_protection(config.get(), PMEM2_PROT_READ);
  if (code == 0) code = pmem2_map_new(map_.fill(), config.get(), source_.get());
  if (code != 0) return pmem2_failure(code, what);
  mapping_ = static_cast<std::byte*>(pmem2_map_get_address(map_.get()));
  return {};
}

Result<> Pmem2Medium::choose_copies() {
  switch (pmem2_map_get_store_granularity(map_.get())) {
    case PMEM2_GRANULARITY_BYTE:
      info_.granularity = StoreGranularity::kByte;
      break;
    case PMEM2_GRANULARITY_CACHE_LINE:
      info_.granularity = StoreGranularity::kCacheLine;
      break;
    case PMEM2_GRANULARITY_PAGE:
      info_.granularity = StoreGranularity::kPage;
      break;
  }
  if (info_.granularity == StoreGranularity::kPage) {
    copies_ = TRY(copies_without_msync());
  } else {
    copies_ = {pmem2_get_memcpy_fn(map_.get()), pmem2_get_memset_fn(map_.get())};
    drain_ = pmem2_get_drain_fn(map_.get());
  }
  return {};
}

Durability Pmem2Medium::choose_durability(bool relaxed) const {
  if (info_.granularity != StoreGranularity::kPage) return Durability::kPowerFail;
  struct statfs filesystem = {};
  const bool in_memory =
      fstatfs(file_.get(), &filesystem) == 0 &&
      (filesystem.f_type == TMPFS_MAGIC || filesystem.f_type == RAMFS_MAGIC || filesystem.f_type == HUGETLBFS_MAGIC);
  return in_memory || relaxed ? Durability::kProcess : Durability::kSync;
}

Result<> Pmem2Medium::find_badblocks(const struct stat& status) {
  if (info_.kind == MediumKind::kEmulatedFile) {
    emulated_ = TRY(EmulatedBadblocks::open(
        info_.path,
        {.address = mapping_, .size_bytes = size_bytes_, .file = file_.get(), .writable = !info_.read_only}));
    info_.badblocks_source = emulated_->listed_path();
    return {};
  }
  const Result<BadblocksSource> source = info_.kind == MediumKind::kDeviceDax
                                             ? find_devdax_badblocks(kSysfsRoot, status.st_rdev)
                                             : find_block_device_badblocks(kSysfsRoot, status.st_dev);
  if (!source) {
    // Memory that lists no bad blocks (a RAM disk, memory reserved on the kernel's command line) is usable all the
    // same.
    if (source.error().code == ErrorCode::kUnsupported) return {};
    return std::unexpected(source.error());
  }
  source_of_bad_ = *source;
  info_.badblocks_source = source->attribute;
  watch_ = std::make_unique<BadblocksWatch>(*source);
  return {};
}

// Whether the file's pages are the storage itself.
bool maps_storage_directly(int fd, bool read_only) {
  if (is_dax_file(fd)) return true;  // kernels before 5.8 do not say so
  void* page =
      mmap(nullptr, kBlockBytes, PROT_READ | (read_only ? 0 : PROT_WRITE), MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
  if (page == MAP_FAILED) return false;
  munmap(page, kBlockBytes);
  return true;
}

Result<> Pmem2Medium::start(const struct stat& status, const Pmem2OpenOptions& options) {
  if (S_ISCHR(status.st_mode)) {
    info_.kind = MediumKind::kDeviceDax;
  } else {
    info_.kind =
        maps_storage_directly(file_.get(), options.read_only) ? MediumKind::kFsdaxFile : MediumKind::kEmulatedFile;
  }
  TRY(map());
  TRY(choose_copies());
  info_.durability = choose_durability(options.relaxed);
  if (info_.kind == MediumKind::kFsdaxFile) sectors_ = std::make_unique<SectorReader>(file_.get());
  return find_badblocks(status);
}

std::unexpected<Error> Pmem2Medium::fault_error(const MemoryFault& fault) const {
  const auto* address = static_cast<const std::byte*>(fault.address);
  if (address < mapping_ || address >= mapping_ + size_bytes_) {
    return fail(ErrorCode::kIo,
                "a copy from or to " + info_.path + " failed outside the pool, in this process's memory");
  }
  const auto offset = static_cast<std::uint64_t>(address - mapping_);
  struct stat status = {};
  if (!fault.machine_check && info_.kind != MediumKind::kDeviceDax && fstat(file_.get(), &status) == 0 &&
      offset >= static_cast<std::uint64_t>(status.st_size)) {
    return fail(ErrorCode::kIo, info_.path + " has been truncated while it was in use; restore it from a backup");
  }
  return fail(ErrorCode::kPoisoned, "block " + std::to_string(offset / kBlockBytes) + " of " + info_.path + " is bad");
}

Result<> Pmem2Medium::read(std::uint64_t offset, std::span<std::byte> to) {
  check_range(offset, to.size());
  MemoryFault fault;
  if (!guarded_copy(to.data(), mapping_ + offset, to.size(), &fault)) [[unlikely]] {
    auto error = fault_error(fault);
    if (error.error().code != ErrorCode::kPoisoned || !read_sectors(offset, to)) return error;
  }
  return {};
}

// A page is refused as a whole; what of it is good may be had in another way.
Result<> Pmem2Medium::read_sectors(std::uint64_t offset, std::span<std::byte> to) {
  if (emulated_) return emulated_->read_sectors(offset, to);
  if (sectors_) return sectors_->read(offset, to);
  return fail(ErrorCode::kUnsupported);  // a devdax has no other way
}

Result<> Pmem2Medium::store(std::uint64_t offset, std::span<const std::byte> from) {
  check_range(offset, from.size());
  if (info_.read_only) return fail(ErrorCode::kReadOnly, info_.path + " is open read-only");
  remember_store(offset, from.size());
  std::byte* to = mapping_ + offset;
  MemoryFault fault;
  const auto copy = [&] { copies_.copy(to, from.data(), from.size(), PMEM2_F_MEM_NODRAIN); };
  if (!guarded_run(copy, &fault)) [[unlikely]]
    return fault_error(fault);
  return {};
}

Result<> Pmem2Medium::store_zeros(std::uint64_t offset, std::uint64_t length_bytes) {
  check_range(offset, length_bytes);
  if (info_.read_only) return fail(ErrorCode::kReadOnly, info_.path + " is open read-only");
  remember_store(offset, length_bytes);
  std::byte* to = mapping_ + offset;
  MemoryFault fault;
  const auto fill = [&] { copies_.fill(to, 0, length_bytes, PMEM2_F_MEM_NODRAIN); };
  if (!guarded_run(fill, &fault)) [[unlikely]]
    return fault_error(fault);
  return {};
}

void Pmem2Medium::remember_store(std::uint64_t offset, std::uint64_t length_bytes) {
  if (info_.durability != Durability::kSync || length_bytes == 0) return;
  BadRanges& pending = pending_stores(id_);
  const std::uint64_t first = offset - offset % kBlockBytes;
  const std::uint64_t end = blocks_for(offset + length_bytes) * kBlockBytes;
  if (!pending.empty()) {
    BadRange& last = pending.back();
    if (first >= last.offset_bytes && first <= last.offset_bytes + last.length_bytes) {
      last.length_bytes = std::max(last.length_bytes, end - last.offset_bytes);
      return;
    }
  }
  pending.push_back({first, end - first});
  if (pending.size() > kPendingLimit) {
    for (std::uint64_t gap = kSyncGapBytes; pending.size() > kPendingLimit / 2; gap *= 4) join_over_gaps(pending, gap);
  }
}

Result<> Pmem2Medium::sync_pending() {
  BadRanges pending = std::exchange(pending_stores(id_), {});
  // The kernel reports a failed write-back once and then takes the pages for clean, so later success would prove
  // nothing.
  const auto failed = [&] {
    return fail(ErrorCode::kIo, "cannot write " + info_.path +
                                    " to its disk; unmount, and check the disk before the pool is used again");
  };
  if (sync_failed_.load(std::memory_order_relaxed)) return failed();
  join_over_gaps(pending, kSyncGapBytes);
  if (pending.empty()) return {};
  // Every call waits for the disk's cache, so several ranges take one call for the whole file, although that may have
  // to write what other threads stored as well. Both calls write what was stored through the mapping.
  const int result = pending.size() == 1 ? msync(mapping_ + pending[0].offset_bytes, pending[0].length_bytes, MS_SYNC)
                                         : fdatasync(file_.get());
  if (result != 0) {
    sync_failed_ = true;
    return failed();
  }
  return {};
}

Result<> Pmem2Medium::drain() {
  if (drain_ != nullptr) {
    drain_();
    return {};
  }
  store_fence();
  return info_.durability == Durability::kSync ? sync_pending() : Result<>{};
}

Result<std::vector<BadRange>> Pmem2Medium::bad_ranges() {
  if (emulated_) return emulated_->listed();
  if (!source_of_bad_) return BadRanges{};
  BadRanges bad = TRY(read_badblocks(*source_of_bad_));
  if (info_.kind == MediumKind::kFsdaxFile && !bad.empty()) {
    const auto extents = TRY(file_extents(file_.get()));
    bad = translate_to_file(bad, extents);
  }
  return clip(std::move(bad), 0, size_bytes_);
}

Result<> Pmem2Medium::clear_bad(BlockRun run) {
  const BadRange range = range_of(run);
  check_range(range.offset_bytes, range.length_bytes);
  if (info_.read_only) return fail(ErrorCode::kReadOnly, info_.path + " is open read-only");
  if (emulated_) return emulated_->clear(run);
  // A scrub of the hardware that began before can put a block on the list again just after it was cleared.
  Result<> cleared;
  for (unsigned attempt = 0; attempt < kClearAttempts; ++attempt)
    if (cleared = clear_listed(range); cleared) break;
  return cleared;
}

Result<> Pmem2Medium::clear_listed(BadRange range) {
  const BadRanges listed = TRY(bad_ranges());
  const BadRanges bad = intersect(whole_blocks(listed), {range});
  if (bad.empty()) return {};
  if (info_.kind == MediumKind::kDeviceDax) {
    TRY(clear_on_devdax(intersect(listed, {range})));
    for (const BadRange& part : bad) TRY(store_zeros(part.offset_bytes, part.length_bytes));
    TRY(drain());
  } else {
    TRY(clear_through_filesystem(bad));
  }
  return verify_zero(bad);
}

Result<> Pmem2Medium::clear_on_devdax(const BadRanges& bad) {
  const std::string what = "cannot clear bad blocks of " + info_.path;
  Pmem2BadblockContext context;
  if (const int code = pmem2_badblock_context_new(context.fill(), source_.get())) return pmem2_failure(code, what);
  for (const BadRange& range : bad) {
    const pmem2_badblock block{.offset = range.offset_bytes, .length = range.length_bytes};
    if (const int code = pmem2_badblock_clear(context.get(), &block)) return pmem2_failure(code, what);
  }
  return {};
}

// The filesystem passes whole blocks of new content to the device driver, which clears the poison under them. Never
// with pmem2_badblock_clear: on a file it punches out whole blocks of the filesystem, good neighbours included, and
// leaves the poison behind in the filesystem's free space.
Result<> Pmem2Medium::clear_through_filesystem(const BadRanges& bad) {
  const std::string what = "cannot clear bad blocks of " + info_.path;
  const std::array<std::byte, kBlockBytes> zeros = {};
  for (const BadRange& range : bad) {
    for (std::uint64_t done = 0; done < range.length_bytes; done += kBlockBytes) {
      const auto at = static_cast<off_t>(range.offset_bytes + done);
      const ssize_t written = pwrite(file_.get(), zeros.data(), zeros.size(), at);
      if (written < 0) return std::unexpected(Error::from_errno(errno, what));
      if (written != static_cast<ssize_t>(zeros.size())) return fail(ErrorCode::kIo, what + ": short write");
    }
  }
  if (fsync(file_.get()) != 0) return std::unexpected(Error::from_errno(errno, what));
  return {};
}

Result<> Pmem2Medium::verify_zero(const BadRanges& ranges) {
  const std::array<std::byte, kBlockBytes> zeros = {};
  std::array<std::byte, kBlockBytes> content;
  for (const BadRange& range : ranges) {
    for (std::uint64_t done = 0; done < range.length_bytes; done += kBlockBytes) {
      TRY(read(range.offset_bytes + done, content));
      if (content == zeros) continue;
      return fail(ErrorCode::kPoisoned, "block " + std::to_string((range.offset_bytes + done) / kBlockBytes) + " of " +
                                            info_.path + " is not zero after clearing");
    }
  }
  const BadRanges left = intersect(TRY(bad_ranges()), ranges);
  if (left.empty()) return {};
  return fail(ErrorCode::kPoisoned, "block " + std::to_string(left.front().offset_bytes / kBlockBytes) + " of " +
                                        info_.path + " is still listed as bad after clearing");
}

Result<bool> Pmem2Medium::wait_bad_change(int stop_fd) {
  if (emulated_) return emulated_->wait_change(stop_fd);
  if (watch_) return watch_->wait(stop_fd);
  TRY(wait_readable(stop_fd, -1));
  return false;
}

void Pmem2Medium::note_fault(BlockNumber block) {
  CHECK(block.value < block_count());
  // A list that cannot be written leaves the poison latent; the caller knows of it all the same.
  if (emulated_) static_cast<void>(emulated_->note_fault(block));
}

Result<Medium::Identity> Pmem2Medium::identity() {
  const std::string what = "cannot read the unsafe-shutdown count of " + info_.path;
  if (emulated_) return fail(ErrorCode::kUnsupported, what + ": it is a regular file");
  Identity identity;
  if (const int code = pmem2_source_device_usc(source_.get(), &identity.unsafe_shutdowns)) {
    return pmem2_failure(code, what);
  }
  std::size_t length = 0;
  if (const int code = pmem2_source_device_id(source_.get(), nullptr, &length)) return pmem2_failure(code, what);
  std::string id(length, '\0');
  if (const int code = pmem2_source_device_id(source_.get(), id.data(), &length)) return pmem2_failure(code, what);
  id.resize(strnlen(id.data(), id.size()));
  // One id for each module, one after the other. Folded, so that a change of any module shows.
  constexpr std::size_t kIdBytes = 64;
  identity.device_id.resize(std::min(id.size(), kIdBytes));
  for (std::size_t i = 0; i < id.size(); ++i) identity.device_id[i % kIdBytes] ^= static_cast<std::uint8_t>(id[i]);
  return identity;
}

std::unexpected<Error> open_failure(int error_number, const std::string& path, bool read_only) {
  Error error = Error::from_errno(error_number, "cannot open " + path);
  if (error.code == ErrorCode::kPermission) error.message += "; run as root or as the owner of the pool";
  if (error.code == ErrorCode::kReadOnly && !read_only) error.message += "; open the pool read-only";
  return std::unexpected(std::move(error));
}

// Whether the file can be a pool at all; says what to do if not.
Result<> check_file_type(const std::string& path, const struct stat& status) {
  if (S_ISREG(status.st_mode)) return {};
  if (S_ISDIR(status.st_mode))
    return fail(ErrorCode::kIsDirectory, path + " is a directory; name a pool file or device");
  if (S_ISBLK(status.st_mode)) {
    return fail(ErrorCode::kInvalid, path +
                                         " is a block device; make it a devdax with ndctl create-namespace "
                                         "--mode=devdax, or use a file on a filesystem mounted from it with -o dax");
  }
  if (S_ISCHR(status.st_mode) && is_devdax(kSysfsRoot, status.st_rdev)) return {};
  return fail(ErrorCode::kInvalid, path + " is neither a devdax device nor a regular file");
}

Result<> lock_pool(int fd, const std::string& path, bool shared) {
  if (flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return {};
  if (errno == EWOULDBLOCK) {
    return fail(ErrorCode::kBusy, path + " is in use by another process; unmount it or wait for that to end");
  }
  return std::unexpected(Error::from_errno(errno, "cannot lock " + path));
}

}  // namespace

Result<std::unique_ptr<Medium>> open_pmem2_medium(const std::string& path, const Pmem2OpenOptions& options) {
  // Looked at before it is opened: opening a named pipe or a tape has effects.
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) return open_failure(errno, path, options.read_only);
  TRY(check_file_type(path, status));
  FileDescriptor file(::open(path.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!file) return open_failure(errno, path, options.read_only);
  if (fstat(file.get(), &status) != 0) return open_failure(errno, path, options.read_only);
  TRY(check_file_type(path, status));
  if (options.lock) TRY(lock_pool(file.get(), path, options.read_only));
  auto medium = std::make_unique<Pmem2Medium>(path, std::move(file), options);
  TRY(medium->start(status, options));
  return medium;
}

Result<> create_pool_file(const std::string& path, std::uint64_t size_bytes, const CreatePoolFileOptions& options) {
  if (size_bytes == 0) return fail(ErrorCode::kInvalid, "the size of a pool must not be zero");
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  const bool is_new = static_cast<bool>(file);
  if (!is_new) {
    if (errno != EEXIST) return std::unexpected(Error::from_errno(errno, "cannot create " + path));
    if (!options.overwrite) {
      return fail(ErrorCode::kExists, path + " exists already; remove it, or say that it may be overwritten");
    }
    struct stat status = {};
    if (stat(path.c_str(), &status) != 0) return open_failure(errno, path, false);
    if (!S_ISREG(status.st_mode)) return fail(ErrorCode::kInvalid, path + " is not a regular file");
    file = FileDescriptor(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!file) return open_failure(errno, path, false);
  }
  TRY(lock_pool(file.get(), path, false));
  if (!is_new && ftruncate(file.get(), 0) != 0) {
    return std::unexpected(Error::from_errno(errno, "cannot empty " + path));
  }
  if (const int error_number = posix_fallocate(file.get(), 0, static_cast<off_t>(size_bytes))) {
    if (is_new) ::unlink(path.c_str());
    return std::unexpected(
        Error::from_errno(error_number, "cannot allocate " + std::to_string(size_bytes) + " bytes for " + path));
  }
  if (is_new) {
    for (const char* suffix : {".badblocks", ".injected"}) ::unlink((path + suffix).c_str());
  }
  return {};
}

}  // namespace daxcow
