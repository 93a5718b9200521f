// The walk over all trees from the roots block: each metadata block once, however often it is shared.
//
// It finds out what is reachable and whether every reference leads to what it claims to; and it remembers of each map
// node how many leaves are below, whether an inode can be free there and whether bad blocks are, so that later looks at
// a fork cost its eight root slots. What an inode or a directory means is not looked at here (check_volume.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/check_context.h"
#include "engine/check_records.h"
#include "engine/format.h"
#include "engine/map.h"
#include "engine/references.h"

namespace daxcow::checker {

// What is below an entry, or below all entries of a node or root.
struct Below {
  std::uint64_t leaves = 0;   // leaf blocks mapped
  bool no_free_inode = true;  // inode tables: all there and in use
  bool bad_data = false;      // a bad data block is among them
};

// A volume's inode table as the volume table has it.
struct VolumeRoot {
  VolumeNumber number;
  Fork table;
};

class TreeWalk {
 public:
  TreeWalk(Context& context, Tally tally);

  // Everything, from the roots block. Afterwards blocks that have a type but were not met are reported.
  void walk();

  const Tally& tally() const { return tally_; }
  // The records of all blocks that were met.
  void for_each_record(FunctionRef<void(const format::ReverseRecord&)> visit);
  // Blocks that have a type and were not met, reverse leaves apart.
  void for_each_unreachable(FunctionRef<void(BlockNumber, format::BlockType)> visit) const;
  // Volume 0 first.
  const std::vector<VolumeRoot>& volumes() const { return volumes_; }
  const std::optional<format::InodeRecord>& volume_zero() const { return volume_zero_; }
  std::uint64_t generation_limit() const { return generation_limit_; }

  // What is below a fork that was walked.
  Below below(const Fork& fork) const;
  Below below(MapEntry entry, std::uint8_t log512, format::LeafKind kind) const;

 private:
  enum class Arrival { kFirst, kAgain, kWrong };
  struct Known {
    std::uint64_t leaves = 0;
    bool met = false;
    bool no_free_inode = false;
    bool bad_data = false;
    bool unshareable = false;  // met in what belongs to volume 0 itself
  };
  struct Visit {  // whose tree is being walked
    Place place;
    bool buried = false;  // in the graveyard: kinds follow from the blocks, and what an inode says is past
    // Nothing looks whether a block of volume 0 is shared before it is changed: neither its inode table and directory nor
    // the list that is the graveyard. What the graveyard's entries lead to is nobody's.
    bool unshareable() const { return place.volume == kVolumeZero && !buried; }
  };

  void walk_roots();
  Below walk_fork(const Visit& visit, BlockNumber source, const Fork& fork);
  Below walk_entries(const Visit& visit, BlockNumber source, std::span<const std::uint64_t> entries,
                     std::uint8_t log512, format::LeafKind kind, FileBlock base);
  Below walk_entry(const Visit& visit, BlockNumber source, MapEntry entry, std::uint8_t log512, format::LeafKind kind,
                   FileBlock at);
  Below walk_node(const Visit& visit, MapEntry entry, std::uint8_t log512, format::LeafKind kind, FileBlock at);
  Below walk_leaf(const Visit& visit, MapEntry entry, format::LeafKind kind, FileBlock at);
  bool walk_inodes(const Visit& visit, BlockNumber block, const Block& content, FileBlock at);
  void walk_inode(const Visit& visit, BlockNumber block, const format::InodeRecord& record, InodeNumber number);
  void walk_graveyard_block(const Visit& visit, BlockNumber block, const Block& content, FileBlock at);

  Arrival arrive(const Visit& visit, BlockNumber block, format::BlockType type, std::uint8_t level,
                 format::LeafKind kind);
  BlockPtr enter(BlockNumber block, format::BlockType type);
  format::LeafKind kind_from_block(MapEntry entry) const;
  void report_unreachable();

  Context& context_;
  Tally tally_;
  std::vector<Known> known_;  // by DescribedBlocks::index
  std::vector<VolumeRoot> volumes_;
  std::vector<std::pair<BlockNumber, format::InodeRecord>> graveyards_;  // put off to the end; at most one
  std::optional<format::InodeRecord> volume_zero_;
  std::uint64_t generation_limit_ = 0;
};

// What the data fork of an inode holds.
format::LeafKind data_kind(const format::InodeRecord& record, InodeNumber number, VolumeNumber volume);
bool has_flag(const format::InodeRecord& record, format::InodeFlag flag);

}  // namespace daxcow::checker
