// The healthy pools that hostile images are made from, each with a part of the format in use. Made by the engine at the
// first call and kept; UUID and times differ from run to run, everything else does not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "engine/format.h"
#include "engine/types.h"
#include "test/fuzz/working_image.h"

namespace daxcow::fuzz {

enum class BaseKind : std::uint8_t {
  kEmpty,      // a volume without files
  kFiles,      // directories, hard links, symlinks, devices, attributes of one and of many blocks
  kSharing,    // clones, snapshots of snapshots
  kDeep,       // sparse files up to the largest size, unwritten blocks, many names and inodes
  kDropped,    // orphans, a full graveyard, not closed
  kLedger,     // lost blocks in files and snapshots
  kUnfinished, // a journal record that is not home
  kChunks,     // more metadata than one chunk holds; slow to look through, so it has nothing else
};
inline constexpr std::size_t kBaseKinds = 8;

struct BaseImage {
  std::vector<std::byte> content;
  std::unique_ptr<WorkingImage> work;
  std::vector<BlockNumber> chunks;                                 // headers
  std::vector<BlockNumber> blocks[format::kBlockTypeCount];        // metadata blocks by type; [0]: free ones
  std::vector<BlockNumber> used;                                   // all that are not free

  // One of the type, or of all that are used if the base has none of it.
  BlockNumber metadata_block(std::size_t type, std::size_t which) const {
    const auto& list = blocks[type % format::kBlockTypeCount];
    const auto& some = list.empty() ? used : list;
    return some[which % some.size()];
  }
};

BaseImage& base_image(BaseKind kind);

}  // namespace daxcow::fuzz
