#include "engine/badblocks.h"

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>

namespace daxcow {

namespace {

namespace fs = std::filesystem;

// How long a device may be away before it is looked for again.
constexpr int kReopenMilliseconds = 1000;
constexpr std::uint32_t kExtentsPerCall = 256;

std::string device_link(const std::string& sysfs_root, const char* kind, dev_t device) {
  return sysfs_root + "/dev/" + kind + "/" + std::to_string(major(device)) + ":" + std::to_string(minor(device));
}

Result<std::string> read_all(int fd, const std::string& path) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t got = pread(fd, buffer, sizeof buffer, static_cast<off_t>(text.size()));
    if (got == 0) return text;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::unexpected(Error::from_errno(errno, "cannot read " + path));
    text.append(buffer, static_cast<std::size_t>(got));
  }
}

Result<std::string> read_file(const std::string& path) {
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return std::unexpected(Error::from_errno(errno, "cannot open " + path));
  return read_all(file.get(), path);
}

// Sysfs writes numbers in decimal or with 0x.
Result<std::uint64_t> read_number(const std::string& path) {
  const Result<std::string> text = read_file(path);
  if (!text) return std::unexpected(text.error());
  const bool hexadecimal = text->starts_with("0x");
  const char* first = text->data() + (hexadecimal ? 2 : 0);
  std::uint64_t value = 0;
  if (std::from_chars(first, text->data() + text->size(), value, hexadecimal ? 16 : 10).ec != std::errc{}) {
    return fail(ErrorCode::kIo, path + " does not hold a number");
  }
  return value;
}

// The physical address in a "resource" attribute; the kernel shows zero, or refuses, to whom it hides addresses.
Result<std::uint64_t> read_physical_address(const fs::path& directory) {
  const std::string path = directory / "resource";
  const Result<std::uint64_t> address = read_number(path);
  if (address && *address != 0) return address;
  if (!address && address.error().code == ErrorCode::kNotFound) return address;
  return fail(ErrorCode::kPermission, "cannot read the physical address in " + path + "; run as root");
}

bool is_region_with_badblocks(const fs::path& directory) {
  std::error_code ignored;
  return directory.filename().string().starts_with("region") && fs::exists(directory / "badblocks", ignored) &&
         fs::exists(directory / "resource", ignored);
}

}  // namespace

Result<BadblocksSource> find_block_device_badblocks(const std::string& sysfs_root, dev_t device) {
  const std::string link = device_link(sysfs_root, "block", device);
  std::error_code error;
  const fs::path directory = fs::canonical(link, error);
  if (error) return fail(ErrorCode::kUnsupported, "no block device at " + link + ", so no list of bad blocks");

  BadblocksSource source;
  fs::path disk = directory;
  if (fs::exists(directory / "partition", error)) {
    source.start_bytes = TRY(read_number(directory / "start"))
    *kSectorBytes;
    source.length_bytes = TRY(read_number(directory / "size"))
    *kSectorBytes;
    disk = directory.parent_path();
  }
  source.attribute = disk / "badblocks";
  if (!fs::exists(source.attribute, error)) {
    return fail(ErrorCode::kUnsupported, disk.string() + " has no list of bad blocks");
  }
  return source;
}

Result<BadblocksSource> find_devdax_badblocks(const std::string& sysfs_root, dev_t device) {
  const std::string link = device_link(sysfs_root, "char", device);
  std::error_code error;
  const fs::path directory = fs::canonical(link, error);
  if (error) return fail(ErrorCode::kUnsupported, "no device at " + link + ", so no list of bad blocks");

  fs::path region = directory;
  while (region.has_relative_path() && !is_region_with_badblocks(region)) region = region.parent_path();
  if (!region.has_relative_path()) {
    return fail(ErrorCode::kUnsupported, directory.string() + " belongs to no region with a list of bad blocks");
  }

  // Both the dax device and, above it, the namespace's dax instance give the address of the first byte that a mapping
  // shows, after what the namespace keeps for itself. Old kernels have the second only.
  Result<std::uint64_t> data = read_physical_address(directory);
  for (fs::path above = directory.parent_path(); !data && data.error().code == ErrorCode::kNotFound && above != region;
       above = above.parent_path()) {
    data = read_physical_address(above);
  }
  const std::uint64_t data_address = TRY(std::move(data));
  const std::uint64_t region_address = TRY(read_physical_address(region));
  if (data_address < region_address) {
    return fail(ErrorCode::kUnsupported, directory.string() + " does not lie in " + region.string());
  }
  BadblocksSource source{.attribute = region / "badblocks", .start_bytes = data_address - region_address};
  if (const auto size = read_number(directory / "size")) source.length_bytes = *size;
  return source;
}

bool is_devdax(const std::string& sysfs_root, dev_t device) {
  std::error_code error;
  const fs::path subsystem = fs::canonical(device_link(sysfs_root, "char", device) + "/subsystem", error);
  return !error && subsystem.filename() == "dax";
}

Result<BadRanges> read_badblocks(const BadblocksSource& source) {
  return clip(parse_badblocks(TRY(read_file(source.attribute))), source.start_bytes, source.length_bytes);
}

Result<std::vector<FileExtent>> file_extents(int fd) {
  // What has no place on the device, or one whose bytes are not the file's bytes.
  constexpr std::uint32_t kNoPlace = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_ENCODED |
                                     FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_NOT_ALIGNED;
  // In 64-bit words, for the alignment that the structs need.
  std::vector<std::uint64_t> buffer((sizeof(fiemap) + kExtentsPerCall * sizeof(fiemap_extent)) / 8);
  auto* request = reinterpret_cast<fiemap*>(buffer.data());
  std::vector<FileExtent> extents;
  std::uint64_t next = 0;
  for (;;) {
    *request = fiemap{};
    request->fm_start = next;
    request->fm_length = FIEMAP_MAX_OFFSET - next;
    request->fm_extent_count = kExtentsPerCall;
    if (ioctl(fd, FS_IOC_FIEMAP, request) != 0) {
      return std::unexpected(Error::from_errno(errno, "cannot ask the filesystem where the pool file lies (FIEMAP)"));
    }
    if (request->fm_mapped_extents == 0) return extents;
    for (std::uint32_t i = 0; i < request->fm_mapped_extents; ++i) {
      const fiemap_extent& extent = request->fm_extents[i];
      next = extent.fe_logical + extent.fe_length;
      if ((extent.fe_flags & kNoPlace) == 0) {
        extents.push_back({extent.fe_logical, extent.fe_physical, extent.fe_length,
                           (extent.fe_flags & FIEMAP_EXTENT_UNWRITTEN) != 0});
      }
      if ((extent.fe_flags & FIEMAP_EXTENT_LAST) != 0) return extents;
    }
  }
}

BadRanges translate_to_file(const BadRanges& device_ranges, const std::vector<FileExtent>& extents) {
  const BadRanges bad = normalise(device_ranges);
  BadRanges in_file;
  for (const FileExtent& extent : extents) {
    if (!overlaps(bad, {extent.device_bytes, extent.length_bytes})) continue;
    for (BadRange range : clip(bad, extent.device_bytes, extent.length_bytes)) {
      range.offset_bytes += extent.file_bytes;
      in_file.push_back(range);
    }
  }
  return normalise(std::move(in_file));
}

Result<bool> wait_readable(int fd, int timeout_milliseconds) {
  pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
  for (;;) {
    const int ready = poll(&entry, 1, timeout_milliseconds);
    if (ready >= 0) return ready > 0;
    if (errno != EINTR) return std::unexpected(Error::from_errno(errno, "cannot wait for an event"));
  }
}

BadblocksWatch::BadblocksWatch(BadblocksSource source) : source_(std::move(source)) { open_and_arm(); }

bool BadblocksWatch::open_and_arm() {
  attribute_ = FileDescriptor(open(source_.attribute.c_str(), O_RDONLY | O_CLOEXEC));
  return attribute_ && arm();
}

bool BadblocksWatch::arm() { return read_all(attribute_.get(), source_.attribute).has_value(); }

Result<bool> BadblocksWatch::wait(int stop_fd) {
  for (;;) {
    if (!attribute_) {
      if (TRY(wait_readable(stop_fd, kReopenMilliseconds))) return false;
      if (open_and_arm()) return true;  // whatever happened while the device was away
      attribute_.reset();
      continue;
    }
    pollfd entries[2] = {{.fd = attribute_.get(), .events = POLLPRI | POLLERR, .revents = 0},
                         {.fd = stop_fd, .events = POLLIN, .revents = 0}};
    if (poll(entries, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return std::unexpected(Error::from_errno(errno, "cannot wait for changes of " + source_.attribute));
    }
    if (entries[1].revents != 0) return false;
    if (entries[0].revents == 0) continue;
    if (arm()) return true;
    attribute_.reset();  // stale: its namespace was disabled
  }
}

}  // namespace daxcow
