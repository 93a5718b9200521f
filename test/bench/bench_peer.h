// A directory on one of the filesystems that are compared, and what the cases do there.
#pragma once

#include <fcntl.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/file_descriptor.h"
#include "test/bench/samples.h"

namespace daxcow::bench {

// How a whole file is cloned there: the kernel refuses FICLONE on every FUSE filesystem, where copy_file_range does it.
enum class CloneCall { kFiclone, kCopyFileRange };

struct Peer {
  std::string name, directory;
  CloneCall clone_call = CloneCall::kFiclone;
  std::string path(const std::string& file) const { return directory + "/" + file; }
};

// Ends the program with what failed and errno's meaning; `what` names the call and the path.
[[noreturn]] void fail_with_errno(const std::string& what);

FileDescriptor open_file(const std::string& path, int flags);
void write_all(int file, std::uint64_t offset, const void* data, std::uint64_t length_bytes);
// A new file with content, synced.
void fill_file(const std::string& path, std::uint64_t length_bytes);
// The same in so many runs of blocks that are not neighbours: between each two of them another file gets a block.
void fill_fragmented_file(const Peer& peer, const std::string& name, std::uint64_t length_bytes, std::uint64_t extents);
// False if the filesystem cannot clone. The target must be empty.
bool clone_file(const Peer& peer, int source, int target);
void drop_pages(int file);
void remove_file(const std::string& path);

struct Parameters {
  std::uint64_t file_bytes, random_file_bytes, extents, names, random_operations;
  unsigned depth;
  std::string archive;  // of a source tree, for untar; empty: none
};

// One line of JSON: what was measured in one round on one peer, in nanoseconds.
struct Report {
  std::string case_name;
  unsigned round = 0;
  void samples(const Peer& peer, const std::string& metric, Samples& samples) const;
  void value(const Peer& peer, const std::string& metric, double nanoseconds, double p99 = 0,
             std::size_t count = 1) const;
};

// A case: everything is prepared on all peers, then measured in turns, then removed.
struct Case {
  const char* name;
  bool (*prepare)(const Peer&, const Parameters&);  // false: this filesystem cannot do it
  void (*round)(const Peer&, const Parameters&, const Report&);
  void (*finish)(const Peer&, const Parameters&);
};

extern const std::vector<Case> kCloneCases, kDataCases, kNameCases;

}  // namespace daxcow::bench
