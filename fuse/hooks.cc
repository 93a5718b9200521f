#include "fuse/hooks.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <nlohmann/json.hpp>

#include "engine/file_descriptor.h"
#include "fuse/control_json.h"
#include "fuse/one_line.h"

namespace daxcow {

namespace {

using namespace std::chrono_literals;
using nlohmann::json;
namespace fs = std::filesystem;

constexpr std::size_t kBatchEvents = 1000;
constexpr unsigned kWaitMilliseconds = 3'600'000;
constexpr auto kGatherTime = 100ms;  // what one incident causes comes within this
constexpr auto kHookTime = 60s;
constexpr auto kFarewellTime = 5s;
constexpr int kLookMilliseconds = 200;        // at whether the daemon ends, while a hook runs
constexpr std::size_t kTextBytes = 16 << 10;  // of DAXCOW_TEXT
constexpr std::size_t kOutputBytes = 4096;    // of a hook, in the log

bool is_hook_name(const std::string& name) {
  return std::ranges::all_of(name, [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
}

// What somebody else than root could change must not be run by root. Empty if it is all right.
std::string distrust(const struct stat& status) {
  if (status.st_uid != 0) return "does not belong to root";
  if ((status.st_mode & 022) != 0) return "can be written to by others than root";
  return {};
}

// The events as a file, which a hook may read or not: nothing waits for it.
FileDescriptor file_of(const std::string& text) {
  FileDescriptor file(::memfd_create("daxcow-events", MFD_CLOEXEC));
  std::size_t done = 0;
  while (file && done < text.size()) {
    const ssize_t written = ::write(file.get(), text.data() + done, text.size() - done);
    if (written <= 0) return {};
    done += static_cast<std::size_t>(written);
  }
  return file;
}

std::vector<std::string> environment_of(const std::string& pool_path, const std::vector<Event>& batch) {
  std::set<std::string> kinds;
  std::string kind_list, text;
  std::size_t left_out = 0;
  for (const auto& event : batch) {
    if (kinds.insert(name_of(event.kind)).second)
      kind_list += (kind_list.empty() ? "" : " ") + std::string(name_of(event.kind));
    const auto line = one_line(event.text) + "\n";
    if (text.size() + line.size() <= kTextBytes)
      text += line;
    else
      ++left_out;
  }
  if (left_out != 0) text += fmt::format("... and {} more\n", left_out);
  return {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DAXCOW_POOL=" + pool_path,
          fmt::format("DAXCOW_EVENTS={}", batch.size()), "DAXCOW_KINDS=" + kind_list, "DAXCOW_TEXT=" + text};
}

// A process of a group of its own, with nothing of the daemon's but these files. -1 and errno.
pid_t start(const std::string& hook, int input, int output, const std::vector<std::string>& environment) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
  ::posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
  ::posix_spawn_file_actions_addchdir_np(&actions, "/");
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  ::posix_spawnattr_setpgroup(&attributes, 0);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  std::string name = hook;
  char* arguments[] = {name.data(), nullptr};
  std::vector<char*> variables;
  for (const auto& variable : environment) variables.push_back(const_cast<char*>(variable.c_str()));
  variables.push_back(nullptr);
  pid_t process = -1;
  const int problem = ::posix_spawn(&process, hook.c_str(), &actions, &attributes, arguments, variables.data());
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  if (problem == 0) return process;
  errno = problem;
  return -1;
}

// Takes what is there of the output, as far as it will be shown.
void read_output(int pipe, std::string& output) {
  char piece[1024];
  for (;;) {
    const ssize_t got = ::read(pipe, piece, sizeof piece);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return;
    output.append(piece, std::min(static_cast<std::size_t>(got), kOutputBytes - output.size()));
  }
}

}  // namespace

Hooks::Hooks(std::string directory, std::string pool_path, EventLog& events, FindMountPoint find_mount_point)
    : directory_(std::move(directory)),
      pool_path_(std::move(pool_path)),
      events_(events),
      find_mount_point_(std::move(find_mount_point)),
      thread_([this] { follow(); }) {}

Hooks::~Hooks() {
  {
    std::lock_guard lock(mutex_);
    last_chance_ = Clock::now() + kFarewellTime;
  }
  thread_.join();
}

void Hooks::detach() {
  events_.end_waiting();
  std::unique_lock lock(mutex_);
  detached_ = true;
  changed_.notify_all();
  changed_.wait(lock, [&] { return !in_log_; });
  rest_ = events_.after(taken_, EventLog::kCapacity, 0);
}

std::vector<Event> Hooks::take(std::unique_lock<std::mutex>& lock, unsigned wait_milliseconds) {
  if (detached_) return {};
  in_log_ = true;
  lock.unlock();
  auto found = events_.after(taken_, kBatchEvents, wait_milliseconds);
  lock.lock();
  in_log_ = false;
  changed_.notify_all();
  if (!found.empty()) taken_ = found.back().sequence;
  return found;
}

void Hooks::follow() {
  std::unique_lock lock(mutex_);
  while (!detached_) {
    auto batch = take(lock, kWaitMilliseconds);
    if (batch.empty()) continue;
    changed_.wait_for(lock, kGatherTime, [&] { return detached_; });
    for (auto& event : take(lock, 0)) batch.push_back(std::move(event));
    lock.unlock();
    tell(batch);
    lock.lock();
  }
  // detach() may be taking the rest just now: it does so with the lock.
  const auto rest = std::exchange(rest_, {});
  lock.unlock();
  if (!rest.empty()) tell(rest);
}

void Hooks::tell(const std::vector<Event>& batch) {
  const auto hooks = find();
  if (hooks.empty()) return;
  std::string lines;
  for (const auto& event : batch) {
    json line = to_json(event);
    if (!event.volume.empty())
      if (const auto mount_point = find_mount_point_(event.volume)) line["mount_point"] = *mount_point;
    lines += line.dump(-1, ' ', false, json::error_handler_t::replace) + '\n';
  }
  const auto environment = environment_of(pool_path_, batch);
  for (const auto& hook : hooks) {
    if (is_too_late()) return spdlog::warn("ending: {} has not been told the last events", hook);
    const auto input = file_of(lines);  // each reads from the start
    if (!input || ::lseek(input.get(), 0, SEEK_SET) != 0)
      return complain(fmt::format("hooks cannot be run: no memory for their input: {}", std::strerror(errno)));
    run(hook, input.get(), environment);
  }
}

std::vector<std::string> Hooks::find() {
  std::vector<std::string> hooks;
  struct stat status;
  if (::stat(directory_.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) return hooks;
  if (const auto why = distrust(status); !why.empty()) {
    complain(fmt::format("hooks are not run: {} {}", directory_, why));
    return hooks;
  }
  std::error_code problem;
  for (const auto& entry : fs::directory_iterator(directory_, problem)) {
    const std::string path = entry.path();
    if (!is_hook_name(entry.path().filename()) || ::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode) ||
        (status.st_mode & S_IXUSR) == 0)
      continue;
    if (const auto why = distrust(status); why.empty())
      hooks.push_back(path);
    else
      complain(fmt::format("hook {} is not run: it {}", path, why));
  }
  std::ranges::sort(hooks);
  return hooks;
}

void Hooks::run(const std::string& hook, int input, const std::vector<std::string>& environment) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return complain(fmt::format("hook {}: no pipe for its output", hook));
  const FileDescriptor output(ends[0]);
  FileDescriptor theirs(ends[1]);
  ::fcntl(theirs.get(), F_SETFL, 0);  // they expect to wait
  const pid_t process = start(hook, input, theirs.get(), environment);
  theirs.reset();
  if (process < 0) return complain(fmt::format("hook {} cannot be run: {}", hook, std::strerror(errno)));
  const FileDescriptor ended(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
  const auto deadline = Clock::now() + kHookTime;
  std::string text;
  for (;;) {
    pollfd waiting[] = {{ended.get(), POLLIN, 0}, {output.get(), POLLIN, 0}};
    const bool said_all = ::poll(waiting, 2, kLookMilliseconds) > 0 && waiting[1].revents == POLLHUP;
    read_output(output.get(), text);
    if ((waiting[0].revents & POLLIN) != 0) break;
    if (Clock::now() > deadline) {
      spdlog::warn("hook {} has not ended within {} seconds: killed", hook, kHookTime.count());
      ::kill(-process, SIGKILL);
      break;
    }
    if (is_too_late()) return spdlog::warn("ending: not waiting for hook {}", hook);
    if (said_all) std::this_thread::sleep_for(1ms);  // a pipe without writers keeps poll awake
  }
  int status = 0;
  while (::waitpid(process, &status, 0) < 0 && errno == EINTR) continue;
  read_output(output.get(), text);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const bool failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  if (!failed && text.empty()) return;
  const auto how = WIFEXITED(status) ? fmt::format("exit code {}", WEXITSTATUS(status))
                                     : fmt::format("ended by signal {}", WTERMSIG(status));
  spdlog::log(failed ? spdlog::level::warn : spdlog::level::info, "hook {}: {}{}{}", hook, how,
              text.empty() ? "" : ": ", one_line(text));
}

void Hooks::complain(const std::string& line) {
  if (complaints_.insert(line).second) spdlog::warn("{}", line);
}

bool Hooks::is_too_late() {
  std::lock_guard lock(mutex_);
  return last_chance_ && Clock::now() > *last_chance_;
}

}  // namespace daxcow
