// The errors that the manual pages name, call by call, on a real mount. Most are the kernel's to give, as long as what the
// daemon tells it is right.
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>

#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

namespace fs = std::filesystem;

// What a call gave: 0 or its errno. Descriptors are closed.
int error_of(long result) { return result < 0 ? errno : 0; }
int error_of_open(int descriptor) {
  const int error = descriptor < 0 ? errno : 0;
  if (descriptor >= 0) ::close(descriptor);
  return error;
}

// The same in a process that has given up its privileges.
int as_nobody(const std::function<int()>& body) {
  return Child([&] {
           if (::setgroups(0, nullptr) != 0 || ::setgid(65534) != 0 || ::setuid(65534) != 0) return 255;
           return body();
         }).wait();
}

struct Place {
  MountedPool pool;
  std::string main = pool.mount("main");
  std::string operator/(const std::string& name) const { return main + "/" + name; }

  Place() {
    // Reachable by everybody, down from the temporary directory.
    REQUIRE(::chmod(pool.path("").c_str(), 0755) == 0);
    REQUIRE(::chmod(main.c_str(), 0777) == 0);
    write_file(*this / "file", "content");
    REQUIRE(::mkdir((*this / "full").c_str(), 0755) == 0);
    write_file(*this / "full/file", "x");
    REQUIRE(::mkdir((*this / "empty").c_str(), 0755) == 0);
    REQUIRE(::mkdir((*this / "private").c_str(), 0700) == 0);
    write_file(*this / "private/file", "x");
    REQUIRE(::symlink("nowhere", (*this / "dangling").c_str()) == 0);
    REQUIRE(::symlink("loop", (*this / "loop").c_str()) == 0);
    REQUIRE(::symlink("file", (*this / "link").c_str()) == 0);
    REQUIRE(::mkfifo((*this / "fifo").c_str(), 0666) == 0);
  }
  std::string long_name() const { return *this / std::string(NAME_MAX + 1, 'n'); }
  std::string long_path() const {
    std::string path = main;
    while (path.size() < PATH_MAX) path += "/.";
    return path;
  }
};

}  // namespace

TEST_CASE("Errors of open, creat, truncate") {
  if (skipped_without_mounts()) return;
  Place at;
  const auto open = [](const std::string& path, int flags) { return error_of_open(::open(path.c_str(), flags, 0644)); };
  CHECK(open(at / "missing", O_RDONLY) == ENOENT);
  CHECK(open(at / "missing/file", O_RDONLY | O_CREAT) == ENOENT);
  CHECK(open(at / "file/below", O_RDONLY) == ENOTDIR);
  CHECK(open(at / "file", O_RDONLY | O_DIRECTORY) == ENOTDIR);
  CHECK(open(at / "file", O_RDWR | O_CREAT | O_EXCL) == EEXIST);
  CHECK(open(at / "dangling", O_RDWR | O_CREAT | O_EXCL) == EEXIST);
  CHECK(open(at / "dangling", O_RDONLY) == ENOENT);
  CHECK(open(at / "empty", O_WRONLY) == EISDIR);
  CHECK(open(at / "empty", O_RDONLY | O_CREAT) == EISDIR);
  CHECK(open(at / "loop", O_RDONLY) == ELOOP);
  CHECK(open(at / "link", O_RDONLY | O_NOFOLLOW) == ELOOP);
  CHECK(open(at.long_name(), O_RDONLY) == ENAMETOOLONG);
  CHECK(open(at.long_name(), O_RDWR | O_CREAT) == ENAMETOOLONG);
  CHECK(open(at.long_path(), O_RDONLY) == ENAMETOOLONG);
  CHECK(open(at / "fifo", O_WRONLY | O_NONBLOCK) == ENXIO);
  CHECK(open(at / "", O_TMPFILE | O_RDWR) == 0);
  CHECK(open(at / "", O_TMPFILE | O_RDONLY) == EINVAL);
  CHECK(open(at / "file", O_TMPFILE | O_RDWR) == ENOTDIR);
  CHECK(open(at / "none", O_TMPFILE | O_RDWR) == ENOENT);
  REQUIRE(::chmod((at / "file").c_str(), 0400) == 0);
  CHECK(as_nobody([&] { return open(at / "file", O_RDONLY); }) == EACCES);
  CHECK(as_nobody([&] { return open(at / "private/file", O_RDONLY); }) == EACCES);
  CHECK(as_nobody([&] { return open(at / "full/new", O_RDWR | O_CREAT); }) == EACCES);
  CHECK(as_nobody([&] { return open(at / "full", O_RDWR | O_TMPFILE); }) == EACCES);
  REQUIRE(::chmod((at / "file").c_str(), 0666) == 0);
  CHECK(as_nobody([&] { return open(at / "file", O_RDONLY | O_NOATIME); }) == EPERM);
  at.pool.need_run("cp /bin/sleep main/program");
  {
    Child running([&] { return ::execl((at / "program").c_str(), "sleep", "60", nullptr); });
    // Not by opening it, or exec would be the one that fails.
    const fs::path executable = "/proc/" + std::to_string(running.process()) + "/exe";
    std::error_code error;
    const bool runs = wait_until([&] { return fs::read_symlink(executable, error) == at / "program"; });
    REQUIRE(runs);
    CHECK(open(at / "program", O_WRONLY) == ETXTBSY);
    CHECK(error_of(::truncate((at / "program").c_str(), 0)) == ETXTBSY);
  }
  {
    const FileDescriptor writer = need_open(at / "program", O_WRONLY);
    CHECK(Child([&] {
            ::execl((at / "program").c_str(), "sleep", "0", nullptr);
            return errno;
          }).wait() == ETXTBSY);
  }

  const auto truncate = [](const std::string& path, off_t size) { return error_of(::truncate(path.c_str(), size)); };
  CHECK(truncate(at / "empty", 0) == EISDIR);
  CHECK(truncate(at / "fifo", 0) == EINVAL);
  CHECK(truncate(at / "missing", 0) == ENOENT);
  CHECK(truncate(at / "file", -1) == EINVAL);
  REQUIRE(::chmod((at / "file").c_str(), 0444) == 0);
  CHECK(as_nobody([&] { return truncate(at / "file", 0); }) == EACCES);
  CHECK(error_of(::ftruncate(need_open(at / "file", O_RDONLY).get(), 0)) == EINVAL);
  at.pool.check_clean();
}

TEST_CASE("Errors of mkdir, mknod, symlink, link") {
  if (skipped_without_mounts()) return;
  Place at;
  const auto mkdir = [](const std::string& path) { return error_of(::mkdir(path.c_str(), 0755)); };
  CHECK(mkdir(at / "empty") == EEXIST);
  CHECK(mkdir(at / "dangling") == EEXIST);
  CHECK(mkdir(at / ".") == EEXIST);
  CHECK(mkdir(at / "missing/new") == ENOENT);
  CHECK(mkdir(at / "file/new") == ENOTDIR);
  CHECK(mkdir(at / "loop/new") == ELOOP);
  CHECK(mkdir(at.long_name()) == ENAMETOOLONG);
  CHECK(as_nobody([&] { return mkdir(at / "full/new"); }) == EACCES);

  const auto mknod = [](const std::string& path, mode_t mode) { return error_of(::mknod(path.c_str(), mode, makedev(1, 3))); };
  CHECK(mknod(at / "file", S_IFREG | 0644) == EEXIST);
  CHECK(mknod(at / "new", S_IFDIR | 0755) == EPERM);
  CHECK(mknod(at / "new", S_IFLNK | 0755) == EINVAL);
  CHECK(as_nobody([&] { return mknod(at / "new", S_IFCHR | 0644); }) == EPERM);
  CHECK(as_nobody([&] { return mknod(at / "pipe", S_IFIFO | 0644); }) == 0);
  CHECK(mknod(at / "null", S_IFCHR | 0644) == 0);
  struct stat status {};
  REQUIRE(::stat((at / "null").c_str(), &status) == 0);
  CHECK(status.st_rdev == makedev(1, 3));
  CHECK(mknod(at / "socket", S_IFSOCK | 0644) == 0);
  CHECK(error_of_open(::open((at / "socket").c_str(), O_RDONLY)) == ENXIO);

  const auto symlink = [](const std::string& target, const std::string& path) { return error_of(::symlink(target.c_str(), path.c_str())); };
  CHECK(symlink("", at / "new") == ENOENT);
  CHECK(symlink("x", at / "file") == EEXIST);
  CHECK(symlink(std::string(PATH_MAX, 'x'), at / "new") == ENAMETOOLONG);
  CHECK(symlink(std::string(PATH_MAX - 1, 'x'), at / "longest") == 0);
  CHECK(as_nobody([&] { return symlink("x", at / "full/new"); }) == EACCES);
  char target[PATH_MAX];
  CHECK(::readlink((at / "longest").c_str(), target, sizeof target) == PATH_MAX - 1);
  CHECK(error_of(::readlink((at / "file").c_str(), target, sizeof target)) == EINVAL);

  const auto link = [](const std::string& from, const std::string& to) { return error_of(::link(from.c_str(), to.c_str())); };
  CHECK(link(at / "missing", at / "new") == ENOENT);
  CHECK(link(at / "file", at / "link") == EEXIST);
  CHECK(link(at / "empty", at / "new") == EPERM);
  CHECK(link(at / "file", at / "file/new") == ENOTDIR);
  CHECK(link(at / "file", at.pool.path("new")) == EXDEV);
  CHECK(link(at / "file", at.long_name()) == ENAMETOOLONG);
  CHECK(link(at / "dangling", at / "same-dangling") == 0);  // the symlink itself
  REQUIRE(::chown((at / "file").c_str(), 65534, 65534) == 0);  // its owner may link it, whatever protected_hardlinks says
  CHECK(as_nobody([&] { return link(at / "file", at / "full/new"); }) == EACCES);
  CHECK(as_nobody([&] { return link(at / "file", at / "new"); }) == 0);
  at.pool.check_clean();
}

TEST_CASE("Errors of unlink, rmdir, rename") {
  if (skipped_without_mounts()) return;
  Place at;
  const auto unlink = [](const std::string& path) { return error_of(::unlink(path.c_str())); };
  const auto rmdir = [](const std::string& path) { return error_of(::rmdir(path.c_str())); };
  CHECK(unlink(at / "missing") == ENOENT);
  CHECK(unlink(at / "empty") == EISDIR);
  CHECK(unlink(at / "file/x") == ENOTDIR);
  CHECK(unlink(at / "file/") == ENOTDIR);
  CHECK(unlink(at.long_name()) == ENAMETOOLONG);
  CHECK(as_nobody([&] { return unlink(at / "full/file"); }) == EACCES);
  CHECK(rmdir(at / "full") == ENOTEMPTY);
  CHECK(rmdir(at / "file") == ENOTDIR);
  CHECK(rmdir(at / "link") == ENOTDIR);
  CHECK(rmdir(at / "empty/.") == EINVAL);
  CHECK(rmdir(at / "empty/..") == ENOTEMPTY);
  CHECK(rmdir(at.main) == EBUSY);
  CHECK(as_nobody([&] { return rmdir(at / "full/missing"); }) == ENOENT);

  // Sticky: only the owner of the file or of the directory removes and renames.
  REQUIRE(::chmod(at.main.c_str(), 01777) == 0);
  CHECK(as_nobody([&] { return unlink(at / "file"); }) == EPERM);
  CHECK(as_nobody([&] { return rmdir(at / "empty"); }) == EPERM);
  CHECK(as_nobody([&] { return error_of(::rename((at / "file").c_str(), (at / "new").c_str())); }) == EPERM);
  CHECK(as_nobody([&] { return error_of_open(::open((at / "theirs").c_str(), O_CREAT | O_WRONLY, 0644)); }) == 0);
  CHECK(as_nobody([&] { return error_of(::rename((at / "theirs").c_str(), (at / "file").c_str())); }) == EPERM);
  CHECK(as_nobody([&] { return unlink(at / "theirs"); }) == 0);
  REQUIRE(::chmod(at.main.c_str(), 0777) == 0);

  const auto rename = [&](const std::string& from, const std::string& to, unsigned flags = 0) {
    return error_of(::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags));
  };
  CHECK(rename(at / "missing", at / "new") == ENOENT);
  CHECK(rename(at / "file", at / "missing/new") == ENOENT);
  CHECK(rename(at / "file", at / "link/new") == ENOTDIR);
  CHECK(rename(at / "file", at / "empty") == EISDIR);
  CHECK(rename(at / "empty", at / "file") == ENOTDIR);
  CHECK(rename(at / "empty", at / "full") == ENOTEMPTY);
  CHECK(rename(at / "full", at / "full/below") == EINVAL);
  CHECK(rename(at / "full/file", at / "full") == ENOTEMPTY);
  CHECK(rename(at / "empty/.", at / "new") == EBUSY);
  CHECK(rename(at / "file", at.long_name()) == ENAMETOOLONG);
  CHECK(rename(at / "file", at.pool.path("new")) == EXDEV);
  CHECK(rename(at / "file", at / "link", RENAME_NOREPLACE) == EEXIST);
  CHECK(rename(at / "file", at / "missing", RENAME_EXCHANGE) == ENOENT);
  CHECK(rename(at / "full", at / "full/file", RENAME_EXCHANGE) == EINVAL);
  CHECK(rename(at / "file", at / "link", RENAME_EXCHANGE | RENAME_NOREPLACE) == EINVAL);
  CHECK(rename(at / "file", at / "new", RENAME_EXCHANGE | RENAME_WHITEOUT) == EINVAL);
  CHECK(as_nobody([&] { return rename(at / "full/file", at / "new"); }) == EACCES);
  // A directory of theirs may not be moved to another one when they cannot write its "..".
  CHECK(as_nobody([&] { return error_of(::mkdir((at / "mine").c_str(), 0555)); }) == 0);
  CHECK(as_nobody([&] { return error_of(::mkdir((at / "target").c_str(), 0755)); }) == 0);
  CHECK(as_nobody([&] { return rename(at / "mine", at / "target/mine"); }) == EACCES);
  CHECK(as_nobody([&] { return rename(at / "mine", at / "renamed"); }) == 0);
  CHECK(rename(at / "file", at / "file") == 0);
  at.pool.check_clean();
}

TEST_CASE("Errors of chmod, chown, utimensat and extended attributes") {
  if (skipped_without_mounts()) return;
  Place at;
  REQUIRE(::chmod((at / "file").c_str(), 0666) == 0);
  CHECK(error_of(::chmod((at / "missing").c_str(), 0644)) == ENOENT);
  CHECK(as_nobody([&] { return error_of(::chmod((at / "file").c_str(), 0644)); }) == EPERM);
  CHECK(as_nobody([&] { return error_of(::chown((at / "file").c_str(), 65534, -1)); }) == EPERM);
  REQUIRE(::chown((at / "file").c_str(), 65534, 65534) == 0);
  CHECK(as_nobody([&] { return error_of(::chown((at / "file").c_str(), -1, 0)); }) == EPERM);
  CHECK(as_nobody([&] { return error_of(::chown((at / "file").c_str(), -1, 65534)); }) == 0);
  CHECK(as_nobody([&] { return error_of(::chown((at / "file").c_str(), 0, -1)); }) == EPERM);
  REQUIRE(::chown((at / "file").c_str(), 0, 0) == 0);

  const timespec times[2] = {{1, 0}, {2, 999'999'999}}, now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
  const auto utimens = [&](const timespec* wanted) { return error_of(::utimensat(AT_FDCWD, (at / "file").c_str(), wanted, 0)); };
  CHECK(as_nobody([&] { return utimens(times); }) == EPERM);
  CHECK(as_nobody([&] { return utimens(now); }) == 0);  // it may be written by everybody
  REQUIRE(::chmod((at / "file").c_str(), 0644) == 0);
  CHECK(as_nobody([&] { return utimens(nullptr); }) == EACCES);
  CHECK(utimens(times) == 0);
  struct stat status {};
  REQUIRE(::stat((at / "file").c_str(), &status) == 0);
  CHECK(status.st_mtim.tv_nsec == 999'999'999);
  const timespec wrong[2] = {{1, 1'000'000'000}, {2, 0}};
  CHECK(utimens(wrong) == EINVAL);

  const auto set = [](const std::string& path, const char* name, std::size_t bytes, int flags = 0) {
    const std::string value(bytes, 'v');
    return error_of(::lsetxattr(path.c_str(), name, value.data(), bytes, flags));
  };
  CHECK(set(at / "file", "user.a", 1, XATTR_REPLACE) == ENODATA);
  CHECK(set(at / "file", "user.a", 1) == 0);
  CHECK(set(at / "file", "user.a", 1, XATTR_CREATE) == EEXIST);
  CHECK(set(at / "file", "user.a", 1, XATTR_CREATE | XATTR_REPLACE) == EEXIST);
  CHECK(set(at / "file", "user.a", 1, 8) == EINVAL);
  CHECK(set(at / "file", "user.", 1) == EINVAL);
  CHECK(set(at / "file", "unknown.a", 1) == EOPNOTSUPP);
  CHECK(set(at / "file", "system.unknown", 1) == EOPNOTSUPP);
  CHECK(set(at / "file", ("user." + std::string(250, 'n')).c_str(), 1) == 0);
  CHECK(set(at / "file", ("user." + std::string(251, 'n')).c_str(), 1) == ERANGE);
  CHECK(set(at / "file", "user.large", XATTR_SIZE_MAX) == 0);
  CHECK(set(at / "file", "user.large", XATTR_SIZE_MAX + 1) == E2BIG);
  CHECK(set(at / "link", "user.a", 1) == EPERM);  // not of symlinks and special files
  CHECK(set(at / "fifo", "user.a", 1) == EPERM);
  CHECK(set(at / "link", "trusted.a", 1) == 0);
  CHECK(as_nobody([&] { return set(at / "file", "user.b", 1); }) == EACCES);
  CHECK(as_nobody([&] { return set(at / "file", "trusted.b", 1); }) == EPERM);
  char value[10];
  CHECK(error_of(::getxattr((at / "file").c_str(), "user.none", value, sizeof value)) == ENODATA);
  CHECK(error_of(::getxattr((at / "file").c_str(), "user.large", value, sizeof value)) == ERANGE);
  CHECK(::getxattr((at / "file").c_str(), "user.large", nullptr, 0) == XATTR_SIZE_MAX);
  CHECK(error_of(::listxattr((at / "file").c_str(), value, sizeof value)) == ERANGE);
  CHECK(error_of(::removexattr((at / "file").c_str(), "user.none")) == ENODATA);
  CHECK(as_nobody([&] { return error_of(::getxattr((at / "file").c_str(), "trusted.b", value, sizeof value)); }) == ENODATA);
  at.pool.check_clean();
}

TEST_CASE("Errors of fallocate, copy_file_range, lseek, read and write") {
  if (skipped_without_mounts()) return;
  Place at;
  const FileDescriptor writable = need_open(at / "file", O_RDWR), readable = need_open(at / "file", O_RDONLY);
  const FileDescriptor other = need_open(at / "other", O_RDWR | O_CREAT), appending = need_open(at / "other", O_WRONLY | O_APPEND);
  const FileDescriptor directory = need_open(at / "empty", O_RDONLY);
  const int fd = writable.get();
  CHECK(error_of(::fallocate(fd, 0, 0, 0)) == EINVAL);
  CHECK(error_of(::fallocate(fd, 0, -1, 10)) == EINVAL);
  CHECK(error_of(::fallocate(fd, 0, LLONG_MAX, 10)) == EFBIG);
  CHECK(error_of(::fallocate(fd, 0, 0, 1ll << 50)) == ENOSPC);
  CHECK(error_of(::fallocate(readable.get(), 0, 0, 10)) == EBADF);
  CHECK(error_of(::fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 10)) == EOPNOTSUPP);
  CHECK(error_of(::fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096)) == EOPNOTSUPP);
  CHECK(error_of(::fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, 4096)) == EOPNOTSUPP);

  REQUIRE(::ftruncate(fd, 3 * 4096) == 0);
  const auto copy = [](int from, off_t from_at, int to, off_t to_at, std::size_t length, unsigned flags = 0) {
    return error_of(::copy_file_range(from, &from_at, to, &to_at, length, flags));
  };
  CHECK(copy(fd, 0, other.get(), 0, 4096) == 0);
  CHECK(copy(fd, 0, fd, 4096, 4096) == 0);
  CHECK(copy(fd, 0, fd, 100, 4096) == EINVAL);
  CHECK(copy(fd, 0, other.get(), 0, 4096, 1) == EINVAL);
  CHECK(copy(fd, 0, readable.get(), 0, 4096) == EBADF);
  CHECK(copy(directory.get(), 0, other.get(), 0, 4096) == EISDIR);
  CHECK(copy(fd, 0, appending.get(), 0, 4096) == EBADF);
  CHECK(copy(fd, 0, other.get(), LLONG_MAX, 4096) == EFBIG);
  off_t behind = 4 * 4096, to_start = 0;
  CHECK(::copy_file_range(fd, &behind, other.get(), &to_start, 4096, 0) == 0);

  CHECK(error_of(::lseek(fd, -1, SEEK_SET)) == EINVAL);
  CHECK(error_of(::lseek(fd, 3 * 4096, SEEK_DATA)) == ENXIO);
  CHECK(error_of(::lseek(fd, 3 * 4096, SEEK_HOLE)) == ENXIO);
  CHECK(error_of(::lseek(fd, -5, SEEK_DATA)) == ENXIO);
  CHECK(error_of(::lseek(fd, 0, 77)) == EINVAL);
  CHECK(::lseek(fd, 0, SEEK_END) == 3 * 4096);
  char byte = 0;
  CHECK(error_of(::pread(directory.get(), &byte, 1, 0)) == EISDIR);
  CHECK(error_of(::pwrite(readable.get(), &byte, 1, 0)) == EBADF);
  CHECK(error_of(::pwrite(fd, &byte, 1, -1)) == EINVAL);
  CHECK(error_of(::pwrite(fd, &byte, 1, LLONG_MAX)) == EINVAL);
  CHECK(::pread(fd, &byte, 1, 1ll << 40) == 0);
}

}  // namespace daxcow::test
