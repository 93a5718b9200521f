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

class SupervisedThread {
 public:
  // Nothing if it has ended, or may not be looked into.
  static std::optional<SupervisedThread> open(pid_t thread);
  pid_t id() const { return thread_; }
  // The same open file; invalid if there is none, or if the process may not be looked into.
  FileDescriptor file(int number) const;
  // All or nothing.
  bool read(std::uint64_t address, void* to, std::size_t bytes) const;
  bool write(std::uint64_t address, const void* from, std::size_t bytes) const;
  std::uint64_t file_size_limit() const;  // RLIMIT_FSIZE
  void signal(int number) const;

 private:
  SupervisedThread(pid_t thread, FileDescriptor handle) : thread_(thread), handle_(std::move(handle)) {}
  pid_t thread_;
  FileDescriptor handle_;  // a pidfd
};

// While it lives, this thread has the user, groups and so the file permissions of the other, where it runs as somebody else: only
// root can have supervised such a one.
class ActingAs {
 public:
  explicit ActingAs(const SupervisedThread& thread);
  ~ActingAs();
  ActingAs(const ActingAs&) = delete;
  ActingAs& operator=(const ActingAs&) = delete;

 private:
  bool changed_ = false;
  std::vector<gid_t> own_groups_;
};

}  // namespace daxcow::tools
