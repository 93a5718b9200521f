#include "fuse/statx_request.h"

#include <linux/fuse.h>
#include <linux/stat.h>
#include <sys/sysmacros.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "fuse/errno.h"

namespace daxcow {

namespace {

// The kernel's fuse_statx_out, which is not in the linux/fuse.h of Debian 12.
constexpr std::uint32_t kStatx = 52;
struct WireTime {
  std::int64_t seconds;
  std::uint32_t nanoseconds;
  std::int32_t reserved;
};
struct WireStatx {
  std::uint32_t mask, block_bytes;
  std::uint64_t attributes;
  std::uint32_t link_count, uid, gid;
  std::uint16_t mode, spare0;
  std::uint64_t inode, size_bytes, sectors, attributes_mask;
  WireTime access, birth, change, modification;
  std::uint32_t device_major, device_minor, mount_major, mount_minor;
  std::uint64_t spare2[14];
};
struct StatxOut {
  std::uint64_t valid_seconds;
  std::uint32_t valid_nanoseconds, flags;
  std::uint64_t spare[2];
  WireStatx status;
};
static_assert(sizeof(WireStatx) == 256 && sizeof(StatxOut) == 288);

WireTime to_wire(const Timestamp& time) { return {time.seconds, time.nanoseconds, 0}; }

StatxOut to_reply(const MountBehaviour& behaviour, const Attributes& attributes) {
  StatxOut out{};
  const double valid = behaviour.attribute_timeout_seconds;
  out.valid_seconds = static_cast<std::uint64_t>(valid);
  out.valid_nanoseconds = static_cast<std::uint32_t>((valid - std::floor(valid)) * 1e9);
  WireStatx& status = out.status;
  status.mask = STATX_BASIC_STATS | STATX_BTIME;
  status.block_bytes = kBlockBytes;
  status.link_count = attributes.link_count;
  status.uid = attributes.uid;
  status.gid = attributes.gid;
  status.mode = static_cast<std::uint16_t>(attributes.mode);
  status.inode = attributes.inode.value;
  status.size_bytes = attributes.size_bytes;
  status.sectors = attributes.block_count * (kBlockBytes / 512);
  status.access = to_wire(attributes.access);
  status.birth = to_wire(attributes.birth);
  status.change = to_wire(attributes.change);
  status.modification = to_wire(attributes.modification);
  status.device_major = major(attributes.device);
  status.device_minor = minor(attributes.device);
  return out;
}

}  // namespace

bool is_statx_request(std::span<const char> request) {
  fuse_in_header header;
  if (request.size() < sizeof header) return false;
  std::memcpy(&header, request.data(), sizeof header);
  return header.opcode == kStatx;
}

std::vector<char> answer_statx_request(MountContext& mount, std::span<const char> request) {
  fuse_in_header header;
  std::memcpy(&header, request.data(), sizeof header);
  const InodeNumber inode(header.nodeid);
  mount.told_directories.note(inode, static_cast<pid_t>(header.pid));
  const auto attributes = mount.volume->attributes(inode);
  std::vector<char> reply(sizeof(fuse_out_header) + (attributes ? sizeof(StatxOut) : 0));
  const fuse_out_header answer{.len = static_cast<std::uint32_t>(reply.size()),
                               .error = attributes ? 0 : -errno_of(attributes.error()),
                               .unique = header.unique};
  std::memcpy(reply.data(), &answer, sizeof answer);
  if (attributes) {
    const StatxOut out = to_reply(mount.behaviour, *attributes);
    std::memcpy(reply.data() + sizeof answer, &out, sizeof out);
  }
  return reply;
}

}  // namespace daxcow
