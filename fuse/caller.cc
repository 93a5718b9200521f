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
std::optional<std::string> status_of_caller(fuse_req_t request, std::string_view name) {
  std::ifstream status(fmt::format("/proc/{}/status", fuse_req_ctx(request)->pid));
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(name)) return line.substr(name.size());
  return std::nullopt;
}

}  // namespace

bool caller_has(fuse_req_t request, unsigned capability) {
  if (fuse_req_ctx(request)->uid != 0) return false;
  const auto effective = status_of_caller(request, "CapEff:");
  return !effective || (std::strtoull(effective->c_str(), nullptr, 16) >> capability & 1) != 0;
}

// As fuse_req_getgroups() would, which (libfuse 3.14) searches what it has read beyond its end.
bool caller_is_in_group(fuse_req_t request, std::uint32_t gid) {
  if (fuse_req_ctx(request)->gid == gid) return true;
  std::istringstream groups(status_of_caller(request, "Groups:").value_or(""));
  for (std::uint32_t group; groups >> group;)
    if (group == gid) return true;
  return false;
}

std::uint32_t lost_set_id_bits(fuse_req_t request, const Attributes& attributes) {
  const std::uint32_t has = attributes.mode & (S_ISUID | S_ISGID);
  if ((has & S_ISGID) == 0 || (attributes.mode & S_IXGRP) != 0) return has;
  const bool keeps = caller_has(request, CAP_FSETID) || caller_is_in_group(request, attributes.gid);
  return keeps ? has & S_ISUID : has;
}

}  // namespace daxcow
