// The medium for real pools, mapped by libpmem2: a devdax device, a file on an fsdax filesystem, or any regular file as
// emulated persistent memory. All of libpmem2 is behind this header: nothing else includes its own.
#pragma once

#include <memory>
#include <string>

#include "engine/medium.h"

namespace daxcow {

struct Pmem2OpenOptions {
  bool read_only = false;
  // For a regular file on a disk: do not push stores to the disk at each drain. They survive the end of this process
  // but not of the machine.
  bool relaxed = false;
  // Refuse a pool that another process has open (readers share). Off only for tools that merely look.
  bool lock = true;
};

// Opens and maps an existing pool file or device; its size is rounded down to a block. Poison that the emulated device
// of a regular file has is in place before this returns. Errors carry one line for people: kBusy when another process
// has the pool open, kPermission, kNotFound, kInvalid when the file is of no use as a pool, kUnsupported.
Result<std::unique_ptr<Medium>> open_pmem2_medium(const std::string& path, const Pmem2OpenOptions& options);

struct CreatePoolFileOptions {
  // An existing regular file is emptied first, if no process has it open as a pool. Its lists of emulated bad blocks
  // stay: the device under a new pool is the old one. A new file starts without any.
  bool overwrite = false;
};

// Creates a regular file for a pool and allocates all of it (posix_fallocate), so that no store can fail for lack of
// space. kExists without `overwrite`, kNoSpace, kBusy. Leaves nothing behind when it fails on a new file.
Result<> create_pool_file(const std::string& path, std::uint64_t size_bytes, const CreatePoolFileOptions& options = {});

}  // namespace daxcow
