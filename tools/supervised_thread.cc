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

#include <cerrno>
#include <fstream>
#include <sstream>
#include <string>

namespace daxcow::tools {

namespace {

struct Identity {
  pid_t process = 0;
  uid_t uid = 0;  // for files
  gid_t gid = 0;
  std::vector<gid_t> groups;
};

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
FileDescriptor handle_of(pid_t thread) {
  constexpr unsigned kThread = O_EXCL;  // PIDFD_THREAD
  FileDescriptor handle(pidfd_open(thread, kThread));
  if (handle || errno != EINVAL) return handle;
  const auto identity = identity_of(thread);
  if (!identity) return {};
  if (identity->process != thread && ::syscall(SYS_kcmp, identity->process, thread, KCMP_FILES, 0, 0) != 0) return {};
  return FileDescriptor(pidfd_open(identity->process, 0));
}

// The C library would change all threads of the process.
void set_own_groups(const std::vector<gid_t>& groups) { (void)!::syscall(SYS_setgroups, groups.size(), groups.data()); }

}  // namespace

std::optional<SupervisedThread> SupervisedThread::open(pid_t thread) {
  FileDescriptor handle = handle_of(thread);
  if (!handle) return std::nullopt;
  return SupervisedThread(thread, std::move(handle));
}

FileDescriptor SupervisedThread::file(int number) const {
  return FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_getfd, handle_.get(), number, 0)));
}

bool SupervisedThread::read(std::uint64_t address, void* to, std::size_t bytes) const {
  const iovec local{to, bytes}, remote{reinterpret_cast<void*>(address), bytes};
  return bytes == 0 || ::process_vm_readv(thread_, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(bytes);
}

bool SupervisedThread::write(std::uint64_t address, const void* from, std::size_t bytes) const {
  const iovec local{const_cast<void*>(from), bytes}, remote{reinterpret_cast<void*>(address), bytes};
  return bytes == 0 || ::process_vm_writev(thread_, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(bytes);
}

std::uint64_t SupervisedThread::file_size_limit() const {
  rlimit limit{};
  return ::prlimit(thread_, RLIMIT_FSIZE, nullptr, &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
}

void SupervisedThread::signal(int number) const { (void)::syscall(SYS_tkill, thread_, number); }

ActingAs::ActingAs(const SupervisedThread& thread) {
  if (::geteuid() != 0) return;
  const auto identity = identity_of(thread.id());
  if (!identity || (identity->uid == 0 && identity->gid == 0)) return;
  own_groups_.resize(static_cast<std::size_t>(std::max(0, ::getgroups(0, nullptr))));
  (void)!::getgroups(static_cast<int>(own_groups_.size()), own_groups_.data());
  set_own_groups(identity->groups);
  ::setfsgid(identity->gid);
  ::setfsuid(identity->uid);  // root's capabilities for files go with it
  changed_ = true;
}

ActingAs::~ActingAs() {
  if (!changed_) return;
  ::setfsuid(::geteuid());
  ::setfsgid(::getegid());
  set_own_groups(own_groups_);
}

}  // namespace daxcow::tools
