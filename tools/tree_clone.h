// Clones a tree of files: regular files share their blocks with the originals, everything else about them is made again -
// directories, symbolic links, special files, hard links among them, owners, modes, times, extended attributes and ACLs.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/result.h"

namespace daxcow::tools {

struct TreeCloneReport {
  std::uint64_t files = 0;    // of any kind, the top included
  std::uint64_t failed = 0;   // each was told to `complain`
  std::uint64_t not_kept = 0; // owners and attributes that only root may set
};

// Clones `source`, of any kind, to `target`, which must not exist and gets parts as they are made. What fails is told and left
// out, and the rest goes on. Not atomic: who needs one moment of a tree takes it from a snapshot.
TreeCloneReport clone_tree(const std::string& source, const std::string& target,
                           const std::function<void(const Error&)>& complain);

}  // namespace daxcow::tools
