// Who may still be receiving attributes of a directory that are about to be old.
//
// When names change, the kernel drops what it knows of the directory by itself. But an answer to another thread that looked at
// the directory before may still be on its way, and would be believed for a day: then the kernel must be told to drop such
// answers, too, which is a system call for each change. It is needed only if somebody was told anything since the last time
// but the thread that asks for the change: that one has waited for its answers. So a thread that works alone in a directory
// (tar, rm -r) needs none. (The kernel does drop what it knows only when the request has succeeded: after an error, tell it.)
//
//   whoever answers with attributes    note()      and then reads them
//   whoever has changed the directory  announce()  and then answers
//
// Of directories without a record anybody may have been told. There are as many records as fit. Thread-safe.
#pragma once

#include <sys/types.h>

#include <array>
#include <memory>
#include <mutex>

#include "engine/function_ref.h"
#include "engine/types.h"

namespace daxcow {

class ToldDirectories {
 public:
  // `thread`: as fuse_ctx has it; 0 is any thread that the mount's namespace of processes does not know. Also for inodes that
  // are no directories.
  void note(InodeNumber inode, pid_t thread);
  // Calls `tell` if anybody else than `thread` may have been told; when this returns, it has been called. `tell` says whether
  // the kernel was told, and must not wait for requests.
  void announce(InodeNumber directory, pid_t thread, FunctionRef<bool()> tell);

 private:
  static constexpr pid_t kNobody = 0, kSeveral = -1;
  struct Record {
    std::mutex mutex;
    InodeNumber directory{0};
    pid_t told = kNobody;
  };
  static constexpr std::size_t kRecords = 1024;
  Record& record_of(InodeNumber inode) { return (*records_)[inode.value % kRecords]; }
  std::unique_ptr<std::array<Record, kRecords>> records_ = std::make_unique<std::array<Record, kRecords>>();
};

}  // namespace daxcow
