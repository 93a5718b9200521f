// libfuse3's low-level API at the version that daxcow is written for: 3.14 and everything later.
#pragma once

#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 14)
#include <fuse3/fuse_lowlevel.h>

static_assert(FUSE_VERSION >= FUSE_MAKE_VERSION(3, 14), "libfuse 3.14 or later is needed");
