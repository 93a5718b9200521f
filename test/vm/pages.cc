// daxcow_pages: how the pages of a file can be read, and what a process that maps them is told. It uses nothing of
// daxcow.
//
//   daxcow_pages check FILE REFERENCE   reads every page of FILE, once by a system call that goes past the page cache,
//   once
//                                       through a mapping. Prints, on a line, the pages that do not come back as they
//                                       are in REFERENCE, each with how: "5:EIO+SIGBUS", "7:wrong". An empty line if
//                                       there are none.
//   daxcow_pages hold FILE [touch]      maps FILE, reads its pages if told to, prints "mapped", and waits to be killed.
//   Prints
//                                       a line for each SIGBUS that it is sent: "SIGBUS page 5 code -1 bits 12".
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

constexpr std::size_t kPageBytes = 4096;

struct MappedFile {
  int descriptor = -1;
  std::size_t length_bytes = 0;
  const char* content = nullptr;
};

[[noreturn]] void give_up(const char* path) {
  std::fprintf(stderr, "daxcow_pages: %s: %s\n", path, std::strerror(errno));
  std::exit(1);
}

MappedFile map_file(const char* path, int flags) {
  MappedFile file;
  file.descriptor = ::open(path, flags | O_CLOEXEC);
  struct stat status {};
  if (file.descriptor < 0 || ::fstat(file.descriptor, &status) != 0) give_up(path);
  file.length_bytes = static_cast<std::size_t>(status.st_size);
  void* const mapping = ::mmap(nullptr, file.length_bytes, PROT_READ, MAP_SHARED, file.descriptor, 0);
  if (mapping == MAP_FAILED) give_up(path);
  file.content = static_cast<const char*>(mapping);
  return file;
}

sigjmp_buf after_fault;

// The page's content through the mapping, or false if that raised SIGBUS.
bool read_mapped(const char* page, char* to, std::size_t length_bytes) {
  if (sigsetjmp(after_fault, 1) != 0) return false;
  std::memcpy(to, page, length_bytes);
  return true;
}

std::string look_at(const MappedFile& file, const MappedFile& reference, std::size_t offset) {
  alignas(kPageBytes) static char content[kPageBytes];
  const std::size_t length = std::min(kPageBytes, file.length_bytes - offset);
  if (reference.length_bytes < offset + length) return "wrong";
  std::string seen;
  bool wrong = false;
  const ssize_t got = ::pread(file.descriptor, content, kPageBytes, static_cast<off_t>(offset));
  if (got < 0)
    seen = errno == EIO ? "EIO" : std::strerror(errno);
  else
    wrong = static_cast<std::size_t>(got) != length || std::memcmp(content, reference.content + offset, length) != 0;
  if (!read_mapped(file.content + offset, content, length))
    seen += seen.empty() ? "SIGBUS" : "+SIGBUS";
  else
    wrong = wrong || std::memcmp(content, reference.content + offset, length) != 0;
  if (wrong) seen += seen.empty() ? "wrong" : "+wrong";
  return seen;
}

int check(const char* path, const char* reference_path) {
  struct sigaction action {};
  action.sa_handler = [](int) { siglongjmp(after_fault, 1); };
  sigaction(SIGBUS, &action, nullptr);
  const MappedFile file = map_file(path, O_RDONLY | O_DIRECT);
  const MappedFile reference = map_file(reference_path, O_RDONLY);
  std::string line;
  for (std::size_t offset = 0; offset < file.length_bytes; offset += kPageBytes) {
    const std::string seen = look_at(file, reference, offset);
    if (!seen.empty()) line += (line.empty() ? "" : " ") + std::to_string(offset / kPageBytes) + ":" + seen;
  }
  if (file.length_bytes != reference.length_bytes) line += " length";
  std::puts(line.c_str());
  return 0;
}

int hold(const char* path, bool touch) {
  // Blocked, so that a signal that was sent is fetched below.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGBUS);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  const MappedFile file = map_file(path, O_RDONLY);
  for (std::size_t offset = 0; touch && offset < file.length_bytes; offset += kPageBytes)
    static_cast<void>(*static_cast<const volatile char*>(file.content + offset));
  std::puts("mapped");
  std::fflush(stdout);
  for (siginfo_t signal{}; sigwaitinfo(&signals, &signal) == SIGBUS;) {
    const auto offset = static_cast<const char*>(signal.si_addr) - file.content;
    std::printf("SIGBUS page %td code %d bits %d\n", offset / static_cast<std::ptrdiff_t>(kPageBytes), signal.si_code,
                static_cast<int>(signal.si_addr_lsb));
    std::fflush(stdout);
  }
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "check" && argc == 4) return check(argv[2], argv[3]);
  if (what == "hold" && (argc == 3 || (argc == 4 && std::string(argv[3]) == "touch"))) return hold(argv[2], argc == 4);
  std::fprintf(stderr, "usage: daxcow_pages check FILE REFERENCE | hold FILE [touch]\n");
  return 2;
}
