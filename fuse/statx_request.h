// FUSE_STATX (Linux 6.6), which libfuse before 3.18 does not know: the kernel sends it to who asks for the time of birth.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "fuse/operations.h"

namespace daxcow {

// Whether a request, as it came from the kernel, is one.
bool is_statx_request(std::span<const char> request);
// The reply that the kernel is to get. `request` must be one.
std::vector<char> answer_statx_request(MountContext& mount, std::span<const char> request);

}  // namespace daxcow
