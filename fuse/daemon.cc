#include "fuse/daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <ranges>
#include <thread>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "engine/medium_pmem2.h"
#include "engine/patrol.h"
#include "fuse/control_client.h"
#include "fuse/mount_table.h"
#include "fuse/one_line.h"
#include "fuse/service_manager.h"
#include "fuse/transport.h"

namespace daxcow {

namespace {

using namespace std::chrono_literals;
using nlohmann::json;

constexpr auto kFirstConnectionTime = 30s;  // a daemon that nobody talks to ends
constexpr auto kLazyUnmountTime = 3s;       // how long a stop waits for those who use the mounts

std::optional<AccessTime> access_time_in(const json& request, const char* key) {
  const auto found = request.find(key);
  if (found == request.end() || !found->is_number_unsigned() || *found > static_cast<unsigned>(AccessTime::kStrict)) return std::nullopt;
  return found->get<AccessTime>();
}

MountBehaviour to_behaviour(const json& request) {
  MountBehaviour b;
  b.attribute_timeout_seconds = request.value("attr_timeout", b.attribute_timeout_seconds);
  b.entry_timeout_seconds = request.value("entry_timeout", b.entry_timeout_seconds);
  b.keep_cache = request.value("keep_cache", b.keep_cache);
  b.rescue = request.value("rescue", b.rescue);
  b.writeback_cache = request.value("writeback_cache", b.writeback_cache);
  b.access_time = access_time_in(request, "access_time").value_or(b.access_time);
  b.directory_access_time = access_time_in(request, "directory_access_time").value_or(b.directory_access_time);
  b.access_lists = request.value("access_lists", b.access_lists);
  b.maximum_write_bytes = request.value("max_write", b.maximum_write_bytes);
  return b;
}

// Read-only mounts may become writable ones, if the medium lets them; the lock is the same for both.
Result<std::unique_ptr<Medium>> open_medium(const DaemonOptions& options) {
  auto medium = open_pmem2_medium(options.pool_path, {.read_only = false, .relaxed = options.relaxed, .lock = true});
  if (medium || !options.read_only) return medium;
  if (medium.error().code != ErrorCode::kReadOnly && medium.error().code != ErrorCode::kPermission) return medium;
  return open_pmem2_medium(options.pool_path, {.read_only = true, .relaxed = options.relaxed, .lock = true});
}

// Commands that change the pool itself, and not what is on one of its mounts.
bool changes_pool(std::string_view operation) {
  return operation == "volume-create" || operation == "volume-delete" || operation == "volume-rollback" ||
         operation == "snapshot";
}

dev_t device_in(const json& request) {
  return makedev(request.at("major").get<unsigned>(), request.at("minor").get<unsigned>());
}

// Where the session is mounted in this mount namespace, the last first.
std::vector<std::string> mount_points(const Session& session) {
  std::vector<std::string> points;
  if (const auto mounts = find_mounts(session.device()))
    for (const MountEntry& mount : std::views::reverse(*mounts)) points.push_back(mount.mount_point);
  return points;
}

// Has the kernel write what programs have changed through mappings, as long as it still can. (It does not wait for that, as
// fsync does; but fsync may wait for ever for a program that holds the file's lock.)
void write_pages(const Session& session) {
  for (const std::string& mount_point : mount_points(session)) {
    const FileDescriptor root = session.open_root(mount_point);
    if (!root) continue;
    if (::syncfs(root.get()) != 0)
      spdlog::error("what was changed on {} cannot be written: {}", mount_point, std::strerror(errno));
    return;
  }
}

void detach(const Session& session) {
  for (const std::string& mount_point : mount_points(session)) {
    struct stat status {};
    if (::lstat(mount_point.c_str(), &status) == 0 && status.st_dev == session.device() &&  // not what is mounted above it
        session.is_connected())
      ::umount2(mount_point.c_str(), MNT_DETACH);
  }
}

std::string describe_use(const Session& session) {
  const auto mount = find_mount(session.device());
  if (mount && *mount) return fmt::format("is mounted already on {}", (*mount)->mount_point);
  return fmt::format("is still in use although it was unmounted from {} (open files, or another mount namespace)",
                     session.directory());
}

}  // namespace

Result<std::unique_ptr<Daemon>> Daemon::open(const DaemonOptions& options) {
  std::unique_ptr<Daemon> daemon(new Daemon(options));
  daemon->wake_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!daemon->wake_) return std::unexpected(Error::from_errno(errno, "eventfd"));
  auto medium = TRY(open_medium(options));
  PoolOptions pool_options;
  pool_options.read_only = options.read_only;
  pool_options.cache_bytes = options.cache_bytes;
  pool_options.patrol = true;
  pool_options.patrol_bytes_per_second = options.scrub_bytes_per_second;
  pool_options.log = [pool = options.pool_path](const std::string& line) {
    spdlog::warn("{}: {}", pool, one_line(line));
  };
  auto pool = Pool::open(std::move(medium), std::move(pool_options));
  if (!pool) return fail(pool.error().code, fmt::format("{}: {}", options.pool_path, describe(pool.error())));
  daemon->pool_ = *std::move(pool);
  const std::string socket = TRY(control_socket_path(options.pool_path));
  Daemon& self = *daemon;
  daemon->hooks_ = std::make_unique<Hooks>(options.hooks_directory, options.pool_path, daemon->pool_->events(),
                                           [&self](const std::string& volume) { return self.mount_point_of(volume); });
  daemon->notifier_ =
      std::make_unique<Notifier>(*daemon->pool_, [&self](VolumeNumber volume) { return self.find_session(volume); });
  daemon->server_ = TRY(ControlServer::create(socket, [&self](LineChannel& channel) { self.serve(channel); }));
  spdlog::info("{} is open{}", options.pool_path, options.read_only ? " read-only" : "");
  return daemon;
}

Daemon::~Daemon() {
  server_.reset();  // first: the next daemon makes its own socket as soon as it has the pool
  notifier_.reset();
  {
    std::vector<std::shared_ptr<Session>> gone;
    std::lock_guard lock(mutex_);
    gone.swap(sessions_);
  }
  if (pool_ == nullptr) return;
  if (hooks_) hooks_->detach();
  pool_.reset();
  spdlog::info("{} is closed", options_.pool_path);
  hooks_.reset();  // nobody waits for them: the next daemon may have the pool
}

// --- requests --------------------------------------------------------------------------------------------------------

// One connection, and the session that it has prepared but not yet started.
class Daemon::Conversation {
  // A request that the daemon does not wait for when it ends.
  class Uncounted {
   public:
    explicit Uncounted(Daemon& daemon) : daemon_(daemon) {
      const std::lock_guard lock(daemon_.mutex_);
      --daemon_.running_;
    }
    ~Uncounted() {
      const std::lock_guard lock(daemon_.mutex_);
      ++daemon_.running_;
    }
    Uncounted(const Uncounted&) = delete;
    Uncounted& operator=(const Uncounted&) = delete;

   private:
    Daemon& daemon_;
  };

 public:
  Conversation(Daemon& daemon, LineChannel& channel) : daemon_(daemon), channel_(channel) {}
  ~Conversation() {
    if (prepared_) daemon_.give_up(prepared_);
  }
  json answer(const std::string& line, FileDescriptor descriptor) {
    const auto request = json::parse(line, nullptr, false);
    if (!request.is_object()) return error_reply({ErrorCode::kInvalid, "a request must be a JSON object"});
    try {
      const auto operation = request.value("op", "");
      if (operation == "mount") return prepare(request, std::move(descriptor));
      if (operation == "mounted") return start(request);
      if (operation == "remount") return remount(request);
      if (operation == "mounts") return daemon_.mounts();
      if (operation == "open-for-writing") return daemon_.files_open_for_writing(device_in(request));
      if (changes_pool(operation))
        if (const auto begun = daemon_.begin_writing(); !begun) return error_reply(begun.error());
      // Who only waits for events keeps no daemon alive: several of them would be waiting all the time.
      std::optional<Uncounted> uncounted;
      if (operation == "events") uncounted.emplace(daemon_);
      auto reply = execute(*daemon_.pool_, request, &daemon_, [&](std::uint64_t done, std::uint64_t total) {
        (void)channel_.send(json{{"progress", {{"done", done}, {"total", total}}}}.dump());
      });
      if (operation == "stat") reply["daemon"] = daemon_.mounts();
      if (operation == "settle") daemon_.notifier_->drain();
      return reply;
    } catch (const json::exception& problem) {
      return error_reply({ErrorCode::kInvalid, fmt::format("malformed request: {}", problem.what())});
    }
  }

 private:
  json prepare(const json& request, FileDescriptor device) {
    if (prepared_) return error_reply({ErrorCode::kInvalid, "a mount is being prepared already"});
    auto session = daemon_.prepare(request, std::move(device));
    if (!session) return error_reply(session.error());
    prepared_ = *std::move(session);
    json notes = json::array();
    if (request.contains("cache") && request["cache"] != daemon_.options_.cache_bytes)
      notes.push_back("cache= of the pool's first mount stays in force");
    if (request.value("relaxed", false) != daemon_.options_.relaxed)
      notes.push_back(fmt::format("the pool's first mount was {}relaxed, and so is this one",
                                  daemon_.options_.relaxed ? "" : "not "));
    if (request.contains("scrub") && request["scrub"] != daemon_.options_.scrub_bytes_per_second)
      notes.push_back("scrub= of the pool's first mount stays in force");
    if (request.contains("hooks") && request["hooks"] != daemon_.options_.hooks_directory)
      notes.push_back(
          fmt::format("hooks= of the pool's first mount stays in force: {}", daemon_.options_.hooks_directory));
    if (request.value("io_uring", false))
      if (const auto reason = no_io_uring_because(to_behaviour(request))) notes.push_back("io_uring is left out: " + *reason);
    return {{"prepared", true}, {"notes", std::move(notes)}, {"process", ::getpid()}};
  }

  json start(const json& request) {
    if (!prepared_) return error_reply({ErrorCode::kInvalid, "no mount was prepared"});
    daemon_.start(prepared_, device_in(request));
    prepared_.reset();
    return json::object();
  }

  json remount(const json& request) {
    const auto session = daemon_.find_session(device_in(request));
    if (!session) return error_reply({ErrorCode::kNotFound, "the daemon does not know this mount"});
    const bool read_only = request.value("read_only", false);
    auto done = read_only ? Result<>{} : daemon_.begin_writing(*session);
    if (done) done = session->remount(read_only, access_time_in(request, "access_time"), access_time_in(request, "directory_access_time"));
    return done ? json::object() : error_reply(done.error());
  }

  Daemon& daemon_;
  LineChannel& channel_;
  std::shared_ptr<Session> prepared_;
};

void Daemon::serve(LineChannel& channel) {
  {
    std::lock_guard lock(mutex_);
    ++connections_;
    had_connection_ = true;
  }
  {
    Conversation conversation(*this, channel);
    for (;;) {
      FileDescriptor descriptor;
      const auto line = channel.receive(&descriptor);
      if (!line || !*line) break;
      bool ending;
      {
        std::lock_guard lock(mutex_);
        ending = ending_;
        if (!ending) ++running_;
      }
      const json reply = ending ? json{{"ending", true}} : conversation.answer(**line, std::move(descriptor));
      const auto sent = channel.send(reply.dump(-1, ' ', false, json::error_handler_t::replace));
      if (!ending) {
        std::lock_guard lock(mutex_);
        --running_;
      }
      wake();
      if (!sent) break;
    }
  }
  {
    std::lock_guard lock(mutex_);
    --connections_;
  }
  wake();
}

nlohmann::json Daemon::mounts() {
  json list = json::array();
  std::lock_guard lock(mutex_);
  for (const auto& session : sessions_) {
    if (!session->started()) continue;
    list.push_back({{"volume", session->volume_name()},
                    {"number", session->volume_number().value},
                    {"mount_point", session->directory()},
                    {"major", major(session->device())},
                    {"minor", minor(session->device())},
                    {"read_only", session->read_only()}});
  }
  return {{"process", ::getpid()}, {"pool", options_.pool_path}, {"mounts", std::move(list)}};
}

nlohmann::json Daemon::files_open_for_writing(dev_t device) {
  std::vector<std::shared_ptr<Session>> sessions;
  {
    std::lock_guard lock(mutex_);
    sessions = sessions_;
  }
  json files = json::array();
  for (const auto& session : sessions) {
    if (!session->started() || session->device() != device) continue;
    for (const auto& [inode, generation] : session->files_open_for_writing()) files.push_back({inode.value, generation});
  }
  return {{"files", std::move(files)}};
}

Result<std::shared_ptr<Session>> Daemon::prepare(const nlohmann::json& request, FileDescriptor device) {
  if (!device) return fail(ErrorCode::kInvalid, "the request to mount came without /dev/fuse");
  SessionOptions options;
  options.behaviour = to_behaviour(request);
  options.threads = std::clamp(request.value("threads", options.threads), 2u, 1024u);  // one could wait for itself
  options.io_uring = request.value("io_uring", options.io_uring);
  options.debug = request.value("debug", false);
  options.directory = request.at("directory").get<std::string>();
  options.reflink_sources = &reflink_sources_;
  auto volume = TRY(mount_volume(request.at("volume").get<std::string>(), request.value("read_only", false)));
  auto session = TRY(Session::create(std::move(volume), std::move(device), std::move(options)));
  std::lock_guard lock(mutex_);
  sessions_.push_back(session);
  return session;
}

Result<> Daemon::begin_writing() {
  auto begun = pool_->begin_writing();
  if (!begun)
    return fail(begun.error().code,
                fmt::format("{} is open read-only: {}", options_.pool_path, describe(begun.error())));
  return begun;
}

Result<> Daemon::begin_writing(Session& session) {
  TRY(begin_writing());
  const auto volume = session.volume();
  return volume != nullptr ? pool_->begin_writing(*volume) : Result<>(fail(ErrorCode::kNotFound, "the mount is gone"));
}

Result<std::shared_ptr<Volume>> Daemon::mount_volume(const std::string& name, bool read_only) {
  if (!read_only) TRY(begin_writing());
  std::shared_ptr<Volume> volume;
  const auto mounted = when_free(*this, name, [&]() -> Result<> {
    volume = TRY(pool_->mount(name, read_only));
    return {};
  });
  if (mounted) return volume;
  std::lock_guard lock(mutex_);
  for (const auto& session : sessions_)
    if (mounted.error().code == ErrorCode::kBusy && session->volume_name() == name && session->is_connected())
      return fail(ErrorCode::kBusy, fmt::format("volume {} of {} {}", name, options_.pool_path, describe_use(*session)));
  return std::unexpected(mounted.error());
}

bool Daemon::is_connected(std::string_view name) {
  std::lock_guard lock(mutex_);
  return std::ranges::any_of(
      sessions_, [&](const auto& session) { return session->volume_name() == name && session->is_connected(); });
}

void Daemon::start(const std::shared_ptr<Session>& session, dev_t st_dev) {
  const std::lock_guard starting(mutex_);  // it may end at once
  had_mount_ = true;
  session->start(st_dev, [this, ended = session.get()] {
    {
      std::lock_guard lock(mutex_);
      ended_.push_back(ended);
    }
    wake();
  });
  spdlog::info("volume {} of {} is mounted on {}", session->volume_name(), options_.pool_path, session->directory());
}

void Daemon::give_up(const std::shared_ptr<Session>& session) {
  {
    std::lock_guard lock(mutex_);
    std::erase(sessions_, session);
  }
  session->finish();
  wake();
}

std::shared_ptr<Session> Daemon::find_session(VolumeNumber volume) {
  std::lock_guard lock(mutex_);
  for (const auto& session : sessions_)
    if (session->volume_number() == volume && session->started()) return session;
  return nullptr;
}

std::shared_ptr<Session> Daemon::find_session(dev_t st_dev) {
  std::lock_guard lock(mutex_);
  // The number of a mount that is gone may be another's by now.
  const auto found = std::ranges::find_if(sessions_, [&](const auto& session) { return session->device() == st_dev && session->is_connected(); });
  return found == sessions_.end() ? nullptr : *found;
}

std::optional<std::string> Daemon::mount_point_of(const std::string& volume) {
  std::lock_guard lock(mutex_);
  for (const auto& session : sessions_)
    if (session->volume_name() == volume && session->started()) return session->directory();
  return std::nullopt;
}

std::shared_ptr<Volume> Daemon::find(std::string_view name) {
  std::lock_guard lock(mutex_);
  for (const auto& session : sessions_)
    if (session->volume_name() == name) return session->volume();
  return nullptr;
}

// --- life ------------------------------------------------------------------------------------------------------------

void Daemon::wake() {
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

void Daemon::reap_sessions() {
  std::vector<std::shared_ptr<Session>> finished;
  {
    std::lock_guard lock(mutex_);
    for (Session* ended : std::exchange(ended_, {})) {
      const auto at = std::ranges::find(sessions_, ended, &std::shared_ptr<Session>::get);
      finished.push_back(std::move(*at));
      sessions_.erase(at);
    }
  }
  for (const auto& session : finished) {
    session->finish();
    spdlog::info("volume {} of {} is unmounted from {}", session->volume_name(), options_.pool_path,
                 session->directory());
  }
}

bool Daemon::should_end() {
  std::lock_guard lock(mutex_);
  if (!sessions_.empty() || running_ != 0) return false;
  const bool unwanted = had_connection_ ? connections_ == 0 : Clock::now() - started_ > kFirstConnectionTime;
  ending_ = ending_ || had_mount_ || unwanted;
  return ending_;
}

void Daemon::end_sessions() {
  std::vector<std::shared_ptr<Session>> sessions;
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
    for (const auto& session : sessions_)
      if (session->started() && !session->ended()) sessions.push_back(session);
  }
  // All are written before one goes: with it goes what is mounted below, or was moved there. Then the last first, which may
  // hide others.
  for (const auto& session : sessions) write_pages(*session);
  for (const auto& session : std::views::reverse(sessions)) {
    write_pages(*session);
    detach(*session);
  }
  const auto deadline = Clock::now() + kLazyUnmountTime;
  for (const auto& session : sessions) {
    while (session->is_connected() && Clock::now() < deadline) std::this_thread::sleep_for(10ms);
    if (session->is_connected())
      spdlog::warn("{} is still in use: who uses it gets errors from now on", session->directory());
    session->stop();
  }
}

void Daemon::commit_sessions() {
  std::vector<std::shared_ptr<Session>> sessions;
  {
    std::lock_guard lock(mutex_);
    sessions = sessions_;
  }
  for (const auto& session : sessions) {
    if (!session->started()) continue;
    const auto volume = session->volume();
    if (volume == nullptr || volume->read_only()) continue;
    if (const auto done = volume->sync_all(); !done)
      spdlog::error("volume {} cannot be brought up to date: {}", session->volume_name(), describe(done.error()));
  }
}

bool Daemon::run() {
  // The hang-up of a terminal is the end of what was started in it; a daemon without one is told something else.
  const bool hangup_ends = static_cast<bool>(FileDescriptor(::open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC)));
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  const FileDescriptor signal_queue(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  for (bool told_to_end = false; !should_end();) {
    pollfd waiting[] = {{wake_.get(), POLLIN, 0}, {signal_queue.get(), POLLIN, 0}};
    ::poll(waiting, std::size(waiting), 1000);
    std::uint64_t count;
    (void)!::read(wake_.get(), &count, sizeof count);
    signalfd_siginfo signal;
    if (::read(signal_queue.get(), &signal, sizeof signal) == sizeof signal) {
      if (signal.ssi_signo == SIGHUP && !hangup_ends) {
        spdlog::info("signal {}: going on", ::strsignal(SIGHUP));
        commit_sessions();
      } else {
        spdlog::info("signal {}: ending", ::strsignal(static_cast<int>(signal.ssi_signo)));
        told_to_end = true;
        tell_service_manager("STOPPING=1");
        pool_->patrol().stop_thread();  // somebody may wait for a pass
      }
    }
    if (told_to_end) end_sessions();  // those too that were just being made when the signal came
    reap_sessions();
  }
  return had_mount_;
}

}  // namespace daxcow
