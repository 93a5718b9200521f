#include "fuse/caller.h"

#include <sys/stat.h>
#include <sys/types.h>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace daxcow {

bool caller_is_in_group(fuse_req_t request, std::uint32_t gid) {
  if (fuse_req_ctx(request)->gid == gid) return true;
  std::vector<gid_t> groups(64);
  int count = fuse_req_getgroups(request, static_cast<int>(groups.size()), groups.data());
  if (count > static_cast<int>(groups.size())) {
    groups.resize(static_cast<std::size_t>(count));
    count = fuse_req_getgroups(request, count, groups.data());
  }
  if (count < 0) return false;
  groups.resize(std::min(groups.size(), static_cast<std::size_t>(count)));
  return std::ranges::find(groups, gid) != groups.end();
}

std::uint32_t lost_set_id_bits(fuse_req_t request, const Attributes& attributes) {
  const std::uint32_t has = attributes.mode & (S_ISUID | S_ISGID);
  if ((has & S_ISGID) == 0 || (attributes.mode & S_IXGRP) != 0) return has;
  const bool keeps = fuse_req_ctx(request)->uid == 0 || caller_is_in_group(request, attributes.gid);
  return keeps ? has & S_ISUID : has;
}

}  // namespace daxcow
