#include "tools/tree_clone.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <expected>
#include <filesystem>
#include <map>
#include <memory>
#include <vector>

#include "engine/file_descriptor.h"
#include "fuse/control_client.h"
#include "fuse/reflink_client.h"
#include "tools/file_limit.h"

namespace daxcow::tools {

namespace {

using Identity = std::pair<dev_t, ino_t>;

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

// A directory that is being cloned.
struct Level {
  std::unique_ptr<DIR, CloseDirectory> source;
  FileDescriptor target;
  std::string path;  // below the top; empty for the top itself
  struct stat status {};
};

// Both ends, and what is to be copied of one name.
struct Entry {
  int source_directory, target_directory;
  const char* source_name;
  const char* target_name;
  std::string path;
  struct stat status {};
};

// What /proc has for an open file, O_PATH ones too: the way to set attributes of what cannot be opened otherwise.
std::string path_of(const FileDescriptor& file) { return fmt::format("/proc/self/fd/{}", file.get()); }

// Names from llistxattr and the like; an errno if they cannot be had.
std::expected<std::vector<std::string>, int> attribute_names(const std::string& path) {
  std::string list;
  for (;;) {
    const ssize_t size = ::listxattr(path.c_str(), nullptr, 0);
    if (size == 0 || (size < 0 && errno == EOPNOTSUPP)) return std::vector<std::string>();
    if (size < 0) return std::unexpected(errno);
    list.resize(static_cast<std::size_t>(size));
    const ssize_t got = ::listxattr(path.c_str(), list.data(), list.size());
    if (got < 0 && errno == ERANGE) continue;
    if (got < 0) return std::unexpected(errno);
    list.resize(static_cast<std::size_t>(got));
    break;
  }
  std::vector<std::string> names;
  for (std::size_t at = 0; at < list.size(); at += names.back().size() + 1) names.emplace_back(list.c_str() + at);
  return names;
}

// What must not get lost with a list that is too long to be had (E2BIG): who may do what.
const std::vector<std::string> kRights = {"system.posix_acl_access", "system.posix_acl_default", "security.capability"};

class TreeClone {
 public:
  TreeClone(std::string source, std::string target, const std::function<void(const Error&)>& complain)
      : source_(std::move(source)), target_(std::move(target)), complain_(complain) {}

  TreeCloneReport run() {
    (void)raise_file_limit();  // two files for each level
    Entry top{AT_FDCWD, AT_FDCWD, source_.c_str(), target_.c_str(), {}, {}};
    clone(top);
    while (!levels_.empty()) {
      Level& level = levels_.back();
      errno = 0;
      const dirent* const item = ::readdir(level.source.get());
      if (item == nullptr) {
        if (errno != 0) fail_at(source_ + level.path);
        keep_all(FileDescriptor(::dup(::dirfd(level.source.get()))), level.target, level.status, target_ + level.path);
        levels_.pop_back();
        continue;
      }
      const std::string name = item->d_name;
      if (name == "." || name == "..") continue;
      clone({::dirfd(level.source.get()), level.target.get(), name.c_str(), name.c_str(), level.path + '/' + name, {}});
    }
    return report_;
  }

 private:
  void fail_at(const std::string& path, int error = errno) {
    ++report_.failed;
    if (error == EXDEV) return complain_({ErrorCode::kCrossVolume, path + ": the trees are in different pools; use cp -a"});
    if (error == ENOTTY) return complain_({ErrorCode::kUnsupported, path + ": not on a daxcow mount"});
    complain_(path_error(error, path));
  }

  void clone(Entry entry) {
    const std::string source_path = source_ + entry.path, target_path = target_ + entry.path;
    const FileDescriptor source(::openat(entry.source_directory, entry.source_name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!source || ::fstat(source.get(), &entry.status) != 0) return fail_at(source_path);
    const Identity identity{entry.status.st_dev, entry.status.st_ino};
    if (identity == target_top_) {
      ++report_.failed;
      return complain_({ErrorCode::kInvalid, source_path + ": is the clone itself; left out"});
    }
    ++report_.files;
    const bool linked = !S_ISDIR(entry.status.st_mode) && entry.status.st_nlink > 1;
    if (const auto known = linked ? links_.find(identity) : links_.end(); known != links_.end()) {
      if (!link_to(known->second, entry)) fail_at(target_path);
      return;
    }
    if (S_ISDIR(entry.status.st_mode)) return clone_directory(source, entry);
    if (!(S_ISREG(entry.status.st_mode) ? clone_regular(source, entry) : make_special(source, entry))) return;
    const FileDescriptor target(::openat(entry.target_directory, entry.target_name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!target) return fail_at(target_path);
    keep_all(source, target, entry.status, target_path);
    if (linked) links_.emplace(identity, entry.path);
  }

  // `path`: below the top of the target, which may be too long for one system call.
  bool link_to(const std::string& path, const Entry& entry) const {
    if (target_.size() + path.size() < PATH_MAX)
      return ::linkat(AT_FDCWD, (target_ + path).c_str(), entry.target_directory, entry.target_name, 0) == 0;
    FileDescriptor directory(::open(target_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    std::size_t begin = 1, end;  // behind the slash
    for (; directory && (end = path.find('/', begin)) != path.npos; begin = end + 1)
      directory = FileDescriptor(
          ::openat(directory.get(), path.substr(begin, end - begin).c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    return directory && ::linkat(directory.get(), path.c_str() + begin, entry.target_directory, entry.target_name, 0) == 0;
  }

  void clone_directory(const FileDescriptor& source, const Entry& entry) {
    // For its owner O_NOATIME; others may not ask for it.
    int file = ::open(path_of(source).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOATIME);
    if (file < 0 && errno == EPERM) file = ::open(path_of(source).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file < 0) return fail_at(source_ + entry.path);
    Level level{.source = {::fdopendir(file), {}}, .target = {}, .path = entry.path, .status = entry.status};
    if (level.source == nullptr) return fail_at(source_ + entry.path);
    if (::mkdirat(entry.target_directory, entry.target_name, 0700) != 0) return fail_at(target_ + entry.path);
    level.target = FileDescriptor(::openat(entry.target_directory, entry.target_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    struct stat made {};
    if (!level.target || ::fstat(level.target.get(), &made) != 0) return fail_at(target_ + entry.path);
    if (levels_.empty()) target_top_ = {made.st_dev, made.st_ino};
    levels_.push_back(std::move(level));
  }

  bool clone_regular(const FileDescriptor& source, const Entry& entry) {
    const FileDescriptor from(::open(path_of(source).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!from) return fail_at(source_ + entry.path), false;
    const FileDescriptor to(::openat(entry.target_directory, entry.target_name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!to) return fail_at(target_ + entry.path), false;
    const auto done = reflink_files(from.get(), to.get(), ReflinkMode::kReplace);
    if (done) return true;
    fail_at(done.error() == ENOTTY && is_on_daxcow(from.get()) ? target_ + entry.path : source_ + entry.path, done.error());
    ::unlinkat(entry.target_directory, entry.target_name, 0);
    return false;
  }

  bool make_special(const FileDescriptor& source, const Entry& entry) {
    if (!S_ISLNK(entry.status.st_mode)) {
      const mode_t mode = (entry.status.st_mode & S_IFMT) | 0600;
      if (::mknodat(entry.target_directory, entry.target_name, mode, entry.status.st_rdev) == 0) return true;
    } else {
      std::string destination(static_cast<std::size_t>(entry.status.st_size) + 1, '\0');
      const ssize_t size = ::readlinkat(source.get(), "", destination.data(), destination.size());
      if (size < 0) return fail_at(source_ + entry.path), false;
      destination.resize(static_cast<std::size_t>(size));
      if (::symlinkat(destination.c_str(), entry.target_directory, entry.target_name) == 0) return true;
    }
    return fail_at(target_ + entry.path), false;
  }

  // Owner, attributes, mode, times: in this order, for each of the first may change what follows.
  void keep_all(const FileDescriptor& source, const FileDescriptor& target, const struct stat& status, const std::string& path) {
    mode_t mode = status.st_mode & 07777;
    const bool root = ::geteuid() == 0;
    if (::fchownat(target.get(), "", status.st_uid, status.st_gid, AT_EMPTY_PATH) != 0) {
      if (root || errno != EPERM) return fail_at(path);
      ++report_.not_kept;
      mode &= ~static_cast<mode_t>(S_ISUID | S_ISGID);
    }
    keep_attributes(path_of(source), path_of(target), path, root);
    if (!S_ISLNK(status.st_mode) && ::chmod(path_of(target).c_str(), mode) != 0) return fail_at(path);
    const timespec times[] = {status.st_atim, status.st_mtim};
    if (::utimensat(target.get(), "", times, AT_EMPTY_PATH) != 0) fail_at(path);
  }

  void keep_attributes(const std::string& source, const std::string& target, const std::string& path, bool root) {
    const auto listed = attribute_names(source);
    if (!listed) fail_at(path, listed.error());
    const auto& names = listed ? *listed : kRights;
    // What the target has inherited from its directory.
    for (const std::string& name : attribute_names(target).value_or(kRights))
      if (std::ranges::find(names, name) == names.end()) (void)::removexattr(target.c_str(), name.c_str());
    std::vector<char> value(64 << 10);  // the kernel's limit
    for (const std::string& name : names) {
      const ssize_t size = ::getxattr(source.c_str(), name.c_str(), value.data(), value.size());
      if (size < 0 && (errno == ENODATA || (!listed && errno == EOPNOTSUPP))) continue;
      if (size >= 0 && ::setxattr(target.c_str(), name.c_str(), value.data(), static_cast<std::size_t>(size), 0) == 0) continue;
      if (root || errno != EPERM) return fail_at(path);
      ++report_.not_kept;
    }
  }

  const std::string source_, target_;
  const std::function<void(const Error&)>& complain_;
  TreeCloneReport report_;
  std::vector<Level> levels_;
  std::map<Identity, std::string> links_;  // files with several names, and the first
  Identity target_top_{0, 0};
};

}  // namespace

TreeCloneReport clone_tree(const std::string& source, const std::string& target, const std::function<void(const Error&)>& complain) {
  return TreeClone(source, target, complain).run();
}

}  // namespace daxcow::tools
