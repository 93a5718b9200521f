// One process for a pool: it holds the pool open, has a session for each mounted volume, and ends with the last of
// them.
//
// Mounting is a conversation on the control socket. The mount program opens /dev/fuse and sends
//   {"op": "mount", volume, read_only, directory, ...}   with the descriptor; the reply {"prepared": true, notes:
//   [line]}
// says that the volume is there and free. The program then calls mount(2), which succeeds before anybody serves the
// mount, and sends
//   {"op": "mounted", major, minor}                      with the st_dev of the new mount; the reply is {}.
// If the connection ends in between, the volume is given back.
//
//   {"op": "remount", major, minor, read_only[, access_time, directory_access_time]}   the reply is {}
// comes before a mount is made writable, which may be refused, and after other changes of its flags.
//
// A daemon that is about to end replies {"ending": true} to everything: the caller tries again, with the next daemon.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/file_descriptor.h"
#include "engine/pool.h"
#include "fuse/control_commands.h"
#include "fuse/control_server.h"
#include "fuse/hooks.h"
#include "fuse/notify.h"
#include "fuse/reflink_sources.h"
#include "fuse/session.h"

namespace daxcow {

struct DaemonOptions {
  std::string pool_path;  // absolute
  std::uint64_t cache_bytes = 256ull << 20;
  bool relaxed = false;
  bool read_only = false;  // nothing is written to the pool until a mount or a command needs it
  std::string hooks_directory = kHooksDirectory;
  std::uint64_t scrub_bytes_per_second = 0;  // of passes that begin by themselves; 0: none do
};

class Daemon : public MountedVolumes {
 public:
  // Opens the pool and the control socket. kBusy while another process has the pool.
  static Result<std::unique_ptr<Daemon>> open(const DaemonOptions& options);
  ~Daemon() override;

  // Serves until the last mount is gone, nobody wanted one, or a signal says so, which the caller must have blocked in
  // every thread: SIGTERM and SIGINT end it, and so does SIGHUP where there is a terminal to hang up. Elsewhere SIGHUP
  // commits what is lazy. Returns whether there ever was a mount.
  bool run();

  std::shared_ptr<Volume> find(std::string_view name) override;
  bool is_connected(std::string_view name) override;

 private:
  using Clock = std::chrono::steady_clock;
  class Conversation;

  explicit Daemon(const DaemonOptions& options) : options_(options) {}
  void serve(LineChannel& channel);
  nlohmann::json mounts();
  nlohmann::json files_open_for_writing(dev_t device);
  Result<std::shared_ptr<Session>> prepare(const nlohmann::json& request, FileDescriptor device);
  Result<> begin_writing();
  Result<> begin_writing(Session& session);
  Result<std::shared_ptr<Volume>> mount_volume(const std::string& name, bool read_only);
  void start(const std::shared_ptr<Session>& session, dev_t st_dev);
  void give_up(const std::shared_ptr<Session>& session);
  std::shared_ptr<Session> find_session(VolumeNumber volume);
  std::shared_ptr<Session> find_session(dev_t st_dev);
  std::optional<std::string> mount_point_of(const std::string& volume);

  void wake();
  void reap_sessions();
  bool should_end();
  void end_sessions();
  void commit_sessions();

  DaemonOptions options_;
  std::unique_ptr<Pool> pool_;
  ReflinkSources reflink_sources_;
  FileDescriptor wake_;  // eventfd: something that run() looks at has changed
  std::mutex mutex_;
  std::vector<std::shared_ptr<Session>> sessions_;  // prepared ones too
  std::vector<Session*> ended_;                     // by themselves, to be finished by run()
  unsigned running_ = 0;                            // requests that are being answered
  unsigned connections_ = 0;
  bool had_connection_ = false;
  bool had_mount_ = false;
  bool ending_ = false;
  Clock::time_point started_ = Clock::now();
  std::unique_ptr<Hooks> hooks_;
  std::unique_ptr<Notifier> notifier_;
  std::unique_ptr<ControlServer> server_;
};

}  // namespace daxcow
