// A regular file as persistent memory that can go bad.
//
// Two files next to the pool are the state of the emulated device, in the kernel's text format (lines of
// "sector count", 512-byte units; see engine/bad_range.h):
//
//   POOL.badblocks   what the device lists as bad, as /sys/block/pmemN/badblocks would
//   POOL.injected    what is bad whether listed or not: poison that is latent until something touches it
//
// A page is poisoned while any of its sectors is in either. Both files may be edited by hand or replaced by a rename
// while a pool is open. They stay, empty, when nothing is bad: removing one could take away a file that another process
// has just locked. Programs change them in place under flock(LOCK_EX) and read them under LOCK_SH.
//
// Poison is real in the mapping: over each poisoned page a page of an empty memfd is mapped, so an access raises SIGBUS
// and a system call answers EFAULT, as with poisoned memory, whatever filesystem the pool is on. (userfaultfd's
// UFFDIO_POISON needs tmpfs.) The file's own page comes back when the poison is gone.
//
// Example. `inject` with notify = false adds "80 8" to POOL.injected: block 10 is poisoned, and nobody is told. A read
// of it faults; the engine calls note_fault, which adds "80 8" to POOL.badblocks, as a machine check does in the
// kernel; the watcher wakes and the engine sees block 10 listed. When nobody refers to the block any more, clear()
// takes it off both lists, maps the file's page back and zeroes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "engine/bad_range.h"
#include "engine/file_descriptor.h"
#include "engine/mutex.h"
#include "engine/result.h"

namespace daxcow {

class EmulatedBadblocks {
 public:
  // The mapping of a whole pool file, which outlives this object.
  struct Mapping {
    std::byte* address = nullptr;
    std::uint64_t size_bytes = 0;
    int file = -1;
    bool writable = false;
  };

  // Reads both lists and poisons the mapping before anything else can read it. kUnsupported when the lists have more
  // separate runs than a process can map.
  static Result<std::unique_ptr<EmulatedBadblocks>> open(const std::string& pool_path, Mapping mapping);

  // Path of the list that is watched.
  const std::string& listed_path() const { return listed_path_; }

  // The content of POOL.badblocks now. The mapping is up to date with both lists afterwards.
  Result<BadRanges> listed();
  // Whether the block is poisoned in the mapping.
  bool is_poisoned(BlockNumber block);
  // Reads by sectors what the mapping refuses by pages. kPoisoned if one of them is bad, listed or not.
  Result<> read_sectors(std::uint64_t offset, std::span<std::byte> to);
  // Lists what is latent in the block.
  Result<> note_fault(BlockNumber block);
  // Zeroes those blocks of the run that are bad and takes them off both lists.
  Result<> clear(BlockRun run);
  // Waits until a list was changed, and brings the mapping up to date. False once `stop_fd` is readable. One thread
  // only.
  Result<bool> wait_change(int stop_fd);

 private:
  EmulatedBadblocks(std::string listed_path, std::string injected_path, Mapping mapping);
  Result<> start(const std::string& directory);
  // Reads the lists and maps poisoned pages over the pool's, or back, as they say.
  Result<> refresh_locked() REQUIRES(mutex_);
  Result<> map_file(const BadRange& range);
  Result<> map_poison(const BadRange& range);

  const std::string listed_path_;
  const std::string injected_path_;
  const Mapping mapping_;
  FileDescriptor empty_file_;
  FileDescriptor notification_;  // inotify on the pool's directory; none where the system has no more of them
  Mutex mutex_;
  BadRanges poisoned_ GUARDED_BY(mutex_);  // whole pages, as mapped
};

// What a tool does to the emulated device of a pool file, mounted or not. Sectors are 512 bytes, counted from the start
// of the pool. kUnsupported for anything but a regular file without DAX, which has a device of its own.
namespace emulated_device {

// Makes the sectors bad, and lists them unless `notify` is false.
Result<> inject(const std::string& pool_path, std::uint64_t sector, std::uint64_t count, bool notify);
// Takes the sectors back from what was injected. Like `ndctl inject-error --uninject` it leaves the device's list
// alone: what is listed stays bad until it is cleared.
Result<> uninject(const std::string& pool_path, std::uint64_t sector, std::uint64_t count);
// What was injected and is still there.
Result<BadRanges> injected(const std::string& pool_path);

}  // namespace emulated_device

// Whether the kernel maps this file's storage directly (statx's STATX_ATTR_DAX).
bool is_dax_file(int fd);

}  // namespace daxcow
