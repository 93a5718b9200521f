// What blocks are whose descriptors are lost. A checksum that fits says it; else what leads to a block says it, if the
// block's content can be that; and a block that nothing leads to may be a leaf of the reverse map.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "engine/check_trees.h"
#include "engine/checksum.h"
#include "engine/directory.h"
#include "engine/repair_walk.h"
#include "engine/reverse_leaf.h"

namespace daxcow::repairer {

using format::BlockDescriptor;
using format::BlockType;
using format::InodeRecord;
using format::LeafKind;

namespace {

// --- what a block's content can be -----------------------------------------------------------------------------------

bool can_be_entries(RepairPool& pool, const format::MapNode& entries, std::uint8_t log512, LeafKind kind) {
  for (const std::uint64_t raw : entries) {
    if (raw == 0) continue;
    const MapEntry entry{raw};
    if (!entry.present() || (raw & format::kEntryLevelMask) != 0 || (raw & 0xf80) != 0) return false;
    if (entry.is_node()) {
      if (log512 == 0 || !pool.metadata.is_described(entry.block())) return false;
    } else if (kind == LeafKind::kData) {
      if (!pool.is_data_space({entry.block(), blocks_spanned(log512)})) return false;
    } else if (log512 != 0 || !pool.metadata.is_described(entry.block())) {
      return false;
    }
  }
  return true;
}

bool can_be_inodes(const format::InodeBlock& block) {
  return std::ranges::all_of(block.inodes, [](const InodeRecord& inode) {
    static constexpr InodeRecord kFree{};
    if (inode.mode == 0) return std::memcmp(&inode, &kFree, sizeof inode) == 0;
    return has_valid_levels(inode) && (inode.mode & ~(S_IFMT | 07777u)) == 0 &&
           std::ranges::all_of(inode.nanoseconds, [](std::uint32_t n) { return n < 1'000'000'000; }) &&
           std::ranges::all_of(inode.reserved, [](std::uint8_t byte) { return byte == 0; });
  });
}

bool can_be_directory(const Block& content) {
  bool good = true;
  const auto walked =
      for_each_entry(content, 0, [&](std::uint64_t, const format::DirectoryEntry& entry, std::string_view name) {
        good = entry.hash == name_hash(name);
        return good;
      });
  return walked && good;
}

bool can_be(RepairPool& pool, const BlockDescriptor& wanted, const Block& content) {
  if (is_zero(content)) return false;
  switch (wanted.type) {
    case BlockType::kMapNode:
      return can_be_entries(pool, content.as<format::MapNode>(), static_cast<std::uint8_t>(wanted.level - 1),
                            wanted.leaf_kind);
    case BlockType::kInodes:
      return can_be_inodes(content.as<format::InodeBlock>());
    case BlockType::kRoots: {
      const InodeRecord& zero = content.as<format::Roots>().volume_zero;
      return has_valid_levels(zero) && S_ISREG(zero.mode) && checker::has_flag(zero, format::InodeFlag::kVolume);
    }
    case BlockType::kDirectory:
      return can_be_directory(content);
    case BlockType::kSymlink:
      return content.bytes[0] != std::byte{0} && content.bytes[kBlockBytes - 1] == std::byte{0};
    case BlockType::kAttributes:
    case BlockType::kOrphans:
    case BlockType::kGraveyard:
      return true;
    case BlockType::kFree:
    case BlockType::kReverseLeaf:
      return false;
  }
  return false;
}

bool can_be_leaf(RepairPool& pool, BlockNumber block, const Block& content) {
  return !is_zero(content) &&
         ReverseMap().add_leaf(block, content.as<format::ReverseLeaf>(), pool.pool_blocks).has_value();
}

std::optional<Block> read_copy(RepairPool& pool, BlockNumber block, Copy copy) {
  Block content;
  const BlockNumber at = copy == Copy::kPrimary ? block : Metadata::mirror_of(block);
  if (!pool.medium.read(byte_offset(at), content.bytes)) return std::nullopt;
  return content;
}

// The first copy for which `fits` holds.
std::optional<Block> fitting_copy(RepairPool& pool, BlockNumber block, FunctionRef<bool(const Block&)> fits) {
  for (const Copy copy : {Copy::kPrimary, Copy::kMirror})
    if (auto content = read_copy(pool, block, copy); content && fits(*content)) return content;
  return std::nullopt;
}

// What the block was described as, if its checksum says so for one of its copies.
struct Described {
  BlockDescriptor descriptor;
  Block content;
};
std::optional<Described> by_checksum(RepairPool& pool, BlockNumber block, std::uint32_t crc) {
  std::vector<BlockDescriptor> all;
  for (std::uint8_t type = 1; type < format::kBlockTypeCount; ++type) {
    if (static_cast<BlockType>(type) != BlockType::kMapNode) {
      all.push_back({static_cast<BlockType>(type), 0, LeafKind::kData, 0, 0});
      continue;
    }
    for (std::uint8_t level = 1; level <= format::kMaximumLevel; ++level)
      for (const std::uint8_t kind : {0, 3, 4, 5, 6, 7, 8})
        all.push_back({BlockType::kMapNode, level, static_cast<LeafKind>(kind), 0, 0});
  }
  for (const Copy copy : {Copy::kPrimary, Copy::kMirror}) {
    const auto content = read_copy(pool, block, copy);
    if (!content) continue;
    for (const BlockDescriptor& descriptor : all)
      if (block_crc(block, descriptor, *content) == crc) return Described{descriptor, *content};
  }
  return std::nullopt;
}

// --- the walk over everything, for what leads to undescribed blocks --------------------------------------------------

class Assignment {
 public:
  explicit Assignment(RepairPool& pool) : pool_(pool) {}

  Result<> run() {
    TRY(arrive(format::kRootsBlock, {BlockType::kRoots, 0, LeafKind::kData, 0, 0}));
    const auto roots = pool_.editor.read(format::kRootsBlock, BlockType::kRoots);
    if (!roots) return {};
    const InodeRecord zero = (*roots)->as<format::Roots>().volume_zero;
    if (zero.mode == 0 || !has_valid_levels(zero)) return {};
    TRY(fork(data_fork(zero, LeafKind::kInodes), kVolumeZero));
    for (std::size_t i = 0; i < volumes_.size(); ++i) {
      const auto [number, table] = volumes_[i];
      TRY(fork(table, number));
    }
    return {};
  }

 private:
  // An undescribed block becomes what its reference calls it. If no copy can be that, it is lost, and known to be.
  Result<> arrive(BlockNumber block, const BlockDescriptor& wanted) {
    if (pool_.undescribed.erase(block.value) == 0) return {};
    const auto content = fitting_copy(pool_, block, [&](const Block& copy) { return can_be(pool_, wanted, copy); });
    return take(block, wanted, content ? *content : Block{}, content.has_value());
  }

 public:
  Result<> take(BlockNumber block, const BlockDescriptor& wanted, const Block& content, bool known) {
    if (!known) {
      lost_.emplace_back(block, wanted);
      return {};
    }
    // Nobody can read either copy before the header says what they are.
    for (const BlockNumber at : {block, Metadata::mirror_of(block)}) {
      Block present;
      if (pool_.medium.read(byte_offset(at), present.bytes) &&
          std::memcmp(present.bytes, content.bytes, kBlockBytes) == 0)
        continue;
      TRY(store_mended(pool_.medium, at, content.bytes));
    }
    pool_.editor.describe(block, wanted, content);
    return {};
  }
  // Blocks whose type is known and whose content is not.
  const std::vector<std::pair<BlockNumber, BlockDescriptor>>& lost() const { return lost_; }

 private:
  Result<> fork(const Fork& of, VolumeNumber volume) {
    return entries(of.slots, static_cast<std::uint8_t>(of.level - 1), of.kind, volume, FileBlock(0));
  }

  Result<> entries(std::span<const std::uint64_t> slots, std::uint8_t log512, LeafKind kind, VolumeNumber volume,
                   FileBlock base) {
    for (std::uint64_t i = 0; i < slots.size(); ++i) {
      const MapEntry entry{slots[i]};
      if (!entry.present() || !pool_.metadata.is_described(entry.block())) continue;
      const FileBlock at = base + i * blocks_spanned(log512);
      if (entry.is_node() && log512 != 0) {
        TRY(arrive(entry.block(), {BlockType::kMapNode, log512, kind, 0, 0}));
        if (!met_.insert(entry.block().value).second) continue;
        const auto node = pool_.editor.read(entry.block(), BlockType::kMapNode);
        if (!node) continue;
        TRY(entries((*node)->as<format::MapNode>(), static_cast<std::uint8_t>(log512 - 1), kind, volume, at));
      } else if (!entry.is_node() && log512 == 0 && kind != LeafKind::kData) {
        TRY(arrive(entry.block(), {format::leaf_block_type(kind), 0, LeafKind::kData, 0, 0}));
        if (kind == LeafKind::kInodes && met_.insert(entry.block().value).second)
          TRY(inodes(entry.block(), volume, at));
      }
    }
    return {};
  }

  Result<> inodes(BlockNumber block, VolumeNumber volume, FileBlock at) {
    const auto content = pool_.editor.read(block, BlockType::kInodes);
    if (!content) return {};
    for (std::uint64_t i = 0; i < format::kInodesPerBlock; ++i) {
      const InodeRecord& inode = (*content)->as<format::InodeBlock>().inodes[i];
      const InodeNumber number(at.value * format::kInodesPerBlock + i);
      if (inode.mode == 0 || !has_valid_levels(inode)) continue;
      const LeafKind kind = checker::data_kind(inode, number, volume);
      if (kind == LeafKind::kInodes)
        volumes_.emplace_back(number, data_fork(inode, kind));
      else
        TRY(fork(data_fork(inode, kind), volume));
      TRY(fork(attribute_fork(inode), volume));
    }
    return {};
  }

  RepairPool& pool_;
  std::set<std::uint64_t> met_;
  std::vector<std::pair<VolumeNumber, Fork>> volumes_;
  std::vector<std::pair<BlockNumber, BlockDescriptor>> lost_;
};

}  // namespace

std::optional<Block> leaf_without_description(RepairPool& pool, BlockNumber block) {
  return fitting_copy(pool, block, [&](const Block& copy) { return can_be_leaf(pool, block, copy); });
}

Result<> repair_descriptors(RepairPool& pool) {
  // A free block whose descriptor is not zero may have been something; one whose copies fail may be something else.
  std::vector<std::pair<BlockNumber, std::uint32_t>> doubtful;
  for (const BlockNumber base : pool.metadata.chunks()) {
    for (BlockNumber block = base + 1; block <= base + format::kChunkPayload; ++block) {
      const BlockDescriptor descriptor = pool.metadata.descriptor(block);
      const bool undescribed = pool.undescribed.contains(block.value);
      if (undescribed ? descriptor.crc != 0
                      : descriptor.type != BlockType::kFree && !pool.metadata.read_copy(block, Copy::kPrimary) &&
                            !pool.metadata.read_copy(block, Copy::kMirror))
        doubtful.emplace_back(block, descriptor.crc);
    }
  }
  Assignment assignment(pool);
  for (const auto& [block, crc] : doubtful) {
    const auto found = by_checksum(pool, block, crc);
    if (!found) continue;
    pool.undescribed.erase(block.value);
    TRY(assignment.take(block, found->descriptor, found->content, true));
    pool.actions.add(block, block_place(found->descriptor.type, block),
                     "its description was corrected: its checksum says what it is");
  }
  // What is left is free until somebody says otherwise.
  for (const std::uint64_t block : pool.undescribed) {
    if (pool.metadata.descriptor(BlockNumber(block)).type != BlockType::kFree)
      pool.metadata.give_back(BlockNumber(block));
    pool.metadata.publish_descriptor(BlockNumber(block), {});
  }
  if (!pool.undescribed.empty()) {
    std::vector<std::pair<BlockNumber, Block>> leaves;
    for (const std::uint64_t block : pool.undescribed) {
      const BlockNumber at(block);
      if (auto content = leaf_without_description(pool, at)) leaves.emplace_back(at, *content);
    }
    TRY(assignment.run());
    for (const auto& [block, content] : leaves)
      if (pool.undescribed.erase(block.value) != 0)
        TRY(assignment.take(block, {BlockType::kReverseLeaf, 0, LeafKind::kData, 0, 0}, content, true));
    for (const std::uint64_t block : pool.undescribed) pool.editor.release(BlockNumber(block));
    // Known to be lost: a descriptor that no content fits. repair_blocks() makes something of it.
    for (const auto& [block, descriptor] : assignment.lost()) pool.editor.describe_lost(block, descriptor);
    pool.actions.add(BlockNumber(*pool.metadata.chunks().begin()), "metadata chunks",
                     "blocks without a description were described again");
  }
  pool.undescribed.clear();
  return pool.editor.commit();
}

}  // namespace daxcow::repairer
