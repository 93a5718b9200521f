#include "engine/check_trees.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "engine/pool_layout.h"

namespace daxcow::checker {

using format::BlockDescriptor;
using format::BlockType;
using format::InodeFlag;
using format::InodeRecord;
using format::kMapFanout;
using format::LeafKind;

namespace {

// What is wrong with an entry in itself; nullptr if nothing is.
const char* fault_of(MapEntry entry, std::uint8_t log512, LeafKind kind, bool in_graveyard) {
  const std::uint64_t level_bits = in_graveyard ? format::kEntryLevelMask : 0;
  const std::uint64_t known = format::kEntryPresent | format::kEntryNode | format::kEntryUnwritten |
                              format::kEntryFull | level_bits | ~0ull << format::kEntryBlockShift;
  if (entry.raw & ~known) return "an entry has unknown bits";
  if (!entry.present()) return "an entry is neither absent nor present";
  if (entry.full() && (kind != LeafKind::kInodes || in_graveyard))
    return "an entry outside of inode tables has the full hint";
  if (entry.unwritten() && (entry.is_node() || kind != LeafKind::kData))
    return "an entry that is not of data is unwritten";
  if (entry.is_node()) return log512 == 0 ? "a map is deeper than its level" : nullptr;
  if (log512 != 0 && kind != LeafKind::kData) return "an entry is a run of metadata blocks";
  return nullptr;
}

std::string expected_name(BlockType type, std::uint8_t level, LeafKind kind) {
  if (type != BlockType::kMapNode) return name_of(type);
  return std::string("map node of level ") + std::to_string(level) + " over " +
         (kind == LeafKind::kData ? "data" : name_of(format::leaf_block_type(kind)));
}

void add(Below& sum, const Below& part) {
  sum.leaves += part.leaves;
  sum.no_free_inode &= part.no_free_inode;
  sum.bad_data |= part.bad_data;
}

constexpr Below kHole{0, false, false};

}  // namespace

bool has_flag(const InodeRecord& record, InodeFlag flag) { return record.flags & static_cast<std::uint32_t>(flag); }

LeafKind data_kind(const InodeRecord& record, InodeNumber number, VolumeNumber volume) {
  if (number == format::kOrphansInode) return LeafKind::kOrphans;
  if (volume == kVolumeZero) {
    if (number == format::kGraveyardInode) return LeafKind::kGraveyard;
    if (has_flag(record, InodeFlag::kVolume)) return LeafKind::kInodes;
  }
  if (S_ISDIR(record.mode)) return LeafKind::kDirectory;
  if (S_ISLNK(record.mode)) return LeafKind::kSymlink;
  return LeafKind::kData;
}

TreeWalk::TreeWalk(Context& context, Tally tally)
    : context_(context), tally_(tally), known_(context.described.size()) {}

// In the graveyard the reference does not say what it leads to; the block does.
LeafKind TreeWalk::kind_from_block(MapEntry entry) const {
  const BlockDescriptor descriptor = context_.metadata.descriptor(entry.block());
  if (entry.is_node()) return descriptor.leaf_kind;
  if (!context_.metadata.in_chunk(entry.block())) return LeafKind::kData;
  const auto type = static_cast<std::uint8_t>(descriptor.type);
  const bool leaf =
      type >= static_cast<std::uint8_t>(LeafKind::kInodes) && type <= static_cast<std::uint8_t>(LeafKind::kGraveyard);
  return leaf ? static_cast<LeafKind>(type) : LeafKind::kData;
}

// --- arriving at blocks ----------------------------------------------------------------------------------------------

TreeWalk::Arrival TreeWalk::arrive(const Visit& visit, BlockNumber block, BlockType type, std::uint8_t level,
                                   LeafKind kind) {
  const BlockDescriptor descriptor = context_.metadata.descriptor(block);
  const bool is_node = type == BlockType::kMapNode;
  if (descriptor.type == type && (!is_node || (descriptor.level == level && descriptor.leaf_kind == kind))) {
    Known& known = known_[context_.described.index(block)];
    if (!known.met) {
      known.met = true;
      known.unshareable = visit.unshareable();
      return Arrival::kFirst;
    }
    if (known.unshareable || visit.unshareable())
      context_.findings.add(FindingKind::kMapShape, Severity::kLoss, block, visit.place,
                            "a block of type " + expected_name(type, level, kind) +
                                " of the volume table is used in another place too");
    return Arrival::kAgain;
  }
  const std::string wanted = "a reference to a block of type " + expected_name(type, level, kind) + " leads to ";
  if (!context_.metadata.is_described(block))
    context_.findings.add(FindingKind::kOutOfRange, Severity::kLoss, block, visit.place,
                          wanted + "a block that is no metadata");
  else if (descriptor.type == BlockType::kFree)
    context_.findings.add(FindingKind::kUnused, Severity::kLoss, block, visit.place, wanted + "a free block");
  else
    context_.findings.add(FindingKind::kType, Severity::kLoss, block, visit.place,
                          wanted + expected_name(descriptor.type, descriptor.level, descriptor.leaf_kind));
  return Arrival::kWrong;
}

// The content of a block that was met for the first time, its references counted. Null if it cannot be read, which
// check_copies reports.
BlockPtr TreeWalk::enter(BlockNumber block, BlockType type) {
  context_.advance();
  const auto content = context_.metadata.read(block, type);
  if (!content) return nullptr;
  const std::uint8_t level = context_.metadata.descriptor(block).level;
  if (type == BlockType::kMapNode && level == 0) return *content;
  if (holds_references(type))
    for (const auto& record : records_of(block, type, level, **content)) tally_.add(record);
  return *content;
}

void TreeWalk::for_each_record(FunctionRef<void(const format::ReverseRecord&)> visit) {
  for (const BlockNumber base : context_.metadata.chunks()) {
    for (BlockNumber block = base + 1; block <= base + format::kChunkPayload; ++block) {
      const BlockDescriptor descriptor = context_.metadata.descriptor(block);
      if (!known_[context_.described.index(block)].met || !holds_references(descriptor.type)) continue;
      if (descriptor.type == BlockType::kMapNode && descriptor.level == 0) continue;
      const auto content = context_.metadata.read(block, descriptor.type);
      if (!content) continue;
      for (const auto& record : records_of(block, descriptor.type, descriptor.level, **content)) visit(record);
    }
  }
}

void TreeWalk::for_each_unreachable(FunctionRef<void(BlockNumber, BlockType)> visit) const {
  for (const BlockNumber base : context_.metadata.chunks()) {
    for (BlockNumber block = base + 1; block <= base + format::kChunkPayload; ++block) {
      const BlockType type = context_.metadata.descriptor(block).type;
      if (type == BlockType::kFree) continue;
      ++context_.report.metadata_blocks;
      if (type != BlockType::kReverseLeaf && !known_[context_.described.index(block)].met) visit(block, type);
    }
  }
}

void TreeWalk::report_unreachable() {
  for_each_unreachable([this](BlockNumber block, BlockType type) {
    context_.findings.add(FindingKind::kUnreachable, Severity::kRepairable, block,
                          std::string(name_of(type)) + ", " + block_name(block), "has a type but nothing leads to it");
  });
}

// --- the walk --------------------------------------------------------------------------------------------------------

void TreeWalk::walk() {
  walk_roots();
  for (std::size_t i = 1; i < volumes_.size(); ++i) {
    const VolumeRoot volume = volumes_[i];
    walk_fork({Place{volume.number, {}, {}}}, {}, volume.table);
  }
  // Last, so that what a volume shares with the graveyard is looked at as the volume's.
  for (const auto& [block, record] : graveyards_)
    walk_fork({Place{kVolumeZero, format::kGraveyardInode, {}}}, block, data_fork(record, LeafKind::kGraveyard));
  report_unreachable();
}

void TreeWalk::walk_roots() {
  const Visit visit{Place{kVolumeZero, {}, {}}};
  if (arrive(visit, format::kRootsBlock, BlockType::kRoots, 0, LeafKind::kData) != Arrival::kFirst) return;
  const BlockPtr content = enter(format::kRootsBlock, BlockType::kRoots);
  if (!content) return;
  const auto& roots = content->as<format::Roots>();
  generation_limit_ = roots.generation_limit;
  if (generation_limit_ > format::kMaximumGeneration)
    context_.findings.add(FindingKind::kVolume, Severity::kRepairable, format::kRootsBlock, "roots block",
                          "the limit of generations makes no sense");
  const InodeRecord& zero = roots.volume_zero;
  if (zero.mode == 0) {
    context_.findings.add(FindingKind::kVolume, Severity::kLoss, format::kRootsBlock, "roots block",
                          "there is no volume table");
    return;
  }
  volume_zero_ = zero;
  const Fork table = data_fork(zero, LeafKind::kInodes);  // a copy: the walk adds to volumes_
  volumes_.push_back({kVolumeZero, table});
  walk_fork(visit, format::kRootsBlock, table);
  walk_fork(visit, format::kRootsBlock, attribute_fork(zero));
}

Below TreeWalk::walk_fork(const Visit& visit, BlockNumber source, const Fork& fork) {
  return walk_entries(visit, source, fork.slots, static_cast<std::uint8_t>(fork.level - 1), fork.kind, FileBlock(0));
}

Below TreeWalk::walk_entries(const Visit& visit, BlockNumber source, std::span<const std::uint64_t> entries,
                             std::uint8_t log512, LeafKind kind, FileBlock base) {
  Below sum;
  for (std::uint64_t i = 0; i < entries.size(); ++i) {
    const MapEntry entry{entries[i]};
    if (entry.raw == 0) {
      add(sum, kHole);
      continue;
    }
    const FileBlock at = base + i * blocks_spanned(log512);
    const Below part = walk_entry(visit, source, entry, log512, kind, at);
    if (entry.full() && !part.no_free_inode && kind == LeafKind::kInodes && !visit.buried)
      context_.findings.add(FindingKind::kFullHint, Severity::kRepairable, source, visit.place,
                            "a hint says full above free inodes, from number " +
                                std::to_string(at.value * format::kInodesPerBlock) + " on");
    add(sum, part);
  }
  return sum;
}

Below TreeWalk::walk_entry(const Visit& visit, BlockNumber source, MapEntry entry, std::uint8_t log512, LeafKind kind,
                           FileBlock at) {
  if (const char* fault = fault_of(entry, log512, kind, false)) {
    context_.findings.add(FindingKind::kMapShape, Severity::kLoss, source, visit.place, fault);
    return kHole;
  }
  if (entry.is_node()) return walk_node(visit, entry, log512, kind, at);
  if (kind != LeafKind::kData) return walk_leaf(visit, entry, kind, at);
  const BlockRun run{entry.block(), blocks_spanned(log512)};
  if (!is_data_space(context_.metadata, context_.pool_blocks, run)) {
    Place place = visit.place;
    if (place.inode) place.offset_bytes = byte_offset(at);
    context_.findings.add(FindingKind::kOutOfRange, Severity::kLoss, run.first, place,
                          "a data run of " + std::to_string(run.count) + " blocks leaves the pool or enters metadata");
  }
  return {run.count, false, context_.bad.touches(run)};
}

Below TreeWalk::below(MapEntry entry, std::uint8_t log512, LeafKind kind) const {
  if (!entry.present() || fault_of(entry, log512, kind, false)) return kHole;
  if (entry.is_node() || kind != LeafKind::kData) {
    if (!context_.metadata.is_described(entry.block())) return kHole;
    const Known& known = known_[context_.described.index(entry.block())];
    return {entry.is_node() ? known.leaves : known.met, known.no_free_inode, known.bad_data};
  }
  return {blocks_spanned(log512), false, context_.bad.touches({entry.block(), blocks_spanned(log512)})};
}

Below TreeWalk::below(const Fork& fork) const {
  Below sum;
  for (const std::uint64_t raw : fork.slots)
    add(sum, below(MapEntry{raw}, static_cast<std::uint8_t>(fork.level - 1), fork.kind));
  return sum;
}

Below TreeWalk::walk_node(const Visit& visit, MapEntry entry, std::uint8_t log512, LeafKind kind, FileBlock at) {
  const Arrival arrival = arrive(visit, entry.block(), BlockType::kMapNode, log512, kind);
  if (arrival == Arrival::kWrong) return kHole;
  const std::size_t index = context_.described.index(entry.block());
  if (arrival == Arrival::kAgain) return {known_[index].leaves, known_[index].no_free_inode, known_[index].bad_data};
  const BlockPtr content = enter(entry.block(), BlockType::kMapNode);
  if (!content) return kHole;
  const auto& node = content->as<format::MapNode>();
  if (!visit.buried && std::ranges::all_of(node, [](std::uint64_t raw) { return raw == 0; }))
    context_.findings.add(FindingKind::kMapShape, Severity::kNote, entry.block(), visit.place, "a map node is empty");
  const Below sum = walk_entries(visit, entry.block(), node, static_cast<std::uint8_t>(log512 - 1), kind, at);
  Known& known = known_[index];
  known.leaves = sum.leaves;
  known.no_free_inode = sum.no_free_inode;
  known.bad_data = sum.bad_data;
  return sum;
}

Below TreeWalk::walk_leaf(const Visit& visit, MapEntry entry, LeafKind kind, FileBlock at) {
  const BlockType type = format::leaf_block_type(kind);
  const Arrival arrival = arrive(visit, entry.block(), type, 0, LeafKind::kData);
  if (arrival == Arrival::kWrong) return kHole;
  const std::size_t index = context_.described.index(entry.block());
  if (arrival == Arrival::kFirst) {
    if (const BlockPtr content = enter(entry.block(), type)) {
      if (kind == LeafKind::kInodes) known_[index].no_free_inode = walk_inodes(visit, entry.block(), *content, at);
      if (kind == LeafKind::kGraveyard) walk_graveyard_block(visit, entry.block(), *content, at);
    }
  }
  return {1, known_[index].no_free_inode, false};
}

// Returns whether all are in use.
bool TreeWalk::walk_inodes(const Visit& visit, BlockNumber block, const Block& content, FileBlock at) {
  static constexpr InodeRecord kFreeInode{};
  bool all_used = true;
  for (std::uint64_t i = 0; i < format::kInodesPerBlock; ++i) {
    const InodeRecord& record = content.as<format::InodeBlock>().inodes[i];
    const InodeNumber number(at.value * format::kInodesPerBlock + i);
    if (record.mode != 0) {
      walk_inode(visit, block, record, number);
      continue;
    }
    all_used = false;
    if (std::memcmp(&record, &kFreeInode, sizeof record) != 0)
      context_.findings.add(FindingKind::kInode, Severity::kRepairable, block, Place{visit.place.volume, number, {}},
                            "the record of a free inode is not zero");
  }
  return all_used;
}

void TreeWalk::walk_inode(const Visit& visit, BlockNumber block, const InodeRecord& record, InodeNumber number) {
  const VolumeNumber volume = visit.place.volume;
  Visit below = visit;
  LeafKind kind = data_kind(record, number, volume);
  if (visit.buried) {
    kind = LeafKind::kData;
    for (const std::uint64_t raw : record.data)
      if (MapEntry{raw}.present()) kind = kind_from_block(MapEntry{raw});
    // A file never holds these; following them would lead from inode to inode as deep as the image likes.
    if (kind == LeafKind::kInodes || kind == LeafKind::kGraveyard) kind = LeafKind::kData;
  } else {
    below.place.inode = number;
  }
  // References outside of the levels are none (see references.h); check_volume reports the levels.
  if (format::is_valid_level(record.data_level) && !has_flag(record, InodeFlag::kInlineSymlink)) {
    const Fork data = data_fork(record, kind);
    if (kind == LeafKind::kInodes && !visit.buried && volume == kVolumeZero)
      volumes_.push_back({number, data});
    else if (kind == LeafKind::kGraveyard && !visit.buried)
      graveyards_.emplace_back(block, record);
    else
      walk_fork(below, block, data);
  }
  if (format::is_valid_level(record.attribute_level)) walk_fork(below, block, attribute_fork(record));
}

void TreeWalk::walk_graveyard_block(const Visit& visit, BlockNumber block, const Block& content, FileBlock at) {
  const auto& entries = content.as<format::MapNode>();
  const Visit buried{visit.place, true};
  const std::uint64_t first = at.value * kMapFanout;
  const std::uint64_t depth = graveyards_.empty() ? 0 : graveyards_.front().second.size_bytes;
  for (std::uint64_t i = 0; i < kMapFanout; ++i) {
    const MapEntry entry{entries[i]};
    if (entry.raw == 0) continue;
    const std::uint8_t log512 = entry.graveyard_level();
    const LeafKind kind = kind_from_block(entry);
    const char* fault = kind == LeafKind::kGraveyard ? "the graveyard holds a part of a graveyard"
                                                     : fault_of(entry, log512, kind, true);
    if (fault != nullptr) {
      context_.findings.add(FindingKind::kMapShape, Severity::kLoss, block, visit.place, fault);
      continue;
    }
    if (first + i >= depth)
      context_.findings.add(FindingKind::kMapShape, Severity::kRepairable, block, visit.place,
                            "an entry lies beyond the end of the graveyard");
    walk_entry(buried, block, entry.plain(), log512, kind, FileBlock(0));
  }
}

}  // namespace daxcow::checker
