// What tests of real mounts share: a pool in memory, its volumes mounted by the real programs, processes that map
// files, and the end of all of them whatever happens.
//
// Everything is done as a user would: mkfs.daxcow, mount.daxcow, daxcow and fsck.daxcow from DAXCOW_BIN_DIR run by the
// shell, files by system calls. What the tools print as JSON comes back parsed.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/file_descriptor.h"
#include "test/catch.h"
#include "test/temporary_directory.h"

namespace daxcow::test {

// True, with a line that ctest counts as skipped, where nothing can be mounted. First in each test case.
bool skipped_without_mounts();

struct Outcome {
  int exit_code = -1;
  std::string out, err;
};

class MountedPool {
 public:
  // Makes the pool, with a volume "main", which is not yet mounted.
  explicit MountedPool(std::uint64_t size_bytes = 128ull << 20);
  // Unmounts, lazily if need be, and waits for the daemon's end; a daemon that does not end is killed.
  ~MountedPool();
  MountedPool(const MountedPool&) = delete;
  MountedPool& operator=(const MountedPool&) = delete;

  std::string pool() const { return directory_ / "pool"; }
  std::string path(const std::string& name) const { return directory_ / name; }

  // Runs a command of the shell in the directory of the pool, with the built programs in the path and $POOL set. It
  // ends after a minute at the latest (exit code 124 or 137).
  Outcome run(const std::string& command) const;
  // The same for one that must succeed; returns what it prints.
  std::string need_run(const std::string& command) const;
  nlohmann::json need_json(const std::string& command) const { return nlohmann::json::parse(need_run(command)); }

  // Mounts a volume on a directory of its name, and returns that.
  std::string mount(const std::string& volume, const std::string& options = {});
  void unmount(const std::string& volume);
  // Unmounts what is mounted; the daemon has ended when this returns.
  void unmount_all();
  // Unmounts all, and requires that fsck.daxcow finds nothing. Returns its report.
  nlohmann::json check_clean();
  std::string mount_point(const std::string& volume) const { return directory_ / volume; }

  pid_t daemon() const;
  // Kills the daemon at once, and takes the dead mounts away.
  void kill_daemon();
  // Sends a signal that the daemon ends by, in its own way.
  void end_daemon(int signal);

  // Asks the daemon as the tools do, without the cost of a process.
  nlohmann::json ask(const nlohmann::json& request) const;
  // Waits until all known poison has been dealt with, processes that map it included.
  void settle() const { ask({{"op", "settle"}}); }
  std::vector<nlohmann::json> events(std::uint64_t after = 0) const;
  std::uint64_t last_event() const;
  // Of what the daemon has published after `after`: those of this kind.
  std::vector<nlohmann::json> events_of(const std::string& kind, std::uint64_t after = 0) const;
  nlohmann::json block_at(std::uint64_t pool_offset) const {
    return ask({{"op", "owners"}, {"offset_bytes", pool_offset}});
  }
  // Where in the pool this byte of a file is.
  std::uint64_t pool_offset(const std::string& file, std::uint64_t offset) const;

  // Makes the whole block at this pool offset bad; the device tells at once, or (latent) not.
  void poison(std::uint64_t pool_offset, bool latent = false) const;
  // Nothing is bad any more: neither for the engine nor for the emulated device.
  bool nothing_is_bad() const;

 private:
  struct Mount {
    std::string volume, directory;
  };
  void watch_daemon();
  bool wait_for_daemon_end(int milliseconds);

  TemporaryDirectory directory_;
  std::vector<Mount> mounts_;
  pid_t daemon_ = 0;
  FileDescriptor daemon_process_;  // a pidfd
};

// "VOLUME:PATH@OFFSET+LENGTH" of each owner or event, sorted: easy to compare and to read.
std::multiset<std::string> ranges_of(const nlohmann::json& list);

// --- files -----------------------------------------------------------------------------------------------------------

FileDescriptor need_open(const std::string& path, int flags, mode_t mode = 0644);
// Blocks of 4 KiB that tell which they are: byte i of block n is a function of seed, n and i.
std::string pattern(std::uint64_t seed, std::uint64_t blocks);
void write_file(const std::string& path, const std::string& content);
void overwrite(const std::string& path, std::uint64_t offset, const std::string& content);
std::string read_range(const std::string& path, std::uint64_t offset, std::uint64_t length);
// errno of reading 4 KiB at `offset`; 0 if that works.
int read_error(const std::string& path, std::uint64_t offset);
// The blocks of a file that cannot be read, each read on its own.
std::set<std::uint64_t> unreadable_blocks(const std::string& path);
// Has the kernel forget the clean pages of a file.
void drop_pages(const std::string& path);

// --- processes -------------------------------------------------------------------------------------------------------

// A child that runs `body` and exits with what that returns. Killed and waited for at the end of its life.
class Child {
 public:
  explicit Child(const std::function<int()>& body);
  ~Child();
  Child(Child&& other) noexcept : process_(std::exchange(other.process_, 0)) {}
  Child& operator=(Child&&) = delete;
  pid_t process() const { return process_; }
  // The exit code, or 128 + the signal that ended it.
  int wait();

 private:
  pid_t process_;
};

// A process that maps a range of a file, shared and read-only, and notes each SIGBUS that it gets.
class Mapper {
 public:
  // `touch`: it reads every page of its range before this returns.
  Mapper(const std::string& path, std::uint64_t offset, std::uint64_t length, bool touch = true);
  ~Mapper();
  struct Fault {
    int code = 0;                   // si_code
    std::uint64_t file_offset = 0;  // where si_addr is in the file
    int address_bits = 0;           // si_addr_lsb
  };
  // Signals that were sent to it, while it did nothing. Waits for one up to this long.
  std::vector<Fault> early_signals(int milliseconds) const;
  // It reads the byte at this offset of the file: the signal that this raised, or nothing.
  std::optional<Fault> access(std::uint64_t file_offset);
  pid_t process() const { return child_->process(); }

 private:
  struct Shared;
  int serve(const std::string& path, bool touch);
  std::uint64_t offset_, length_;
  Shared* shared_;
  std::unique_ptr<Child> child_;
};

// Waits until the condition holds; false after ten seconds.
bool wait_until(const std::function<bool()>& condition);

}  // namespace daxcow::test
