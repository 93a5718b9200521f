#include "fuse/caller.h"

#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace daxcow {

namespace {

// What proc_pid_status(5) says of the caller in this line; nothing if the process cannot be seen from here.
std::optional<std::string> status_of(const fuse_ctx& caller, std::string_view name) {
  std::ifstream status(fmt::format("/proc/{}/status", caller.pid));
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(name)) return line.substr(name.size());
  return std::nullopt;
}

}  // namespace

bool caller_has(const fuse_ctx& caller, unsigned capability) {
  if (caller.uid != 0) return false;
  const auto effective = status_of(caller, "CapEff:");
  return !effective || (std::strtoull(effective->c_str(), nullptr, 16) >> capability & 1) != 0;
}

// As fuse_req_getgroups() would, which (libfuse 3.14) searches what it has read beyond its end.
bool caller_is_in_group(const fuse_ctx& caller, std::uint32_t gid) {
  if (caller.gid == gid) return true;
  std::istringstream groups(status_of(caller, "Groups:").value_or(""));
  for (std::uint32_t group; groups >> group;)
    if (group == gid) return true;
  return false;
}

std::uint32_t lost_set_id_bits(const fuse_ctx& caller, const Attributes& attributes) {
  const std::uint32_t has = attributes.mode & (S_ISUID | S_ISGID);
  if ((has & S_ISGID) == 0 || (attributes.mode & S_IXGRP) != 0) return has;
  const bool keeps = caller_has(caller, CAP_FSETID) || caller_is_in_group(caller, attributes.gid);
  return keeps ? has & S_ISUID : has;
}

}  // namespace daxcow
