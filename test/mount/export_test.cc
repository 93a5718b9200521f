// File handles (name_to_handle_at, open_by_handle_at): what an NFS server works with. They must lead to the same file
// whatever the kernel has forgotten and whoever serves the pool by then, and to nothing once it is removed.
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <set>

#include <fmt/format.h>

#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

class Handle {
 public:
  explicit Handle(const std::string& path) {
    header()->handle_bytes = MAX_HANDLE_SZ;
    int mount_id;
    INFO(path);
    REQUIRE(::name_to_handle_at(AT_FDCWD, path.c_str(), header(), &mount_id, 0) == 0);
  }
  file_handle* header() { return reinterpret_cast<file_handle*>(bytes_); }
  // The words that the kernel's FUSE puts into it: node id (high, low), generation.
  std::uint32_t* words() { return reinterpret_cast<std::uint32_t*>(header()->f_handle); }
  // Empty with errno if it leads nowhere.
  FileDescriptor open(const std::string& mount, int flags) {
    const FileDescriptor place = need_open(mount, O_RDONLY | O_DIRECTORY);
    return FileDescriptor(::open_by_handle_at(place.get(), header(), flags | O_CLOEXEC));
  }
  int error(const std::string& mount) { return open(mount, O_PATH) ? 0 : errno; }

 private:
  alignas(file_handle) char bytes_[sizeof(file_handle) + MAX_HANDLE_SZ] = {};
};

std::string content(const FileDescriptor& file) {
  std::string text(1 << 16, '\0');
  const auto got = ::pread(file.get(), text.data(), text.size(), 0);
  INFO(std::strerror(errno));
  REQUIRE(got >= 0);
  text.resize(static_cast<std::size_t>(got));
  return text;
}

struct stat status_of(const FileDescriptor& file) {
  struct stat status {};
  REQUIRE(::fstat(file.get(), &status) == 0);
  return status;
}

std::string place_of(const FileDescriptor& file) {
  return fs::read_symlink(fmt::format("/proc/self/fd/{}", file.get()));
}

// The kernel drops all inodes of the mount that nobody uses.
void forget_unused(const std::string& mount) {
  REQUIRE(::mount(nullptr, mount.c_str(), nullptr, MS_REMOUNT, nullptr) == 0);
}

TEST_CASE("File handles lead to their files, whatever the kernel has forgotten and after a restart") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  pool.need_run(
      "mkdir -p main/a/b/c/d && echo text >main/a/b/c/file && ln main/a/b/c/file main/link && "
      "ln -s elsewhere main/a/symlink && mkfifo main/a/pipe");
  Handle root(main), file(main + "/a/b/c/file"), link(main + "/link"), symlink(main + "/a/symlink"),
      pipe(main + "/a/pipe"), deep(main + "/a/b/c/d");
  CHECK(std::memcmp(file.words(), link.words(), 12) == 0);
  struct stat before {};
  REQUIRE(::stat((main + "/link").c_str(), &before) == 0);

  const auto all_lead_there = [&] {
    CHECK(place_of(root.open(main, O_RDONLY)) == main);
    // The deep directory first: the kernel connects it to the root by asking for parents.
    const FileDescriptor directory = deep.open(main, O_RDONLY | O_DIRECTORY);
    REQUIRE(directory);
    CHECK(place_of(directory) == main + "/a/b/c/d");
    CHECK(::faccessat(directory.get(), "../file", R_OK, 0) == 0);

    const FileDescriptor opened = file.open(main, O_RDWR);
    REQUIRE(opened);
    CHECK(content(opened) == "text\n");
    CHECK(status_of(opened).st_ino == before.st_ino);
    CHECK(status_of(opened).st_nlink == 2);
    CHECK(::pwrite(opened.get(), "text\n", 5, 0) == 5);

    const FileDescriptor target = symlink.open(main, O_PATH | O_NOFOLLOW);
    REQUIRE(target);
    char text[100];
    CHECK(::readlinkat(target.get(), "", text, sizeof text) == 9);
    CHECK(S_ISFIFO(status_of(pipe.open(main, O_PATH)).st_mode));
  };
  all_lead_there();
  forget_unused(main);
  all_lead_there();
  pool.unmount_all();
  pool.mount("main");
  all_lead_there();
  pool.kill_daemon();
  pool.mount("main");
  all_lead_there();

  // A move changes nothing for them.
  pool.need_run("mv main/a/b/c/d main/d && mv main/a/b/c/file main/d/moved && rm main/link");
  forget_unused(main);
  CHECK(place_of(deep.open(main, O_RDONLY)) == main + "/d");
  CHECK(content(link.open(main, O_RDONLY)) == "text\n");
  pool.check_clean();
}

TEST_CASE("Handles of removed files are stale, also when the number is another file's") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  pool.need_run("mkdir main/directory && echo one >main/file && ln -s one main/symlink && echo open >main/open");
  Handle directory(main + "/directory"), file(main + "/file"), symlink(main + "/symlink"), open(main + "/open");
  struct stat before {};
  REQUIRE(::stat((main + "/file").c_str(), &before) == 0);
  FileDescriptor held = need_open(main + "/open", O_RDONLY);
  pool.need_run("rm main/file main/symlink main/open && rmdir main/directory");
  for (auto* handle : {&directory, &file, &symlink}) CHECK(handle->error(main) == ESTALE);
  // As long as somebody has it open, it is there.
  CHECK(content(open.open(main, O_RDONLY)) == "open\n");
  held.reset();  // the kernel tells the daemon later
  CHECK(wait_until([&] { return open.error(main) == ESTALE; }));

  // New files get the numbers of the old ones, once the kernel has forgotten those.
  struct stat now {};
  int tries = 0;
  REQUIRE(wait_until([&] {
    const std::string path = main + fmt::format("/new{}", tries++);
    write_file(path, "two\n");
    REQUIRE(::stat(path.c_str(), &now) == 0);
    return now.st_ino == before.st_ino;
  }));
  const std::string path = main + fmt::format("/new{}", tries - 1);
  Handle reused(path);
  CHECK(std::memcmp(file.words(), reused.words(), 8) == 0);
  CHECK(file.words()[2] != reused.words()[2]);
  const auto all_are_stale = [&] {
    for (auto* handle : {&directory, &file, &symlink, &open}) CHECK(handle->error(main) == ESTALE);
    CHECK(content(reused.open(main, O_RDONLY)) == "two\n");
  };
  all_are_stale();
  forget_unused(main);
  all_are_stale();
  pool.unmount_all();
  pool.mount("main");
  all_are_stale();

  // Handles that the filesystem never gave out: numbers of its own use, free ones, impossible ones.
  Handle made_up(path);
  const auto errors_of = [&](std::uint64_t number, std::uint32_t generations) {
    made_up.words()[0] = static_cast<std::uint32_t>(number >> 32);
    made_up.words()[1] = static_cast<std::uint32_t>(number);
    std::set<int> errors;
    for (std::uint32_t generation = 0; generation <= generations; ++generation) {
      made_up.words()[2] = generation;
      errors.insert(made_up.error(main));
    }
    return errors;
  };
  for (const std::uint64_t number : {0ull, 3ull, 15ull, 1000000ull, 1ull << 40, ~0ull}) {
    INFO(number);
    CHECK(errors_of(number, 8) == std::set{ESTALE});
  }
  CHECK(errors_of(2, reused.words()[2]) == std::set{ESTALE});
  pool.check_clean();
}

TEST_CASE("Handles are used while files come and go") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main");
  pool.need_run("mkdir main/stay && echo text >main/stay/file");
  Handle file(main + "/stay/file"), directory(main + "/stay");
  // One process drops what the kernel knows, one makes and removes files that take and give numbers.
  Child forgets([&]() -> int {
    for (;;) ::mount(nullptr, main.c_str(), nullptr, MS_REMOUNT, nullptr);
  });
  Child churns([&]() -> int {
    for (unsigned i = 0;; ++i) {
      const std::string path = main + "/churn" + std::to_string(i % 8);
      const int made = ::open(path.c_str(), O_CREAT | O_WRONLY, 0644);
      if (made < 0 || ::write(made, "x", 1) != 1) return 1;
      ::close(made);
      if (i % 8 == 7)
        for (unsigned j = 0; j < 8; ++j) ::unlink((main + "/churn" + std::to_string(j)).c_str());
    }
  });
  int found = 0, stale = 0;
  for (int i = 0; i < 300; ++i) {
    REQUIRE(content(file.open(main, O_RDONLY)) == "text\n");
    REQUIRE(directory.open(main, O_RDONLY | O_DIRECTORY));
    // A file that may go at any moment: the handle leads to it or to nothing, never to another.
    const std::string path = main + "/short" + std::to_string(i);
    write_file(path, path);
    Handle brief(path);
    Child removes([&] { return ::unlink(path.c_str()); });
    const FileDescriptor opened = brief.open(main, O_RDONLY);
    if (opened) {
      ++found;
      REQUIRE(content(opened) == path);
    } else {
      ++stale;
      REQUIRE(errno == ESTALE);
    }
    REQUIRE(removes.wait() == 0);
  }
  INFO(found << " found, " << stale << " stale");
  CHECK(found + stale == 300);
  for (Child* child : {&forgets, &churns}) {
    ::kill(child->process(), SIGTERM);
    CHECK(child->wait() == 128 + SIGTERM);  // until now it went on
  }
  pool.check_clean();
}

}  // namespace
}  // namespace daxcow::test
