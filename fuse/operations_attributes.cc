// Attributes, plain and extended, and statfs.
#include <linux/capability.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <span>
#include <string_view>

#include "fuse/acl.h"
#include "fuse/caller.h"
#include "fuse/handlers.h"
#include "fuse/statx_request.h"

namespace daxcow::handlers {

namespace {

Timestamp now() {
  timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  return {time.tv_sec, static_cast<std::uint32_t>(time.tv_nsec)};
}

Timestamp to_timestamp(const timespec& time) { return {time.tv_sec, static_cast<std::uint32_t>(time.tv_nsec)}; }

AttributeChange to_change(const struct stat& wanted, int to_set) {
  AttributeChange change;
  if (to_set & FUSE_SET_ATTR_MODE) change.mode = wanted.st_mode & 07777;
  if (to_set & FUSE_SET_ATTR_UID) change.uid = wanted.st_uid;
  if (to_set & FUSE_SET_ATTR_GID) change.gid = wanted.st_gid;
  if (to_set & FUSE_SET_ATTR_SIZE) change.size_bytes = static_cast<std::uint64_t>(wanted.st_size);
  if (to_set & FUSE_SET_ATTR_ATIME) change.access = to_timestamp(wanted.st_atim);
  if (to_set & FUSE_SET_ATTR_MTIME) change.modification = to_timestamp(wanted.st_mtim);
  const Timestamp present = now();  // one for both
  if (to_set & FUSE_SET_ATTR_ATIME_NOW) change.access = present;
  if (to_set & FUSE_SET_ATTR_MTIME_NOW) change.modification = present;
  return change;
}

constexpr int kOwner = FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;

// A request for nothing is how the kernel says that set-id bits must go: before fallocate and copy_file_range by the
// unprivileged (it has taken its own flags for that out), and for a chown that names neither owner nor group.
bool asks_for_nothing(int to_set) {
  constexpr int kSomething = kOwner | FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME |
                             FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW | FUSE_SET_ATTR_CTIME;
  return (to_set & kSomething) == 0;
}

// A truncation by somebody who may not keep set-id bits; the number is FATTR_KILL_SUIDGID on the wire. Only with HANDLE_KILLPRIV_V2.
bool kills_set_id(int to_set) { return (to_set & FUSE_SET_ATTR_KILL_SUID) != 0; }

bool clears_set_id(int to_set) { return kills_set_id(to_set) || (to_set & kOwner) != 0 || asks_for_nothing(to_set); }

// That chown is for the owner, and the kernel does not look at whose it is; who writes has the file open.
bool may_clear_set_id(fuse_req_t request, int to_set, const Attributes& attributes) {
  const std::uint32_t user = fuse_req_ctx(request)->uid;
  return kills_set_id(to_set) || !asks_for_nothing(to_set) || user == 0 || user == attributes.uid ||
         volume(request).is_open_for_writing(attributes.inode);
}

bool is_access_list(std::string_view name) { return name == kAccessAcl || name == kDefaultAcl; }

// A mount without access lists must not take any: the kernel would not look at them, and setting one opens the file to
// its group.
bool refuses(fuse_req_t request, std::string_view name) {
  return is_access_list(name) && !context(request).behaviour.access_lists;
}

Result<> store_acl(Volume& volume, InodeNumber inode, std::string_view name, const Acl& acl,
                   Volume::SetAttributeMode mode = Volume::SetAttributeMode::kAny) {
  const auto value = acl.value();
  return volume.set_attribute(inode, name, std::as_bytes(std::span(value)), mode);
}

// chmod of a file that has an access list: the list follows.
Result<> change_acl_mode(Volume& volume, InodeNumber inode, std::uint32_t mode) {
  const auto value = volume.get_attribute(inode, kAccessAcl);
  if (!value) {
    if (value.error().code == ErrorCode::kNoAttribute) return {};
    return std::unexpected(value.error());
  }
  auto acl = Acl::parse(std::as_bytes(std::span(*value)));
  if (!acl || acl->mode_bits() == (mode & 0777)) return {};
  acl->set_mode_bits(mode);
  return store_acl(volume, inode, kAccessAcl, *acl);
}

// Setting the access list sets the permission bits as well; a list that says no more than these is not kept.
Result<> set_access_acl(fuse_req_t request, InodeNumber inode, const Acl& acl, Volume::SetAttributeMode mode) {
  auto& volume = handlers::volume(request);
  const auto attributes = TRY(volume.attributes(inode));
  std::uint32_t new_mode = (attributes.mode & 07000) | acl.mode_bits();
  // The kernel's posix_acl_update_mode(): as chmod by somebody outside the group.
  if (!caller_has(*fuse_req_ctx(request), CAP_FSETID) && !caller_is_in_group(*fuse_req_ctx(request), attributes.gid))
    new_mode &= ~std::uint32_t{S_ISGID};
  if (!acl.is_minimal()) {
    TRY(store_acl(volume, inode, kAccessAcl, acl, mode));
  } else if (auto removed = volume.remove_attribute(inode, kAccessAcl); !removed) {
    if (removed.error().code != ErrorCode::kNoAttribute) return removed;
  }
  if (new_mode == (attributes.mode & 07777)) return {};
  AttributeChange change;
  change.mode = new_mode;
  TRY(volume.set_attributes(inode, change));
  return {};
}

// A value or a list of names, or its size when that is what was asked for.
void reply_value(fuse_req_t request, std::string_view value, std::size_t size) {
  if (size == 0)
    fuse_reply_xattr(request, value.size());
  else if (value.size() > size)
    fuse_reply_err(request, ERANGE);
  else
    fuse_reply_buf(request, value.data(), value.size());
}

}  // namespace

void getattr(fuse_req_t request, fuse_ino_t node, fuse_file_info*) {
  auto& mount = context(request);
  mount.told_directories.note(InodeNumber(node), fuse_req_ctx(request)->pid);
  const auto attributes = mount.volume->attributes(InodeNumber(node));
  if (!attributes) return reply_error(request, attributes.error());
  const auto status = to_stat(*attributes);
  fuse_reply_attr(request, &status, mount.behaviour.attribute_timeout_seconds);
}

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 18)
void statx(fuse_req_t request, fuse_ino_t node, int, int, fuse_file_info*) {
  auto& mount = context(request);
  auto status = status_with_birth(mount, InodeNumber(node), fuse_req_ctx(request)->pid);
  if (!status) return reply_error(request, status.error());
  fuse_reply_statx(request, 0, &*status, mount.behaviour.attribute_timeout_seconds);
}
#endif

void setattr(fuse_req_t request, fuse_ino_t node, struct stat* wanted, int to_set, fuse_file_info*) {
  auto& mount = context(request);
  const InodeNumber inode(node);
  auto change = to_change(*wanted, to_set);
  if (clears_set_id(to_set)) {
    const auto before = mount.volume->attributes(inode);
    if (!before) return reply_error(request, before.error());
    change.clear_mode = lost_set_id_bits(*fuse_req_ctx(request), *before);
    if (change.clear_mode != 0 && !may_clear_set_id(request, to_set, *before))
      return reply_error(request, Error{ErrorCode::kPermission, {}});
  }
  // The list first, which may need room: what follows needs none then.
  if (change.mode && mount.behaviour.access_lists)
    if (const auto led = change_acl_mode(*mount.volume, inode, *change.mode); !led) return reply_error(request, led.error());
  const auto attributes = mount.volume->set_attributes(inode, change);
  if (!attributes) {
    forget_attributes(request, node);
    return reply_error(request, attributes.error());
  }
  const auto status = to_stat(*attributes);
  fuse_reply_attr(request, &status, mount.behaviour.attribute_timeout_seconds);
}

void setxattr(fuse_req_t request, fuse_ino_t node, const char* name, const char* value, std::size_t size, int flags) {
  if (refuses(request, name)) return reply_error(request, Error{ErrorCode::kUnsupported, {}});
  auto mode = Volume::SetAttributeMode::kAny;
  if (flags == XATTR_CREATE)
    mode = Volume::SetAttributeMode::kCreate;
  else if (flags == XATTR_REPLACE)
    mode = Volume::SetAttributeMode::kReplace;
  else if (flags == (XATTR_CREATE | XATTR_REPLACE)) {  // fails, one way or the other
    const auto existing = volume(request).get_attribute(InodeNumber(node), name);
    return reply_error(request, existing ? Error{ErrorCode::kExists, {}} : existing.error());
  } else if (flags != 0)
    return reply_error(request, Error{ErrorCode::kInvalid, {}});

  const auto bytes = std::as_bytes(std::span(value, size));
  if (name == kPoisonPolicyAttribute && !parse_poison_policy(std::string_view(value, size)))
    return reply_error(request, Error{ErrorCode::kInvalid, {}});
  Result<> done;
  if (!is_access_list(name)) {
    done = volume(request).set_attribute(InodeNumber(node), name, bytes, mode);
  } else {
    const auto acl = Acl::parse(bytes);
    if (!acl) return reply_error(request, Error{ErrorCode::kInvalid, {}});
    done = name == kAccessAcl ? set_access_acl(request, InodeNumber(node), *acl, mode)
                              : store_acl(volume(request), InodeNumber(node), kDefaultAcl, *acl, mode);
  }
  forget_attributes(request, node);
  reply_done(request, done);
}

void getxattr(fuse_req_t request, fuse_ino_t node, const char* name, std::size_t size) {
  if (refuses(request, name)) return reply_error(request, Error{ErrorCode::kUnsupported, {}});
  const auto value = volume(request).get_attribute(InodeNumber(node), name);
  if (!value) return reply_error(request, value.error());
  reply_value(request, *value, size);
}

void listxattr(fuse_req_t request, fuse_ino_t node, std::size_t size) {
  const auto names = volume(request).list_attributes(InodeNumber(node));
  if (!names) return reply_error(request, names.error());
  std::string list;
  // xattr(7): names that only the privileged may use are not shown to others.
  const auto is_trusted = [](const std::string& name) { return name.starts_with("trusted."); };
  const bool sees_trusted = std::ranges::any_of(*names, is_trusted) && caller_has(*fuse_req_ctx(request), CAP_SYS_ADMIN);
  for (const auto& name : *names)
    if (!refuses(request, name) && (sees_trusted || !is_trusted(name))) list.append(name).push_back('\0');
  reply_value(request, list, size);
}

void removexattr(fuse_req_t request, fuse_ino_t node, const char* name) {
  if (refuses(request, name)) return reply_error(request, Error{ErrorCode::kUnsupported, {}});
  auto done = volume(request).remove_attribute(InodeNumber(node), name);
  // An access list that is not there has been removed, as the kernel's own filesystems see it.
  if (!done && done.error().code == ErrorCode::kNoAttribute && is_access_list(name)) done = {};
  forget_attributes(request, node);
  reply_done(request, done);
}

void statfs(fuse_req_t request, fuse_ino_t) {
  const auto statistics = volume(request).statistics();
  if (!statistics) return reply_error(request, statistics.error());
  struct statvfs status {};
  status.f_bsize = statistics->block_bytes;
  status.f_frsize = statistics->block_bytes;
  status.f_blocks = statistics->blocks;
  status.f_bfree = statistics->free_blocks;
  status.f_bavail = statistics->available_blocks;
  status.f_files = statistics->inodes;
  status.f_ffree = statistics->free_inodes;
  status.f_favail = statistics->free_inodes;
  status.f_namemax = statistics->name_bytes;
  fuse_reply_statfs(request, &status);
}

}  // namespace daxcow::handlers
