// Everything that a user can see of a pool, in a form that can be compared: all volumes, names, attributes and contents.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "engine/pool.h"
#include "engine/result.h"

namespace daxcow::test {

struct DumpedInode {
  std::uint64_t number = 0, generation = 0;
  std::uint32_t mode = 0, link_count = 0, uid = 0, gid = 0, device = 0;
  std::uint64_t size_bytes = 0, block_count = 0;
  std::array<Timestamp, 4> times;  // access, modification, change, birth
  std::map<std::string, std::string> attributes;
  std::string target;                           // of a symlink
  std::map<std::uint64_t, std::string> blocks;  // file block -> 4096 bytes; those that are all zero are left out
  std::set<std::uint64_t> lost;                 // file blocks that cannot be read
  std::pair<PoisonPolicy::Signal, bool> policy;  // for those, its own or inherited; second: zero
  friend bool operator==(const DumpedInode&, const DumpedInode&) = default;
};

struct DumpedVolume {
  bool read_only = false, snapshot = false;
  std::map<std::string, DumpedInode> names;  // path -> inode; hard links are repeated
  friend bool operator==(const DumpedVolume&, const DumpedVolume&) = default;
};

struct Dump {
  std::map<std::string, DumpedVolume> volumes;
  friend bool operator==(const Dump&, const Dump&) = default;
};

struct DumpOptions {
  // What cannot be read for poison is noted (DumpedInode::lost; names and attributes left out) instead of failing.
  bool tolerate_losses = false;
};
// Mounts each volume read-only if it is not mounted.
Result<Dump> dump(Pool& pool, const std::map<std::string, std::shared_ptr<Volume>>& mounted = {},
                  const DumpOptions& options = {});

struct Tolerance {
  bool times = false;  // access, modification and change times may differ
};
// The first difference in words, or nothing.
std::optional<std::string> difference(const Dump& a, const Dump& b, const Tolerance& tolerance = {});

}  // namespace daxcow::test
