// Images of pools for tests of repair: a builder that puts something of everything into a pool, a look at all that a
// user of the pool can see, and places to plant damage in.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/map.h"
#include "engine/pool.h"
#include "engine/repair.h"
#include "test/checker_image.h"

namespace daxcow::test {

// A pool that was opened on the image; what it wrote is in the image afterwards, and the journal is empty: what is
// planted then stays.
void with_pool(Image& image, const std::function<void(Pool&)>& use);

struct RepairImage {
  Image image;
  InodeNumber file, linked, directory, symlink, device, empty, pipe, big, attributed;
};
// Volumes "main" and "other", a snapshot of main, clones, links, attributes, directories, symlinks, a device, an
// orphan, and something in the graveyard. Several metadata chunks.
const RepairImage& repair_image();

// Everything a user can see: by "volume:/path", its kind, owner, times, links, attributes and content. Lost content
// reads as "lost". The image is not changed.
using Contents = std::map<std::string, std::string>;
Contents contents_of(const Image& image);
// Lines that differ, for people.
std::string difference(const Contents& before, const Contents& after);

// The block of a volume's inode table that holds an inode, and the record in it. Without a name: volume 0.
struct InodeAt {
  BlockNumber block;
  format::InodeRecord record;
};
VolumeNumber number_of(const Image& image, std::string_view volume);
InodeAt find_inode(const Image& image, std::string_view volume, InodeNumber inode);
format::InodeRecord& inode_in(Image& image, const InodeAt& at, InodeNumber inode);
// The block that a file block of an inode's data or attribute fork leads to.
BlockNumber leaf_of(const Image& image, const Fork& fork, FileBlock block);
// The map node under the first slot of a volume's inode table, in repair_image().
BlockNumber table_node(std::string_view volume);
std::vector<BlockNumber> blocks_of_type(const Image& image, format::BlockType type);

// Makes both copies of a block unreadable by their checksum.
void lose(Image& image, BlockNumber block);

struct Repaired {
  Image image;
  Result<RepairReport> report = fail(ErrorCode::kInvalid);
};
Repaired repair_of(const Image& image, RepairMode mode = RepairMode::kAll,
                   const std::function<void(DramMedium&)>& prepare = {});
std::string listing(const RepairReport& report);

}  // namespace daxcow::test
