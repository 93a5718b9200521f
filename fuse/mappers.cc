#include "fuse/mappers.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "engine/file_descriptor.h"
#include "engine/function_ref.h"

namespace daxcow {

namespace {

constexpr unsigned kMostThreads = 8;  // that look at the processes

FileDescriptor open_process(pid_t process) {
  return FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
}

std::string read_all(int file) {
  std::string text;
  for (std::size_t used = 0;;) {
    text.resize(used + (64 << 10));
    const ssize_t got = ::read(file, text.data() + used, text.size() - used);
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

// The kernel's query for one mapping, from Linux 6.11 (include/uapi/linux/fs.h); the headers may be older. Answers in a
// fraction of the time that printing and parsing /proc/PID/maps takes.
struct MappingQuery {
  std::uint64_t size = sizeof(MappingQuery);
  std::uint64_t query_flags = 0, query_address = 0;
  std::uint64_t start = 0, end = 0, flags = 0, page_bytes = 0, offset_bytes = 0, inode = 0;
  std::uint32_t device_major = 0, device_minor = 0, name_bytes = 0, build_id_bytes = 0;
  std::uint64_t name_address = 0, build_id_address = 0;
};
static_assert(sizeof(MappingQuery) == 104);
constexpr unsigned long kQueryMapping = _IOWR('f', 17, MappingQuery);
constexpr std::uint64_t kSharedMapping = 0x08, kCoveringOrNext = 0x10, kOfFilesOnly = 0x20;

// Which mappings are looked for: the kernel finds the few shared ones of a process by itself, while private ones are
// mostly those of its program and libraries.
enum class Sharing { kShared, kPrivate };

// Visits at least those. False if the kernel does not know the query.
bool query_mappings(int maps, Sharing sharing, FunctionRef<void(const ProcessMapping&)> visit) {
  for (std::uint64_t address = 0;;) {
    MappingQuery query;
    query.query_flags = kCoveringOrNext | kOfFilesOnly | (sharing == Sharing::kShared ? kSharedMapping : 0);
    query.query_address = address;
    if (::ioctl(maps, kQueryMapping, &query) != 0) return errno != ENOTTY && errno != EINVAL;  // there is no next one
    visit({.start = query.start,
           .end = query.end,
           .offset_bytes = query.offset_bytes,
           .device = makedev(query.device_major, query.device_minor),
           .inode = InodeNumber(query.inode),
           .is_private = (query.flags & kSharedMapping) == 0});
    address = query.end;
  }
}

void parse_mappings(std::string_view maps, FunctionRef<void(const ProcessMapping&)> visit) {
  while (!maps.empty()) {
    const std::size_t end = maps.find('\n');
    if (const auto mapping = parse_mapping(maps.substr(0, end))) visit(*mapping);
    if (end == std::string_view::npos) return;
    maps.remove_prefix(end + 1);
  }
}

// Visits each mapping of a file in one of the two looks at a process. (Without the query, all in the first one.)
void for_each_mapping(pid_t process, Sharing sharing, FunctionRef<void(const ProcessMapping&)> visit) {
  const FileDescriptor maps(::open(fmt::format("/proc/{}/maps", process).c_str(), O_RDONLY | O_CLOEXEC));
  if (!maps) return;
  const auto visit_wanted = [&](const ProcessMapping& mapping) {
    if (mapping.is_private == (sharing == Sharing::kPrivate)) visit(mapping);
  };
  if (!query_mappings(maps.get(), sharing, visit_wanted) && sharing == Sharing::kShared)
    parse_mappings(read_all(maps.get()), visit);
}

// The address of the first page of the range in this mapping, which is of its file.
std::optional<std::uint64_t> find_page(pid_t process, const ProcessMapping& mapping, const MappedRange& range) {
  const std::uint64_t mapped_end = mapping.offset_bytes + (mapping.end - mapping.start);
  const std::uint64_t from = std::max(range.offset_bytes / kBlockBytes * kBlockBytes, mapping.offset_bytes);
  const std::uint64_t to = std::min(range.offset_bytes + range.length_bytes, mapped_end);
  FileDescriptor pagemap;
  if (mapping.is_private && from < to)
    pagemap = FileDescriptor(::open(fmt::format("/proc/{}/pagemap", process).c_str(), O_RDONLY | O_CLOEXEC));
  for (std::uint64_t offset = from; offset < to; offset += kBlockBytes) {
    const std::uint64_t address = mapping.start + (offset - mapping.offset_bytes);
    if (!pagemap || !is_own_copy(pagemap.get(), address)) return address;
  }
  return std::nullopt;
}

// Positions in the list of ranges, by their file.
using File = std::pair<dev_t, InodeNumber>;
using RangesOfFiles = std::map<File, std::vector<std::size_t>>;

// For each range that the process maps, by its position, the address of its first page.
std::map<std::size_t, std::uint64_t> find_pages(pid_t process, Sharing sharing, std::span<const MappedRange> ranges,
                                                const RangesOfFiles& files) {
  std::map<std::size_t, std::uint64_t> found;
  for_each_mapping(process, sharing, [&](const ProcessMapping& mapping) {
    const auto file = files.find({mapping.device, mapping.inode});
    if (file == files.end()) return;
    for (const std::size_t range : file->second) {
      if (found.contains(range)) continue;
      if (const auto address = find_page(process, mapping, ranges[range])) found.emplace(range, *address);
    }
  });
  return found;
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

std::vector<pid_t> other_processes() {
  std::vector<pid_t> processes;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir("/proc"), ::closedir);
  if (directory == nullptr) return processes;
  while (const dirent* entry = ::readdir(directory.get()))
    if (const pid_t process = std::atoi(entry->d_name); process > 0 && process != ::getpid())
      processes.push_back(process);
  return processes;
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
  mapping.is_writable = line[1] == 'w';
  mapping.is_private = line[3] == 'p';
  line.remove_prefix(5);
  if (!take_number(line, mapping.offset_bytes, 16, ' ') || !take_number(line, major_number, 16, ':') ||
      !take_number(line, minor_number, 16, ' ') || !take_number(line, mapping.inode.value, 10, ' '))
    return std::nullopt;
  mapping.device = makedev(major_number, minor_number);
  return mapping;
}

void signal_mappers(std::span<const MappedRange> ranges, const IsMounted& is_mounted, const Signalled& signalled) {
  RangesOfFiles files;
  for (std::size_t range = 0; range < ranges.size(); ++range)
    files[{ranges[range].device, ranges[range].inode}].push_back(range);
  if (files.empty()) return;
  std::mutex mutex;
  std::set<std::pair<pid_t, std::size_t>> told;  // a range may be mapped in both ways
  const auto look_at = [&](pid_t process, Sharing sharing) {
    // Held before its mappings are read: should the number be given to another process in between, the signal finds the
    // old one gone.
    const FileDescriptor held = open_process(process);
    if (!held) return;
    for (const auto& [range, address] : find_pages(process, sharing, ranges, files)) {
      if (!is_mounted(range)) continue;
      const std::lock_guard lock(mutex);
      if (!told.contains({process, range}) && send_bus_error(held.get(), address)) {
        told.emplace(process, range);
        signalled(range, process, address);
      }
    }
  };
  // Shared mappings first: they are what most who depend on a file's content have, and are found several times faster.
  for (const Sharing sharing : {Sharing::kShared, Sharing::kPrivate}) {
    const std::vector<pid_t> processes = other_processes();
    std::atomic<std::size_t> next = 0;
    const auto work = [&] {
      for (std::size_t at; (at = next++) < processes.size();) look_at(processes[at], sharing);
    };
    std::vector<std::jthread> helpers;
    for (unsigned i = 1; i < std::min(std::thread::hardware_concurrency(), kMostThreads); ++i)
      helpers.emplace_back(work);
    work();
  }
}

}  // namespace daxcow
