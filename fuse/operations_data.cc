// File contents.
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include "engine/guarded_copy.h"
#include "fuse/caller.h"
#include "fuse/handlers.h"
#include "fuse/transport.h"

namespace daxcow::handlers {

namespace {

std::optional<AllocateMode> to_allocate_mode(int mode) {
  switch (mode) {
    case 0:
      return AllocateMode::kAllocate;
    case FALLOC_FL_KEEP_SIZE:
      return AllocateMode::kAllocateKeep;
    case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
      return AllocateMode::kPunch;
    case FALLOC_FL_ZERO_RANGE:
      return AllocateMode::kZero;
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
      return AllocateMode::kZeroKeep;
    default:
      return std::nullopt;
  }
}

// The reply counts in 32 bits, and whole subtrees of the map are shared only where ranges cover them: a request that is
// too long ends at a multiple of 1 GiB (512^2 blocks), and so do those that follow.
std::uint64_t cloneable_length(std::uint64_t from_offset, std::uint64_t length) {
  constexpr std::uint64_t kGibibyte = 1ull << 30;
  constexpr std::uint64_t kMaximum = 3 * kGibibyte;
  if (length <= kMaximum) return length;
  const std::uint64_t end = (from_offset + kMaximum) / kGibibyte * kGibibyte;
  return end - from_offset;
}

// The set-id bits that this write, by somebody who may not keep them, must clear: every one by the unprivileged asks for it, and
// hardly any file has them.
std::uint32_t set_id_bits_to_clear(fuse_req_t request, fuse_ino_t node, const fuse_file_info& file) {
  if (!write_kills_set_id(file)) return 0;
  const auto attributes = volume(request).attributes(InodeNumber(node));
  return attributes ? lost_set_id_bits(*fuse_req_ctx(request), *attributes) : 0;
}

// Reads that the kernel serves from its cache do not come here: who opens a file for reading alone is taken to read it.
void note_unseen_reads(fuse_req_t request, fuse_ino_t node, const fuse_file_info* file) {
  auto& mount = context(request);
  if ((file->flags & (O_NOATIME | O_PATH)) != 0 || fuse_req_ctx(request)->pid == mount.page_reader) return;
  const auto moved = mount.volume->note_access(InodeNumber(node), mount.access_time.load(std::memory_order_relaxed));
  if (moved && *moved) forget_attributes(request, node);
}

// The data of a read whose answer libfuse would copy: it may meet poison that nobody knew of.
void reply_copied(fuse_req_t request, const ReadLease& lease, std::span<std::byte> to) {
  std::size_t used = 0;
  for (const iovec& piece : lease.pieces()) {
    if (piece.iov_len > to.size() - used) return (void)fuse_reply_err(request, EIO);
    if (!guarded_copy(to.data() + used, piece.iov_base, piece.iov_len)) {
      volume(request).suspect(lease);
      return (void)fuse_reply_err(request, EIO);
    }
    used += piece.iov_len;
  }
  fuse_reply_buf(request, reinterpret_cast<const char*>(to.data()), used);
}

// A failure of what may have changed a part of the file behind its pages, of which the kernel expects no change then. It
// writes dirty pages first, by requests, for which a session's thread must not wait.
void reply_half_done(fuse_req_t request, fuse_ino_t node, off_t offset, const Error& error) {
  MountContext& mount = context(request);
  const bool replies = !came_by_ring(request);  // a ring's answers at once: who looks then may find pages that will have gone soon
  const auto drop_pages = [=, &mount] {
    (void)fuse_lowlevel_notify_inval_inode(mount.session, node, offset, 0);
    if (replies) reply_error(request, error);
  };
  if (mount.worker.submit(drop_pages) && replies) return;
  forget_attributes(request, node);
  reply_error(request, error);
}

}  // namespace

bool may_write(const fuse_file_info* file) { return (file->flags & O_ACCMODE) != O_RDONLY; }

void set_open_reply(fuse_req_t request, fuse_file_info* file) {
  const MountContext& mount = context(request);
  // Who looks whether a page is there must not make the kernel drop it. Where each read moves the access time it must be seen.
  const bool keeps = mount.behaviour.keep_cache && mount.access_time.load(std::memory_order_relaxed) != AccessTime::kStrict;
  file->keep_cache = keeps || fuse_req_ctx(request)->pid == mount.page_reader;
  file->noflush = 1;  // nothing is held back for the time when a file is closed
  const int access = file->flags & O_ACCMODE;
  file->fh = (access != O_WRONLY ? kOpenForReading : 0) | (access != O_RDONLY ? kOpenForWriting : 0);
}

void open(fuse_req_t request, fuse_ino_t node, fuse_file_info* file) {
  auto& opened = volume(request);
  set_open_reply(request, file);
  if (may_write(file))
    opened.open_for_writing(InodeNumber(node));
  else if (file->keep_cache)
    note_unseen_reads(request, node, file);
  if (fuse_reply_open(request, file) != 0 && may_write(file)) opened.close_for_writing(InodeNumber(node));
}

void read(fuse_req_t request, fuse_ino_t node, std::size_t size, off_t offset, fuse_file_info* file) {
  auto& mount = context(request);
  const AccessTime access_time = (file->flags & O_NOATIME) == 0 ? mount.access_time.load(std::memory_order_relaxed) : AccessTime::kKeep;
  const InodeNumber inode(node);
  const auto start = static_cast<std::uint64_t>(offset);
  const auto lease = mount.volume->read(inode, start, size, access_time);
  if (!lease && lease.error().code == ErrorCode::kPoisoned && mount.volume->poison_policy(inode).zero) {
    std::vector<std::byte> bytes(size);
    const auto got = mount.volume->read_with_zeros(inode, start, bytes);
    if (!got) return reply_error(request, got.error());
    return (void)fuse_reply_buf(request, reinterpret_cast<const char*>(bytes.data()), *got);
  }
  if (!lease) return reply_error(request, lease.error());
  if (const auto buffer = ring_buffer(request); !buffer.empty()) return reply_copied(request, *lease, buffer);
  const auto pieces = lease->pieces();
  // The kernel may meet poison that nobody knew of while it copies from the pool: it has answered EIO to the reader
  // then, and the request is gone.
  if (fuse_reply_iov(request, pieces.data(), static_cast<int>(pieces.size())) == -EFAULT) mount.volume->suspect(*lease);
}

// O_APPEND needs no care: the kernel knows the size of the file, and holds its lock.
void write(fuse_req_t request, fuse_ino_t node, const char* data, std::size_t size, off_t offset, fuse_file_info* file) {
  Volume::WriteOptions options{.clear_mode = set_id_bits_to_clear(request, node, *file)};
  if ((file->flags & O_DIRECT) != 0) volume(request).note_change_behind_pages(InodeNumber(node));
  const auto write_it = [&] {
    return volume(request).write(InodeNumber(node), static_cast<std::uint64_t>(offset), std::as_bytes(std::span(data, size)),
                                 options);
  };
  auto written = write_it();
  if (!written && written.error().code == ErrorCode::kPoisoned && volume(request).poison_policy(InodeNumber(node)).zero) {
    options.zero_lost = true;
    written = write_it();
  }
  // As much as there is room for, so that a program that goes on fills the pool to its last block. (Of pages that it writes
  // back, and of direct I/O, the kernel wants all or nothing: it makes EIO of less.)
  options.waits_for_space = false;
  const bool in_part = file->writepage == 0 && (file->flags & O_DIRECT) == 0;
  while (!written && written.error().code == ErrorCode::kNoSpace && in_part) {
    const std::uint64_t start = static_cast<std::uint64_t>(offset), end = (start + size / 2) / kBlockBytes * kBlockBytes;
    if (end <= start) break;
    size = end - start;
    written = write_it();
  }
  if (!written) {
    volume(request).note_failed_write(InodeNumber(node));
    return reply_error(request, written.error());
  }
  // When it writes pages back, the kernel does not expect the times to change either: of two looks that are under way it would
  // believe the later answer, which may be the older one.
  if (options.clear_mode != 0 || file->writepage) forget_attributes(request, node);
  fuse_reply_write(request, size);
}

void flush(fuse_req_t request, fuse_ino_t, fuse_file_info*) { fuse_reply_err(request, 0); }

void release(fuse_req_t request, fuse_ino_t node, fuse_file_info* file) {
  if (may_write(file)) {
    volume(request).close_for_writing(InodeNumber(node));
    // Times of in-place writes are lazy until now. Nobody waits for this reply.
    (void)volume(request).sync(InodeNumber(node));
  }
  fuse_reply_err(request, 0);
}

void fsync(fuse_req_t request, fuse_ino_t node, int data_only, fuse_file_info*) {
  reply_done(request, volume(request).sync(InodeNumber(node), data_only != 0 ? Volume::Sync::kContent : Volume::Sync::kAll));
}

void fallocate(fuse_req_t request, fuse_ino_t node, int mode, off_t offset, off_t length, fuse_file_info*) {
  const auto wanted = to_allocate_mode(mode);
  if (!wanted) return reply_error(request, Error{ErrorCode::kUnsupported, {}});
  volume(request).note_change_behind_pages(InodeNumber(node));
  const auto done = volume(request).allocate(InodeNumber(node), *wanted, static_cast<std::uint64_t>(offset),
                                             static_cast<std::uint64_t>(length));
  if (!done) return reply_half_done(request, node, offset, done.error());
  forget_attributes(request, node);
  fuse_reply_err(request, 0);
}

void copy_file_range(fuse_req_t request, fuse_ino_t from, off_t from_offset, fuse_file_info*, fuse_ino_t to,
                     off_t to_offset, fuse_file_info*, std::size_t length, int flags) {
  if (flags != 0) return reply_error(request, Error{ErrorCode::kInvalid, {}});
  const auto start = static_cast<std::uint64_t>(from_offset);
  volume(request).note_change_behind_pages(InodeNumber(to));
  const auto done = volume(request).clone_range(InodeNumber(from), start, InodeNumber(to),
                                                static_cast<std::uint64_t>(to_offset), cloneable_length(start, length));
  if (!done) return reply_half_done(request, to, to_offset, done.error());
  fuse_reply_write(request, *done);
}

void lseek(fuse_req_t request, fuse_ino_t node, off_t offset, int whence, fuse_file_info*) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return reply_error(request, Error{ErrorCode::kInvalid, {}});
  MountContext& mount = context(request);
  const auto answer = [=, &mount] {
    const auto found = mount.volume->seek(InodeNumber(node), static_cast<std::uint64_t>(offset), whence == SEEK_DATA);
    if (!found) return reply_error(request, found.error());
    fuse_reply_lseek(request, static_cast<off_t>(*found));
  };
  // What the kernel has gathered and not written yet is data too: it writes that first, by requests, for which a session's
  // thread must not wait.
  if (mount.behaviour.writeback_cache && mount.volume->is_open_for_writing(InodeNumber(node)) &&
      mount.worker.submit([=, &mount] {
        (void)fuse_lowlevel_notify_inval_inode(mount.session, node, offset, 0);
        answer();
      }))
    return;
  answer();
}

}  // namespace daxcow::handlers
