// The ioctls of fuse/reflink_protocol.h.
#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "fuse/caller.h"
#include "fuse/handlers.h"
#include "fuse/reflink_protocol.h"

namespace daxcow::handlers {

namespace {

ReflinkCaller caller_of(fuse_req_t request) {
  const fuse_ctx* const context = fuse_req_ctx(request);
  return {.thread = context->pid, .uid = context->uid};
}

void offer(fuse_req_t request, fuse_ino_t node, const fuse_file_info* file) {
  auto& mount = context(request);
  if ((file->fh & kOpenForReading) == 0) return (void)fuse_reply_err(request, EBADF);
  const auto attributes = mount.volume->attributes(InodeNumber(node));
  if (!attributes) return reply_error(request, attributes.error());
  const auto ticket =
      mount.reflink_sources->offer({mount.volume, attributes->inode, attributes->generation}, caller_of(request));
  fuse_reply_ioctl(request, 0, &ticket, sizeof ticket);
}

// The kernel has no pages of what was there before when this returns. What it had not written yet, it writes now.
void forget_range(fuse_req_t request, fuse_ino_t node, ReflinkMode mode, std::uint64_t offset, std::uint64_t length) {
  if (mode == ReflinkMode::kCompare) return;
  if (mode == ReflinkMode::kDedupe) return (void)forget_attributes(request, node);  // the content is what it was
  const bool whole = mode == ReflinkMode::kReplace;
  (void)fuse_lowlevel_notify_inval_inode(context(request).session, node, whole ? 0 : static_cast<off_t>(offset),
                                         whole ? 0 : static_cast<off_t>(length));  // 0: to the end
}

void reflink(fuse_req_t request, fuse_ino_t node, ReflinkCall call, const ReflinkSource& source) {
  auto& target = *context(request).volume;
  const InodeNumber inode(node);
  const auto mode = static_cast<ReflinkMode>(call.mode);
  const ReflinkRange range{call.from_offset, call.to_offset, call.length};
  const bool keeps_content = mode == ReflinkMode::kDedupe || mode == ReflinkMode::kCompare;
  if (!keeps_content) target.note_change_behind_pages(inode);
  // As for a write: set-id bits go with the change of content unless root writes, file capabilities always, and before it. So it is
  // found out first whether there is one to come; who makes it one meanwhile has it found out again.
  Result<ReflinkDone> done;
  do {
    Result<bool> may_change = true;
    std::uint32_t clear_mode = 0;
    if (!keeps_content) may_change = source.volume->reflink_would_change({source.inode, source.generation}, target, inode, range, mode);
    if (!may_change) return reply_error(request, may_change.error());
    if (!keeps_content && *may_change) {
      const auto attributes = target.attributes(inode);
      if (attributes && fuse_req_ctx(request)->uid != 0) clear_mode = lost_set_id_bits(request, *attributes);
      const auto removed = target.remove_attribute(inode, "security.capability");
      if (!removed && removed.error().code != ErrorCode::kNoAttribute) return reply_error(request, removed.error());
    }
    done = source.volume->reflink({source.inode, source.generation}, target, inode, range, mode, clear_mode, *may_change);
  } while (!done && done.error().code == ErrorCode::kBusy);
  if (!done) {
    // A beginning may be done.
    forget_range(request, node, mode, call.to_offset, 0);
    return reply_error(request, done.error());
  }
  if (done->bytes != 0 || mode == ReflinkMode::kReplace) forget_range(request, node, mode, call.to_offset, done->bytes);
  call.done_bytes = done->bytes;
  call.new_bytes = done->new_bytes;
  call.kernel_keeps_size = context(request).behaviour.writeback_cache ? 1 : 0;
  fuse_reply_ioctl(request, 0, &call, sizeof call);
}

// The kernel's may_dedupe_file(): who may write, who owns the file, and root.
bool may_dedupe(fuse_req_t request, fuse_ino_t node) {
  const auto uid = fuse_req_ctx(request)->uid;
  if (uid == 0) return true;
  const auto attributes = volume(request).attributes(InodeNumber(node));
  return attributes && attributes->uid == uid;
}

void call(fuse_req_t request, fuse_ino_t node, const fuse_file_info* file, const ReflinkCall& wanted) {
  auto& mount = context(request);
  if (wanted.mode > static_cast<std::uint64_t>(ReflinkMode::kCompare)) return (void)fuse_reply_err(request, EINVAL);
  const auto mode = static_cast<ReflinkMode>(wanted.mode);
  if (mode == ReflinkMode::kCompare) {
    if ((file->fh & kOpenForReading) == 0) return (void)fuse_reply_err(request, EBADF);
  } else if ((file->fh & kOpenForWriting) == 0) {
    if (mode != ReflinkMode::kDedupe) return (void)fuse_reply_err(request, EBADF);
    if (mount.read_only.load()) return (void)fuse_reply_err(request, EROFS);
    if (!may_dedupe(request, node)) return (void)fuse_reply_err(request, EPERM);
  }
  auto source = mount.reflink_sources->take(wanted.source, caller_of(request));
  if (!source) {
    if (source.error().code == ErrorCode::kBusy) return (void)fuse_reply_err(request, EAGAIN);
    return reply_error(request, source.error());
  }
  if (!mount.worker.submit([=, source = *std::move(source)] { reflink(request, node, wanted, source); }))
    fuse_reply_err(request, ENODEV);
}

}  // namespace

void ioctl(fuse_req_t request, fuse_ino_t node, unsigned command, void*, fuse_file_info* file, unsigned flags,
           const void* input, std::size_t input_bytes, std::size_t output_bytes) {
  if ((flags & FUSE_IOCTL_DIR) == 0) {
    if (command == kReflinkOffer && output_bytes >= sizeof(ReflinkTicket)) return offer(request, node, file);
    if (ReflinkCall wanted; command == kReflinkCall && input_bytes >= sizeof wanted && output_bytes >= sizeof wanted) {
      std::memcpy(&wanted, input, sizeof wanted);
      return call(request, node, file, wanted);
    }
  }
  fuse_reply_err(request, ENOTTY);
}

}  // namespace daxcow::handlers
