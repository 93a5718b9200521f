#include "fuse/mappers.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "engine/file_descriptor.h"

namespace daxcow {

namespace {

FileDescriptor open_process(pid_t process) {
  return FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
}

std::string read_all(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  if (!file) return text;
  for (std::size_t used = 0;;) {
    text.resize(used + (64 << 10));
    const ssize_t got = ::read(file.get(), text.data() + used, text.size() - used);
    if (got <= 0) {
      text.resize(used);
      return text;
    }
    used += static_cast<std::size_t>(got);
  }
}

// Whether the page at this address of a private mapping is the process's own copy: present or swapped, and not the
// file's (bits 63, 62 and 61 of an entry, see the kernel's admin-guide/mm/pagemap.rst).
bool is_own_copy(int pagemap, std::uint64_t address) {
  std::uint64_t entry = 0;
  if (::pread(pagemap, &entry, sizeof entry, static_cast<off_t>(address / kBlockBytes * sizeof entry)) != sizeof entry)
    return false;
  return (entry >> 62 & 3) != 0 && (entry >> 61 & 1) == 0;
}

// The address of the first page of the range that the process maps.
std::optional<std::uint64_t> find_page(pid_t process, const MappedRange& range) {
  const std::string maps = read_all(fmt::format("/proc/{}/maps", process));
  const std::string wanted =
      fmt::format(" {:02x}:{:02x} {} ", major(range.device), minor(range.device), range.inode.value);
  const std::uint64_t range_end = range.offset_bytes + range.length_bytes;
  for (std::size_t at = maps.find(wanted); at != std::string::npos; at = maps.find(wanted, at + 1)) {
    const std::size_t start = maps.rfind('\n', at) + 1;  // npos + 1 is 0: the first line
    const auto mapping = parse_mapping(std::string_view(maps).substr(start, maps.find('\n', at) - start));
    if (!mapping || mapping->device != range.device || mapping->inode != range.inode) continue;
    const std::uint64_t mapped_end = mapping->offset_bytes + (mapping->end - mapping->start);
    const std::uint64_t from = std::max(range.offset_bytes / kBlockBytes * kBlockBytes, mapping->offset_bytes);
    const std::uint64_t to = std::min(range_end, mapped_end);
    FileDescriptor pagemap;
    if (mapping->is_private)
      pagemap = FileDescriptor(::open(fmt::format("/proc/{}/pagemap", process).c_str(), O_RDONLY | O_CLOEXEC));
    for (std::uint64_t offset = from; offset < to; offset += kBlockBytes) {
      const std::uint64_t address = mapping->start + (offset - mapping->offset_bytes);
      if (!pagemap || !is_own_copy(pagemap.get(), address)) return address;
    }
  }
  return std::nullopt;
}

bool send_bus_error(int process, std::uint64_t address) {
  siginfo_t info{};
  info.si_signo = SIGBUS;
  info.si_code = SI_QUEUE;
  info.si_errno = EHWPOISON;
  info.si_addr = reinterpret_cast<void*>(address);
  info.si_addr_lsb = 12;
  return ::syscall(SYS_pidfd_send_signal, process, SIGBUS, &info, 0) == 0;
}

template <class T>
bool take_number(std::string_view& text, T& number, int base, char after) {
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (problem != std::errc() || end == text.data() + text.size() || *end != after) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()) + 1);
  return true;
}

}  // namespace

// "7f00a000-7f00b000 rw-s 00001000 00:2a 17                    /mount/file"
std::optional<ProcessMapping> parse_mapping(std::string_view line) {
  ProcessMapping mapping;
  unsigned major_number, minor_number;
  if (!take_number(line, mapping.start, 16, '-') || !take_number(line, mapping.end, 16, ' ')) return std::nullopt;
  if (line.size() < 5) return std::nullopt;
  mapping.is_private = line[3] == 'p';
  line.remove_prefix(5);
  if (!take_number(line, mapping.offset_bytes, 16, ' ') || !take_number(line, major_number, 16, ':') ||
      !take_number(line, minor_number, 16, ' ') || !take_number(line, mapping.inode.value, 10, ' '))
    return std::nullopt;
  mapping.device = makedev(major_number, minor_number);
  return mapping;
}

void signal_mappers(const MappedRange& range, const std::function<void(pid_t, std::uint64_t)>& signalled) {
  const std::unique_ptr<DIR, int (*)(DIR*)> processes(::opendir("/proc"), ::closedir);
  if (processes == nullptr) return;
  while (const dirent* entry = ::readdir(processes.get())) {
    const pid_t process = std::atoi(entry->d_name);
    if (process <= 0 || process == ::getpid()) continue;
    // Held before its mappings are read: should the number be given to another process in between, the signal finds the
    // old one gone.
    const FileDescriptor held = open_process(process);
    if (!held) continue;
    const auto address = find_page(process, range);
    if (address && send_bus_error(held.get(), *address)) signalled(process, *address);
  }
}

}  // namespace daxcow
