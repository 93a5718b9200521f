// The ioctls of fuse/reflink_protocol.h.
#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "fuse/caller.h"
#include "fuse/handlers.h"
#include "fuse/reflink_protocol.h"
#include "fuse/transport.h"

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

// What was done, and what of the target the kernel must forget before the caller hears of it.
struct Outcome {
  ReflinkAnswer answer;
  bool may_have_changed = false;
  std::uint64_t changed_bytes = 0;  // from the target's offset; 0: to the end
};

Outcome failure(const ReflinkCall& call, const Error& error, bool may_have_changed = false) {
  return {.answer = {.error = errno_of(error), .call = call}, .may_have_changed = may_have_changed};
}

Outcome reflink(const MountContext& mount, const fuse_ctx& caller, fuse_ino_t node, ReflinkCall call, const ReflinkSource& source) {
  auto& target = *mount.volume;
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
    if (!may_change) return failure(call, may_change.error());
    if (!keeps_content && *may_change) {
      const auto attributes = target.attributes(inode);
      if (attributes && caller.uid != 0) clear_mode = lost_set_id_bits(caller, *attributes);
      const auto removed = target.remove_attribute(inode, "security.capability");
      if (!removed && removed.error().code != ErrorCode::kNoAttribute) return failure(call, removed.error());
    }
    done = source.volume->reflink({source.inode, source.generation}, target, inode, range, mode, clear_mode, *may_change);
  } while (!done && done.error().code == ErrorCode::kBusy);
  if (!done) return failure(call, done.error(), true);  // a beginning may be done
  call.done_bytes = done->bytes;
  call.new_bytes = done->new_bytes;
  call.kernel_keeps_size = mount.behaviour.writeback_cache ? 1 : 0;
  return {.answer = {.error = 0, .call = call},
          .may_have_changed = done->bytes != 0 || mode == ReflinkMode::kReplace,
          .changed_bytes = done->bytes};
}

// The kernel has no pages of what was there before when this returns. What it had not written yet, it writes now.
void forget_range(const MountContext& mount, fuse_ino_t node, const Outcome& outcome) {
  const ReflinkCall& call = outcome.answer.call;
  const auto mode = static_cast<ReflinkMode>(call.mode);
  if (!outcome.may_have_changed || mode == ReflinkMode::kCompare) return;
  off_t offset = 0, length = 0;  // all pages
  if (mode == ReflinkMode::kDedupe) {
    offset = -1;  // attributes only: the content is what it was
  } else if (mode != ReflinkMode::kReplace) {
    offset = static_cast<off_t>(call.to_offset);
    length = static_cast<off_t>(outcome.changed_bytes);
  }
  (void)fuse_lowlevel_notify_inval_inode(mount.session, node, offset, length);
}

void reply(fuse_req_t request, const ReflinkAnswer& answer) {
  if (answer.error != 0)
    fuse_reply_err(request, answer.error);
  else
    fuse_reply_ioctl(request, 0, &answer.call, sizeof answer.call);
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
  // The session's threads must not wait for the kernel. Those that serve a ring must answer, too: see fuse/transport.h.
  auto& sources = *mount.reflink_sources;
  const bool answers_later = came_by_ring(request);
  if (answers_later)
    if (const auto answer = sources.ask_again(wanted.source, caller_of(request)))
      return *answer ? reply(request, **answer) : (void)fuse_reply_err(request, EINPROGRESS);
  const auto source = sources.take(wanted.source, caller_of(request), answers_later);
  if (!source) return (void)fuse_reply_err(request, source.error().code == ErrorCode::kBusy ? EAGAIN : errno_of(source.error()));
  // Its caller may be killed then, and the file be closed and deleted: its number must not become another's meanwhile.
  if (answers_later) mount.volume->remember(InodeNumber(node));
  const auto job = [=, &mount, &sources, caller = *fuse_req_ctx(request), source = *source] {
    const Outcome outcome = reflink(mount, caller, node, wanted, source);
    forget_range(mount, node, outcome);
    if (!answers_later) return reply(request, outcome.answer);
    sources.answer(wanted.source, outcome.answer);
    mount.volume->forget(InodeNumber(node), 1);
  };
  const bool is_under_way = mount.worker.submit(job);
  if (!is_under_way && answers_later) mount.volume->forget(InodeNumber(node), 1);
  if (!is_under_way || answers_later) fuse_reply_err(request, is_under_way ? EINPROGRESS : ENODEV);
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
