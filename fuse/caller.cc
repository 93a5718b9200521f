#include "fuse/caller.h"

#include <sys/stat.h>
#include <sys/types.h>

#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace daxcow {

// As fuse_req_getgroups() would, which (libfuse 3.14) searches what it has read beyond its end.
bool caller_is_in_group(fuse_req_t request, std::uint32_t gid) {
  const fuse_ctx* caller = fuse_req_ctx(request);
  if (caller->gid == gid) return true;
  std::ifstream status(fmt::format("/proc/{}/status", caller->pid));
  for (std::string line; std::getline(status, line);) {
    constexpr std::string_view kGroups = "Groups:";
    if (!line.starts_with(kGroups)) continue;
    std::istringstream groups(line.substr(kGroups.size()));
    for (std::uint32_t group; groups >> group;)
      if (group == gid) return true;
    return false;
  }
  return false;
}

std::uint32_t lost_set_id_bits(fuse_req_t request, const Attributes& attributes) {
  const std::uint32_t has = attributes.mode & (S_ISUID | S_ISGID);
  if ((has & S_ISGID) == 0 || (attributes.mode & S_IXGRP) != 0) return has;
  const bool keeps = fuse_req_ctx(request)->uid == 0 || caller_is_in_group(request, attributes.gid);
  return keeps ? has & S_ISUID : has;
}

}  // namespace daxcow
