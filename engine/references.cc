#include "engine/references.h"

#include <bit>
#include <cstring>

#include "engine/lines.h"

namespace daxcow {

using format::BlockType;
using format::InodeRecord;
using format::ReverseRecord;

namespace {

SlotView inode_slot(const InodeRecord& inode, std::uint64_t slot) {
  const bool attributes = slot >= format::kRootSlots;
  if (inode.mode == 0) return {};
  if (!attributes && inode.flags & static_cast<std::uint32_t>(format::InodeFlag::kInlineSymlink)) return {};
  const std::uint8_t level = attributes ? inode.attribute_level : inode.data_level;
  const std::uint64_t raw = attributes ? inode.attributes[slot - format::kRootSlots] : inode.data[slot];
  if (!format::is_valid_level(level)) return {};
  return {MapEntry{raw}, static_cast<std::uint8_t>(level - 1)};
}

// Runs never cross these.
std::uint64_t group_slots(BlockType type) {
  return type == BlockType::kInodes || type == BlockType::kRoots ? format::kRootSlots : format::kMapFanout;
}

class SlotReader {
 public:
  SlotReader(BlockType type, std::uint8_t node_level, const Block& content)
      : type_(type), node_level_(node_level), content_(content) {}

  SlotView at(std::uint64_t slot) const {
    SlotView view = slot_at(type_, node_level_, content_, slot);
    view.entry = view.entry.plain();
    if (!view.entry.present()) return {};
    return view;
  }
  // True if `slot` continues the run of the slot before it.
  bool continues(std::uint64_t slot) const {
    const SlotView a = at(slot - 1), b = at(slot);
    return a.entry.present() && b.entry.present() && a.log512 == b.log512 && a.entry.is_node() == b.entry.is_node() &&
           a.entry.unwritten() == b.entry.unwritten() && b.entry.block() - a.entry.block() == per_slot(a);
  }
  static std::uint64_t per_slot(SlotView view) { return view.entry.is_node() ? 1 : blocks_spanned(view.log512); }

  // The records of the slots [first, end), which must not cut a run.
  void append(BlockNumber source, std::uint64_t first, std::uint64_t end, std::vector<ReverseRecord>& records) const {
    for (std::uint64_t slot = first; slot < end; ++slot) {
      const SlotView view = at(slot);
      if (!view.entry.present()) continue;
      if (slot > first && continues(slot)) {
        records.back().length_blocks += per_slot(view);
        continue;
      }
      ReverseRecord record{};
      record.first = view.entry.block().value;
      record.source = source.value;
      record.length_blocks = per_slot(view);
      record.slot = static_cast<std::uint16_t>(slot);
      record.kind = format::RecordKind::kTree;
      record.level = view.log512;
      record.flags = static_cast<std::uint8_t>((view.entry.is_node() ? format::kRecordNode : 0) |
                                               (view.entry.unwritten() ? format::kRecordUnwritten : 0));
      records.push_back(record);
    }
  }

 private:
  BlockType type_;
  std::uint8_t node_level_;
  const Block& content_;
};

// The lines between the first and the last difference of two blocks.
struct ByteRange {
  std::uint64_t first = 0, end = 0;
};
ByteRange bytes_of(std::uint64_t lines) {
  if (lines == 0) return {};
  return {static_cast<std::uint64_t>(std::countr_zero(lines)) * kLineBytes,
          (kLinesPerBlock - static_cast<std::uint64_t>(std::countl_zero(lines))) * kLineBytes};
}

// Most of an inode block's inodes are the same as before, and a glance at the bytes says so.
bool may_have_changed(BlockType type, std::uint64_t first_slot, ByteRange changed) {
  if (changed.first == changed.end) return false;
  if (type != BlockType::kInodes) return true;
  const std::uint64_t inode = first_slot / format::kSlotsPerInode * sizeof(InodeRecord);
  return changed.first < inode + sizeof(InodeRecord) && inode < changed.end;
}

bool same_slot(const SlotView& a, const SlotView& b) { return a.entry == b.entry && a.log512 == b.log512; }

// Sorts two lists of records of one stretch of slots into what went, what came and what only changed its length.
void split_changes(const std::vector<ReverseRecord>& before, const std::vector<ReverseRecord>& after, RecordChanges& changes) {
  std::size_t i = 0, j = 0;
  while (i < before.size() || j < after.size()) {
    if (j == after.size() || (i < before.size() && before[i].slot < after[j].slot)) {
      changes.erased.push_back(before[i++]);
    } else if (i == before.size() || after[j].slot < before[i].slot) {
      changes.inserted.push_back(after[j++]);
    } else {
      const ReverseRecord &a = before[i++], &b = after[j++];
      if (std::memcmp(&a, &b, sizeof a) == 0) continue;
      if (a.first == b.first) {
        changes.replaced.emplace_back(a, b);
      } else {
        changes.erased.push_back(a);
        changes.inserted.push_back(b);
      }
    }
  }
}

}  // namespace

void spell_out(MapEntry entry, std::uint8_t log512, format::MapNode& node) {
  for (std::uint64_t i = 0; i < format::kMapFanout; ++i) node[i] = advance(entry, i * blocks_spanned(log512)).raw;
}

bool holds_references(BlockType type) {
  return type == BlockType::kRoots || type == BlockType::kMapNode || type == BlockType::kInodes || type == BlockType::kGraveyard;
}

std::uint64_t slot_count(BlockType type) {
  switch (type) {
    case BlockType::kRoots: return format::kSlotsPerInode;
    case BlockType::kInodes: return format::kInodesPerBlock * format::kSlotsPerInode;
    case BlockType::kMapNode:
    case BlockType::kGraveyard: return format::kMapFanout;
    default: return 0;
  }
}

SlotView slot_at(BlockType type, std::uint8_t node_level, const Block& content, std::uint64_t slot) {
  switch (type) {
    case BlockType::kRoots:
      return inode_slot(content.as<format::Roots>().volume_zero, slot);
    case BlockType::kInodes:
      return inode_slot(content.as<format::InodeBlock>().inodes[slot / format::kSlotsPerInode], slot % format::kSlotsPerInode);
    case BlockType::kMapNode:
      if (!format::is_valid_level(node_level)) return {};
      return {MapEntry{content.as<format::MapNode>()[slot]}, static_cast<std::uint8_t>(node_level - 1)};
    case BlockType::kGraveyard: {
      const MapEntry entry{content.as<format::MapNode>()[slot]};
      return {entry, entry.graveyard_level()};
    }
    default:
      return {};
  }
}

SlotPlace slot_place(BlockType type, Block& content, std::uint64_t slot) {
  if (type == BlockType::kMapNode || type == BlockType::kGraveyard) return {&content.as<format::MapNode>()[slot], nullptr};
  InodeRecord& inode = type == BlockType::kRoots ? content.as<format::Roots>().volume_zero
                                                 : content.as<format::InodeBlock>().inodes[slot / format::kSlotsPerInode];
  const std::uint64_t index = slot % format::kSlotsPerInode;
  if (index < format::kRootSlots) return {&inode.data[index], &inode.data_level};
  return {&inode.attributes[index - format::kRootSlots], &inode.attribute_level};
}

ReverseRecord ledger_record(BlockNumber block, std::uint8_t sector_mask) {
  ReverseRecord record{};
  record.first = block.value;
  record.length_blocks = 1;
  record.kind = format::RecordKind::kLedger;
  record.sector_mask = sector_mask;
  return record;
}

std::vector<ReverseRecord> records_of(BlockNumber source, BlockType type, std::uint8_t node_level, const Block& content) {
  std::vector<ReverseRecord> records;
  const SlotReader reader(type, node_level, content);
  const std::uint64_t group = group_slots(type);
  for (std::uint64_t first = 0; first < slot_count(type); first += group)
    reader.append(source, first, first + group, records);
  return records;
}

void append_changes(BlockNumber source, BlockType type, std::uint8_t node_level, const Block& before, const Block& after,
                    std::uint64_t lines, RecordChanges& changes) {
  const SlotReader old_reader(type, node_level, before);
  const SlotReader new_reader(type, node_level, after);
  const std::uint64_t group = group_slots(type);
  std::vector<ReverseRecord> old_records, new_records;
  const ByteRange changed = bytes_of(lines);
  for (std::uint64_t begin = 0; begin < slot_count(type); begin += group) {
    if (!may_have_changed(type, begin, changed)) continue;
    const std::uint64_t end = begin + group;
    std::uint64_t first = begin, last = end;
    if (type == BlockType::kMapNode || type == BlockType::kGraveyard) {
      first = changed.first / sizeof(std::uint64_t);
      last = (changed.end + sizeof(std::uint64_t) - 1) / sizeof(std::uint64_t);
    }
    while (first < last && same_slot(old_reader.at(first), new_reader.at(first))) ++first;
    if (first == last) continue;
    while (same_slot(old_reader.at(last - 1), new_reader.at(last - 1))) --last;
    // Widen to whole runs of both versions.
    while (first > begin && (old_reader.continues(first) || new_reader.continues(first))) --first;
    while (last < end && (old_reader.continues(last) || new_reader.continues(last))) ++last;
    old_records.clear();
    new_records.clear();
    old_reader.append(source, first, last, old_records);
    new_reader.append(source, first, last, new_records);
    split_changes(old_records, new_records, changes);
  }
}

}  // namespace daxcow
