// Answers the ioctls of programs under daxcow run: FICLONE, FICLONERANGE, FIDEDUPERANGE for files on mounts of daxcow, as the
// kernel would if it asked FUSE filesystems. Everything else about them is left to the kernel, which also knows the errors of
// calls that are wrong in themselves (files that are not open for it, directories, ...).
#pragma once

#include <linux/seccomp.h>

#include <cstdint>

#include "engine/file_descriptor.h"

namespace daxcow::tools {

class ReflinkSupervisor {
 public:
  explicit ReflinkSupervisor(int listener) : listener_(listener) {}
  // Waits for a notification and answers it. False when there will be no more. In as many threads as shall be served at once.
  bool serve_one();

 private:
  const int listener_;  // not owned
};

}  // namespace daxcow::tools
