// The inode table of one volume: a map whose leaves are inode blocks, addressed by inode number. The root of volume 0's
// table is in the roots block; that of any other volume is the data fork of its inode in volume 0.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "engine/format.h"
#include "engine/map.h"
#include "engine/mutex.h"
#include "engine/result.h"
#include "engine/store.h"
#include "engine/types.h"

namespace daxcow {

inline constexpr VolumeNumber kVolumeZero{0};

// Whether forks can be made of the record.
bool has_valid_levels(const format::InodeRecord& record);

class InodeTable {
 public:
  explicit InodeTable(VolumeNumber volume) : volume_(volume) {}

  // --- looking (any thread; `reader` decides what is seen) -----------------------------------------------------------------
  static Result<Fork> root(BlockReader& reader, VolumeNumber volume);
  // kStale if the number is not in use or out of range.
  static Result<format::InodeRecord> read(BlockReader& reader, VolumeNumber volume, InodeNumber inode);
  Result<format::InodeRecord> read(BlockReader& reader, InodeNumber inode) const { return read(reader, volume_, inode); }

  // --- changing (under the transaction mutex) --------------------------------------------------------------------------------
  // Makes the path to the inode's block exclusive, one block at a time: true if it copied one (commit, call again).
  Result<bool> unshare_path(Transaction& transaction, InodeNumber inode);
  // The record for editing; its path must be exclusive. kStale if it is not in use.
  Result<format::InodeRecord*> edit(Transaction& transaction, InodeNumber inode);
  // A free inode number; its path may still be shared. Nothing is changed. The answer holds until the mutex is left.
  Result<InodeNumber> find_free(Transaction& transaction);
  // Makes the inode's block exist, in the path that is exclusive, and returns the free record (all zero). The caller fills it
  // in (mode != 0) and calls note_used().
  Result<format::InodeRecord*> occupy(Transaction& transaction, InodeNumber inode);
  Result<> note_used(Transaction& transaction, InodeNumber inode);
  // Zeroes the record and frees its block if it was the last one there. Its forks must be empty.
  Result<> free(Transaction& transaction, InodeNumber inode);
  // After a change of what is shared (snapshot): forgets what is known to be exclusive.
  void forget_exclusive() { exclusive_.clear(); }

 private:
  Result<ForkEdit> edit_root(Transaction& transaction);
  Result<> set_full(Transaction& transaction, FileBlock block, bool full);

  VolumeNumber volume_;
  FileBlock first_maybe_free_{0};
  // Inode blocks whose path was found exclusive. Snapshots are the only thing that ends it (forget_exclusive): a block that is
  // moved for a bad one takes its only reference along.
  std::unordered_map<std::uint64_t, bool> exclusive_;
};

// A generation number never used before in this pool.
Result<std::uint64_t> next_generation(Transaction& transaction);

}  // namespace daxcow
