// Who owns a block? Answered from the reverse map, without touching the block.
//
// The references to a block lead to the blocks that hold them, the references to those further up, and so on to inode
// blocks, inode tables and the roots. Every block is climbed once, however many ways lead through it, so the cost
// follows the number of references and not the number of owners: 10,000 clones in 1,000 snapshots are 10^7 owners, but
// only about 12,000 references. An OwnerSet keeps them in this factored form; an owner is one way from the block to the
// roots, and its inode number and offset are sums of slots along the way.
//
// Worked example: block 9000 is referred to by slot 3 of map node N1. N1 is shared by slot 0 of the data of the second
// inode in inode block I1, and by slot 0 of the third. I1 is in slot 1 of the inode tables of a volume and of its
// snapshot, which are the inodes 16 and 17 of volume 0. The set has six references and four owners: file block 3 of the
// inodes 17 and 18 (slot 1 * 16 + index), in volume 16 and in volume 17.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/block.h"
#include "engine/format.h"
#include "engine/function_ref.h"
#include "engine/pool.h"
#include "engine/result.h"
#include "engine/store.h"
#include "engine/types.h"

namespace daxcow {

// What a block is to its owner.
enum class OwnerRole { kData, kDirectory, kAttributes, kSymlink, kOrphans, kGraveyard, kMap, kInode, kVolume };
const char* name_of(OwnerRole role);

struct OwnerRange {
  VolumeNumber volume;
  InodeNumber inode;  // 0 with kVolume: the volume as a whole
  OwnerRole role{};
  FileBlock first;  // of the data; with kAttributes (and their map nodes) of the attribute fork
  std::uint64_t count = 0;
  bool unwritten = false;  // the owner reads zeros whatever is in the block
};

class OwnerSet {
 public:
  // Calls visit for the owners in those volumes that `wanted` accepts, in no particular order, until it returns false.
  // Ways that end in other volumes cost nothing. Ends after kMaximumOwners: a file may hold one subtree more often than
  // anybody can count.
  static constexpr std::uint64_t kMaximumOwners = 20'000'000;
  void for_each(FunctionRef<bool(VolumeNumber)> wanted, FunctionRef<bool(const OwnerRange&)> visit) const;
  // At most `limit` owners; *truncated says whether there are more.
  std::vector<OwnerRange> expand(std::size_t limit, bool* truncated = nullptr) const;
  std::size_t reference_count() const;

 private:
  friend class OwnerSearch;
  friend class OwnerWalk;
  enum class Holder : std::uint8_t { kMapNode, kInode, kRoots };
  struct Reference {
    BlockNumber holder;
    std::uint64_t offset = 0;  // where in the holder's subtree, or in the inode's fork; in file blocks
    Holder kind{};
    std::uint8_t inode_index = 0;  // within the inode block
    bool unwritten = false;
  };

  BlockNumber block_;
  OwnerRole role_{};
  bool is_table_ = false;                              // an inode block, or a map node above inode blocks
  std::uint64_t blocks_ = 1;                           // file blocks below the block
  std::uint16_t used_inodes_ = 0, volume_inodes_ = 0;  // of an inode block: bit n for its n-th inode
  std::unordered_map<BlockNumber, std::vector<Reference>> references_;
};

// Owners of any block: of data, or of metadata (by the number of the primary copy). No owners for blocks that nobody
// refers to, or only the graveyard does. The search takes the mutex in short batches and starts again when something
// was committed in between; after the third time it keeps the mutex.
Result<OwnerSet> find_owners(Store& store, BlockReader& reader, BlockNumber block) EXCLUDES(store.mutex);

// What a block is used for now, without touching it.
Result<BlockUse> classify(Store& store, BlockNumber block) EXCLUDES(store.mutex);

// True for the blocks that have their place for good and a second copy: superblocks, journal, metadata chunks.
bool has_second_copy(Store& store, BlockNumber block);

}  // namespace daxcow
