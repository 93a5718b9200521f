// What a file is and to whom it belongs: flags of open, life without a name, mappings, inheritance, access lists.
#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

namespace fs = std::filesystem;

struct stat status_of(const std::string& path) {
  struct stat status {};
  INFO(path);
  REQUIRE(::lstat(path.c_str(), &status) == 0);
  return status;
}

mode_t mode_of(const std::string& path) { return status_of(path).st_mode & 07777; }

int as_user(uid_t uid, gid_t gid, const std::function<int()>& body) {
  return Child([&] {
           if (::setgroups(0, nullptr) != 0 || ::setgid(gid) != 0 || ::setuid(uid) != 0) return 255;
           return body();
         }).wait();
}

int open_error(const std::string& path, int flags, mode_t mode = 0644) {
  const FileDescriptor file(::open(path.c_str(), flags, mode));
  return file ? 0 : errno;
}

}  // namespace

TEST_CASE("Flags of open: append, truncate, exclusive, direct, synchronous") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string file = pool.mount("main") + "/file";
  {
    const FileDescriptor made = need_open(file, O_RDWR | O_CREAT | O_EXCL, 0400);  // it may write all the same
    REQUIRE(::write(made.get(), "0123456789", 10) == 10);
  }
  {
    const FileDescriptor appending = need_open(file, O_WRONLY | O_APPEND);
    REQUIRE(::lseek(appending.get(), 0, SEEK_SET) == 0);
    REQUIRE(::write(appending.get(), "ab", 2) == 2);
    REQUIRE(::pwrite(appending.get(), "cd", 2, 0) == 2);  // Linux appends here too
  }
  CHECK(read_range(file, 0, 100) == "0123456789abcd");
  {
    const FileDescriptor truncated = need_open(file, O_WRONLY | O_TRUNC);
    CHECK(status_of(file).st_size == 0);
  }
  for (const int flags : {O_DIRECT, O_SYNC, O_DSYNC, O_DIRECT | O_SYNC}) {
    const FileDescriptor direct = need_open(file, O_RDWR | flags);
    constexpr std::size_t kBytes = 3 * 4096;
    const std::unique_ptr<char, void (*)(void*)> buffer(static_cast<char*>(::aligned_alloc(4096, kBytes)), ::free);
    std::memset(buffer.get(), 'd', kBytes);
    REQUIRE(::pwrite(direct.get(), buffer.get(), kBytes, 4096) == kBytes);
    std::memset(buffer.get(), 0, kBytes);
    REQUIRE(::pread(direct.get(), buffer.get(), kBytes, 4096) == kBytes);
    CHECK(std::string(buffer.get(), kBytes) == std::string(kBytes, 'd'));
    // Any alignment is served.
    REQUIRE(::pwrite(direct.get(), buffer.get() + 3, 100, 4001) == 100);
    CHECK(read_range(file, 4001, 100) == std::string(100, 'd'));
  }
  pool.check_clean();
}

TEST_CASE("An open file lives on without a name, and when another takes its name") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  write_file(main + "/a", "old content");
  write_file(main + "/b", "new content");
  {
    const FileDescriptor old = need_open(main + "/a", O_RDWR);
    REQUIRE(::fsetxattr(old.get(), "user.kept", "1", 1, 0) == 0);
    REQUIRE(::rename((main + "/b").c_str(), (main + "/a").c_str()) == 0);
    CHECK(read_range(main + "/a", 0, 100) == "new content");
    char bytes[11];
    REQUIRE(::pread(old.get(), bytes, sizeof bytes, 0) == sizeof bytes);
    CHECK(std::string(bytes, sizeof bytes) == "old content");
    struct stat status {};
    REQUIRE(::fstat(old.get(), &status) == 0);
    CHECK(status.st_nlink == 0);
    CHECK(::fsetxattr(old.get(), "user.later", "2", 1, 0) == 0);
    CHECK(::fgetxattr(old.get(), "user.kept", bytes, sizeof bytes) == 1);
    CHECK(::fchmod(old.get(), 0600) == 0);
    CHECK(::ftruncate(old.get(), 1 << 20) == 0);
    CHECK(::fsync(old.get()) == 0);
    // No way back to a name.
    CHECK(::linkat(AT_FDCWD, fmt::format("/proc/self/fd/{}", old.get()).c_str(), AT_FDCWD, (main + "/back").c_str(), AT_SYMLINK_FOLLOW) != 0);
  }
  // A directory that is somebody's working directory can be removed; nothing can be made in it.
  REQUIRE(::mkdir((main + "/d").c_str(), 0755) == 0);
  const FileDescriptor removed = need_open(main + "/d", O_RDONLY | O_DIRECTORY);
  REQUIRE(::rmdir((main + "/d").c_str()) == 0);
  CHECK((::mkdirat(removed.get(), "x", 0755) != 0 && errno == ENOENT));
  CHECK((::openat(removed.get(), "x", O_CREAT | O_RDWR, 0644) < 0 && errno == ENOENT));
}

TEST_CASE("O_TMPFILE: a file without a name gets one by a link, or goes with its descriptor") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  REQUIRE(::mkdir((main + "/d").c_str(), 0755) == 0);
  const auto free_blocks = [&] {
    struct statvfs status {};
    REQUIRE(::statvfs(main.c_str(), &status) == 0);
    return status.f_bfree;
  };
  const auto link_to = [&](const FileDescriptor& file, const std::string& name) {
    const std::string path = fmt::format("/proc/self/fd/{}", file.get());
    return ::linkat(AT_FDCWD, path.c_str(), AT_FDCWD, (main + name).c_str(), AT_SYMLINK_FOLLOW) == 0 ? 0 : errno;
  };
  const std::string content = pattern(7, 256);
  const auto before = free_blocks();
  {
    const FileDescriptor file = need_open(main + "/d", O_TMPFILE | O_RDWR, 0640);
    REQUIRE(::write(file.get(), content.data(), content.size()) == ssize_t(content.size()));
    struct stat status {};
    REQUIRE(::fstat(file.get(), &status) == 0);
    CHECK(status.st_nlink == 0);
    CHECK(status.st_mode == (S_IFREG | 0640));
    CHECK(::fsetxattr(file.get(), "user.kept", "1", 1, 0) == 0);
    CHECK(::fsync(file.get()) == 0);
    CHECK(fs::is_empty(main + "/d"));
    CHECK(link_to(file, "/d") == EEXIST);
    CHECK(link_to(file, "/d/named") == 0);
    CHECK(link_to(file, "/d/again") == 0);
    REQUIRE(::fstat(file.get(), &status) == 0);
    CHECK(status.st_nlink == 2);
  }
  CHECK(read_range(main + "/d/named", 0, content.size() + 1) == content);
  char value = 0;
  CHECK(::getxattr((main + "/d/again").c_str(), "user.kept", &value, 1) == 1);
  REQUIRE(::unlink((main + "/d/again").c_str()) == 0);
  const auto with_one = free_blocks();
  CHECK(with_one + 256 <= before);
  {
    // Those that end with their descriptors; O_EXCL: "shall never have a name".
    const FileDescriptor file = need_open(main + "/d", O_TMPFILE | O_WRONLY | O_EXCL, 0600);
    REQUIRE(::write(file.get(), content.data(), content.size()) == ssize_t(content.size()));
    CHECK(link_to(file, "/d/never") == ENOENT);
    CHECK(free_blocks() + 256 <= with_one);
    const FileDescriptor other = need_open(main, O_TMPFILE | O_RDWR, 0600);
    REQUIRE(::ftruncate(other.get(), 1 << 30) == 0);
  }
  CHECK(wait_until([&] { return free_blocks() == with_one; }));
  {
    // One that a killed daemon leaves behind is gone when the volume is mounted again.
    const FileDescriptor file = need_open(main, O_TMPFILE | O_WRONLY, 0600);
    REQUIRE(::write(file.get(), content.data(), content.size()) == ssize_t(content.size()));
    REQUIRE(::fsync(file.get()) == 0);
    pool.kill_daemon();
  }
  pool.mount("main");
  CHECK(read_range(main + "/d/named", 0, content.size() + 1) == content);
  CHECK(wait_until([&] { return free_blocks() == with_one; }));
  pool.check_clean();
}

TEST_CASE("What fails half-way in a full pool is seen as it is, also where the kernel has pages") {
  if (skipped_without_mounts()) return;
  MountedPool pool(16 << 20);
  const std::string main = pool.mount("main");
  const std::string a = pattern(1, 11).substr(0, 40'960 + 100), b = pattern(2, 11);
  write_file(main + "/a", a);
  write_file(main + "/b", b);  // longer than a, whose last part is copied, to a block that is shared
  write_file(main + "/grows", {});
  pool.need_run("cp --reflink=auto main/b main/b2 && setfacl -m u:1000:rw main/a");
  FileDescriptor file = need_open(main + "/b", O_RDWR), other = need_open(main + "/b2", O_RDWR), grows = need_open(main + "/grows", O_RDWR);
  FileDescriptor from = need_open(main + "/a", O_RDONLY);
  pool.need_run("daxcow snapshot $POOL main before && touch main/a");
  pool.run("cat /dev/zero > main/fill; for i in $(seq 20000); do : > main/new$i || break; done 2>/dev/null");
  pool.run("for s in 65536 4096 512 1; do dd if=/dev/zero bs=$s of=main/fill oflag=append conv=notrunc 2>/dev/null; done");
  REQUIRE(read_range(main + "/b", 0, b.size()) == b);  // the kernel has the pages now
  const auto check_pages = [&](const std::string& path) {
    const std::string cached = read_range(path, 0, 1 << 20);
    drop_pages(path);
    CHECK(read_range(path, 0, 1 << 20) == cached);
    return cached;
  };
  off_t in = 0, out = 0;
  const auto copied = ::copy_file_range(from.get(), &in, file.get(), &out, a.size(), 0);
  CHECK(copied < ssize_t(a.size()));
  const std::string now = check_pages(main + "/b");
  if (copied > 0) CHECK(now == a.substr(0, static_cast<std::size_t>(copied)) + b.substr(static_cast<std::size_t>(copied)));
  in = out = 0;
  const auto grown = ::copy_file_range(from.get(), &in, grows.get(), &out, a.size() - 50, 0);
  CHECK(check_pages(main + "/grows").size() == static_cast<std::size_t>(std::max<ssize_t>(grown, 0)));
  REQUIRE(read_range(main + "/b2", 0, b.size()) == b);
  for (const int mode : {FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE}) {
    (void)::fallocate(other.get(), mode, 10, 40'000);
    check_pages(main + "/b2");
  }
  // The mode and the access list agree, whether chmod could be done or not.
  const int changed = ::chmod((main + "/a").c_str(), 0600);
  const std::string list = pool.need_run("getfacl -cpE main/a | grep mask");
  CHECK(mode_of(main + "/a") == (list == "mask::---\n" ? 0600u : 0664u));
  CHECK((changed == 0) == (list == "mask::---\n"));
  for (FileDescriptor* open : {&file, &other, &grows, &from}) open->reset();
  pool.unmount("main");
  pool.mount("main");
  CHECK(pool.need_run("getfacl -cpE main/a | grep mask") == list);
  CHECK(mode_of(main + "/a") == (list == "mask::---\n" ? 0600u : 0664u));
  pool.check_clean();
}

TEST_CASE("Identity: numbers stay, '..' follows a move, links reach over directories") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  REQUIRE(::mkdir((main + "/a").c_str(), 0755) == 0);
  REQUIRE(::mkdir((main + "/b").c_str(), 0755) == 0);
  REQUIRE(::mkdir((main + "/a/moving").c_str(), 0755) == 0);
  write_file(main + "/a/file", "x");
  const auto inode = status_of(main + "/a/file").st_ino, device = status_of(main).st_dev;
  REQUIRE(::link((main + "/a/file").c_str(), (main + "/b/link").c_str()) == 0);
  REQUIRE(::rename((main + "/a/file").c_str(), (main + "/b/file").c_str()) == 0);
  CHECK(status_of(main + "/b/file").st_ino == inode);
  CHECK(status_of(main + "/b/link").st_ino == inode);
  CHECK(status_of(main + "/b/link").st_nlink == 2);
  CHECK(status_of(main + "/b/link").st_dev == device);
  REQUIRE(::rename((main + "/a/moving").c_str(), (main + "/b/moving").c_str()) == 0);
  CHECK(status_of(main + "/b/moving/..").st_ino == status_of(main + "/b").st_ino);
  CHECK(status_of(main + "/a").st_nlink == 2);
  CHECK(status_of(main + "/b").st_nlink == 3);
  pool.unmount("main");
  pool.mount("main");
  CHECK(status_of(main + "/b/file").st_ino == inode);
  CHECK(status_of(main + "/b/moving/..").st_ino == status_of(main + "/b").st_ino);
  pool.check_clean();
}

TEST_CASE("Programs run, sockets connect, fifos pass data") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  pool.need_run("cp /bin/echo main/program && test \"$(main/program word)\" = word && chmod -x main/program && ! main/program word 2>/dev/null");
  pool.need_run("printf '#!/bin/sh\\necho script\\n' >main/script && chmod +x main/script && test \"$(main/script)\" = script");
  pool.need_run("mkfifo main/fifo && (echo through >main/fifo &) && test \"$(cat main/fifo)\" = through");

  const FileDescriptor server(::socket(AF_UNIX, SOCK_STREAM, 0)), client(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", main.c_str());
  REQUIRE(::bind(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(server.get(), 1) == 0);
  CHECK(S_ISSOCK(status_of(main + "/socket").st_mode));
  CHECK(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
}

TEST_CASE("Mappings: private ones stay private, a truncated one faults, executable ones run") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string file = pool.mount("main") + "/file";
  write_file(file, std::string(3 * 4096, 'o'));
  const FileDescriptor opened = need_open(file, O_RDWR);
  const auto map = [&](int sharing) {
    void* at = ::mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, sharing, opened.get(), 0);
    REQUIRE(at != MAP_FAILED);
    return static_cast<volatile char*>(at);
  };
  volatile char* shared = map(MAP_SHARED);
  volatile char* own = map(MAP_PRIVATE);
  own[0] = 'p';
  shared[4096] = 's';
  CHECK(shared[0] == 'o');
  CHECK(own[4096] == 's');  // not copied yet
  CHECK(read_range(file, 0, 1) == "o");
  // Behind the end of the file within its last page: zeros, and what is stored there does not reach the file.
  REQUIRE(::ftruncate(opened.get(), 4096 + 100) == 0);
  CHECK(shared[4096 + 100] == '\0');
  CHECK(shared[4096] == 's');
  CHECK(Child([&] {  // beyond that page: SIGBUS
          std::signal(SIGBUS, [](int) { ::_exit(77); });
          return shared[2 * 4096] == 'o' ? 1 : 2;
        }).wait() == 77);
  REQUIRE(::ftruncate(opened.get(), 3 * 4096) == 0);
  CHECK(shared[2 * 4096] == '\0');
  REQUIRE(::munmap(const_cast<char*>(shared), 3 * 4096) == 0);
  REQUIRE(::munmap(const_cast<char*>(own), 3 * 4096) == 0);
  CHECK(read_range(file, 4096, 101) == "s" + std::string(99, 'o') + std::string(1, '\0'));
}

TEST_CASE("What a new inode inherits: umask, set-gid directories, default access lists") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  REQUIRE(::chmod(pool.path("").c_str(), 0755) == 0);
  REQUIRE(::mkdir((main + "/plain").c_str(), 0777) == 0);
  REQUIRE(::mkdir((main + "/group").c_str(), 0777) == 0);
  REQUIRE(::chown((main + "/group").c_str(), 0, 50) == 0);
  REQUIRE(::chmod((main + "/plain").c_str(), 0777) == 0);
  REQUIRE(::chmod((main + "/group").c_str(), 02777) == 0);
  const auto make_in = [&](const std::string& directory) {
    return as_user(1000, 1000, [&] {
      ::umask(027);
      return open_error(directory + "/file", O_CREAT | O_RDWR, 0666) + ::mkdir((directory + "/sub").c_str(), 0777) +
             open_error(directory + "/setgid", O_CREAT | O_RDWR, 02770);
    });
  };
  // O_TMPFILE inherits the same.
  const auto make_unnamed_in = [&](const std::string& directory) {
    REQUIRE(as_user(1000, 1000, [&] {
      ::umask(027);
      const FileDescriptor file(::open(directory.c_str(), O_TMPFILE | O_RDWR, 0666));
      const std::string path = fmt::format("/proc/self/fd/{}", file.get());
      return ::linkat(AT_FDCWD, path.c_str(), AT_FDCWD, (directory + "/unnamed").c_str(), AT_SYMLINK_FOLLOW);
    }) == 0);
    return status_of(directory + "/unnamed");
  };
  REQUIRE(make_in(main + "/plain") == 0);
  CHECK(mode_of(main + "/plain/file") == 0640);
  CHECK(mode_of(main + "/plain/sub") == 0750);
  CHECK(status_of(main + "/plain/file").st_gid == 1000);
  CHECK(make_unnamed_in(main + "/plain").st_mode == (S_IFREG | 0640));
  CHECK(make_unnamed_in(main + "/group").st_gid == 50);
  REQUIRE(make_in(main + "/group") == 0);
  CHECK(status_of(main + "/group/file").st_gid == 50);
  CHECK(status_of(main + "/group/sub").st_gid == 50);
  CHECK(mode_of(main + "/group/sub") == 02750);
  CHECK(mode_of(main + "/group/setgid") == 0750);  // they are not in the group

  // A default list takes the umask's place, and goes on to subdirectories.
  if (pool.run("command -v setfacl").exit_code != 0) return;
  pool.need_run("mkdir main/acl && chmod 777 main/acl && setfacl -d -m u::rwx,g::rwx,u:1234:rwx,o::--- main/acl");
  REQUIRE(make_in(main + "/acl") == 0);
  CHECK(mode_of(main + "/acl/file") == 0660);
  CHECK(mode_of(main + "/acl/sub") == 0770);
  CHECK(make_unnamed_in(main + "/acl").st_mode == (S_IFREG | 0660));
  CHECK(pool.need_run("getfacl -cpE main/acl/unnamed | grep 1234") == "user:1234:rwx\n");
  CHECK(pool.need_run("getfacl -cpE main/acl/file | grep 1234") == "user:1234:rwx\n");
  CHECK(pool.need_run("getfacl -cpd main/acl/sub | grep 1234") == "user:1234:rwx\n");
  CHECK(as_user(1234, 1234, [&] { return open_error(main + "/acl/file", O_RDWR); }) == 0);
  CHECK(as_user(1235, 1235, [&] { return open_error(main + "/acl/file", O_RDWR); }) == EACCES);
  // chmod of the group bits is the mask; the entries stay.
  REQUIRE(::chmod((main + "/acl/file").c_str(), 0640) == 0);
  CHECK(as_user(1234, 1234, [&] { return open_error(main + "/acl/file", O_RDWR); }) == EACCES);
  CHECK(as_user(1234, 1234, [&] { return open_error(main + "/acl/file", O_RDONLY); }) == 0);
  CHECK(pool.need_run("getfacl -cp main/acl/file | grep -c 'user:1234:rwx'") == "1\n");
  pool.need_run("setfacl -m m::rw main/acl/file");
  CHECK(mode_of(main + "/acl/file") == 0660);
  pool.need_run("setfacl -b main/acl/file && setfacl -k main/acl");
  CHECK(as_user(1234, 1234, [&] { return open_error(main + "/acl/file", O_RDONLY); }) == EACCES);
  pool.unmount("main");
  pool.mount("main");
  CHECK(pool.need_run("getfacl -cpd main/acl/sub | grep 1234") == "user:1234:rwx\n");
  pool.check_clean();
}

TEST_CASE("Capabilities of a file go with a write, a truncation and a new owner") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string file = pool.mount("main") + "/file";
  write_file(file, "program");
  // vfs_cap_data, revision 2: CAP_NET_BIND_SERVICE permitted.
  const unsigned char capability[20] = {0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0};
  const auto has = [&] { return ::getxattr(file.c_str(), "security.capability", nullptr, 0) > 0; };
  const auto after = [&](auto change) {
    REQUIRE(::setxattr(file.c_str(), "security.capability", capability, sizeof capability, 0) == 0);
    REQUIRE(has());
    REQUIRE(change());
    return has();
  };
  CHECK_FALSE(after([&] { return ::pwrite(need_open(file, O_WRONLY).get(), "x", 1, 0) == 1; }));
  CHECK_FALSE(after([&] { return ::truncate(file.c_str(), 3) == 0; }));
  CHECK_FALSE(after([&] { return ::chown(file.c_str(), 1, 1) == 0; }));
  CHECK(after([&] { return ::chmod(file.c_str(), 0711) == 0; }));
  CHECK(after([&] { return ::rename(file.c_str(), (file + "2").c_str()) == 0 && ::rename((file + "2").c_str(), file.c_str()) == 0; }));
}

TEST_CASE("st_blocks counts what a file maps, shared or not, and sparse files may be as large as the format allows") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  write_file(main + "/file", pattern(1, 100));
  pool.need_run("cp --reflink=auto main/file main/clone");
  CHECK(status_of(main + "/file").st_blocks == 800);
  CHECK(status_of(main + "/clone").st_blocks == 800);
  constexpr off_t kLargest = 0x7ffffffffffff000;
  const FileDescriptor large = need_open(main + "/large", O_RDWR | O_CREAT);
  REQUIRE(::ftruncate(large.get(), kLargest) == 0);
  REQUIRE(::pwrite(large.get(), "end", 3, kLargest - 3) == 3);
  CHECK(status_of(main + "/large").st_size == kLargest);
  CHECK(status_of(main + "/large").st_blocks == 8);
  CHECK(::lseek(large.get(), 0, SEEK_DATA) == kLargest - 4096);
  CHECK(read_range(main + "/large", kLargest - 3, 10) == "end");
}

}  // namespace daxcow::test
