// Reading directories. The offset that the kernel keeps is the engine's cookie of the entry before.
#include <cerrno>
#include <string>
#include <vector>

#include "fuse/handlers.h"

namespace daxcow::handlers {

namespace {

bool is_dot_or_dot_dot(std::string_view name) { return name == "." || name == ".."; }

struct stat name_only(InodeNumber inode, std::uint32_t type) {
  struct stat status {};
  status.st_ino = inode.value;
  status.st_mode = type;
  return status;
}

// An entry copied out of the engine's call: inodes can be looked up only after it.
struct ListedName {
  std::string name;
  InodeNumber inode;
  std::uint32_t type;
  std::uint64_t cookie;
};

// What is known of an entry's inode, which is counted as known to the kernel. Without attributes for "." and ".."; for an inode
// that the kernel has already, since linking it up again takes the kernel longer than the rest of the entry; and for one
// that cannot be read: one damaged inode must not hide a directory. Nothing if the name is gone by now.
std::optional<fuse_entry_param> look_up_entry(fuse_req_t request, InodeNumber directory, const ListedName& listed) {
  auto& mount = context(request);
  fuse_entry_param plain{};
  plain.attr = name_only(listed.inode, listed.type);
  if (is_dot_or_dot_dot(listed.name) || mount.volume->is_remembered(listed.inode)) return plain;
  const auto found = mount.volume->lookup(directory, listed.name);
  if (found) {
    mount.volume->remember(found->inode);
    if (const auto told = as_told(request, *found)) return to_entry(mount, *told);
    mount.volume->forget(found->inode, 1);
    return plain;
  }
  if (found.error().code == ErrorCode::kNotFound) return std::nullopt;
  return plain;
}

}  // namespace

// ENOSYS makes the kernel open directories without asking, and keep what it has read of them (and drop it when they
// change): there is nothing to do when one is opened. Where each reading moves the access time it must be seen.
void opendir(fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
  if (context(request).directory_access_time.load(std::memory_order_relaxed) == AccessTime::kStrict)
    fuse_reply_open(request, file);
  else
    fuse_reply_err(request, ENOSYS);
}

void readdir(fuse_req_t request, fuse_ino_t node, std::size_t size, off_t cookie, fuse_file_info*) {
  auto& mount = context(request);
  std::vector<char> buffer(size);
  std::size_t used = 0;
  const auto add = [&](const DirectoryItem& item) {
    const auto status = name_only(item.inode, item.type);
    const std::string name(item.name);
    const auto bytes = fuse_add_direntry(request, buffer.data() + used, size - used, name.c_str(), &status,
                                         static_cast<off_t>(item.cookie));
    if (bytes > size - used) return false;
    used += bytes;
    return true;
  };
  const auto done = mount.volume->read_directory(InodeNumber(node), static_cast<std::uint64_t>(cookie), add,
                                                 mount.directory_access_time);
  if (!done && used == 0) return reply_error(request, done.error());
  fuse_reply_buf(request, buffer.data(), used);
}

void readdirplus(fuse_req_t request, fuse_ino_t node, std::size_t size, off_t cookie, fuse_file_info*) {
  auto& mount = context(request);
  const InodeNumber directory(node);
  std::vector<ListedName> listed;
  std::size_t listed_bytes = 0;
  const auto add = [&](const DirectoryItem& item) {
    std::string name(item.name);
    listed_bytes += fuse_add_direntry_plus(request, nullptr, 0, name.c_str(), nullptr, 0);
    if (listed_bytes > size) return false;
    listed.push_back({std::move(name), item.inode, item.type, item.cookie});
    return true;
  };
  const auto done = mount.volume->read_directory(directory, static_cast<std::uint64_t>(cookie), add, mount.directory_access_time);
  if (!done && listed.empty()) return reply_error(request, done.error());

  std::vector<char> buffer(size);
  std::size_t used = 0;
  std::vector<InodeNumber> counted;
  for (const auto& item : listed) {
    const auto entry = look_up_entry(request, directory, item);
    if (!entry) continue;
    if (entry->ino != 0) counted.push_back(InodeNumber(entry->ino));
    used += fuse_add_direntry_plus(request, buffer.data() + used, size - used, item.name.c_str(), &*entry,
                                   static_cast<off_t>(item.cookie));
  }
  // The kernel would take an empty reply for the end of the directory.
  if (used == 0 && !listed.empty())
    return readdirplus(request, node, size, static_cast<off_t>(listed.back().cookie), nullptr);
  if (fuse_reply_buf(request, buffer.data(), used) != 0)
    for (const auto inode : counted) mount.volume->forget(inode, 1);
}

void fsyncdir(fuse_req_t request, fuse_ino_t node, int, fuse_file_info*) {
  reply_done(request, volume(request).sync(InodeNumber(node)));
}

}  // namespace daxcow::handlers
