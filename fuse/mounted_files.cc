#include "fuse/mounted_files.h"

#include <fcntl.h>

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
  return FileDescriptor(::open_by_handle_at(root, &handle.head, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOATIME));
}

}  // namespace daxcow
