// The kernel's list of bad blocks of a persistent-memory device, and its translation to offsets in the pool.
//
//   file on fsdax    /sys/dev/block/MAJOR:MINOR/badblocks of the block device under the filesystem (of the whole disk
//   for
//                    a partition): offsets on that device, which the file's extents translate to offsets in the file
//   devdax           /sys/devices/.../regionN/badblocks: offsets in the region, from which the start of the device's
//                    data (its physical address minus the region's) is subtracted
//
// Both wake poll() when they change, also several times for one change and after each scrub of the hardware. A
// namespace that is disabled leaves open files behind that poll as ready for ever and read as ENODEV: they are dropped
// and the attribute is opened again when it is back.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "engine/bad_range.h"
#include "engine/file_descriptor.h"
#include "engine/result.h"

namespace daxcow {

inline constexpr const char* kSysfsRoot = "/sys";

// An attribute that lists bad blocks, and the part of its address space that concerns us.
struct BadblocksSource {
  std::string attribute;  // path
  std::uint64_t start_bytes = 0;
  std::uint64_t length_bytes = std::numeric_limits<std::uint64_t>::max();
};

// For the device that holds a filesystem (st_dev of the file). kUnsupported when it has no such list.
Result<BadblocksSource> find_block_device_badblocks(const std::string& sysfs_root, dev_t device);
// For a devdax character device (st_rdev). kUnsupported when it belongs to no region with such a list; kPermission when
// the physical addresses are hidden from this user.
Result<BadblocksSource> find_devdax_badblocks(const std::string& sysfs_root, dev_t device);
// Whether a character device is a devdax.
bool is_devdax(const std::string& sysfs_root, dev_t device);

// The current list, relative to source.start_bytes and clipped to its length.
Result<BadRanges> read_badblocks(const BadblocksSource& source);

// Where a stretch of a file lies on the device of its filesystem.
struct FileExtent {
  std::uint64_t file_bytes = 0;
  std::uint64_t device_bytes = 0;
  std::uint64_t length_bytes = 0;
  bool unwritten = false;  // the file reads zeros there, whatever the device has
};
// All extents with a known place, by FIEMAP.
Result<std::vector<FileExtent>> file_extents(int fd);
// Bad ranges of the device as ranges of the file; what lies outside the file is dropped.
BadRanges translate_to_file(const BadRanges& device_ranges, const std::vector<FileExtent>& extents);

// Waits for changes of one attribute. For one thread at a time.
class BadblocksWatch {
 public:
  explicit BadblocksWatch(BadblocksSource source);

  // Returns true when the list may have changed, false once `stop_fd` is readable.
  Result<bool> wait(int stop_fd);

 private:
  // Opens the attribute and reads it, which is what makes the next change wake a poll. False if it is not there.
  bool open_and_arm();
  bool arm();

  BadblocksSource source_;
  FileDescriptor attribute_;
};

// Waits until the file descriptor is readable; a negative timeout waits for ever.
Result<bool> wait_readable(int fd, int timeout_milliseconds);

}  // namespace daxcow
