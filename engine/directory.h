// Directories: files of directory blocks whose entries never move, so that cookies stay valid while entries come and go,
// and a hash index in DRAM, built from the blocks on first use.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/format.h"
#include "engine/function_ref.h"
#include "engine/map.h"
#include "engine/result.h"
#include "engine/transaction.h"
#include "engine/types.h"

namespace daxcow {

// The place of an entry: block * kGranulesPerBlock + granule.
using DirectoryPosition = std::uint64_t;

struct FoundEntry {
  DirectoryPosition position = 0;
  InodeNumber inode;
  std::uint8_t type = 0;  // mode >> 12
};

constexpr std::uint8_t granules_for(std::size_t name_bytes) {
  return static_cast<std::uint8_t>((sizeof(format::DirectoryEntry) + name_bytes + format::kGranuleBytes - 1) / format::kGranuleBytes);
}
std::uint32_t name_hash(std::string_view name);

// Where the entries of one directory are, by hash; and where room is. Not a truth of its own: what it says is compared
// with the block. Guarded by the directory's inode lock (shared for looking).
class DirectoryIndex {
 public:
  // Reads all blocks of the directory.
  static Result<std::shared_ptr<DirectoryIndex>> build(BlockReader& reader, const format::InodeRecord& directory);

  // Calls visit with the positions of entries with this hash until it returns false.
  void for_each(std::uint32_t hash, FunctionRef<bool(DirectoryPosition)> visit) const;
  void insert(std::uint32_t hash, DirectoryPosition position, std::uint8_t granules);
  void erase(std::uint32_t hash, DirectoryPosition position, std::uint8_t granules);
  // A position for an entry of so many granules: in the first block that has room, or in the block after the last.
  DirectoryPosition find_room(std::uint8_t granules);
  std::uint64_t memory_bytes() const { return slots_.size() * sizeof(Slot) + blocks_.size() * sizeof(BlockUse); }
  std::uint64_t block_count() const { return blocks_.size(); }

 private:
  struct Slot {
    std::uint32_t hash = 0;
    std::uint32_t position_plus_one = 0;  // 0: empty
  };
  using BlockUse = std::array<std::uint64_t, 2>;  // a bit for each granule in use
  void place(Slot slot);
  void grow();

  std::vector<Slot> slots_;
  std::uint64_t used_ = 0;
  std::vector<BlockUse> blocks_;
  // No block below has room for an entry of so many granules.
  std::array<std::uint64_t, 10> first_with_room_{};
};

// --- entries -----------------------------------------------------------------------------------------------------------
Result<std::optional<FoundEntry>> find_entry(BlockReader& reader, const format::InodeRecord& directory, const DirectoryIndex& index,
                                             std::string_view name);
// Writes an entry at a position from DirectoryIndex::find_room. Updates entry_count, size_bytes and block_count; the
// block's path must be exclusive. The index is the caller's to update once the transaction has committed.
Result<> write_entry(Transaction& transaction, format::InodeRecord& directory, DirectoryPosition position, std::string_view name,
                     InodeNumber inode, std::uint8_t type, Graveyard& graveyard);
// Makes an existing entry point to another inode (rename over, exchange).
Result<> retarget_entry(Transaction& transaction, format::InodeRecord& directory, DirectoryPosition position, InodeNumber inode,
                        std::uint8_t type, Graveyard& graveyard);
// Erases an entry and, if its block is empty then, the block.
Result<> erase_entry(Transaction& transaction, format::InodeRecord& directory, DirectoryPosition position, Graveyard& graveyard);
// The name of an entry; nothing if there is none at this position.
Result<std::optional<std::string>> name_at(BlockReader& reader, const format::InodeRecord& directory, DirectoryPosition position);

// The file block that a position lies in.
constexpr FileBlock block_of(DirectoryPosition position) { return FileBlock(position / format::kGranulesPerBlock); }

// Blocks of a directory, holes included. kDamaged if they are more than there can be.
Result<std::uint64_t> directory_blocks(const format::InodeRecord& directory);
// Calls visit for each block of a directory, in order, until it fails. Damage cannot make it go on for ever: no block is
// visited twice.
Result<> for_each_directory_block(BlockReader& reader, const format::InodeRecord& directory,
                                  FunctionRef<Result<>(FileBlock at, const Block& block)> visit);
// Calls visit(position, entry, name) for each entry of a directory block from granule `from` on; false when visit stopped
// it, kDamaged when the block makes no sense.
Result<bool> for_each_entry(const Block& block, std::uint64_t from,
                            FunctionRef<bool(std::uint64_t granule, const format::DirectoryEntry& entry, std::string_view name)> visit);

}  // namespace daxcow
