#include "tools/mount_sync.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <utility>
#include <vector>

#include "engine/file_descriptor.h"
#include "fuse/mount_table.h"
#include "fuse/mounted_files.h"
#include "tools/text.h"

namespace daxcow::tools {

namespace {

using nlohmann::json;

constexpr int kPatienceMilliseconds = 30'000;  // for each file, and in all twice that for those that it was not enough for

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

// Syncs files one after another in a process of its own: fsync waits, whatever signals come, for the lock of the file, and who
// holds that may be a program that writes from a mapping which never answers.
class SyncingProcess {
 public:
  static Result<SyncingProcess> start(int root, std::span<const MountedInode> files) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return std::unexpected(Error::from_errno(errno, "pipe"));
    FileDescriptor results(ends[0]);
    const FileDescriptor done(ends[1]);
    const pid_t child = ::fork();
    if (child < 0) return std::unexpected(Error::from_errno(errno, "fork"));
    if (child == 0) {
      for (const MountedInode& file : files) {
        const int error = sync_file(root, file);
        if (::write(done.get(), &error, sizeof error) != sizeof error) break;
      }
      ::_exit(0);
    }
    return SyncingProcess(child, std::move(results));
  }

  // errno of the next file; ETIMEDOUT if there is none by then.
  int next(int milliseconds) {
    pollfd ready{results_.get(), POLLIN, 0};
    int error = 0;
    if (::poll(&ready, 1, milliseconds) == 0) return ETIMEDOUT;
    return ::read(results_.get(), &error, sizeof error) == sizeof error ? error : EIO;
  }
  void finish() { ::waitpid(child_, nullptr, 0); }
  void abandon() { ::kill(child_, SIGKILL); }  // it ends when it can

 private:
  SyncingProcess(pid_t child, FileDescriptor results) : child_(child), results_(std::move(results)) {}

  pid_t child_;
  FileDescriptor results_;
};

// All that can be; the error is the last one.
Result<> sync_files(int root, std::span<const MountedInode> files) {
  Result<> all;
  int patience = 2 * kPatienceMilliseconds;
  while (!files.empty()) {
    auto process = TRY(SyncingProcess::start(root, files));
    int error = 0;
    while (!files.empty() && error != ETIMEDOUT) {
      const int wait = std::min(patience, kPatienceMilliseconds);
      error = process.next(wait);
      if (error == ETIMEDOUT) patience -= wait;
      if (error != 0) all = std::unexpected(Error::from_errno(error, fmt::format("inode {} cannot be written", files.front().inode.value)));
      files = files.subspan(1);
    }
    if (error != ETIMEDOUT)
      process.finish();
    else
      process.abandon();
    if (patience == 0) break;
  }
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
