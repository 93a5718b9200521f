// The good sectors of a page that the mapping refuses because others of it are bad.
//
// On fsdax a mapping, and read(2) through the filesystem, fail for the whole page of a bad sector; the driver of the
// block device under the filesystem goes by sectors. So these are read there, with O_DIRECT, where the file's extents
// lie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/file_descriptor.h"
#include "engine/mutex.h"
#include "engine/result.h"

namespace daxcow {

class SectorReader {
 public:
  // A file on a filesystem on a block device; the descriptor outlives this object. The device is opened at the first
  // read.
  explicit SectorReader(int file) : file_(file) {}

  // Bytes of the file, sector by sector. kPoisoned if one is bad; kUnsupported if the device cannot be opened, or what
  // the file reads there is not what the device has. Thread-safe.
  Result<> read(std::uint64_t offset, std::span<std::byte> to) EXCLUDES(mutex_);

 private:
  Result<> open_locked() REQUIRES(mutex_);

  const int file_;
  Mutex mutex_;
  FileDescriptor device_ GUARDED_BY(mutex_);
};

}  // namespace daxcow
