#include "tools/supervised_command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "engine/file_descriptor.h"
#include "fuse/control_protocol.h"
#include "tools/file_limit.h"
#include "tools/reflink_filter.h"
#include "tools/reflink_supervisor.h"
#include "tools/supervised_thread.h"
#include "tools/text.h"

namespace daxcow::tools {

namespace {

constexpr unsigned kIdleThreads = 4, kMaximumThreads = 1024;
constexpr const char* kNeedsProc = "needs the /proc of its own PID namespace (unshare --fork --mount-proc, or mount -t proc proc /proc)";
constexpr timespec kWitnessTime{0, 50'000'000};  // for a signal to the group to reach its other processes

int say(const std::string& program, const std::string& message, int exit_code) {
  std::cerr << program << ": " << printable(message) << '\n';
  return exit_code;
}

// The same away from the numbers of standard input and output, which may be closed here.
FileDescriptor above_standard(FileDescriptor low) {
  return !low || low.get() > 2 ? std::move(low) : FileDescriptor(::fcntl(low.get(), F_DUPFD_CLOEXEC, 3));
}

// Both ends of a channel for whole messages. Front and supervisor send each other: a signal number to pass on, kGoOn after a
// stop; the status of the command as wait(2) has it, ended or stopped. The supervisor stops the front, and continues it, itself, before
// and after it says so: signals of one sender arrive in order.
struct Channel {
  FileDescriptor near, far;
  bool make() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return false;
    near = above_standard(FileDescriptor(ends[0]));
    far = above_standard(FileDescriptor(ends[1]));
    return near && far;
  }
};
constexpr int kGoOn = 0;

void send_number(int channel, int number) { (void)::send(channel, &number, sizeof number, MSG_NOSIGNAL); }

std::optional<int> receive_number(int channel) {
  int number;
  if (::recv(channel, &number, sizeof number, 0) != sizeof number) return std::nullopt;
  return number;
}

// What the front passes on. Not: faults of its own, and what stops a process, which the terminal sends to all.
sigset_t passed_signals() {
  sigset_t signals;
  sigfillset(&signals);
  for (const int own : {SIGCHLD, SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS})
    sigdelset(&signals, own);
  return signals;
}

// The state of a process, as the letter that proc_pid_stat(5) has for it; 0 if there is none.
char state_of(pid_t process) {
  std::ifstream stat("/proc/" + std::to_string(process) + "/stat");
  std::string line;
  std::getline(stat, line);
  const auto end_of_name = line.rfind(')');
  return end_of_name != line.npos && end_of_name + 2 < line.size() ? line[end_of_name + 2] : '\0';
}

// --- the command -----------------------------------------------------------------------------------------------------

[[noreturn]] void become_command(const std::string& program, const std::vector<std::string>& command, const sigset_t& mask,
                                 FileDescriptor supervisor) {
  auto listener = install_reflink_filter();
  if (!listener) _exit(say(program, describe(listener.error()), kCannotSupervise));
  LineChannel channel(std::move(supervisor), 0);
  if (!channel.send("listener", listener->get())) _exit(kCannotSupervise);
  listener->reset();
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  _exit(replace_by(program, command));
}

// --- the supervisor --------------------------------------------------------------------------------------------------

// A thread may have this many files open for a request that hangs.
constexpr rlim_t kFilesOfThread = 8;

unsigned most_threads() {
  return static_cast<unsigned>(std::clamp<rlim_t>(raise_file_limit() / kFilesOfThread, kIdleThreads, kMaximumThreads));
}

// Threads that answer notifications. There is always one that waits for the next, whatever the files of the others keep them waiting
// for: beyond a bound that nobody meets by accident, requests are left to the kernel.
class Crew {
 public:
  explicit Crew(int listener) : supervisor_(listener), maximum_(most_threads()) {}
  // False if there are too many.
  bool start_thread() {
    if (threads_ >= maximum_) return false;
    ++threads_;
    try {
      std::thread([this] { work(); }).detach();
      return true;
    } catch (const std::system_error&) {
      --threads_;
      return false;
    }
  }

 private:
  void work() {
    for (;;) {
      ++idle_;
      const auto notification = supervisor_.receive();
      const bool was_last = --idle_ == 0;
      if (!notification) return;
      const bool may_wait = !was_last || start_thread();
      supervisor_.answer(*notification, may_wait);
      if (idle_ >= kIdleThreads) break;
    }
    --threads_;
  }

  const ReflinkSupervisor supervisor_;
  const unsigned maximum_;
  std::atomic<unsigned> threads_ = 0, idle_ = 0;
};

class Supervisor {
 public:
  Supervisor(FileDescriptor front, pid_t front_process, FileDescriptor listener, pid_t command)
      : front_(std::move(front)), front_process_(front_process), listener_(std::move(listener)), command_(command) {}

  [[noreturn]] void run() {
    sigset_t child_signal;
    sigemptyset(&child_signal);
    sigaddset(&child_signal, SIGCHLD);
    const FileDescriptor children(::signalfd(-1, &child_signal, SFD_CLOEXEC | SFD_NONBLOCK));
    Crew crew(listener_.get());
    if (listener_ && !crew.start_thread()) listener_.reset();  // then they hear ENOSYS, and do not wait
    wait_for_children();  // what has ended before anybody was told of it
    for (bool nobody_left = !listener_;;) {
      pollfd waiting[] = {{children.get(), POLLIN, 0}, {front_.get(), POLLIN, 0}, {nobody_left ? -1 : listener_.get(), 0, 0}};
      ::poll(waiting, std::size(waiting), -1);
      signalfd_siginfo ignored;
      while (::read(children.get(), &ignored, sizeof ignored) > 0) {
      }
      wait_for_children();
      if (waiting[1].revents != 0) hear_front();
      if ((waiting[2].revents & POLLHUP) != 0) nobody_left = true;
      if (nobody_left && command_ == 0 && !front_) _exit(0);
    }
  }

 private:
  void wait_for_children() {
    int status;
    while (const pid_t child = ::waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED)) {
      if (child < 0) break;
      if (child != command_) continue;  // left behind by the command
      if (WIFCONTINUED(status)) {
        continue_front();
      } else if (!WIFSTOPPED(status)) {
        command_ = 0;
        continue_front();
        send_number(front_.get(), status);  // and wait until it closes: if there is something unread, it would lose this
      } else if (front_ && front_process_ != 1) {  // nothing stops process 1
        stop_front(status);
      }
    }
  }

  // What stops the front's group has stopped the front. What stops the command alone, or a shell with a process group of its own that
  // suspends itself, stops the front here.
  void stop_front(int status) {
    const bool own_group = ::getpgid(command_) == command_;
    const bool alone = ::getpgid(command_) != ::getpgrp() || has_stopped_alone();
    if (alone && ::getsid(front_process_) == front_process_) {
      // Nobody would continue the leader of a session: to a shell that suspends itself nothing happens, as to a login shell.
      if (own_group) ::kill(command_, SIGCONT);
      return;
    }
    if (alone ? ::kill(front_process_, SIGSTOP) != 0 : state_of(front_process_) != 'T') return;
    stopped_front_ = true;
    ++unanswered_stops_;
    send_number(front_.get(), status);
  }

  void continue_front() {
    if (std::exchange(stopped_front_, false) && front_) ::kill(front_process_, SIGCONT);
  }

  bool has_stopped_alone() const {
    ::nanosleep(&kWitnessTime, nullptr);
    const char front = state_of(front_process_);
    return state_of(command_) == 'T' && front != 'T' && front != 'Z' && front != '\0';
  }

  void hear_front() {
    const auto number = receive_number(front_.get());
    if (!number) {  // it was killed, and is to be seen as the command
      if (command_ != 0) ::kill(command_, SIGKILL);
      front_.reset();
      return;
    }
    if (command_ == 0) return;
    if (*number == kGoOn) {  // after the last stop that it has been told of, not before it
      if (unanswered_stops_ > 0 && --unanswered_stops_ == 0)
        ::kill(::getpgid(command_) == command_ ? -command_ : command_, SIGCONT);
      return;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, *number);
    const bool witnessed = ::sigtimedwait(&signals, nullptr, &kWitnessTime) == *number;
    if (!witnessed || ::getpgid(command_) != ::getpgrp()) ::kill(command_, *number);
  }

  FileDescriptor front_;
  const pid_t front_process_;
  FileDescriptor listener_;
  pid_t command_;  // 0: it has ended
  bool stopped_front_ = false;
  unsigned unanswered_stops_ = 0;
};

// It must hold nothing that others wait to see closed, or unmounted.
void let_go_of_everything_but(int one, int other) {
  unsigned next = 3;
  for (const int kept : {std::min(one, other), std::max(one, other)}) {
    if (kept < 0) continue;
    if (next < static_cast<unsigned>(kept)) ::close_range(next, static_cast<unsigned>(kept) - 1, 0);
    next = static_cast<unsigned>(kept) + 1;
  }
  ::close_range(next, ~0u, 0);
  (void)!::chdir("/");
  const FileDescriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  for (const int standard : {0, 1, 2}) ::dup2(null.get(), standard);
}

[[noreturn]] void supervise(const std::string& program, const std::vector<std::string>& command, const sigset_t& mask,
                            FileDescriptor front, pid_t front_process) {
  // Nobody is there any more; or this is the first process of a new PID namespace, which it cannot see.
  if (::getppid() != front_process || !has_own_proc()) _exit(say(program, kNeedsProc, kCannotSupervise));
  ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  Channel channel;
  if (!channel.make()) _exit(say(program, std::strerror(errno), kCannotSupervise));
  sigset_t all;
  sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  // Who ignores it never hears how the command has ended. The command inherits what was.
  const auto children_before = ::signal(SIGCHLD, SIG_DFL);
  const pid_t child = ::fork();
  if (child < 0) _exit(say(program, std::string("fork: ") + std::strerror(errno), kCannotSupervise));
  if (child == 0) {
    if (children_before != SIG_ERR) ::signal(SIGCHLD, children_before);
    front.reset();
    channel.near.reset();
    become_command(program, command, mask, std::move(channel.far));
  }
  channel.far.reset();
  LineChannel from_command(std::move(channel.near), 64);
  FileDescriptor listener;
  (void)from_command.receive(&listener);  // without one it has said why, and ends
  listener = above_standard(std::move(listener));
  let_go_of_everything_but(front.get(), listener.get());
  Supervisor(std::move(front), front_process, std::move(listener), child).run();
}

// --- the front -------------------------------------------------------------------------------------------------------

[[noreturn]] void end_as(int status) {
  if (WIFEXITED(status)) _exit(WEXITSTATUS(status));
  const int number = WTERMSIG(status);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);  // it would be this program's
  ::signal(number, SIG_DFL);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, number);
  ::sigprocmask(SIG_UNBLOCK, &signals, nullptr);
  ::kill(::getpid(), number);
  _exit(128 + number);
}

// Until the command has ended.
int stand_in_for_command(const std::string& program, FileDescriptor supervisor) {
  const sigset_t passed = passed_signals();
  const FileDescriptor signals(::signalfd(-1, &passed, SFD_CLOEXEC | SFD_NONBLOCK));
  for (;;) {
    pollfd waiting[] = {{signals.get(), POLLIN, 0}, {supervisor.get(), POLLIN, 0}};
    ::poll(waiting, std::size(waiting), -1);
    signalfd_siginfo signal;
    while (::read(signals.get(), &signal, sizeof signal) == sizeof signal)
      send_number(supervisor.get(), static_cast<int>(signal.ssi_signo));
    if (waiting[1].revents == 0) continue;
    const auto status = receive_number(supervisor.get());
    if (!status) return say(program, "the supervisor was killed; the command goes on without it", kCannotSupervise);
    if (!WIFSTOPPED(*status)) end_as(*status);
    send_number(supervisor.get(), kGoOn);  // it has been stopped with the command, and goes on now
  }
}

}  // namespace

int replace_by(const std::string& program, const std::vector<std::string>& command) {
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  return say(program, command[0] + ": " + std::strerror(errno), errno == ENOENT ? kNoSuchCommand : kCannotRun);
}

int run_supervised(const std::string& program, const std::vector<std::string>& command) {
  if (!has_own_proc()) return say(program, kNeedsProc, kCannotSupervise);
  const sigset_t passed = passed_signals();
  sigset_t mask;
  ::sigprocmask(SIG_BLOCK, &passed, &mask);
  Channel channel;
  if (!channel.make()) return say(program, std::strerror(errno), kCannotSupervise);
  std::cout.flush();
  const pid_t front = ::getpid(), supervisor = ::fork();
  if (supervisor < 0) return say(program, std::string("fork: ") + std::strerror(errno), kCannotSupervise);
  if (supervisor == 0) {
    channel.near.reset();
    supervise(program, command, mask, std::move(channel.far), front);
  }
  channel.far.reset();
  return stand_in_for_command(program, std::move(channel.near));
}

}  // namespace daxcow::tools
