// The only place where the engine's errors become errno values, for replies to the kernel.
#pragma once

#include "engine/result.h"

namespace daxcow {

// Positive errno, never 0 and never ENOSYS (which the kernel takes as "never ask again").
int errno_of(ErrorCode code);
inline int errno_of(const Error& error) { return errno_of(error.code); }

}  // namespace daxcow
