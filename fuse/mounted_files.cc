#include "fuse/mounted_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace daxcow {

FileDescriptor open_mounted(int root, MountedInode file) {
  // The handle that the kernel's FUSE makes of a node: its number, high half first, and its generation.
  constexpr int kNodeAndGeneration = 0x81;
  struct {
    file_handle head;
    std::uint32_t node_high, node_low, generation;
  } handle{};
  handle.head.handle_bytes = 3 * sizeof(std::uint32_t);
  handle.head.handle_type = kNodeAndGeneration;
  handle.node_high = static_cast<std::uint32_t>(file.inode.value >> 32);
  handle.node_low = static_cast<std::uint32_t>(file.inode.value);
  handle.generation = static_cast<std::uint32_t>(file.generation);
  return FileDescriptor(::open_by_handle_at(root, &handle.head, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
}

Result<> write_back(int root, const std::vector<MountedInode>& written) {
  int error = ::syncfs(root) != 0 ? errno : 0;  // sends the pages of all files side by side
  for (const MountedInode& inode : written) {
    const FileDescriptor file = open_mounted(root, inode);
    if (file ? ::fsync(file.get()) == 0 : errno == ESTALE) continue;  // deleted meanwhile, or written
    error = errno;
  }
  if (error != 0) return std::unexpected(Error::from_errno(error, "cannot be written"));
  return {};
}

}  // namespace daxcow
