#include "engine/sector_reader.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "engine/badblocks.h"

namespace daxcow {

Result<> SectorReader::open_locked() {
  if (device_) return {};
  struct stat status;
  if (::fstat(file_, &status) != 0) return std::unexpected(Error::from_errno(errno, "the pool file"));
  // Extents of a real-time file count from the start of another device.
  fsxattr attributes{};
  if (::ioctl(file_, FS_IOC_FSGETXATTR, &attributes) == 0 && (attributes.fsx_xflags & FS_XFLAG_REALTIME) != 0)
    return fail(ErrorCode::kUnsupported, "the pool file is on a real-time device");
  const std::string path =
      "/dev/block/" + std::to_string(major(status.st_dev)) + ":" + std::to_string(minor(status.st_dev));
  device_ = FileDescriptor(::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
  if (!device_) return fail(ErrorCode::kUnsupported, "cannot open " + path);
  return {};
}

Result<> SectorReader::read(std::uint64_t offset, std::span<std::byte> to) {
  const LockGuard guard(mutex_);
  TRY(open_locked());
  const auto extents = TRY(file_extents(file_));
  alignas(kBlockBytes) std::array<std::byte, kSectorBytes> sector;
  for (std::size_t done = 0; done < to.size();) {
    const std::uint64_t at = offset + done, start = at / kSectorBytes * kSectorBytes;
    const auto extent = std::ranges::find_if(extents, [&](const FileExtent& one) {
      return start >= one.file_bytes && start - one.file_bytes < one.length_bytes;
    });
    if (extent == extents.end() || extent->unwritten)
      return fail(ErrorCode::kUnsupported,
                  "byte " + std::to_string(at) + " of the pool file has no content on the device");
    const auto place = static_cast<off_t>(extent->device_bytes + (start - extent->file_bytes));
    if (::pread(device_.get(), sector.data(), sector.size(), place) != static_cast<ssize_t>(sector.size()))
      return fail(ErrorCode::kPoisoned);
    const std::size_t skipped = at - start, length = std::min(sector.size() - skipped, to.size() - done);
    std::memcpy(to.data() + done, sector.data() + skipped, length);
    done += length;
  }
  return {};
}

}  // namespace daxcow
