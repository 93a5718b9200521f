#include "tools/supervised_thread.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>

#include "fuse/mappers.h"

namespace daxcow::tools {

namespace {

// From /proc/THREAD/status, see proc_pid_status(5).
std::optional<Identity> identity_of(pid_t thread) {
  std::ifstream status(fmt::format("/proc/{}/status", thread));
  Identity identity;
  int found = 0;
  for (std::string line, key; std::getline(status, line);) {
    std::istringstream fields(line);
    fields >> key;
    unsigned real, effective, saved;
    if (key == "Tgid:" && fields >> identity.process) ++found;
    if (key == "Uid:" && fields >> real >> effective >> saved >> identity.uid) ++found;
    if (key == "Gid:" && fields >> real >> effective >> saved >> identity.gid) ++found;
    if (key == "Groups:") {
      for (gid_t group; fields >> group;) identity.groups.push_back(group);
      ++found;
    }
  }
  if (found != 4) return std::nullopt;
  return identity;
}

int pidfd_open(pid_t id, unsigned flags) { return static_cast<int>(::syscall(SYS_pidfd_open, id, flags)); }

// Linux 6.9 has handles of threads. Before that one of the process must do, and does unless the thread has files of its own.
FileDescriptor handle_of(pid_t thread, pid_t process) {
  constexpr unsigned kThread = O_EXCL;  // PIDFD_THREAD
  FileDescriptor handle(pidfd_open(thread, kThread));
  if (handle || errno != EINVAL) return handle;
  if (process != thread && ::syscall(SYS_kcmp, process, thread, KCMP_FILES, 0, 0) != 0) return {};
  return FileDescriptor(pidfd_open(process, 0));
}

// The C library would change all threads of the process.
bool set_own_groups(const std::vector<gid_t>& groups) { return ::syscall(SYS_setgroups, groups.size(), groups.data()) == 0; }

// They answer what was before, also when they change nothing.
bool set_own_ids(uid_t uid, gid_t gid) {
  ::setfsgid(gid);
  ::setfsuid(uid);
  constexpr auto kAsk = static_cast<unsigned>(-1);
  return static_cast<gid_t>(::setfsgid(kAsk)) == gid && static_cast<uid_t>(::setfsuid(kAsk)) == uid;
}

}  // namespace

bool has_own_proc() {
  std::error_code problem;
  return std::filesystem::read_symlink("/proc/self", problem) == std::to_string(::getpid());
}

std::optional<SupervisedThread> SupervisedThread::open(pid_t thread) {
  auto identity = identity_of(thread);
  if (!identity) return std::nullopt;
  FileDescriptor handle = handle_of(thread, identity->process);
  if (!handle) return std::nullopt;
  return SupervisedThread(thread, std::move(handle), *std::move(identity));
}

FileDescriptor SupervisedThread::file(int number) const {
  return FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_getfd, handle_.get(), number, 0)));
}

bool SupervisedThread::read(std::uint64_t address, void* to, std::size_t bytes) const {
  const iovec local{to, bytes}, remote{reinterpret_cast<void*>(address), bytes};
  return bytes == 0 || ::process_vm_readv(thread_, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(bytes);
}

void SupervisedThread::hold_memory() {
  memory_ = FileDescriptor(::open(fmt::format("/proc/{}/mem", thread_).c_str(), O_RDWR | O_CLOEXEC));
  mappings_ = FileDescriptor(::open(fmt::format("/proc/{}/maps", thread_).c_str(), O_RDONLY | O_CLOEXEC));
}

// By proc_pid_maps(5): /proc/PID/mem itself writes also where the process may not.
bool SupervisedThread::may_write(std::uint64_t address, std::size_t bytes) const {
  std::string text;
  char part[4096];
  if (::lseek(mappings_.get(), 0, SEEK_SET) != 0) return false;
  for (ssize_t got; (got = ::read(mappings_.get(), part, sizeof part)) > 0;) text.append(part, static_cast<std::size_t>(got));
  std::istringstream lines(text);
  std::uint64_t next = address;
  for (std::string line; next < address + bytes && std::getline(lines, line);) {
    const auto mapping = parse_mapping(line);
    if (!mapping) return false;
    if (next < mapping->start || next >= mapping->end) continue;
    if (!mapping->is_writable) return false;
    next = mapping->end;
  }
  return next >= address + bytes;
}

bool SupervisedThread::write(std::uint64_t address, const void* from, std::size_t bytes) const {
  if (bytes == 0) return true;
#ifdef __aarch64__
  address &= (1ull << 56) - 1;  // without the tag
#endif
  if (!memory_ || !mappings_) {
    const iovec local{const_cast<void*>(from), bytes}, remote{reinterpret_cast<void*>(address), bytes};
    return ::process_vm_writev(thread_, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(bytes);
  }
  return may_write(address, bytes) &&
         ::pwrite(memory_.get(), from, bytes, static_cast<off_t>(address)) == static_cast<ssize_t>(bytes);
}

std::uint64_t SupervisedThread::file_size_limit() const {
  rlimit limit{};
  return ::prlimit(thread_, RLIMIT_FSIZE, nullptr, &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
}

void SupervisedThread::signal(int number) const { (void)::syscall(SYS_pidfd_send_signal, handle_.get(), number, nullptr, 0); }

ActingAs::ActingAs(const Identity& identity) {
  if (::geteuid() != 0 || (identity.uid == 0 && identity.gid == 0)) return;
  own_groups_.resize(static_cast<std::size_t>(std::max(0, ::getgroups(0, nullptr))));
  (void)!::getgroups(static_cast<int>(own_groups_.size()), own_groups_.data());
  good_ = changed_ = set_own_groups(own_groups_);  // in a user namespace not all may be known by a number: there is no way back then
  if (!good_) return;
  good_ = set_own_groups(identity.groups) && set_own_ids(identity.uid, identity.gid);  // root's capabilities for files go with it
}

ActingAs::~ActingAs() {
  if (!changed_) return;
  (void)set_own_ids(::geteuid(), ::getegid());
  (void)set_own_groups(own_groups_);
}

}  // namespace daxcow::tools
