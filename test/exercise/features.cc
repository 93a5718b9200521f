#include "test/exercise/features.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <vector>

#include "engine/file_descriptor.h"
#include "test/exercise/failure.h"

namespace daxcow::exercise {

namespace {

// The smallest alignment that direct writes and reads take.
std::uint64_t probe_direct(const std::string& path) {
  const FileDescriptor file(open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  if (!file) return 0;
  constexpr std::uint64_t kMost = 4096;
  const std::unique_ptr<char, void (*)(void*)> memory(static_cast<char*>(std::aligned_alloc(kMost, 2 * kMost)), std::free);
  std::fill_n(memory.get(), 2 * kMost, 'x');
  for (std::uint64_t alignment = 1; alignment <= kMost; alignment *= 8) {
    const auto where = static_cast<off_t>(alignment);
    if (pwrite(file.get(), memory.get() + alignment, alignment, where) == where &&
        pread(file.get(), memory.get() + alignment, alignment, where) == where)
      return alignment;
  }
  return 0;
}

// In a path of mountinfo, blanks and the like are octal.
std::string unescape(const std::string& text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      plain += static_cast<char>(std::stoi(text.substr(i + 1, 3), nullptr, 8));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

// Finds the mount that the directory is on, and what of the path is below it.
void find_daxcow(const std::string& directory, dev_t device, Features& features) {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string id, parent, number, root, point, word, type, source;
    words >> id >> parent >> number >> root >> point;
    while (words >> word && word != "-") {
    }
    words >> type >> source;
    if (number != fmt::format("{}:{}", major(device), minor(device)) || !type.starts_with("fuse.daxcow")) continue;
    point = unescape(point);
    if (!directory.starts_with(point)) continue;
    features.daxcow = true;
    features.pool = unescape(source);
    features.below_mount = directory.substr(point.size());
  }
}

}  // namespace

Features probe(const std::string& directory) {
  Features features;
  const std::string path = directory + "/probe", other = directory + "/probe-2";
  const FileDescriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file) fail_call("making a file in " + directory);
  constexpr off_t kBytes = 64 * 1024;
  if (ftruncate(file.get(), kBytes) != 0) fail_call("ftruncate");
  const int descriptor = file.get();
  features.allocate = fallocate(descriptor, 0, 0, kBytes) == 0 && fallocate(descriptor, FALLOC_FL_KEEP_SIZE, 0, kBytes) == 0;
  features.punch = fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBytes) == 0;
  features.zero_range = fallocate(descriptor, FALLOC_FL_ZERO_RANGE, 0, kBytes) == 0;
  features.sparse = lseek(descriptor, 0, SEEK_HOLE) >= 0;
  if (ftruncate(descriptor, 0) != 0 || pwrite(descriptor, "x", 1, 0) != 1) fail_call("writing");
  struct stat written {};
  if (fstat(descriptor, &written) != 0) fail_call("fstat");
  features.late_writes = features.sparse && (written.st_blocks == 0 || lseek(descriptor, 0, SEEK_DATA) != 0);
  if (ftruncate(descriptor, kBytes) != 0) fail_call("ftruncate");
  off_t from = 0, to = kBytes;
  features.copy = copy_file_range(descriptor, &from, descriptor, &to, 4096, 0) == 4096;
  features.direct_alignment = probe_direct(path);
  if (const FileDescriptor second(open(other.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)); !second) fail_call("making a file");
  features.exchange = renameat2(AT_FDCWD, path.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE) == 0;
  unlink(path.c_str());
  unlink(other.c_str());

  struct statfs filesystem {};
  struct stat status {};
  if (fstatfs(descriptor, &filesystem) != 0 || fstat(descriptor, &status) != 0) fail_call("statfs");
  features.block_bytes = std::clamp<std::uint64_t>(static_cast<std::uint64_t>(filesystem.f_bsize), 512, 65536);
  // Memory filesystems do not see stores to their own pages, and tmpfs leaves the times alone when it only allocates.
  if (filesystem.f_type == TMPFS_MAGIC) features.mapped_times = features.allocate_times = false;
  features.fuse = filesystem.f_type == FUSE_SUPER_MAGIC;
  find_daxcow(directory, status.st_dev, features);
  // With late writes a truncation may come before what it cuts off.
  features.exact_blocks = features.daxcow && !features.late_writes;
  return features;
}

}  // namespace daxcow::exercise
