// Answers the ioctls of programs under daxcow run: FICLONE, FICLONERANGE, FIDEDUPERANGE for files on mounts of daxcow, as the
// kernel would if it asked FUSE filesystems. Everything else about them is left to the kernel, which also knows the errors of
// calls that are wrong in themselves (files that are not open for it, directories, ...).
#pragma once

#include <linux/seccomp.h>

#include <optional>

#include "engine/file_descriptor.h"

namespace daxcow::tools {

class ReflinkSupervisor {
 public:
  explicit ReflinkSupervisor(int listener) : listener_(listener) {}
  // Waits for a notification. Nothing when there will be no more. Any number of threads.
  std::optional<seccomp_notif> receive() const;
  // May take as long as the files in question do: a filesystem that hangs keeps the thread. Who may not wait leaves what concerns
  // files to the kernel.
  void answer(const seccomp_notif& notification, bool may_wait) const;

 private:
  const int listener_;  // not owned
};

}  // namespace daxcow::tools
