#include "fuse/operations.h"

#include "fuse/handlers.h"
#include "fuse/transport.h"
#include "fuse/uncancelled.h"

namespace daxcow {

namespace {

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
void want(fuse_conn_info* connection, std::uint64_t capability) { fuse_set_feature_flag(connection, capability); }
void want_not(fuse_conn_info* connection, std::uint64_t capability) { fuse_unset_feature_flag(connection, capability); }
#else
void want(fuse_conn_info* connection, unsigned capability) { connection->want |= connection->capable & capability; }
void want_not(fuse_conn_info* connection, unsigned capability) { connection->want &= ~capability; }
#endif

void init(void* userdata, fuse_conn_info* connection) {
  const auto& behaviour = static_cast<MountContext*>(userdata)->behaviour;
  want(connection, FUSE_CAP_EXPORT_SUPPORT);
  if (behaviour.access_time != AccessTime::kStrict) want(connection, FUSE_CAP_CACHE_SYMLINKS);
  want(connection, FUSE_CAP_READDIRPLUS);
  want(connection, FUSE_CAP_READDIRPLUS_AUTO);
  // Our own writes change the modification time too: the kernel must not take that as a sign of stale pages.
  want(connection, FUSE_CAP_EXPLICIT_INVAL_DATA);
  want_not(connection, FUSE_CAP_AUTO_INVAL_DATA);
  want(connection, FUSE_CAP_PARALLEL_DIROPS);  // also where libfuse does not pass it on: see fuse/transport.h
  // Its first version wants set-id bits cleared by every write, root's too.
  want_not(connection, FUSE_CAP_HANDLE_KILLPRIV);
#ifdef FUSE_CAP_HANDLE_KILLPRIV_V2  // as above; only where writes say what they clear
  if (library_is_complete()) want(connection, FUSE_CAP_HANDLE_KILLPRIV_V2);
#endif
  // An open that truncates would not wait for mapped pages that are being written back: such a write, arriving after it, would
  // give the file a size again. A truncation of its own does wait.
  want_not(connection, FUSE_CAP_ATOMIC_O_TRUNC);
  // A buffer and a non-temporal copy into the pool are as fast, and need no pipe.
  want_not(connection, FUSE_CAP_SPLICE_READ);
  if (behaviour.access_lists) {
    want(connection, FUSE_CAP_POSIX_ACL);
    want(connection, FUSE_CAP_DONT_MASK);  // whether the umask counts depends on the directory's default list
  }
  if (behaviour.writeback_cache) want(connection, FUSE_CAP_WRITEBACK_CACHE);
#ifdef FUSE_CAP_OVER_IO_URING
  if (no_io_uring_because(behaviour)) want_not(connection, FUSE_CAP_OVER_IO_URING);  // whatever libfuse's environment says
#endif
  connection->max_write = behaviour.maximum_write_bytes;
  connection->max_background = 64;
  connection->congestion_threshold = 48;
  connection->time_gran = 1;
}

// A handler that is not cancelled half-way. Only threads that serve an io_uring could be.
template <auto handler>
struct Whole;
template <class... Arguments, void (*handler)(Arguments...)>
struct Whole<handler> {
  static void run(Arguments... arguments) {
    const Uncancelled whole;
    handler(arguments...);
  }
};
template <auto handler>
constexpr auto whole = kLibraryIsComplete ? Whole<handler>::run : handler;

constexpr fuse_lowlevel_ops make_operations() {
  fuse_lowlevel_ops table{};
  table.init = init;
  table.lookup = whole<handlers::lookup>;
  table.forget = whole<handlers::forget>;
  table.forget_multi = whole<handlers::forget_multi>;
  table.getattr = whole<handlers::getattr>;
  table.setattr = whole<handlers::setattr>;
  table.readlink = whole<handlers::readlink>;
  table.mknod = whole<handlers::mknod>;
  table.mkdir = whole<handlers::mkdir>;
  table.unlink = whole<handlers::unlink>;
  table.rmdir = whole<handlers::rmdir>;
  table.symlink = whole<handlers::symlink>;
  table.rename = whole<handlers::rename>;
  table.link = whole<handlers::link>;
  table.open = whole<handlers::open>;
  table.create = whole<handlers::create>;
  table.read = whole<handlers::read>;
  table.write = whole<handlers::write>;
  table.flush = whole<handlers::flush>;
  table.release = whole<handlers::release>;
  table.fsync = whole<handlers::fsync>;
  table.opendir = whole<handlers::opendir>;
  table.readdir = whole<handlers::readdir>;
  table.readdirplus = whole<handlers::readdirplus>;
  table.fsyncdir = whole<handlers::fsyncdir>;
  table.statfs = whole<handlers::statfs>;
  table.setxattr = whole<handlers::setxattr>;
  table.getxattr = whole<handlers::getxattr>;
  table.listxattr = whole<handlers::listxattr>;
  table.removexattr = whole<handlers::removexattr>;
  table.fallocate = whole<handlers::fallocate>;
  table.lseek = whole<handlers::lseek>;
  table.copy_file_range = whole<handlers::copy_file_range>;
  table.ioctl = whole<handlers::ioctl>;
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
  table.tmpfile = whole<handlers::tmpfile>;
#endif
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 18)
  table.statx = whole<handlers::statx>;
#endif
  // Not here: access (default_permissions), getlk, setlk, flock (the kernel's own locks do), bmap, poll.
  return table;
}

}  // namespace

const fuse_lowlevel_ops& operations() {
  static constexpr fuse_lowlevel_ops table = make_operations();
  return table;
}

namespace handlers {

namespace {
timespec to_timespec(const Timestamp& time) {
  return {static_cast<time_t>(time.seconds), static_cast<long>(time.nanoseconds)};
}
}  // namespace

struct stat to_stat(const Attributes& attributes) {
  struct stat status {};
  status.st_ino = attributes.inode.value;
  status.st_mode = attributes.mode;
  status.st_nlink = attributes.link_count;
  status.st_uid = attributes.uid;
  status.st_gid = attributes.gid;
  status.st_rdev = attributes.device;
  status.st_size = static_cast<off_t>(attributes.size_bytes);
  status.st_blksize = kBlockBytes;
  status.st_blocks = static_cast<blkcnt_t>(attributes.block_count * kSectorsPerBlock);
  status.st_atim = to_timespec(attributes.access);
  status.st_mtim = to_timespec(attributes.modification);
  status.st_ctim = to_timespec(attributes.change);
  return status;
}

fuse_entry_param to_entry(const MountContext& mount, const Attributes& attributes) {
  fuse_entry_param entry{};
  entry.ino = attributes.inode.value;
  if (entry.ino != FUSE_ROOT_ID) entry.generation = attributes.generation;  // the kernel made the root: it is 0
  entry.attr = to_stat(attributes);
  entry.attr_timeout = mount.behaviour.attribute_timeout_seconds;
  entry.entry_timeout = mount.behaviour.entry_timeout_seconds;
  return entry;
}

bool forget_attributes(fuse_req_t request, fuse_ino_t node) {
  const int result = fuse_lowlevel_notify_inval_inode(context(request).session, node, -1, 0);
  return result == 0 || result == -ENOENT;
}

void announce_names(fuse_req_t request, fuse_ino_t directory) {
  context(request).told_directories.announce(InodeNumber(directory), fuse_req_ctx(request)->pid,
                                             [&] { return forget_attributes(request, directory); });
}

Result<Attributes> as_told(fuse_req_t request, const Attributes& attributes) {
  if (!S_ISDIR(attributes.mode)) return attributes;
  context(request).told_directories.note(attributes.inode, fuse_req_ctx(request)->pid);
  return volume(request).attributes(attributes.inode);
}

void reply_entry(fuse_req_t request, const Attributes& attributes) {
  volume(request).remember(attributes.inode);
  reply_counted_entry(request, attributes);
}

void reply_counted_entry(fuse_req_t request, const Attributes& attributes) {
  auto& mount = context(request);
  const auto told = as_told(request, attributes);
  if (!told) {
    mount.volume->forget(attributes.inode, 1);
    return reply_error(request, told.error());
  }
  const auto entry = to_entry(mount, *told);
  if (fuse_reply_entry(request, &entry) != 0) mount.volume->forget(attributes.inode, 1);
}

}  // namespace handlers

}  // namespace daxcow
