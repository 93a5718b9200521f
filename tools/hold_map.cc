// daxcow-hold-map FILE [SECONDS]: maps a file, reads every page of it, and waits; when a SIGBUS comes, says where.
//
// For the demonstration and the tests. Prints "mapped ADDRESS LENGTH ...", then, if a signal comes, "SIGBUS at ADDRESS"
// with the offset in the file, si_code, and how many low bits of the address do not count (12: a page). Exit code 0
// after a signal, 3 when the time is over without one.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: daxcow-hold-map FILE [SECONDS]\n");
    return 2;
  }
  const int file = ::open(argv[1], O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (file < 0 || ::fstat(file, &status) != 0 || status.st_size == 0) {
    std::fprintf(stderr, "daxcow-hold-map: %s: cannot be opened, or empty\n", argv[1]);
    return 1;
  }
  const auto length = static_cast<std::size_t>(status.st_size);
  void* const mapping = ::mmap(nullptr, length, PROT_READ, MAP_SHARED, file, 0);
  if (mapping == MAP_FAILED) {
    std::perror("daxcow-hold-map: mmap");
    return 1;
  }
  // Blocked, so that a signal that was sent is fetched below; one that an access of ours raises ends the process.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGBUS);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  unsigned sum = 0;
  for (std::size_t offset = 0; offset < length; offset += 4096)
    sum += static_cast<const volatile unsigned char*>(mapping)[offset];
  std::printf("mapped %p %zu, checksum %u\n", mapping, length, sum % 256);
  std::fflush(stdout);

  const timespec patience{argc > 2 ? std::atol(argv[2]) : 60, 0};
  siginfo_t signal{};
  if (sigtimedwait(&signals, &signal, &patience) != SIGBUS) {
    std::printf("no signal\n");
    return 3;
  }
  const auto address = reinterpret_cast<std::uintptr_t>(signal.si_addr);
  std::printf("SIGBUS at %p, offset %" PRIdPTR ", code %d, granularity %d bits\n", signal.si_addr,
              static_cast<std::intptr_t>(address - reinterpret_cast<std::uintptr_t>(mapping)), signal.si_code,
              static_cast<int>(signal.si_addr_lsb));
  return 0;
}
