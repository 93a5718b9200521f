// Names: looking them up, making, moving and removing them.
#include <linux/fs.h>

#include <cerrno>
#include <cstring>
#include <span>
#include <string_view>

#include "fuse/acl.h"
#include "fuse/handlers.h"
#include "fuse/transport.h"

namespace daxcow::handlers {

namespace {

// LOOKUP of "." (the inode itself, a directory or not) and "..": how the kernel finds what a file handle names and it does not
// know. Nobody holds a directory meanwhile, so the inode may go before it is counted, and its number may be another's then.
// One without a name is gone for handles: if somebody had it open, the kernel would know it.
void lookup_unheld(fuse_req_t request, InodeNumber inode, const char* name) {
  auto& volume = handlers::volume(request);
  const auto found = volume.lookup(inode, name);
  if (!found) return reply_error(request, found.error());
  volume.remember(found->inode);
  const auto counted = volume.attributes(found->inode);
  if (counted && counted->generation == found->generation && counted->link_count != 0)
    return reply_counted_entry(request, *counted);
  volume.forget(found->inode, 1);
  reply_error(request, counted ? Error{ErrorCode::kStale, {}} : counted.error());
}

// The default list of a directory, if it has one. A list that cannot be read stops the creation: the new inode would be
// open to others than its directory says.
Result<std::optional<Acl>> default_acl(Volume& volume, InodeNumber directory) {
  const auto value = volume.get_attribute(directory, kDefaultAcl);
  if (value) return Acl::parse(std::as_bytes(std::span(*value)));
  if (value.error().code == ErrorCode::kNoAttribute) return std::optional<Acl>();
  return std::unexpected(value.error());
}

Result<> store_inherited(Volume& volume, const Attributes& created, const Acl& inherited, const Acl& access) {
  const auto store = [&](std::string_view name, const Acl& acl) {
    const auto value = acl.value();
    return volume.set_attribute(created.inode, name, std::as_bytes(std::span(value)), Volume::SetAttributeMode::kAny);
  };
  if (!access.is_minimal()) TRY(store(kAccessAcl, access));
  if (S_ISDIR(created.mode)) TRY(store(kDefaultAcl, inherited));
  return {};
}

void undo_create(Volume& volume, InodeNumber directory, const char* name, const Attributes& created) {
  if (name == nullptr) {
    volume.forget(created.inode, 1);  // that was all that kept it
  } else if (S_ISDIR(created.mode)) {
    (void)volume.remove_directory(directory, name);
  } else {
    (void)volume.unlink(directory, name);
  }
}

// Of a directory that has another parent now the kernel must forget the listing too, for its "..". (Files keep their pages.)
void forget_moved(fuse_req_t request, fuse_ino_t node, bool has_other_parent) {
  const auto attributes = volume(request).attributes(InodeNumber(node));
  if (has_other_parent && attributes && S_ISDIR(attributes->mode))
    (void)fuse_lowlevel_notify_inval_inode(context(request).session, node, 0, 0);
  else
    forget_attributes(request, node);
}

// It may have been there for a moment.
void reply_not_created(fuse_req_t request, fuse_ino_t parent, const Error& error) {
  forget_attributes(request, parent);
  reply_error(request, error);
}

void reply_created(fuse_req_t request, fuse_ino_t parent, const Result<Attributes>& created) {
  if (!created) return reply_not_created(request, parent, created.error());
  announce_names(request, parent);
  reply_entry(request, *created);
}

// Without a name: O_TMPFILE.
void create_file(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* file) {
  const auto created = create_inode(request, parent, name, new_inode(request, S_IFREG | (mode & 07777)));
  if (!created) return reply_not_created(request, parent, created.error());
  auto& mount = context(request);
  announce_names(request, parent);
  const auto entry = to_entry(mount, *created);
  set_open_reply(request, file);
  if (name != nullptr) mount.volume->remember(created->inode);
  if (may_write(file)) mount.volume->open_for_writing(created->inode);
  if (fuse_reply_create(request, &entry, file) == 0) return;
  if (may_write(file)) mount.volume->close_for_writing(created->inode);
  mount.volume->forget(created->inode, 1);
}

}  // namespace

NewInode new_inode(fuse_req_t request, std::uint32_t mode) {
  const fuse_ctx* caller = fuse_req_ctx(request);
  return {.mode = mode, .uid = caller->uid, .gid = caller->gid, .device = 0, .symlink_target = {}};
}

Result<Attributes> create_inode(fuse_req_t request, fuse_ino_t parent, const char* name, NewInode inode) {
  auto& mount = context(request);
  const InodeNumber directory(parent);
  const auto create = [&] {
    return name != nullptr ? mount.volume->create(directory, name, inode) : mount.volume->create_unnamed(directory, inode);
  };
  if (!mount.behaviour.access_lists || S_ISLNK(inode.mode)) return create();

  const auto inherited = TRY(default_acl(*mount.volume, directory));
  if (!inherited) {
    inode.mode &= ~(fuse_req_ctx(request)->umask & 0777);
    return create();
  }
  Acl access = *inherited;
  access.restrict_to(inode.mode);
  inode.mode = (inode.mode & ~0777u) | access.mode_bits();
  auto created = TRY(create());
  if (auto stored = store_inherited(*mount.volume, created, *inherited, access); !stored) {
    undo_create(*mount.volume, directory, name, created);
    return std::unexpected(stored.error());
  }
  return mount.volume->attributes(created.inode);  // the lists have moved the time of change
}

void lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  auto& mount = context(request);
  if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0)
    return lookup_unheld(request, InodeNumber(parent), name);
  const auto found = mount.volume->lookup(InodeNumber(parent), name);
  if (found) return reply_entry(request, *found);
  if (found.error().code != ErrorCode::kNotFound) return reply_error(request, found.error());
  fuse_entry_param nothing{};  // node 0: remember that there is no such name
  nothing.entry_timeout = mount.behaviour.entry_timeout_seconds;
  fuse_reply_entry(request, &nothing);
}

void forget(fuse_req_t request, fuse_ino_t node, std::uint64_t count) {
  volume(request).forget(InodeNumber(node), count);
  fuse_reply_none(request);
}

void forget_multi(fuse_req_t request, std::size_t count, fuse_forget_data* forgets) {
  for (const auto& item : std::span(forgets, count)) volume(request).forget(InodeNumber(item.ino), item.nlookup);
  fuse_reply_none(request);
}

void mknod(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t device) {
  auto inode = new_inode(request, mode);
  inode.device = static_cast<std::uint32_t>(device);
  reply_created(request, parent, create_inode(request, parent, name, inode));
}

void mkdir(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode) {
  reply_created(request, parent, create_inode(request, parent, name, new_inode(request, S_IFDIR | (mode & 07777))));
}

void symlink(fuse_req_t request, const char* target, fuse_ino_t parent, const char* name) {
  auto inode = new_inode(request, S_IFLNK | 0777);
  inode.symlink_target = target;
  reply_created(request, parent, create_inode(request, parent, name, inode));
}

void create(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* file) {
  create_file(request, parent, request_is_unnamed() ? nullptr : name, mode, file);
}

void tmpfile(fuse_req_t request, fuse_ino_t parent, mode_t mode, fuse_file_info* file) {
  create_file(request, parent, nullptr, mode, file);
}

void link(fuse_req_t request, fuse_ino_t node, fuse_ino_t parent, const char* name) {
  reply_created(request, parent, volume(request).link(InodeNumber(node), InodeNumber(parent), name));
}

void unlink(fuse_req_t request, fuse_ino_t parent, const char* name) {
  const auto done = volume(request).unlink(InodeNumber(parent), name);
  announce_names(request, parent);
  reply_done(request, done);
}

void rmdir(fuse_req_t request, fuse_ino_t parent, const char* name) {
  const auto done = volume(request).remove_directory(InodeNumber(parent), name);
  announce_names(request, parent);
  reply_done(request, done);
}

void rename(fuse_req_t request, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
            unsigned flags) {
  const unsigned kind = flags & ~RENAME_WHITEOUT;
  if ((kind != 0 && kind != RENAME_NOREPLACE && kind != RENAME_EXCHANGE) || flags == (RENAME_EXCHANGE | RENAME_WHITEOUT))
    return (void)fuse_reply_err(request, EINVAL);
  const RenameMode mode = kind == RENAME_NOREPLACE  ? RenameMode::kNoReplace
                          : kind == RENAME_EXCHANGE ? RenameMode::kExchange
                                                    : RenameMode::kReplace;
  const NewInode whiteout = new_inode(request, S_IFCHR);  // device 0:0, for overlayfs
  const auto renamed = volume(request).rename(InodeNumber(parent), name, InodeNumber(new_parent), new_name, mode,
                                              (flags & RENAME_WHITEOUT) != 0 ? &whiteout : nullptr);
  if (!renamed) return reply_error(request, renamed.error());
  announce_names(request, parent);
  if (new_parent != parent) announce_names(request, new_parent);
  for (const fuse_ino_t changed : {renamed->moved.value, renamed->other.value})
    if (changed != 0) forget_moved(request, changed, new_parent != parent);
  fuse_reply_err(request, 0);
}

void readlink(fuse_req_t request, fuse_ino_t node) {
  auto& mount = context(request);
  const auto target = mount.volume->read_link(InodeNumber(node), mount.access_time);
  if (!target) return reply_error(request, target.error());
  fuse_reply_readlink(request, target->c_str());
}

}  // namespace daxcow::handlers
