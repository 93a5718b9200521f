#include "fuse/told_directories.h"

namespace daxcow {

void ToldDirectories::note(InodeNumber inode, pid_t thread) {
  Record& record = record_of(inode);
  const std::lock_guard lock(record.mutex);
  if (record.directory != inode) return;
  if (thread == 0 || (record.told != kNobody && record.told != thread))
    record.told = kSeveral;
  else
    record.told = thread;
}

void ToldDirectories::announce(InodeNumber directory, pid_t thread, FunctionRef<bool()> tell) {
  Record& record = record_of(directory);
  const std::lock_guard lock(record.mutex);  // who comes next and need not tell returns after this has told
  if (record.directory == directory && (record.told == kNobody || record.told == thread)) return;
  record.directory = directory;
  record.told = tell() ? kNobody : kSeveral;
}

}  // namespace daxcow
