// The processes that map a range of a file, and how to tell them that it is lost.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include "engine/types.h"

namespace daxcow {

// A range of a file, as the kernel names it in /proc/PID/maps.
struct MappedRange {
  dev_t device = 0;  // st_dev
  InodeNumber inode;
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
};

// Sends SIGBUS to every process but this one that maps a page of one of the ranges, once for each range, for the first
// such page. A private mapping counts unless the process has a page of its own there. Calls `signalled` after each.
// Looks at the mappings of all processes once (and at private ones once more), however many ranges there are, in a few
// threads; `signalled` runs in any of them, never in two at once.
//
// The signal looks as from a machine check: si_addr is the address of the page in that process, si_addr_lsb is 12,
// si_errno is EHWPOISON. Only si_code is not BUS_MCEERR_AO but SI_QUEUE: Linux lets no process send a code that is not
// negative. The process is held by a pidfd, so that no other one with its number can be hit.
// Just before, when the mappings have been read, `is_mounted` says whether the range's device is still the filesystem that it
// was; it is called from any of the threads, from several at once.
using IsMounted = std::function<bool(std::size_t range)>;
using Signalled = std::function<void(std::size_t range, pid_t process, std::uint64_t address)>;
void signal_mappers(std::span<const MappedRange> ranges, const IsMounted& is_mounted, const Signalled& signalled);

// A mapping in a process; of memory without a file the inode is 0.
struct ProcessMapping {
  std::uint64_t start = 0, end = 0;
  std::uint64_t offset_bytes = 0;  // in the file
  dev_t device = 0;
  InodeNumber inode;
  bool is_private = false;
  bool is_writable = false;
};
// From a line of /proc/PID/maps; nothing if it cannot be understood. See proc_pid_maps(5).
std::optional<ProcessMapping> parse_mapping(std::string_view line);

}  // namespace daxcow
