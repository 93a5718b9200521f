// What programs expect of a filesystem, on real mounts: coreutils on a tree, and the system calls that they do not use.
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <thread>

#include <fmt/format.h>

#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

// Runs a system call; its errno, or 0.
template <class Result>
int error_of_call(Result result) {
  return result < 0 ? errno : 0;
}

struct stat status_of(const std::string& path) {
  struct stat status {};
  INFO(path << ": " << std::strerror(errno));
  REQUIRE(::lstat(path.c_str(), &status) == 0);
  return status;
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.push_back(entry.path().filename());
  std::ranges::sort(names);
  return names;
}

TEST_CASE("A tree is copied, compared, moved and removed") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  pool.mount("main");
  // Files of many sizes, links, holes, times before and after the epoch, owners, modes, special files.
  pool.need_run(
      "mkdir -p tree/a/b/c tree/empty 'tree/a name with blanks' && cd tree &&"
      "for i in $(seq 0 60); do head -c $((i * i * 37)) /dev/urandom >a/file$i; done && cp a/file60 a/b/c/deep &&"
      "ln a/file1 a/b/link && ln -s ../a/file2 a/b/symbolic && ln -s nowhere dangling && mkfifo pipe && mknod null c 1 "
      "3 &&"
      "truncate -s 5M sparse && echo end >>sparse && touch -d 1960-02-03 a/file3 && touch -d '2040-01-01 "
      "00:00:00.123456789' a/file4 &&"
      "chmod 4751 a/file5 && chown 1234:4321 a/file6 && chmod 1777 empty &&"
      "setfattr -n user.colour -v green a/file7 && printf 'x' >\"$(printf 'n%.0s' $(seq 255))\" && echo t "
      ">$'line\\nbreak'");
  pool.need_run("cp -a tree main/tree && diff -r --no-dereference -x pipe -x null tree main/tree");
  const std::string listing =
      "find . \\( -type d -printf '%P %y %m %U %G\\n' \\) -o -printf '%P %y %m %U %G %s %n %T+ %l\\n' | LC_ALL=C sort";
  CHECK(pool.need_run("cd tree && " + listing) == pool.need_run("cd main/tree && " + listing));
  CHECK(pool.need_run("cd main/tree && getfattr --only-values -n user.colour a/file7") == "green");
  CHECK(status_of(pool.path("main/tree/a/file1")).st_ino == status_of(pool.path("main/tree/a/b/link")).st_ino);
  CHECK(status_of(pool.path("main/tree/sparse")).st_blocks <= 16);

  // Again from the medium.
  pool.unmount("main");
  pool.mount("main");
  pool.need_run("diff -r --no-dereference -x pipe -x null tree main/tree");
  CHECK(pool.need_run("cd tree && " + listing) == pool.need_run("cd main/tree && " + listing));

  pool.need_run(
      "cd main && mv tree moved && mkdir other && mv moved/a other && mv other/a/b/c/deep . && cmp deep "
      "other/a/file60");
  CHECK(names_in(pool.path("main/moved")).size() == names_in(pool.path("tree")).size() - 1);
  pool.need_run("cp -a --reflink=auto main/other main/copy && diff -r --no-dereference main/other main/copy");
  pool.need_run(
      "tar -C main -cf main/archive.tar other && mkdir main/unpacked && tar -C main/unpacked -xf main/archive.tar && "
      "diff -r --no-dereference main/other main/unpacked/other");
  pool.need_run("rm -rf main/moved main/other main/copy main/unpacked main/deep main/archive.tar");
  CHECK(names_in(pool.path("main")).empty());
  CHECK(status_of(pool.path("main")).st_nlink == 2);
  const auto report = pool.check_clean();
  CHECK(report.at("data_blocks") == 0);
}

TEST_CASE("Holes, allocation and SEEK_DATA") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string file = pool.mount("main") + "/file";
  auto descriptor = need_open(file, O_RDWR | O_CREAT);
  const int fd = descriptor.get();
  const auto blocks_used = [&] { return status_of(file).st_blocks / 8; };
  const auto size = [&] { return status_of(file).st_size; };
  const auto byte_at = [&](off_t offset) {
    char byte = '?';
    CHECK(::pread(fd, &byte, 1, offset) == 1);
    return byte;
  };

  // One block of data at 1 MiB.
  const std::string block(4096, 'd');
  REQUIRE(::pwrite(fd, block.data(), block.size(), 1 << 20) == 4096);
  CHECK(size() == (1 << 20) + 4096);
  CHECK(blocks_used() == 1);
  CHECK(byte_at(5000) == '\0');
  CHECK(::lseek(fd, 0, SEEK_DATA) == 1 << 20);
  CHECK(::lseek(fd, 0, SEEK_HOLE) == 0);
  CHECK(::lseek(fd, 1 << 20, SEEK_HOLE) == (1 << 20) + 4096);
  CHECK(error_of_call(::lseek(fd, (1 << 20) + 4096, SEEK_DATA)) == ENXIO);

  REQUIRE(::fallocate(fd, 0, 0, 8192) == 0);
  CHECK(blocks_used() == 3);
  CHECK(byte_at(100) == '\0');
  CHECK(size() == (1 << 20) + 4096);
  REQUIRE(::fallocate(fd, FALLOC_FL_KEEP_SIZE, 2 << 20, 4096) == 0);
  CHECK(size() == (1 << 20) + 4096);
  CHECK(blocks_used() == 4);
  REQUIRE(::fallocate(fd, 0, 2 << 20, 8192) == 0);
  CHECK(size() == (2 << 20) + 8192);

  REQUIRE(::fallocate(fd, FALLOC_FL_ZERO_RANGE, (1 << 20) + 100, 200) == 0);
  CHECK(byte_at((1 << 20) + 99) == 'd');
  CHECK(byte_at((1 << 20) + 100) == '\0');
  CHECK(byte_at((1 << 20) + 299) == '\0');
  CHECK(byte_at((1 << 20) + 300) == 'd');
  REQUIRE(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 4096) == 0);
  CHECK(byte_at((1 << 20) + 300) == '\0');
  CHECK(::lseek(fd, 1 << 20, SEEK_HOLE) == 1 << 20);
  CHECK(error_of_call(::fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096)) == EOPNOTSUPP);
  CHECK(error_of_call(::fallocate(fd, 0, 0, 0)) == EINVAL);

  // What a truncated file had is not seen again.
  REQUIRE(::ftruncate(fd, 0) == 0);
  CHECK(blocks_used() == 0);
  REQUIRE(::pwrite(fd, block.data(), 3000, 0) == 3000);
  REQUIRE(::ftruncate(fd, 1000) == 0);
  REQUIRE(::ftruncate(fd, 3000) == 0);
  CHECK(byte_at(999) == 'd');
  CHECK(byte_at(1000) == '\0');
  CHECK(byte_at(2999) == '\0');

  // The largest file there is, and beyond.
  REQUIRE(::pwrite(fd, "end", 3, (1ll << 62)) == 3);
  CHECK(byte_at((1ll << 62) + 2) == 'd');
  CHECK(blocks_used() == 2);
  CHECK(error_of_call(::pwrite(fd, "x", 1, LLONG_MAX)) != 0);
  REQUIRE(::ftruncate(fd, 0) == 0);
  descriptor.reset();
  pool.check_clean();
}

TEST_CASE("A renamed file leaves a whiteout, as overlayfs wants it") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  const auto in = [&](const char* name) { return main + "/" + name; };
  const auto rename = [&](const char* from, const char* to, unsigned flags) {
    return error_of_call(::renameat2(AT_FDCWD, in(from).c_str(), AT_FDCWD, in(to).c_str(), RENAME_WHITEOUT | flags));
  };
  const auto is_whiteout = [&](const char* name) {
    const auto status = status_of(in(name));
    return S_ISCHR(status.st_mode) && status.st_rdev == 0 && status.st_nlink == 1;
  };
  write_file(in("a"), "1");
  write_file(in("b"), "22");
  REQUIRE(::mkdir(in("directory").c_str(), 0755) == 0);
  REQUIRE(::mkdir(in("other").c_str(), 0755) == 0);
  CHECK(rename("a", "c", 0) == 0);
  CHECK(is_whiteout("a"));
  CHECK(rename("b", "c", RENAME_NOREPLACE) == EEXIST);
  CHECK(rename("b", "c", RENAME_EXCHANGE) == EINVAL);
  CHECK(rename("b", "c", 0) == 0);
  CHECK(is_whiteout("b"));
  CHECK(read_range(in("c"), 0, 9) == "22");
  CHECK(rename("directory", "other/inner", RENAME_NOREPLACE) == 0);
  CHECK(is_whiteout("directory"));
  CHECK(status_of(main).st_nlink == 3);
  CHECK(status_of(in("other")).st_nlink == 3);
  CHECK(rename("missing", "d", 0) == ENOENT);
  if (pool.run("grep -qw overlay /proc/filesystems").exit_code == 0) {
    pool.need_run("mkdir main/upper main/work lower merged && echo 1 >lower/f && echo 2 >lower/g");
    pool.need_run("mount -t overlay overlay -o lowerdir=lower,upperdir=main/upper,workdir=main/work merged");
    pool.need_run("rm merged/f && mv merged/g merged/h && test \"$(ls merged) $(cat merged/h)\" = 'h 2'; s=$?; umount merged; exit $s");
  }
  pool.check_clean();
}

TEST_CASE("A directory that was moved lists its new parent") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  pool.need_run("mkdir -p main/a/x main/b");
  const auto parent_of = [&](const std::string& path) {
    ino_t parent = 0;
    DIR* const directory = ::opendir(path.c_str());
    REQUIRE(directory != nullptr);
    while (const dirent* entry = ::readdir(directory))
      if (std::string_view(entry->d_name) == "..") parent = entry->d_ino;
    ::closedir(directory);
    return parent;
  };
  CHECK(parent_of(main + "/a/x") == status_of(main + "/a").st_ino);
  fs::rename(main + "/a/x", main + "/b/x");
  CHECK(parent_of(main + "/b/x") == status_of(main + "/b").st_ino);
}

TEST_CASE("Names: links, renames, directories, limits") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  const auto in = [&](const char* name) { return main + "/" + name; };
  const auto rename = [&](const char* from, const char* to, unsigned flags) {
    return error_of_call(::renameat2(AT_FDCWD, in(from).c_str(), AT_FDCWD, in(to).c_str(), flags));
  };
  write_file(in("a"), "1");
  write_file(in("b"), "22");
  REQUIRE(::mkdir(in("directory").c_str(), 0755) == 0);
  REQUIRE(::mkdir(in("directory/inner").c_str(), 0755) == 0);
  CHECK(rename("a", "b", RENAME_NOREPLACE) == EEXIST);
  CHECK(rename("a", "c", RENAME_NOREPLACE) == 0);
  CHECK(rename("c", "b", RENAME_EXCHANGE) == 0);
  CHECK(read_range(in("b"), 0, 9) == "1");
  CHECK(read_range(in("c"), 0, 9) == "22");
  CHECK(rename("c", "missing", RENAME_EXCHANGE) == ENOENT);
  CHECK(rename("c", "directory/inner", RENAME_EXCHANGE) == 0);
  CHECK(fs::is_directory(in("c")));
  CHECK(status_of(in("directory")).st_nlink == 2);
  CHECK(status_of(main).st_nlink == 4);
  CHECK(rename("c", "directory/inner", 0) == ENOTDIR);
  CHECK(rename("directory/inner", "c", 0) == EISDIR);
  CHECK(rename("directory", "directory/below", 0) == EINVAL);
  CHECK(rename("c", "directory", 0) == ENOTEMPTY);
  CHECK(rename("directory", "c", 0) == 0);
  CHECK(error_of_call(::rmdir(in("c").c_str())) == ENOTEMPTY);
  CHECK(error_of_call(::unlink(in("c").c_str())) == EISDIR);
  CHECK(error_of_call(::rmdir(in("b").c_str())) == ENOTDIR);
  CHECK(error_of_call(::mkdir(in("b").c_str(), 0755)) == EEXIST);
  CHECK(error_of_call(::link(in("c").c_str(), in("d").c_str())) == EPERM);
  CHECK(error_of_call(::mkdir((main + "/" + std::string(256, 'n')).c_str(), 0755)) == ENAMETOOLONG);
  CHECK(error_of_call(::mkdir((main + "/" + std::string(255, 'n')).c_str(), 0755)) == 0);
  CHECK(error_of_call(::open(in("b/x").c_str(), O_RDONLY)) == ENOTDIR);

  REQUIRE(::link(in("b").c_str(), in("c/link").c_str()) == 0);
  CHECK(status_of(in("b")).st_nlink == 2);
  REQUIRE(::unlink(in("b").c_str()) == 0);
  CHECK(status_of(in("c/link")).st_nlink == 1);
  CHECK(read_range(in("c/link"), 0, 9) == "1");
  const std::string target(4000, 't');
  REQUIRE(::symlink(target.c_str(), in("long").c_str()) == 0);
  CHECK(fs::read_symlink(in("long")) == target);

  // An open file without a name goes on; its space comes back afterwards.
  struct statvfs before, after;
  REQUIRE(::statvfs(main.c_str(), &before) == 0);
  {
    const auto open_file = need_open(in("unlinked"), O_RDWR | O_CREAT);
    REQUIRE(::unlink(in("unlinked").c_str()) == 0);
    const std::string content = pattern(1, 256);
    REQUIRE(::pwrite(open_file.get(), content.data(), content.size(), 0) == static_cast<ssize_t>(content.size()));
    struct stat status;
    REQUIRE(::fstat(open_file.get(), &status) == 0);
    CHECK(status.st_nlink == 0);
    std::string back(content.size(), '\0');
    REQUIRE(::pread(open_file.get(), back.data(), back.size(), 0) == static_cast<ssize_t>(back.size()));
    CHECK(back == content);
    REQUIRE(::statvfs(main.c_str(), &after) == 0);
    CHECK(after.f_bfree + 256 <= before.f_bfree);
  }
  const bool space_is_back = wait_until([&] {
    pool.settle();
    return ::statvfs(main.c_str(), &after) == 0 && after.f_bfree + 4 >= before.f_bfree;
  });
  CHECK(space_is_back);
  pool.check_clean();
}

TEST_CASE("Extended attributes") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string file = pool.mount("main") + "/file";
  write_file(file, "x");
  const auto set = [&](const char* name, const std::string& value, int flags) {
    return error_of_call(::setxattr(file.c_str(), name, value.data(), value.size(), flags));
  };
  const auto get = [&](const char* name) {
    std::string value(70'000, '\0');
    const auto got = ::getxattr(file.c_str(), name, value.data(), value.size());
    return got < 0 ? fmt::format("error {}", errno) : value.substr(0, static_cast<std::size_t>(got));
  };
  CHECK(set("user.a", "1", XATTR_REPLACE) == ENODATA);
  CHECK(set("user.a", "1", XATTR_CREATE) == 0);
  CHECK(set("user.a", "2", XATTR_CREATE) == EEXIST);
  CHECK(set("user.a", "22", 0) == 0);
  CHECK(set("trusted.b", "", 0) == 0);
  CHECK(set("security.c", std::string("\0\1\2", 3), 0) == 0);
  CHECK(set("user.large", std::string(60'000, 'l'), 0) == 0);
  CHECK(set("user.toolarge", std::string(65'537, 'l'), 0) == E2BIG);
  CHECK(set("nobody.x", "1", 0) == EOPNOTSUPP);
  CHECK(get("user.a") == "22");
  CHECK(get("trusted.b").empty());
  CHECK(get("security.c") == std::string("\0\1\2", 3));
  CHECK(get("user.large") == std::string(60'000, 'l'));
  CHECK(get("user.none") == fmt::format("error {}", ENODATA));
  std::array<char, 3> small;
  CHECK(error_of_call(::getxattr(file.c_str(), "user.large", small.data(), small.size())) == ERANGE);
  std::array<char, 1000> list;
  const auto length = ::listxattr(file.c_str(), list.data(), list.size());
  REQUIRE(length > 0);
  const std::string names(list.data(), static_cast<std::size_t>(length));
  for (const char* name : {"user.a", "trusted.b", "security.c", "user.large"})
    CHECK(names.find(name) != std::string::npos);
  CHECK(::removexattr(file.c_str(), "user.large") == 0);
  CHECK(error_of_call(::removexattr(file.c_str(), "user.large")) == ENODATA);
  pool.unmount("main");
  pool.mount("main");
  CHECK(get("user.a") == "22");
  pool.check_clean();
}

TEST_CASE("Shared mappings are written, and seen by others") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main"), file = main + "/file";
  write_file(file, std::string(3 * 4096, 'o'));
  pool.need_run("cp --reflink=auto main/file main/clone");
  {
    const auto descriptor = need_open(file, O_RDWR);
    char* const bytes =
        static_cast<char*>(::mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor.get(), 0));
    REQUIRE(bytes != MAP_FAILED);
    CHECK(bytes[5000] == 'o');
    bytes[5000] = 'm';
    CHECK(read_range(file, 5000, 1) == "m");
    REQUIRE(::msync(bytes, 3 * 4096, MS_SYNC) == 0);
    overwrite(file, 9000, "w");
    CHECK(bytes[9000] == 'w');
    bytes[1] = 'l';  // written when the mapping goes
    REQUIRE(::munmap(bytes, 3 * 4096) == 0);
  }
  CHECK(read_range(main + "/clone", 0, 1 << 20) == std::string(3 * 4096, 'o'));
  pool.unmount("main");
  pool.mount("main");
  CHECK(read_range(file, 5000, 1) == "m");
  CHECK(read_range(file, 9000, 1) == "w");
  CHECK(read_range(file, 0, 3) == "olo");
  CHECK(read_range(main + "/clone", 0, 1 << 20) == std::string(3 * 4096, 'o'));
  pool.check_clean();
}

TEST_CASE("Appending processes do not overwrite each other, and locks lock") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string file = pool.mount("main") + "/log";
  write_file(file, "");
  constexpr int kProcesses = 4, kLines = 300;
  {
    std::vector<Child> children;
    for (int i = 0; i < kProcesses; ++i)
      children.emplace_back([&, i] {
        const FileDescriptor log(::open(file.c_str(), O_WRONLY | O_APPEND));
        for (int number = 0; number < kLines; ++number) {
          const auto line =
              fmt::format("{} {} {}\n", i, number, std::string(static_cast<std::size_t>(number % 50), 'x'));
          if (::write(log.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) return 1;
        }
        return 0;
      });
    for (auto& child : children) CHECK(child.wait() == 0);
  }
  std::array<int, kProcesses> next{};
  std::ifstream lines(file);
  for (int process, number; lines >> process >> number;) {
    REQUIRE((process >= 0 && process < kProcesses));
    CHECK(number == next[static_cast<std::size_t>(process)]++);
    std::string rest;
    std::getline(lines, rest);
    CHECK(rest.size() == 1 + static_cast<std::size_t>(number % 50));
  }
  for (const int count : next) CHECK(count == kLines);

  const auto mine = need_open(file, O_RDWR);
  REQUIRE(::flock(mine.get(), LOCK_EX) == 0);
  Child other([&] {
    const FileDescriptor theirs(::open(file.c_str(), O_RDWR));
    return ::flock(theirs.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK ? 0 : 1;
  });
  CHECK(other.wait() == 0);
}

TEST_CASE("A directory is read while its entries come and go") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string directory = pool.mount("main") + "/directory";
  REQUIRE(::mkdir(directory.c_str(), 0755) == 0);
  constexpr int kStaying = 2000;
  const auto name = [](const char* kind, int number) {
    return fmt::format("{}-{:05}-{}", kind, number, std::string(static_cast<std::size_t>(number % 40), 'n'));
  };
  for (int i = 0; i < kStaying; ++i) write_file(directory + "/" + name("staying", i), "");
  // Another process makes and removes entries all the time.
  std::optional<Child> churn(std::in_place, [&] {
    for (int i = 0;; ++i) {
      const auto path = directory + "/" + name("fleeting", i % 500);
      if (i / 500 % 2 == 0) {
        if (const FileDescriptor made(::open(path.c_str(), O_WRONLY | O_CREAT, 0644)); !made) return 1;
      } else if (::unlink(path.c_str()) != 0) {
        return 1;
      }
    }
  });
  for (int round = 0; round < 10; ++round) {
    std::multiset<std::string> seen;
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(directory.c_str()), ::closedir);
    REQUIRE(stream != nullptr);
    while (const dirent* entry = ::readdir(stream.get())) seen.insert(entry->d_name);
    // What was there all the time is seen exactly once.
    int missing = 0, repeated = 0;
    for (int i = 0; i < kStaying; ++i) {
      const auto count = seen.count(name("staying", i));
      missing += count == 0;
      repeated += count > 1;
    }
    CHECK(missing == 0);
    CHECK(repeated == 0);
  }
  // A position that was remembered is still good after entries before and after it have gone.
  std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(directory.c_str()), ::closedir);
  std::string expected;
  long position = 0;
  for (int i = 0; const dirent* entry = ::readdir(stream.get()); ++i) {
    if (i == 1000) position = ::telldir(stream.get());
    if (i == 1001) {
      expected = entry->d_name;
      break;
    }
  }
  ::seekdir(stream.get(), position);
  const dirent* again = ::readdir(stream.get());
  REQUIRE(again != nullptr);
  CHECK(again->d_name == expected);
  stream.reset();
  // rm -r removes while it reads.
  churn.reset();
  pool.need_run("rm -r main/directory");
  pool.check_clean();
}

TEST_CASE("One daemon serves all mounts of a pool and ends with the last") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  const pid_t daemon = pool.daemon();
  pool.need_run("daxcow volume create $POOL second");
  const std::string second = pool.mount("second");
  write_file(main + "/file", "before");
  pool.need_run("daxcow snapshot --read-only $POOL main kept && daxcow snapshot $POOL main branch");
  const std::string kept = pool.mount("kept", "ro");
  const std::string branch = pool.mount("branch");
  const auto mounts = pool.ask({{"op", "mounts"}});
  CHECK(mounts.at("process") == daemon);
  CHECK(mounts.at("mounts").size() == 4);
  CHECK(status_of(main).st_dev != status_of(second).st_dev);

  overwrite(main + "/file", 0, "after!");
  overwrite(branch + "/file", 0, "branch");
  CHECK(read_range(kept + "/file", 0, 9) == "before");
  CHECK(read_range(main + "/file", 0, 9) == "after!");
  CHECK(error_of_call(::open((kept + "/file").c_str(), O_WRONLY)) == EROFS);
  CHECK(error_of_call(::mkdir((kept + "/new").c_str(), 0755)) == EROFS);
  CHECK(error_of_call(::link((main + "/file").c_str(), (second + "/file").c_str())) == EXDEV);
  const auto listed = pool.need_json("daxcow volume list --json $POOL").at("volumes");
  CHECK(listed.size() == 4);

  pool.unmount("main");
  CHECK(pool.daemon() == daemon);
  CHECK(read_range(branch + "/file", 0, 9) == "branch");
  pool.need_run("daxcow volume rollback $POOL main kept");
  pool.mount("main");
  CHECK(read_range(main + "/file", 0, 9) == "before");
  pool.unmount_all();
  CHECK_FALSE(fs::exists(fmt::format("/proc/{}/exe", daemon)));

  // Unmounted and mounted again at once, without a pause.
  pool.need_run("for i in $(seq 15); do mount.daxcow $POOL main && echo $i >main/file && umount main || exit 1; done");
  pool.mount("main");
  CHECK(read_range(main + "/file", 0, 9) == "15\n");
  pool.need_run("for i in $(seq 5); do mount.daxcow $POOL second -o volume=second && umount second || exit 1; done");
  // By way of mount(8).
  if (pool.run("command -v mount.fuse.daxcow").exit_code == 0)
    pool.need_run("umount main && mount -t fuse.daxcow $POOL main");
  pool.check_clean();
}

TEST_CASE("Set-id bits and hidden names: what the unprivileged may not keep and not see") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", "allow_other");
  REQUIRE(::chmod(main.c_str(), 0777) == 0);
  const std::string path = main + "/file";
  write_file(path, pattern(1, 4));
  const auto mode = [&] {
    struct stat status;
    REQUIRE(::stat(path.c_str(), &status) == 0);
    return status.st_mode & 07777;
  };
  // With the file open: the way to it is root's.
  const auto as_nobody = [&](const std::function<bool(int file)>& body) {
    return Child([&] {
             const FileDescriptor file(::open(path.c_str(), O_RDWR));
             return ::setgroups(0, nullptr) == 0 && ::setgid(65534) == 0 && ::setuid(65534) == 0 && body(file.get())
                        ? 0
                        : 1;
           })
        .wait();
  };
  for (const int how : {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE}) {
    REQUIRE(::chmod(path.c_str(), 06777) == 0);
    CHECK(as_nobody([&](int file) { return ::fallocate(file, how, 0, 8192) == 0; }) == 0);
    CHECK(mode() == 0777);
  }
  REQUIRE(::chmod(path.c_str(), 06777) == 0);
  CHECK(as_nobody([](int file) {
          off_t from = 0, to = 8192;
          return ::copy_file_range(file, &from, file, &to, 4096, 0) == 4096;
        }) == 0);
  CHECK(mode() == 0777);
  REQUIRE(::chmod(path.c_str(), 06777) == 0);
  REQUIRE(::chown(path.c_str(), static_cast<uid_t>(-1), static_cast<gid_t>(-1)) == 0);
  CHECK(mode() == 0777);
  // That chown is for the owner, and for who has the file open for writing: nobody ever had this one. (The kernel says late that a
  // file was closed.)
  const std::string other = main + "/other";
  REQUIRE(::mknod(other.c_str(), S_IFREG | 0755, 0) == 0);
  REQUIRE(::chmod(other.c_str(), 06755) == 0);
  Child stranger([&] {
    const FileDescriptor file(::open(other.c_str(), O_RDONLY));
    if (::setgroups(0, nullptr) != 0 || ::setgid(65534) != 0 || ::setuid(65534) != 0) return 1;
    return ::fchown(file.get(), static_cast<uid_t>(-1), static_cast<gid_t>(-1)) == 0 ? 0 : errno;
  });
  CHECK(stranger.wait() == EPERM);
  struct stat status;
  CHECK((::stat(other.c_str(), &status) == 0 && (status.st_mode & 07777) == 06755));

  // Without group-execute, S_ISGID stays for members of the group and goes for others; S_ISUID goes always.
  for (const gid_t group : {0, 65534}) {
    REQUIRE(::chown(path.c_str(), 0, group) == 0);
    REQUIRE(::chmod(path.c_str(), 06767) == 0);
    CHECK(as_nobody([](int file) { return ::pwrite(file, "x", 1, 0) == 1; }) == 0);
    CHECK(mode() == (group == 65534 ? 02767 : 0767));
    REQUIRE(::chmod(path.c_str(), 06767) == 0);
    CHECK(as_nobody([](int file) { return ::ftruncate(file, 10000) == 0; }) == 0);
    CHECK(mode() == (group == 65534 ? 02767 : 0767));
  }

  REQUIRE(::setxattr(path.c_str(), "trusted.hidden", "x", 1, 0) == 0);
  REQUIRE(::setxattr(path.c_str(), "user.shown", "x", 1, 0) == 0);
  const auto listed = [](int file) {
    char names[200];
    const auto length = ::flistxattr(file, names, sizeof names);
    return length < 0 ? std::string("?") : std::string(names, static_cast<std::size_t>(length));
  };
  CHECK(listed(FileDescriptor(::open(path.c_str(), O_RDONLY)).get()).find("trusted.hidden") != std::string::npos);
  CHECK(as_nobody([&](int opened) { return listed(opened) == std::string("user.shown\0", 11); }) == 0);
  CHECK(::removexattr(path.c_str(), "system.posix_acl_access") == 0);
  pool.check_clean();
}

TEST_CASE("Times: what reading, allocating and renaming moves") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  const auto set_old = [](const std::string& path) {
    const timespec old[2] = {{1000, 0}, {1000, 0}};
    REQUIRE(::utimensat(AT_FDCWD, path.c_str(), old, AT_SYMLINK_NOFOLLOW) == 0);
  };
  fs::create_directory(main + "/directory");
  fs::create_symlink("target", main + "/link");
  write_file(main + "/file", pattern(1, 1));
  for (const char* name : {"/directory", "/link", "/file"}) {
    set_old(main + name);
    CHECK(status_of(main + name).st_atim.tv_sec == 1000);
  }
  CHECK(names_in(main + "/directory").empty());
  CHECK(fs::read_symlink(main + "/link") == "target");
  drop_pages(main + "/file");
  CHECK(read_range(main + "/file", 0, 10).size() == 10);
  for (const char* name : {"/directory", "/link", "/file"}) CHECK(status_of(main + name).st_atim.tv_sec > 1000);
  drop_pages(main + "/file");
  set_old(main + "/file");
  char byte;
  CHECK(::pread(need_open(main + "/file", O_RDONLY | O_NOATIME).get(), &byte, 1, 0) == 1);
  CHECK(status_of(main + "/file").st_atim.tv_sec == 1000);
  REQUIRE(::utimensat(AT_FDCWD, (main + "/file").c_str(), nullptr, 0) == 0);
  CHECK(status_of(main + "/file").st_atim.tv_nsec == status_of(main + "/file").st_mtim.tv_nsec);
  pool.need_run("mount.daxcow $POOL main -o remount,noatime");
  for (const char* name : {"/directory", "/link", "/file"}) set_old(main + name);
  CHECK(names_in(main + "/directory").empty());
  CHECK(fs::read_symlink(main + "/link") == "target");
  drop_pages(main + "/file");
  CHECK(read_range(main + "/file", 0, 10).size() == 10);
  for (const char* name : {"/directory", "/link", "/file"}) CHECK(status_of(main + name).st_atim.tv_sec == 1000);
  pool.need_run("mount.daxcow $POOL main -o remount,atime && ! grep -q ' '$PWD/main' .*noatime' /proc/mounts");

  struct statx status {};
  REQUIRE(::statx(AT_FDCWD, (main + "/file").c_str(), 0, STATX_BASIC_STATS | STATX_BTIME, &status) == 0);
  if ((status.stx_mask & STATX_BTIME) != 0) {  // the kernel asks for it since 6.6
    const auto plain = status_of(main + "/file");
    CHECK(status.stx_btime.tv_sec > plain.st_mtim.tv_sec - 3600);
    CHECK((status.stx_size == 4096 && status.stx_nlink == 1 && status.stx_mode == plain.st_mode && status.stx_ino == plain.st_ino));
    CHECK((status.stx_mtime.tv_nsec == plain.st_mtim.tv_nsec && status.stx_blocks == 8));
    const auto birth = status.stx_btime;
    pool.need_run("chmod 600 main/file && mv main/file main/other && mv main/other main/file");
    REQUIRE(::statx(AT_FDCWD, (main + "/file").c_str(), AT_STATX_FORCE_SYNC, STATX_BTIME, &status) == 0);
    CHECK((status.stx_btime.tv_sec == birth.tv_sec && status.stx_btime.tv_nsec == birth.tv_nsec));
    REQUIRE(::statx(AT_FDCWD, "/dev/null", 0, STATX_BASIC_STATS, &status) == 0);
    pool.need_run("cp -a /dev/null main/null && test \"$(stat -c %t:%T:%W main/null | cut -c1-4)\" = 1:3: && ! stat -c %W main/null | grep -qx 0");
  } else if (::system("uname -r | awk -F. '{exit !($1 > 6 || ($1 == 6 && $2 >= 6))}'") == 0) {
    FAIL_CHECK("no time of birth");
  }

  // Also where the kernel has the pages and the listing.
  const auto access = [&](const char* name) { return status_of(main + name).st_atim; };
  const auto moves = [&](const char* name, const std::function<void()>& read) {
    const timespec before = access(name);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    read();
    const timespec after = access(name);
    return before.tv_sec != after.tv_sec || before.tv_nsec != after.tv_nsec;
  };
  const auto read_file = [&] { CHECK(read_range(main + "/file", 0, 10).size() == 10); };
  const auto read_directory = [&] { CHECK(names_in(main + "/directory").empty()); };
  overwrite(main + "/file", 0, "new");
  CHECK(moves("/file", read_file));
  CHECK_FALSE(moves("/file", read_file));  // as relatime says
  CHECK_FALSE(moves("/file", [&] { status_of(main + "/file"); }));
  pool.need_run("mount.daxcow $POOL main -o remount,strictatime");
  CHECK(moves("/file", read_file));
  CHECK(moves("/file", read_file));
  pool.need_run("mount.daxcow $POOL main -o remount,noexec");  // nothing of access times: they stay
  pool.need_run("mount.daxcow $POOL main -o remount,ro && mount.daxcow $POOL main -o remount,rw");
  CHECK(moves("/file", read_file));
  CHECK(moves("/file", read_file));
  pool.need_run("mount.daxcow $POOL main -o remount,noatime,strictatime");  // of the two the kernel takes this one
  CHECK(moves("/file", read_file));
  pool.need_run("mount.daxcow $POOL main -o remount,nodiratime");
  set_old(main + "/directory");
  CHECK_FALSE(moves("/directory", read_directory));
  overwrite(main + "/file", 0, "old");
  CHECK(moves("/file", read_file));
  pool.unmount("main");
  pool.mount("main", "strictatime");
  for (int i = 0; i < 2; ++i) {
    CHECK(moves("/file", read_file));
    CHECK(moves("/directory", read_directory));
    CHECK(moves("/link", [&] { CHECK(fs::read_symlink(main + "/link") == "target"); }));
  }
  {
    const FileDescriptor writing = need_open(main + "/file", O_RDWR);
    CHECK_FALSE(moves("/file", [&] { pool.need_run("daxcow snapshot $POOL main times && daxcow volume delete $POOL times"); }));
  }
  pool.unmount("main");
  pool.mount("main");

  for (const int mode : {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE}) {
    const FileDescriptor file = need_open(main + "/file", O_RDWR);
    set_old(main + "/file");
    REQUIRE(::fallocate(file.get(), mode, 0, 100) == 0);
    CHECK(status_of(main + "/file").st_mtim.tv_sec > 1000);
  }
  // Nobody who looks meanwhile may see to it that the old time of change stays.
  std::atomic<bool> stop = false;
  std::thread looker([&] {
    struct stat status;
    while (!stop)
      for (const char* name : {"/a", "/b", ""}) (void)::stat((main + name).c_str(), &status);
  });
  write_file(main + "/a", "a");
  unsigned stale = 0;
  for (int i = 0; i < 2000; ++i) {
    const std::string from = main + (i % 2 ? "/b" : "/a"), to = main + (i % 2 ? "/a" : "/b");
    timespec before;
    ::clock_gettime(CLOCK_REALTIME_COARSE, &before);
    if (::rename(from.c_str(), to.c_str()) != 0) break;
    // (Of several answers that were under way the kernel may remember an older one: the filesystem itself is asked.)
    for (const std::string& path : {to, main}) {
      struct statx status {};
      const bool found = ::statx(AT_FDCWD, path.c_str(), AT_STATX_FORCE_SYNC, STATX_CTIME, &status) == 0;
      if (!found || std::pair<long, long>(status.stx_ctime.tv_sec, status.stx_ctime.tv_nsec) <
                        std::pair<long, long>(before.tv_sec, before.tv_nsec))
        ++stale;
    }
  }
  stop = true;
  looker.join();
  CHECK(stale == 0);
  pool.check_clean();
}

TEST_CASE("A write that is larger than what is left writes as much as there is room for") {
  if (skipped_without_mounts()) return;
  MountedPool pool(32ull << 20);
  const std::string main = pool.mount("main");
  const int direct = GENERATE(0, O_DIRECT);
  FileDescriptor file = need_open(main + "/file", O_RDWR | O_CREAT | direct);
  constexpr std::size_t kBytes = 3 << 20;
  void* const bytes = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(bytes != MAP_FAILED);
  std::memset(bytes, 'x', kBytes);
  std::uint64_t written = 0;
  ssize_t count = 0, last = 0;
  while ((count = ::write(file.get(), bytes, kBytes)) > 0) {
    written += static_cast<std::uint64_t>(count);
    last = count;
  }
  CHECK(errno == ENOSPC);
  CHECK(static_cast<std::uint64_t>(status_of(main + "/file").st_size) == written);
  struct statvfs left;
  REQUIRE(::statvfs(main.c_str(), &left) == 0);
  // (Of direct I/O the kernel would make EIO of less than a whole request.)
  CHECK(left.f_bavail < (direct == 0 ? 1 : 256));
  CHECK((direct != 0 || last < static_cast<ssize_t>(kBytes)));
  for (std::uint64_t offset = 0; offset < written; offset += kBytes) {
    const std::string content = read_range(main + "/file", offset, kBytes);
    CHECK(content == std::string(std::min<std::uint64_t>(kBytes, written - offset), 'x'));
  }
  ::munmap(bytes, kBytes);
  file.reset();
  pool.check_clean();
}

TEST_CASE("A mount without access lists takes none, and a write-back cache hides no data") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", "noacl,writeback_cache");
  write_file(main + "/file", pattern(1, 1));
  REQUIRE(::chmod((main + "/file").c_str(), 0600) == 0);
  // Version 2; u::rw, u:1234:rw, g::-, m::rw, o::-.
  constexpr std::uint32_t kNobody = ~0u;
  const std::uint32_t list[] = {2, 0x60001, kNobody, 0x60002, 1234, 0x4, kNobody, 0x60010, kNobody, 0x20, kNobody};
  CHECK(::setxattr((main + "/file").c_str(), "system.posix_acl_access", list, sizeof list, 0) < 0);
  CHECK(errno == EOPNOTSUPP);
  CHECK(::setxattr(main.c_str(), "system.posix_acl_default", list, sizeof list, 0) < 0);
  CHECK(errno == EOPNOTSUPP);
  CHECK((status_of(main + "/file").st_mode & 07777) == 0600);
  FileDescriptor growing = need_open(main + "/growing", O_RDWR | O_CREAT);
  const std::string content = pattern(2, 50);
  REQUIRE(::write(growing.get(), content.data(), content.size()) == static_cast<ssize_t>(content.size()));
  pool.need_run("cp main/growing main/copy && cmp main/growing main/copy");
  CHECK(read_range(main + "/copy", 0, 1 << 20) == content);
  growing.reset();
  pool.check_clean();
}

TEST_CASE("statfs tells the truth") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  const auto statistics = [&] {
    pool.settle();
    struct statvfs status;
    REQUIRE(::statvfs(main.c_str(), &status) == 0);
    return status;
  };
  const auto before = statistics();
  CHECK(before.f_bsize == 4096);
  CHECK(before.f_blocks == (128u << 20) / 4096);
  CHECK(before.f_bavail <= before.f_bfree);
  CHECK(before.f_namemax == 255);
  CHECK(before.f_ffree > 1000);
  write_file(main + "/file", pattern(1, 1024));
  const auto written = statistics();
  CHECK(written.f_bfree == before.f_bfree - 1024);
  pool.need_run("cp --reflink=auto main/file main/clone");
  CHECK(statistics().f_bfree == written.f_bfree);
  REQUIRE(::unlink((main + "/file").c_str()) == 0);
  CHECK(statistics().f_bfree == written.f_bfree);
  REQUIRE(::unlink((main + "/clone").c_str()) == 0);
  const bool all_back = wait_until([&] { return statistics().f_bfree == before.f_bfree; });
  CHECK(all_back);
  const auto free_blocks = statistics().f_bfree;
  CHECK(pool.check_clean().at("free_blocks") == free_blocks);
}

}  // namespace
}  // namespace daxcow::test
