// The processes that map a range of a file, and how to tell them that it is lost.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
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

// Sends SIGBUS to every process but this one that maps a page of the range, once each, for the first such page. A
// private mapping counts unless the process has a page of its own there. Calls `signalled` after each.
//
// The signal looks as from a machine check: si_addr is the address of the page in that process, si_addr_lsb is 12,
// si_errno is EHWPOISON. Only si_code is not BUS_MCEERR_AO but SI_QUEUE: Linux lets no process send a code that is not
// negative. The process is held by a pidfd, so that no other one with its number can be hit.
void signal_mappers(const MappedRange& range,
                    const std::function<void(pid_t process, std::uint64_t address)>& signalled);

// A line of /proc/PID/maps.
struct ProcessMapping {
  std::uint64_t start = 0, end = 0;
  std::uint64_t offset_bytes = 0;  // in the file
  dev_t device = 0;
  InodeNumber inode;
  bool is_private = false;
};
// Nothing if the line cannot be understood. See proc_pid_maps(5).
std::optional<ProcessMapping> parse_mapping(std::string_view line);

}  // namespace daxcow
