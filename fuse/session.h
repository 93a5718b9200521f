// One FUSE session: the connection between the kernel and one mounted volume.
//
//   create() -> start() -> (the kernel unmounts, or stop()) -> ended
//
// The mount itself is made by the mount program, between create() and start(), in its own mount namespace.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "engine/file_descriptor.h"
#include "engine/result.h"
#include "engine/volume.h"
#include "fuse/mounted_files.h"
#include "fuse/operations.h"

namespace daxcow {

struct SessionOptions {
  MountBehaviour behaviour;
  unsigned threads = 4;
  bool io_uring = false;  // where it can be had; see fuse/transport.h
  bool debug = false;     // libfuse logs every request
  std::string directory;  // where it will be mounted, for people
  ReflinkSources* reflink_sources = nullptr;  // must outlive the session
};

class Session {
 public:
  // Takes the volume and an open /dev/fuse that no mount uses yet.
  static Result<std::shared_ptr<Session>> create(std::shared_ptr<Volume> volume, FileDescriptor device,
                                                 SessionOptions options);
  // Must not run in the session's own thread.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Serves requests in threads of its own. `st_dev` is that of the mount's files. Calls `ended` from the session's
  // thread when the mount is gone, the last thing that thread does.
  void start(dev_t st_dev, std::function<void()> ended);
  // Ends the session although it may be mounted: what uses the mount gets errors from then on. Waits for requests under
  // way.
  void stop();
  // Waits for the session's thread, and gives the volume back. Only after `ended` was called, or stop().
  void finish();
  // Whether the kernel still has the mount.
  bool is_connected() const;

  // Opens this directory, if it is of the mount: nothing else is mounted above it, and it can be reached from here.
  FileDescriptor open_root(const std::string& path) const;

  // Whose pages the kernel may have to write yet; empty after finish().
  std::vector<MountedInode> files_open_for_writing() const;

  // The mount's flags change; access times without a value stay as they were. What is lazy of a mount that may not be written
  // to any more is committed.
  Result<> remount(bool read_only, std::optional<AccessTime> access_time, std::optional<AccessTime> directory_access_time);

  // Makes the kernel forget the pages of a range (dirty ones are written first) and the attributes of the inode. Not
  // with a lock held that a request could wait for.
  void invalidate(InodeNumber inode, std::uint64_t offset, std::uint64_t length);

  // Copies what the kernel has of this page of a file; bytes copied, 0 if it has none, the inode is another one by now,
  // or the mount cannot be reached from here. Only when reads of the range are refused: then what is not in the kernel
  // does not come from the pool either. Waits for requests of this mount. One at a time.
  std::uint64_t read_cached(InodeNumber inode, std::uint64_t offset, std::span<std::byte> to);

  // Null after finish().
  std::shared_ptr<Volume> volume() const;
  VolumeNumber volume_number() const { return volume_number_; }
  const std::string& volume_name() const { return volume_name_; }
  bool read_only() const { return context_.read_only; }
  const std::string& directory() const { return options_.directory; }
  bool started() const { return st_dev_ != 0; }
  bool ended() const { return ended_; }
  dev_t device() const { return st_dev_; }  // 0 before start()

 private:
  Session(std::shared_ptr<Volume> volume, SessionOptions options);
  void run(const std::function<void()>& ended);

  SessionOptions options_;
  mutable std::mutex volume_mutex_;  // orders finish() and volume(); requests have ended by then
  MountContext context_;
  VolumeNumber volume_number_;
  std::string volume_name_;
  fuse_session* session_ = nullptr;
  std::thread thread_;
  std::atomic<bool> ended_ = false;
  std::atomic<dev_t> st_dev_ = 0;
  std::mutex remount_mutex_;      // what options_ says of access times, after the start
  std::shared_mutex page_mutex_;  // shared: by who makes the kernel ask the session's threads, and waits for that
  bool stopping_ = false;         // page_mutex_
};

}  // namespace daxcow
