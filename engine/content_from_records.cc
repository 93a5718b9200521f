#include "engine/content_from_records.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <unordered_set>
#include <vector>

#include "engine/map.h"
#include "engine/references.h"

namespace daxcow {

using format::BlockDescriptor;
using format::BlockType;
using format::InodeRecord;
using format::LeafKind;
using format::ReverseRecord;

namespace {

// 0 if nothing below is mapped. A node that was seen to be empty is not entered again.
std::uint64_t end_below(BlockReader& reader, std::span<const std::uint64_t> entries, std::uint8_t log512,
                        FileBlock base, std::unordered_set<std::uint64_t>& empty) {
  for (std::uint64_t i = entries.size(); i-- > 0;) {
    const MapEntry entry{entries[i]};
    if (!entry.present()) continue;
    const FileBlock at = base + i * blocks_spanned(log512);
    if (!entry.is_node()) return (at + blocks_spanned(log512)).value;
    if (log512 == 0 || empty.contains(entry.block().value)) continue;
    const auto node = reader.read(entry.block(), BlockType::kMapNode);
    if (node) {
      const format::MapNode below = (*node)->as<format::MapNode>();
      const std::uint64_t end = end_below(reader, below, static_cast<std::uint8_t>(log512 - 1), at, empty);
      if (end != 0) return end;
    }
    empty.insert(entry.block().value);
  }
  return 0;
}

std::uint32_t attribute_bytes(BlockReader& reader, const Fork& fork) {
  std::vector<std::byte> stream;
  for (std::uint64_t i = 0; i < format::kMaximumAttributeForkBytes / kBlockBytes; ++i) {
    const auto entry = entry_at(reader, fork, FileBlock(i));
    if (!entry || !entry->present()) break;
    const auto block = reader.read(entry->block(), BlockType::kAttributes);
    if (!block) break;
    stream.insert(stream.end(), (*block)->bytes, (*block)->bytes + kBlockBytes);
  }
  std::uint64_t at = 0;
  while (at + sizeof(format::AttributeEntry) <= stream.size()) {
    format::AttributeEntry entry;
    std::memcpy(&entry, stream.data() + at, sizeof entry);
    if (entry.name_bytes == 0) break;
    const std::uint64_t bytes = (sizeof entry + entry.name_bytes + entry.value_bytes + 7) / 8 * 8;
    if (bytes > stream.size() - at) break;
    at += bytes;
  }
  return static_cast<std::uint32_t>(at);
}

void complete(BlockReader& reader, FunctionRef<BlockDescriptor(BlockNumber)> describe, InodeRecord& inode) {
  const auto first = std::ranges::find_if(inode.data, [](std::uint64_t raw) { return raw != 0; });
  std::uint32_t type = S_IFREG;
  bool volume = false;
  LeafKind kind = LeafKind::kData;
  if (first != inode.data.end()) {
    const MapEntry entry{*first};
    const BlockDescriptor child = describe(entry.block());
    kind = entry.is_node() ? child.leaf_kind : static_cast<LeafKind>(child.type);
    type = kind == LeafKind::kDirectory ? S_IFDIR : kind == LeafKind::kSymlink ? S_IFLNK : S_IFREG;
    volume = kind == LeafKind::kInodes;
  }
  const InodeRecord rebuilt = inode;
  make_default_inode(inode, type);
  inode.data = rebuilt.data;
  inode.attributes = rebuilt.attributes;
  if (rebuilt.data_level != 0) inode.data_level = rebuilt.data_level;
  if (rebuilt.attribute_level != 0) inode.attribute_level = rebuilt.attribute_level;
  if (volume) inode.flags = static_cast<std::uint32_t>(format::InodeFlag::kVolume);
  if (kind == LeafKind::kSymlink) {
    const auto entry = entry_at(reader, data_fork(inode, kind), FileBlock(0));
    const auto block =
        entry ? reader.read(entry->block(), BlockType::kSymlink) : Result<BlockPtr>(fail(ErrorCode::kDamaged));
    if (block) inode.size_bytes = strnlen(reinterpret_cast<const char*>((*block)->bytes), kBlockBytes - 1);
  } else if (!volume) {
    inode.size_bytes = std::min(mapped_end(reader, data_fork(inode, kind)), kMaximumFileBlocks - 1) * kBlockBytes;
  }
  inode.attribute_bytes = attribute_bytes(reader, attribute_fork(inode));
}

}  // namespace

std::uint64_t mapped_end(BlockReader& reader, const Fork& fork) {
  std::unordered_set<std::uint64_t> empty;
  return end_below(reader, fork.slots, static_cast<std::uint8_t>(fork.level - 1), FileBlock(0), empty);
}

std::uint64_t content_from_records(const BlockDescriptor& descriptor, std::span<const ReverseRecord> records,
                                   Block& content) {
  std::memset(content.bytes, 0, kBlockBytes);
  const std::uint64_t slots = slot_count(descriptor.type);
  std::uint64_t filled = 0;
  for (const ReverseRecord& record : records) {
    if (record.kind != format::RecordKind::kTree || record.level >= format::kMaximumLevel) continue;
    if (descriptor.type == BlockType::kMapNode && record.level + 1 != descriptor.level) continue;
    for (std::uint64_t n = 0; n < std::min(slots_of(record), slots) && record.slot + n < slots; ++n) {
      const SlotPlace place = slot_place(descriptor.type, content, record.slot + n);
      MapEntry entry = entry_of(record, n);
      if (descriptor.type == BlockType::kGraveyard) entry = entry.with_level(record.level);
      if (place.level != nullptr) {
        // All slots of a root are of one level.
        if (*place.level != 0 && *place.level != record.level + 1) break;
        *place.level = static_cast<std::uint8_t>(record.level + 1);
      }
      if (*place.entry != 0) continue;
      *place.entry = entry.raw;
      ++filled;
    }
  }
  return filled;
}

void make_default_inode(InodeRecord& inode, std::uint32_t type) {
  inode = InodeRecord{};
  inode.mode = type | (S_ISDIR(type) ? 0700 : S_ISLNK(type) ? 0777 : 0600);
  inode.link_count = S_ISDIR(type) ? 2 : 1;
  inode.data_level = inode.attribute_level = 1;
  inode.seconds.fill(std::time(nullptr));
}

void complete_inodes(BlockReader& reader, FunctionRef<BlockDescriptor(BlockNumber)> describe,
                     format::InodeBlock& inodes) {
  for (InodeRecord& inode : inodes.inodes)
    if (inode.data_level != 0 || inode.attribute_level != 0) complete(reader, describe, inode);
}

}  // namespace daxcow
