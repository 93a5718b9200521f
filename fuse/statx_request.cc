#include "fuse/statx_request.h"

#include <linux/fuse.h>
#include <sys/sysmacros.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "fuse/errno.h"

namespace daxcow {

namespace {

// The kernel's fuse_statx_out, which is not in the linux/fuse.h of Debian 12. Its fuse_statx is laid out as struct statx.
constexpr std::uint32_t kStatx = 52;
struct StatxOut {
  std::uint64_t valid_seconds;
  std::uint32_t valid_nanoseconds, flags;
  std::uint64_t spare[2];
  struct statx status;
};
static_assert(sizeof(struct statx) == 256 && sizeof(StatxOut) == 288);

statx_timestamp to_wire(const Timestamp& time) {
  statx_timestamp wire{};
  wire.tv_sec = time.seconds;
  wire.tv_nsec = time.nanoseconds;
  return wire;
}

}  // namespace

Result<struct statx> status_with_birth(MountContext& mount, InodeNumber inode, pid_t process) {
  mount.told_directories.note(inode, process);
  const auto attributes = TRY(mount.volume->attributes(inode));
  struct statx status {};
  status.stx_mask = STATX_BASIC_STATS | STATX_BTIME;
  status.stx_blksize = kBlockBytes;
  status.stx_nlink = attributes.link_count;
  status.stx_uid = attributes.uid;
  status.stx_gid = attributes.gid;
  status.stx_mode = static_cast<std::uint16_t>(attributes.mode);
  status.stx_ino = attributes.inode.value;
  status.stx_size = attributes.size_bytes;
  status.stx_blocks = attributes.block_count * (kBlockBytes / 512);
  status.stx_atime = to_wire(attributes.access);
  status.stx_btime = to_wire(attributes.birth);
  status.stx_ctime = to_wire(attributes.change);
  status.stx_mtime = to_wire(attributes.modification);
  status.stx_rdev_major = major(attributes.device);
  status.stx_rdev_minor = minor(attributes.device);
  return status;
}

bool is_statx_request(std::span<const char> request) {
  fuse_in_header header;
  if (request.size() < sizeof header) return false;
  std::memcpy(&header, request.data(), sizeof header);
  return header.opcode == kStatx;
}

std::vector<char> answer_statx_request(MountContext& mount, std::span<const char> request) {
  fuse_in_header header;
  std::memcpy(&header, request.data(), sizeof header);
  const auto status = status_with_birth(mount, InodeNumber(header.nodeid), static_cast<pid_t>(header.pid));
  std::vector<char> reply(sizeof(fuse_out_header) + (status ? sizeof(StatxOut) : 0));
  const fuse_out_header answer{.len = static_cast<std::uint32_t>(reply.size()),
                               .error = status ? 0 : -errno_of(status.error()),
                               .unique = header.unique};
  std::memcpy(reply.data(), &answer, sizeof answer);
  if (status) {
    const double valid = mount.behaviour.attribute_timeout_seconds;
    StatxOut out{};
    out.valid_seconds = static_cast<std::uint64_t>(valid);
    out.valid_nanoseconds = static_cast<std::uint32_t>((valid - std::floor(valid)) * 1e9);
    out.status = *status;
    std::memcpy(reply.data() + sizeof answer, &out, sizeof out);
  }
  return reply;
}

}  // namespace daxcow
