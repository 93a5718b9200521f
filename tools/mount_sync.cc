#include "tools/mount_sync.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "engine/file_descriptor.h"
#include "fuse/mount_table.h"
#include "fuse/mounted_files.h"
#include "tools/text.h"

namespace daxcow::tools {

namespace {

using nlohmann::json;

constexpr int kPatienceMilliseconds = 30'000;  // for each file

Result<std::vector<MountedInode>> files_open_for_writing(PoolAccess& access, dev_t device) {
  const json reply = TRY(access.call({{"op", "open-for-writing"}, {"major", major(device)}, {"minor", minor(device)}}));
  std::vector<MountedInode> files;
  for (const json& file : reply.at("files"))
    files.push_back({InodeNumber(file.at(0).get<std::uint64_t>()), file.at(1).get<std::uint64_t>()});
  return files;
}

// errno; 0 also if the file is gone.
int sync_file(int root, MountedInode inode) {
  const FileDescriptor file = open_mounted(root, inode);
  if (!file) return errno == ESTALE ? 0 : errno;
  return ::fsync(file.get()) == 0 ? 0 : errno;
}

// In a process of its own: fsync waits, whatever signals come, for the lock of the file, and who holds that may be a program
// that writes from a mapping which never answers.
Result<> sync_files(int root, const std::vector<MountedInode>& files) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return std::unexpected(Error::from_errno(errno, "pipe"));
  const FileDescriptor results(ends[0]);
  FileDescriptor done(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return std::unexpected(Error::from_errno(errno, "fork"));
  if (child == 0) {
    for (const MountedInode& file : files) {
      const int error = sync_file(root, file);
      if (::write(done.get(), &error, sizeof error) != sizeof error) break;
    }
    ::_exit(0);
  }
  done.reset();
  Result<> all;
  for (const MountedInode& file : files) {
    const std::string what = fmt::format("inode {} cannot be written", file.inode.value);
    pollfd ready{results.get(), POLLIN, 0};
    int error = ETIMEDOUT;
    if (::poll(&ready, 1, kPatienceMilliseconds) == 0) {
      ::kill(child, SIGKILL);  // it ends when it can
      return std::unexpected(Error::from_errno(error, what));
    }
    if (::read(results.get(), &error, sizeof error) != sizeof error) error = EIO;
    if (error != 0) all = std::unexpected(Error::from_errno(error, what));
  }
  ::waitpid(child, nullptr, 0);
  return all;
}

// Any directory of the mount that can be seen from here.
FileDescriptor open_mount(dev_t device) {
  const auto mounts = find_mounts(device);
  if (!mounts) return {};
  for (const MountEntry& mount : *mounts) {
    FileDescriptor root(::open(mount.mount_point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct ::stat status {};
    if (root && ::fstat(root.get(), &status) == 0 && status.st_dev == device) return root;
  }
  return {};
}

}  // namespace

Result<> sync_mount(PoolAccess& access, const std::string& volume) {
  if (!access.has_daemon()) return {};
  const json reply = TRY(access.call({{"op", "mounts"}}));
  for (const json& mount : reply.at("mounts")) {
    if (mount.value("volume", "") != volume || mount.value("read_only", false)) continue;
    const dev_t device = makedev(mount.value("major", 0u), mount.value("minor", 0u));
    const FileDescriptor root = open_mount(device);
    if (!root)
      return fail(ErrorCode::kNotFound, fmt::format("volume {} is mounted where this process cannot see it", printable(volume)));
    const auto files = TRY(files_open_for_writing(access, device));
    // Sends the pages of all files side by side; of FUSE it does not wait for them, nor, on newer kernels, for the sending.
    if (::syncfs(root.get()) != 0) return std::unexpected(Error::from_errno(errno, "syncfs"));
    if (!files.empty()) TRY(sync_files(root.get(), files));
  }
  return {};
}

}  // namespace daxcow::tools
