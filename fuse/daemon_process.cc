#include "fuse/daemon_process.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <memory>
#include <string>

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/sinks/syslog_sink.h>
#include <spdlog/spdlog.h>

#include "fuse/library.h"
#include "fuse/service_manager.h"

namespace daxcow {

namespace {

void log_of_libfuse(fuse_log_level level, const char* format, va_list arguments) {
  char line[1024];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  const int length = std::vsnprintf(line, sizeof line, format, arguments);
#pragma GCC diagnostic pop
  if (length <= 0) return;
  std::string_view text(line);
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  spdlog::log(level >= FUSE_LOG_DEBUG ? spdlog::level::debug : spdlog::level::warn, "{}", text);
}

// Signals come through a signalfd; a log without a reader must not end the daemon.
void prepare_process() {
  sigset_t handled;
  sigemptyset(&handled);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&handled, signal);
  sigprocmask(SIG_BLOCK, &handled, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  fuse_set_log_func(log_of_libfuse);
}

void log_to_syslog() { spdlog::set_default_logger(spdlog::syslog_logger_mt("daxcow", "daxcow", LOG_PID, LOG_DAEMON)); }

void log_to_stderr() {
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("daxcow", std::make_shared<spdlog::sinks::stderr_sink_mt>()));
}

void leave_terminal(int keep) {
  ::setsid();
  (void)!::chdir("/");
  ::umask(077);
  const int nothing = ::open("/dev/null", O_RDWR);
  for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(nothing, standard);
  // Whatever else was inherited would be held as long as the daemon lives.
  if (keep > 3) ::close_range(3, static_cast<unsigned>(keep) - 1, 0);
  ::close_range(static_cast<unsigned>(keep) + 1, ~0u, 0);
}

bool is_same(const struct stat& one, const struct stat& other) {
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

// A daemon keeps the mount namespace that it lives in, and every mount in there, from going away with its last user. It
// serves mounts of all namespaces, so it moves to that of process 1, if the pool and the control sockets are the same
// there; else the namespace of the first mount has to do.
void join_first_namespace(const std::string& pool_path) {
  const FileDescriptor own(::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));
  const FileDescriptor first(::open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC));
  struct stat here, there, pool, pool_there, run, run_there;
  if (!own || !first || ::fstat(own.get(), &here) != 0 || ::fstat(first.get(), &there) != 0 || is_same(here, there))
    return;
  if (::stat(pool_path.c_str(), &pool) != 0 || ::stat("/run", &run) != 0) return;
  if (::setns(first.get(), CLONE_NEWNS) != 0) return;
  if (::stat(pool_path.c_str(), &pool_there) == 0 && is_same(pool, pool_there) && ::stat("/run", &run_there) == 0 &&
      is_same(run, run_there))
    return;
  (void)::setns(own.get(), CLONE_NEWNS);
}

void write_line(int pipe, const nlohmann::json& line) {
  const std::string text = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  (void)!::write(pipe, text.data(), text.size());
}

[[noreturn]] void be_daemon(const DaemonOptions& options, int ready_pipe) {
  leave_terminal(ready_pipe);
  join_first_namespace(options.pool_path);
  prepare_process();
  log_to_syslog();
  auto daemon = Daemon::open(options);
  if (!daemon) {
    write_line(ready_pipe, error_reply(daemon.error()));
    ::_exit(EXIT_FAILURE);
  }
  write_line(ready_pipe, nlohmann::json::object());
  ::close(ready_pipe);
  (*daemon)->run();
  daemon->reset();
  std::exit(EXIT_SUCCESS);
}

std::string read_to_end(int pipe) {
  std::string text;
  char piece[1024];
  for (;;) {
    const ssize_t got = ::read(pipe, piece, sizeof piece);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(piece, static_cast<std::size_t>(got));
  }
}

}  // namespace

Result<> start_daemon(const DaemonOptions& options) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return std::unexpected(Error::from_errno(errno, "pipe"));
  FileDescriptor from_daemon(ends[0]), to_parent(ends[1]);
  const pid_t process = ::fork();
  if (process < 0) return std::unexpected(Error::from_errno(errno, "fork"));
  if (process == 0) be_daemon(options, to_parent.get());
  to_parent.reset();
  const auto reply = nlohmann::json::parse(read_to_end(from_daemon.get()), nullptr, false);
  if (!reply.is_object()) {
    ::waitpid(process, nullptr, 0);
    return fail(ErrorCode::kIo, "the daemon died when it started");
  }
  auto checked = checked_reply(reply);
  if (checked) return {};
  ::waitpid(process, nullptr, 0);
  return std::unexpected(std::move(checked).error());
}

Result<bool> run_daemon_here(const DaemonOptions& options, bool debug, const std::function<void()>& ready) {
  prepare_process();
  if (stderr_is_journal())
    log_to_syslog();
  else
    log_to_stderr();
  spdlog::set_level(debug ? spdlog::level::debug : spdlog::level::info);
  auto daemon = TRY(Daemon::open(options));
  ready();
  return daemon->run();
}

}  // namespace daxcow
