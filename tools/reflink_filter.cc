#include "tools/reflink_filter.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <vector>

namespace daxcow::tools {

namespace {

constexpr unsigned kCommands[] = {FICLONE, FICLONERANGE, FIDEDUPERANGE, kSupervisorProbe};

// 32-bit programs are supervised too.
constexpr std::uint32_t kFurtherArchitectures[] = {
#if defined(__x86_64__)
    SCMP_ARCH_X86,
    SCMP_ARCH_X32,
#elif defined(__aarch64__)
    SCMP_ARCH_ARM,
#endif
};

Result<std::vector<sock_filter>> make_program() {
  const std::unique_ptr<void, void (*)(void*)> context(::seccomp_init(SCMP_ACT_ALLOW), ::seccomp_release);
  if (!context) return fail(ErrorCode::kIo, "libseccomp cannot make a filter");
  int problem = ::seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ALLOW);
  for (const std::uint32_t architecture : kFurtherArchitectures)
    if (problem == 0) problem = ::seccomp_arch_add(context.get(), architecture);
  for (const unsigned command : kCommands) {
    // The kernel looks at 32 bits of the command.
    const scmp_arg_cmp matches = SCMP_A1_64(SCMP_CMP_MASKED_EQ, 0xffffffffu, command);
    if (problem == 0) problem = ::seccomp_rule_add_array(context.get(), SCMP_ACT_NOTIFY, SCMP_SYS(ioctl), 1, &matches);
  }
  const FileDescriptor file(::memfd_create("filter", MFD_CLOEXEC));
  if (problem == 0) problem = ::seccomp_export_bpf(context.get(), file.get());
  if (problem != 0) return std::unexpected(Error::from_errno(-problem, "making a system call filter"));
  std::vector<sock_filter> program(static_cast<std::size_t>(::lseek(file.get(), 0, SEEK_END)) / sizeof(sock_filter));
  const auto bytes = static_cast<ssize_t>(program.size() * sizeof(sock_filter));
  if (::pread(file.get(), program.data(), static_cast<std::size_t>(bytes), 0) != bytes)
    return std::unexpected(Error::from_errno(errno, "making a system call filter"));
  return program;
}

// libseccomp 2.5 loads filters without these: a fatal signal ends the wait for an answer, no other interrupts a clone that has
// begun; and a filter that protects nothing need not slow down speculation.
constexpr unsigned kFlags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
constexpr unsigned kWaitKillable = 1u << 5;  // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, Linux 5.19

int load(const sock_fprog& program) {
  const auto set = [&](unsigned flags) {
    return static_cast<int>(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
  };
  const int listener = set(kFlags | kWaitKillable);
  return listener < 0 && errno == EINVAL ? set(kFlags) : listener;
}

}  // namespace

bool is_supervised() { return ::ioctl(-1, kSupervisorProbe) == 1; }

Result<FileDescriptor> install_reflink_filter() {
  auto instructions = TRY(make_program());
  const sock_fprog program{static_cast<unsigned short>(instructions.size()), instructions.data()};
  FileDescriptor listener(load(program));
  if (!listener && errno == EACCES && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0) listener = FileDescriptor(load(program));
  if (listener) return listener;
  if (errno == EBUSY)
    return fail(ErrorCode::kBusy,
                "another supervisor of system calls is in place here (a container's, or a sandbox's), and there can be one only");
  return std::unexpected(Error::from_errno(errno, "this kernel does not let system calls be supervised"));
}

}  // namespace daxcow::tools
