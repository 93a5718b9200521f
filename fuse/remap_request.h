// FUSE_REMAP_FILE_RANGE, an extension of the FUSE protocol that docs/kernel-ficlone.md proposes: with it the kernel passes FICLONE,
// FICLONERANGE and FIDEDUPERANGE on, and daxcow run is not needed. The handler is complete. It is asked for at INIT only in a
// build with DAXCOW_FUSE_REMAP, since opcode and flag are proposals: no kernel has them, and one may use them for something else.
//
// Opening files, permissions, alignment, the page cache of both files and their times in the kernel are the kernel's business, as
// for FUSE_COPY_FILE_RANGE. Both files are on this mount.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "fuse/operations.h"

namespace daxcow {

inline constexpr std::uint32_t kRemapFileRange = 54;          // the opcode
inline constexpr std::uint32_t kRemapInitFlag2 = 1u << 11;    // in flags2 of INIT, both ways
inline constexpr std::uint32_t kRemapDedupe = 1;              // flags, as the kernel's REMAP_FILE_*
inline constexpr std::uint32_t kRemapCanShorten = 2;

struct RemapFileRangeIn {  // after the fuse_in_header, whose nodeid is that of the source
  std::uint64_t fh_in;
  std::uint64_t off_in;
  std::uint64_t nodeid_out;
  std::uint64_t fh_out;
  std::uint64_t off_out;
  std::uint64_t len;  // 0: to the end of the source
  std::uint32_t flags;
  std::uint32_t padding;
};
static_assert(sizeof(RemapFileRangeIn) == 56);

struct RemapFileRangeOut {
  std::uint64_t bytes;  // done
};

// Whether a request, as it came from the kernel, is one.
bool is_remap_request(std::span<const char> request);
// Does what it says, and makes the reply that the kernel is to get. `request` must be one; it may be cut short.
std::vector<char> answer_remap_request(MountContext& mount, std::span<const char> request);

}  // namespace daxcow
