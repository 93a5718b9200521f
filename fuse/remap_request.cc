#include "fuse/remap_request.h"

#include <linux/fuse.h>

#include <cerrno>
#include <cstring>

#include "fuse/errno.h"

namespace daxcow {

namespace {

// The errno, or 0 and the bytes done.
int remap(MountContext& mount, std::uint64_t source, const RemapFileRangeIn& in, std::uint64_t& bytes) {
  if ((in.flags & ~(kRemapDedupe | kRemapCanShorten)) != 0) return EINVAL;
  Volume& volume = *mount.volume;
  const auto attributes = volume.attributes(InodeNumber(source));
  if (!attributes) return errno_of(attributes.error().code);
  const ReflinkMode mode = (in.flags & kRemapDedupe) != 0 ? ReflinkMode::kDedupe : ReflinkMode::kClone;
  const auto done = volume.reflink({attributes->inode, attributes->generation}, volume, InodeNumber(in.nodeid_out),
                                   {in.off_in, in.off_out, in.len}, mode);
  if (!done) return errno_of(done.error().code);
  bytes = done->bytes;
  return 0;
}

}  // namespace

bool is_remap_request(std::span<const char> request) {
  fuse_in_header header;
  if (request.size() < sizeof header) return false;
  std::memcpy(&header, request.data(), sizeof header);
  return header.opcode == kRemapFileRange;
}

std::vector<char> answer_remap_request(MountContext& mount, std::span<const char> request) {
  fuse_in_header header;
  RemapFileRangeIn in;
  std::memcpy(&header, request.data(), sizeof header);
  RemapFileRangeOut out{};
  int error = EINVAL;
  if (request.size() >= sizeof header + sizeof in) {
    std::memcpy(&in, request.data() + sizeof header, sizeof in);
    error = remap(mount, header.nodeid, in, out.bytes);
  }
  std::vector<char> reply(sizeof(fuse_out_header) + (error == 0 ? sizeof out : 0));
  const fuse_out_header answer{.len = static_cast<std::uint32_t>(reply.size()), .error = -error, .unique = header.unique};
  std::memcpy(reply.data(), &answer, sizeof answer);
  if (error == 0) std::memcpy(reply.data() + sizeof answer, &out, sizeof out);
  return reply;
}

}  // namespace daxcow
