// What a supervisor may do with a thread that waits for it: get its open files, read and write its memory, act with its
// rights. By thread id, since that is what a notification carries.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/file_descriptor.h"

namespace daxcow::tools {

// Who a thread is for files.
struct Identity {
  pid_t process = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
};

// Whether /proc can tell of the threads that notifications name: it is that of this PID namespace.
bool has_own_proc();

// A thread id may be another's by the time that it is used. So everything is taken of a thread first, and used after its notification
// has been found still valid: until then the thread was there.
class SupervisedThread {
 public:
  // Nothing if it has ended, or may not be looked into.
  static std::optional<SupervisedThread> open(pid_t thread);
  // The same open file; invalid if there is none, or if the process may not be looked into.
  FileDescriptor file(int number) const;
  // All or nothing.
  bool read(std::uint64_t address, void* to, std::size_t bytes) const;
  // Takes hold of its memory, so that nobody else's is written to, whatever becomes of the thread. Where /proc cannot be written to that
  // cannot be had; then what is found valid immediately before write() has to do.
  void hold_memory();
  // All or nothing, and nothing where the thread could not write itself.
  bool write(std::uint64_t address, const void* from, std::size_t bytes) const;
  std::uint64_t file_size_limit() const;  // RLIMIT_FSIZE
  void signal(int number) const;
  const Identity& identity() const { return identity_; }

 private:
  SupervisedThread(pid_t thread, FileDescriptor handle, Identity identity)
      : thread_(thread), handle_(std::move(handle)), identity_(std::move(identity)) {}
  bool may_write(std::uint64_t address, std::size_t bytes) const;

  pid_t thread_;
  FileDescriptor handle_;  // a pidfd
  Identity identity_;
  FileDescriptor memory_, mappings_;
};

// While it lives, this thread has the user, groups and so the file permissions of the other, where it runs as somebody else: only
// root can have supervised such a one.
class ActingAs {
 public:
  explicit ActingAs(const Identity& identity);
  ~ActingAs();
  ActingAs(const ActingAs&) = delete;
  ActingAs& operator=(const ActingAs&) = delete;
  // Otherwise nothing may be done in the other's name.
  bool is_good() const { return good_; }

 private:
  bool changed_ = false, good_ = true;
  std::vector<gid_t> own_groups_;
};

}  // namespace daxcow::tools
