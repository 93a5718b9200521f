// How a program has daxcow share blocks between two open files: two ioctls on the files themselves, through the mount. The
// kernel answers FICLONE and its kin for FUSE files itself, but passes on numbers that it does not know.
//
//   ioctl(source, kReflinkOffer, &call.source);    what the source is, as a ticket: needs a file open for reading
//   ioctl(target, kReflinkCall, &call);            shares; needs a file open for writing (see below)
//
// So nobody has to be root. That the caller may read the one file and write to the other is shown by having them open: the
// daemon notes with each open what it was for. A ticket cannot be guessed, serves once, for the thread that asked for it, and
// for ten seconds. Source and target may be on two mounts of one pool.
//
// The second ioctl answers as FICLONERANGE and FIDEDUPERANGE do, by the mode; EBADE is "the ranges differ", EXDEV "another
// pool", EAGAIN "the ticket has expired". For kDedupe the target need not be open for writing if the caller is root or owns it.
// kCompare needs both open for reading.
// EINPROGRESS is no answer yet: the same call is to be made again, until it gets another. (The kernel is writing or dropping the
// target's pages, and the thread that serves the caller must not wait for that.)
// What the kernel has not written yet is not seen: fsync both files first. fstat the target afterwards: the kernel has
// forgotten its attributes, and goes by the size that it knew until somebody asks. reflink_files() does all that.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

#include "engine/volume.h"

namespace daxcow {

inline constexpr std::uint64_t kReflinkMagic = 0x006b6e6c66657264;  // "dreflnk"

struct ReflinkTicket {
  std::uint64_t magic;   // kReflinkMagic: it was daxcow that answered
  std::uint64_t daemon;  // which daemon, at random
  std::uint64_t slot;
  std::uint64_t secret[2];
};

struct ReflinkCall {
  ReflinkTicket source;
  std::uint64_t from_offset, to_offset, length;  // as in ReflinkRange
  std::uint64_t mode;                            // a ReflinkMode
  std::uint64_t done_bytes, new_bytes;           // filled in, as in ReflinkDone
  std::uint64_t kernel_keeps_size;               // filled in: not 0 where the kernel believes no size but its own (writeback_cache)
};

inline constexpr unsigned kReflinkOffer = _IOR(0xda, 1, ReflinkTicket);
inline constexpr unsigned kReflinkCall = _IOWR(0xda, 2, ReflinkCall);

}  // namespace daxcow
