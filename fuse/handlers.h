// Every handler, and what they share; for operations*.cc only.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>

#include "fuse/errno.h"
#include "fuse/operations.h"

namespace daxcow::handlers {

inline MountContext& context(fuse_req_t request) { return *static_cast<MountContext*>(fuse_req_userdata(request)); }
inline Volume& volume(fuse_req_t request) { return *context(request).volume; }
inline void reply_error(fuse_req_t request, const Error& error) { fuse_reply_err(request, errno_of(error)); }
inline void reply_done(fuse_req_t request, const Result<>& result) {
  fuse_reply_err(request, result ? 0 : errno_of(result.error()));
}

struct stat to_stat(const Attributes& attributes);
fuse_entry_param to_entry(const MountContext& mount, const Attributes& attributes);
// Replies with an inode, which the kernel then knows: counts that. (The kernel holds the directory meanwhile, so the
// inode that was just found there cannot lose its last name before it is counted.)
void reply_entry(fuse_req_t request, const Attributes& attributes);
// The same for an inode that is counted already; takes that back if the kernel does not receive the reply.
void reply_counted_entry(fuse_req_t request, const Attributes& attributes);
// The kernel expects only some requests to change attributes, and not of all the inodes that they change. A look at them that
// is under way in another thread may carry the old ones, and would be believed for a day: this makes the kernel drop such
// answers, and ask again. Before the reply; takes no lock that the request could hold, and leaves the pages alone.
// False if the kernel could not be told.
bool forget_attributes(fuse_req_t request, fuse_ino_t node);
// Of a directory in which names have changed, which the kernel does expect: only where somebody else may be receiving the old
// attributes.
void announce_names(fuse_req_t request, fuse_ino_t directory);
// The attributes to answer with, from those just looked up: read again of a directory, so that a change since then is announced.
Result<Attributes> as_told(fuse_req_t request, const Attributes& attributes);
// What a new inode of the caller looks like; `mode` with its type.
NewInode new_inode(fuse_req_t request, std::uint32_t mode);
// Creates an inode with what it inherits from its directory; without a name (null): see Volume::create_unnamed().
Result<Attributes> create_inode(fuse_req_t request, fuse_ino_t parent, const char* name, NewInode inode);

// --- operations_names.cc ---
void lookup(fuse_req_t request, fuse_ino_t parent, const char* name);
void forget(fuse_req_t request, fuse_ino_t node, std::uint64_t count);
void forget_multi(fuse_req_t request, std::size_t count, fuse_forget_data* forgets);
void mknod(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t device);
void mkdir(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode);
void symlink(fuse_req_t request, const char* target, fuse_ino_t parent, const char* name);
void link(fuse_req_t request, fuse_ino_t node, fuse_ino_t parent, const char* name);
void unlink(fuse_req_t request, fuse_ino_t parent, const char* name);
void rmdir(fuse_req_t request, fuse_ino_t parent, const char* name);
void rename(fuse_req_t request, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
            unsigned flags);
void readlink(fuse_req_t request, fuse_ino_t node);
void create(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* file);
void tmpfile(fuse_req_t request, fuse_ino_t parent, mode_t mode, fuse_file_info* file);

// --- operations_directories.cc ---
void opendir(fuse_req_t request, fuse_ino_t node, fuse_file_info* file);
void readdir(fuse_req_t request, fuse_ino_t node, std::size_t size, off_t cookie, fuse_file_info* file);
void readdirplus(fuse_req_t request, fuse_ino_t node, std::size_t size, off_t cookie, fuse_file_info* file);
void fsyncdir(fuse_req_t request, fuse_ino_t node, int data_only, fuse_file_info* file);

// --- operations_attributes.cc ---
void getattr(fuse_req_t request, fuse_ino_t node, fuse_file_info* file);
void statx(fuse_req_t request, fuse_ino_t node, int flags, int mask, fuse_file_info* file);
void setattr(fuse_req_t request, fuse_ino_t node, struct stat* wanted, int to_set, fuse_file_info* file);
void setxattr(fuse_req_t request, fuse_ino_t node, const char* name, const char* value, std::size_t size, int flags);
void getxattr(fuse_req_t request, fuse_ino_t node, const char* name, std::size_t size);
void listxattr(fuse_req_t request, fuse_ino_t node, std::size_t size);
void removexattr(fuse_req_t request, fuse_ino_t node, const char* name);
void statfs(fuse_req_t request, fuse_ino_t node);

// --- operations_data.cc ---
void open(fuse_req_t request, fuse_ino_t node, fuse_file_info* file);
void set_open_reply(fuse_req_t request, fuse_file_info* file);
// Whether the handle is one that may change the file.
bool may_write(const fuse_file_info* file);
// The handle of an open file: what it was opened for. The kernel does not say so again.
inline constexpr std::uint64_t kOpenForReading = 1, kOpenForWriting = 2;
void read(fuse_req_t request, fuse_ino_t node, std::size_t size, off_t offset, fuse_file_info* file);
void write(fuse_req_t request, fuse_ino_t node, const char* data, std::size_t size, off_t offset, fuse_file_info* file);
void flush(fuse_req_t request, fuse_ino_t node, fuse_file_info* file);
void release(fuse_req_t request, fuse_ino_t node, fuse_file_info* file);
void fsync(fuse_req_t request, fuse_ino_t node, int data_only, fuse_file_info* file);
void fallocate(fuse_req_t request, fuse_ino_t node, int mode, off_t offset, off_t length, fuse_file_info* file);
void copy_file_range(fuse_req_t request, fuse_ino_t from, off_t from_offset, fuse_file_info* from_file, fuse_ino_t to,
                     off_t to_offset, fuse_file_info* to_file, std::size_t length, int flags);
void lseek(fuse_req_t request, fuse_ino_t node, off_t offset, int whence, fuse_file_info* file);

// --- operations_reflink.cc ---
void ioctl(fuse_req_t request, fuse_ino_t node, unsigned command, void* argument, fuse_file_info* file, unsigned flags,
           const void* input, std::size_t input_bytes, std::size_t output_bytes);

}  // namespace daxcow::handlers
