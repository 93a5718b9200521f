#include "engine/map.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "engine/check.h"

namespace daxcow {

using format::BlockType;
using format::kMapFanout;
using format::kRootSlots;
using format::LeafKind;

namespace {

// Entries of one level: the root's eight or a node's 512. `base`: file block of entry 0. `log512`: of each entry's span.
struct Level {
  std::uint64_t* entries;
  std::uint64_t count;
  std::uint8_t log512;
  FileBlock base;

  std::uint64_t span() const { return blocks_spanned(log512); }
  FileRange range_of(std::uint64_t i) const { return {base + i * span(), span()}; }
};

FileRange intersect(FileRange a, FileRange b) {
  const FileBlock first = std::max(a.first, b.first), end = std::min(a.end(), b.end());
  return end > first ? FileRange{first, end - first} : FileRange{first, 0};
}

struct SlotWindow {
  std::uint64_t first, end;
};
SlotWindow slots_in(const Level& level, FileRange range) {
  const std::uint64_t span = level.span();
  const FileRange all{level.base, level.count * span};
  const FileRange part = intersect(all, range);
  if (part.count == 0) return {0, 0};
  return {(part.first - level.base) / span, (part.end() - level.base + span - 1) / span};
}

class Merger {  // of neighbouring segments
 public:
  explicit Merger(FunctionRef<bool(const Segment&)> visit) : visit_(visit) {}
  bool add(const Segment& segment) {
    if (pending_.range.count != 0 && joins(segment)) {
      pending_.range.count += segment.range.count;
      return true;
    }
    const bool go_on = flush();
    pending_ = segment;
    return go_on;
  }
  bool flush() {
    const bool go_on = pending_.range.count == 0 || visit_(pending_);
    pending_.range.count = 0;
    return go_on;
  }

 private:
  bool joins(const Segment& next) const {
    if (!pending_.entry.present()) return !next.entry.present();
    return next.entry.present() && advance(pending_.entry, pending_.range.count) == next.entry;
  }
  FunctionRef<bool(const Segment&)> visit_;
  Segment pending_;
};

Result<bool> walk(BlockReader& reader, const std::uint64_t* entries, const Level& level, FileRange range, Merger& merger) {
  const SlotWindow window = slots_in(level, range);
  for (std::uint64_t i = window.first; i < window.end; ++i) {
    const MapEntry entry{entries[i]};
    const FileRange part = intersect(level.range_of(i), range);
    if (!entry.present()) {
      if (!merger.add({part, MapEntry{}})) return false;
    } else if (entry.is_node()) {
      if (level.log512 == 0) return fail(ErrorCode::kDamaged, "a map is deeper than its level");
      const BlockPtr node = TRY(reader.read(entry.block(), BlockType::kMapNode));
      const Level below{nullptr, kMapFanout, static_cast<std::uint8_t>(level.log512 - 1), level.range_of(i).first};
      if (!TRY(walk(reader, node->as<format::MapNode>().data(), below, part, merger))) return false;
    } else if (!merger.add({part, advance(entry, part.first - level.range_of(i).first)})) {
      return false;
    }
  }
  return true;
}

Level root_level(const Fork& fork) { return {nullptr, kRootSlots, static_cast<std::uint8_t>(fork.level - 1), FileBlock(0)}; }
Level root_level(const ForkEdit& fork) { return {fork.slots, kRootSlots, static_cast<std::uint8_t>(*fork.level - 1), FileBlock(0)}; }

// Looks for written blocks, or for others. It remembers the nodes below which there is none: a file may hold one
// subtree more often than anybody can count.
class Search {
 public:
  Search(BlockReader& reader, bool written) : reader_(reader), written_(written) {}

  Result<std::optional<FileBlock>> first_in(const Fork& fork, FileRange range) {
    if (const auto found = TRY(first_below(fork.slots.data(), root_level(fork), range))) return found;
    const FileBlock beyond = std::max(range.first, FileBlock(fork.capacity()));
    if (!written_ && beyond < range.end()) return beyond;
    return std::nullopt;
  }

 private:
  Result<std::optional<FileBlock>> first_below(const std::uint64_t* entries, const Level& level, FileRange range) {
    const SlotWindow window = slots_in(level, range);
    for (std::uint64_t i = window.first; i < window.end; ++i) {
      const MapEntry entry{entries[i]};
      const FileRange slot = level.range_of(i);
      const FileRange part = intersect(slot, range);
      if (!entry.present() || !entry.is_node()) {
        if ((entry.present() && !entry.unwritten()) == written_) return part.first;
        continue;
      }
      const bool whole = part.count == slot.count;
      if (whole && none_below_.contains(entry.block())) continue;
      if (level.log512 == 0) return fail(ErrorCode::kDamaged, "a map is deeper than its level");
      const BlockPtr node = TRY(reader_.read(entry.block(), BlockType::kMapNode));
      const Level below{nullptr, kMapFanout, static_cast<std::uint8_t>(level.log512 - 1), slot.first};
      if (const auto found = TRY(first_below(node->as<format::MapNode>().data(), below, part))) return found;
      if (whole) none_below_.insert(entry.block());
    }
    return std::nullopt;
  }

  BlockReader& reader_;
  const bool written_;
  std::unordered_set<BlockNumber> none_below_;
};

// 512 leaf entries that continue each other are one entry of the level above.
bool is_one_run(const format::MapNode& node, std::uint8_t log512) {
  const MapEntry first{node[0]};
  if (!first.present() || first.is_node()) return false;
  const std::uint64_t span = blocks_spanned(log512);
  if (advance(first, (kMapFanout - 1) * span) != MapEntry{node[kMapFanout - 1]}.plain()) return false;
  for (std::uint64_t i = 1; i < kMapFanout; ++i)
    if (advance(first, i * span) != MapEntry{node[i]}.plain()) return false;
  return true;
}

// One editing pass over a fork. Bounds what one transaction may drop or touch.
class Editor {
 public:
  Editor(Transaction& transaction, ForkEdit fork, Graveyard& graveyard)
      : transaction_(transaction), fork_(fork), graveyard_(graveyard) {}

  // Maps range to target.. (present) or makes it a hole (absent).
  Result<> set(Level level, FileRange range, MapEntry target) {
    const SlotWindow window = slots_in(level, range);
    for (std::uint64_t i = window.first; i < window.end; ++i) {
      const FileRange slot = level.range_of(i);
      const FileRange part = intersect(slot, range);
      const MapEntry wanted = target.present() ? advance(target, part.first - range.first) : MapEntry{};
      if (part.count == slot.count && (level.log512 == 0 || !wanted.present() || fork_.kind == LeafKind::kData)) {
        TRY(replace(level.entries[i], level.log512, wanted));
        continue;
      }
      if (!wanted.present() && !MapEntry{level.entries[i]}.present()) continue;
      Block* node = TRY(descend(level, i));
      auto& entries = node->as<format::MapNode>();
      const Level below{entries.data(), kMapFanout, static_cast<std::uint8_t>(level.log512 - 1), slot.first};
      TRY(set(below, part, wanted));
      tidy(level.entries[i], *node, below.log512);
    }
    return {};
  }

  // `copied`: this level is in a node that this transaction copied, so the nodes below have one reference more than the
  // reverse map knows of yet.
  Result<std::uint64_t> share(const Fork& from, FileBlock source, Level level, FileRange range, bool copied = false) {
    const SlotWindow window = slots_in(level, range);
    std::uint64_t done = 0;
    for (std::uint64_t i = window.first; i < window.end && !full(); ++i) {
      const FileRange slot = level.range_of(i);
      const FileRange part = intersect(slot, range);
      const FileBlock part_source = source + (part.first - range.first);
      if (part.count == slot.count) {
        auto entry = TRY(aligned_entry(from, part_source, level.log512));
        // What has nothing written is shared as the hole that it reads as, not slot by slot.
        if (!entry && !TRY(written_.first_in(from, {part_source, part.count}))) entry = MapEntry{};
        if (entry) {
          TRY(replace_counted(level.entries[i], level.log512, *entry));
          done += part.count;
          continue;
        }
      }
      // A slot that the range covers whole was not unshared beforehand (mostly it is replaced, not entered).
      const bool copy = TRY(copy_if_shared(level.entries[i], level.log512, copied));
      Block* node = TRY(descend(level, i));
      const Level below{node->as<format::MapNode>().data(), kMapFanout, static_cast<std::uint8_t>(level.log512 - 1), slot.first};
      const std::uint64_t below_done = TRY(share(from, part_source, below, part, copy));
      tidy(level.entries[i], *node, below.log512);
      done += below_done;
      if (below_done != part.count) break;
    }
    return done;
  }

 private:
  // Roughly what fits a journal record with room to spare: each counts a slot set (with its reverse-map records).
  static constexpr std::uint64_t kMaximumSlots = 1024;
  static constexpr std::uint64_t kMaximumNodes = 32;
  static constexpr std::uint64_t kInlineDrops = 2;
  // Never before something was done: every transaction makes progress.
  bool full() const { return shared_ && (slots_ >= kMaximumSlots || nodes_ >= kMaximumNodes); }

  // The node below a slot, for editing: the one there, a new one for a hole, or one that spells out a run.
  Result<Block*> descend(Level& level, std::uint64_t i) {
    CHECK(level.log512 >= 1);
    const MapEntry entry{level.entries[i]};
    if (entry.present() && entry.is_node()) {
      ++nodes_;
      return transaction_.edit(entry.block(), BlockType::kMapNode);
    }
    ++nodes_;
    const BlockNumber made = TRY(transaction_.allocate(BlockType::kMapNode, level.log512, fork_.kind));
    Block* node = TRY(transaction_.edit(made, BlockType::kMapNode));
    if (entry.present()) spell_out(entry, static_cast<std::uint8_t>(level.log512 - 1), node->as<format::MapNode>());
    level.entries[i] = MapEntry::node(made).raw;
    return node;
  }

  // Returns true if it made a copy.
  Result<bool> copy_if_shared(std::uint64_t& slot, std::uint8_t log512, bool known_shared) {
    const MapEntry entry{slot};
    if (!entry.present() || !entry.is_node()) return false;
    if (!known_shared && TRY(transaction_.references_before(entry.block(), 2)) < 2) return false;
    const BlockPtr shared = TRY(transaction_.read(entry.block(), BlockType::kMapNode));
    const BlockNumber copy = TRY(transaction_.allocate(BlockType::kMapNode, log512, fork_.kind));
    *TRY(transaction_.edit(copy, BlockType::kMapNode)) = *shared;
    slot = MapEntry::node(copy).raw;
    slots_ += kMapFanout;
    return true;
  }

  void tidy(std::uint64_t& slot, const Block& node, std::uint8_t log512) {
    if (is_zero(node))
      slot = 0;
    else if (fork_.kind == LeafKind::kData && is_one_run(node.as<format::MapNode>(), log512))
      slot = MapEntry{node.as<format::MapNode>()[0]}.plain().raw;
  }

  Result<> replace(std::uint64_t& slot, std::uint8_t log512, MapEntry wanted) {
    ++slots_;
    TRY(drop(MapEntry{slot}, log512));
    slot = wanted.raw;
    if (wanted.present() && fork_.block_count) *fork_.block_count += blocks_spanned(log512);
    return {};
  }
  Result<> replace_counted(std::uint64_t& slot, std::uint8_t log512, MapEntry wanted) {
    ++slots_;
    TRY(drop(MapEntry{slot}, log512));
    slot = wanted.raw;
    if (fork_.block_count) *fork_.block_count += TRY(leaves_below(wanted, log512));
    shared_ = true;
    return {};
  }

  // The slot is about to be overwritten. Leaves and small nodes go with the commit; the rest to the graveyard.
  Result<> drop(MapEntry entry, std::uint8_t log512) {
    if (!entry.present()) return {};
    if (fork_.block_count) *fork_.block_count -= TRY(leaves_below(entry, log512));
    if (!entry.is_node()) return {};
    if (log512 == 1 && fork_.kind != LeafKind::kInodes && inline_drops_ < kInlineDrops) {
      ++inline_drops_;
      return {};
    }
    return graveyard_.bury(transaction_, entry, log512);
  }

  // A node is counted once, however often the map refers to it: a file may hold one subtree a thousand times.
  Result<std::uint64_t> leaves_below(MapEntry entry, std::uint8_t log512) {
    if (!entry.present()) return 0;
    if (!entry.is_node()) return blocks_spanned(log512);
    if (const auto it = counted_.find(entry.block().value); it != counted_.end()) return it->second;
    if (log512 == 0) return fail(ErrorCode::kDamaged, "a map is deeper than its level");
    const BlockPtr node = TRY(transaction_.read(entry.block(), BlockType::kMapNode));
    std::uint64_t leaves = 0;
    for (const std::uint64_t raw : node->as<format::MapNode>())
      leaves += TRY(leaves_below(MapEntry{raw}, static_cast<std::uint8_t>(log512 - 1)));
    counted_[entry.block().value] = leaves;
    return leaves;
  }

  // What `from` has at `source` as one entry of this level: an entry of that level, part of a larger run, or a hole.
  // Nothing if it is not aligned to it or spread over several entries.
  Result<std::optional<MapEntry>> aligned_entry(const Fork& from, FileBlock source, std::uint8_t log512) {
    const std::uint64_t span = blocks_spanned(log512);
    if (source.value >= from.capacity()) return MapEntry{};
    const bool aligned = source.value % span == 0;
    std::uint8_t at = static_cast<std::uint8_t>(from.level - 1);
    if (at < log512) return std::nullopt;
    MapEntry entry{from.slots[source.value / blocks_spanned(at)]};
    while (true) {
      const std::uint64_t offset = source.value % blocks_spanned(at);
      if (!entry.present() || (!entry.is_node() && offset + span <= blocks_spanned(at))) {
        if (!entry.present()) {
          if (offset + span > blocks_spanned(at)) return std::nullopt;
          return MapEntry{};
        }
        if (entry.unwritten()) return MapEntry{};
        return advance(entry, offset);
      }
      if (at == log512) {
        if (!aligned) return std::nullopt;
        return entry.plain();
      }
      if (!entry.is_node()) return std::nullopt;
      if (!aligned && log512 > 0) return std::nullopt;
      const BlockPtr node = TRY(transaction_.read(entry.block(), BlockType::kMapNode));
      --at;
      entry = MapEntry{node->as<format::MapNode>()[source.value / blocks_spanned(at) % kMapFanout]};
    }
  }

  Transaction& transaction_;
  ForkEdit fork_;
  Graveyard& graveyard_;
  std::uint64_t slots_ = 0, nodes_ = 0, inline_drops_ = 0;
  bool shared_ = false;
  std::unordered_map<std::uint64_t, std::uint64_t> counted_;  // node -> leaves below
  Search written_{transaction_, true};
};

// Whether the block that entry `i` leads to must not be shared.
Result<bool> must_own(LeafKind kind, const Level& level, std::uint64_t i, MapEntry entry, FileRange range, Unshare what) {
  if (!entry.present()) return false;
  const bool leaf = !entry.is_node();
  if (!leaf && level.log512 == 0) return fail(ErrorCode::kDamaged, "a map is deeper than its level");
  if (leaf && level.log512 != 0 && kind != LeafKind::kData) return fail(ErrorCode::kDamaged, "an entry is a run of metadata blocks");
  const bool covered = intersect(level.range_of(i), range).count == level.span();
  return leaf ? what == Unshare::kLeaves : !covered || what != Unshare::kEdges;
}

Result<bool> any_shared_below(Transaction& transaction, LeafKind kind, const std::uint64_t* entries, const Level& level, FileRange range,
                              Unshare what) {
  const SlotWindow window = slots_in(level, range);
  for (std::uint64_t i = window.first; i < window.end; ++i) {
    const MapEntry entry{entries[i]};
    if (!TRY(must_own(kind, level, i, entry, range, what))) continue;
    if (TRY(transaction.references_before(entry.block(), 2)) > 1) return true;
    if (!entry.is_node()) continue;
    const BlockPtr node = TRY(transaction.read(entry.block(), BlockType::kMapNode));
    const Level below{nullptr, kMapFanout, static_cast<std::uint8_t>(level.log512 - 1), level.range_of(i).first};
    if (TRY(any_shared_below(transaction, kind, node->as<format::MapNode>().data(), below, range, what))) return true;
  }
  return false;
}

Result<bool> unshare_below(Transaction& transaction, LeafKind kind, const Level& level, FileRange range, Unshare what) {
  const SlotWindow window = slots_in(level, range);
  for (std::uint64_t i = window.first; i < window.end; ++i) {
    const MapEntry entry{level.entries[i]};
    if (!TRY(must_own(kind, level, i, entry, range, what))) continue;
    const bool leaf = !entry.is_node();
    const BlockType type = leaf ? format::leaf_block_type(kind) : BlockType::kMapNode;
    if (TRY(transaction.references_before(entry.block(), 2)) > 1) {
      const BlockPtr shared = TRY(transaction.read(entry.block(), type));
      const BlockNumber copy = TRY(transaction.allocate(type, leaf ? std::uint8_t{0} : level.log512, leaf ? LeafKind::kData : kind));
      *TRY(transaction.edit(copy, type)) = *shared;
      level.entries[i] = leaf ? MapEntry::leaf(copy, false).raw | (entry.raw & format::kEntryFull)
                              : MapEntry::node(copy).raw | (entry.raw & format::kEntryFull);
      return true;
    }
    if (leaf) continue;
    // Looked at through read(): a node that turns out to need no change is not edited.
    const BlockPtr node = TRY(transaction.read(entry.block(), type));
    format::MapNode entries = node->as<format::MapNode>();
    const Level below{entries.data(), kMapFanout, static_cast<std::uint8_t>(level.log512 - 1), level.range_of(i).first};
    if (TRY(unshare_below(transaction, kind, below, range, what))) {
      TRY(transaction.edit(entry.block(), type))->as<format::MapNode>() = entries;
      return true;
    }
  }
  return false;
}

}  // namespace

bool Fork::empty() const {
  return std::ranges::all_of(slots, [](std::uint64_t slot) { return slot == 0; });
}

namespace {
std::uint8_t valid_level(std::uint8_t level) { return std::clamp<std::uint8_t>(level, 1, format::kMaximumLevel); }
}  // namespace

Fork data_fork(const format::InodeRecord& inode, LeafKind kind) {
  if (inode.flags & static_cast<std::uint32_t>(format::InodeFlag::kInlineSymlink)) return {{}, 1, kind};
  return {inode.data, valid_level(inode.data_level), kind};
}
Fork attribute_fork(const format::InodeRecord& inode) {
  return {inode.attributes, valid_level(inode.attribute_level), LeafKind::kAttributes};
}
ForkEdit edit_data_fork(format::InodeRecord& inode, LeafKind kind) {
  return {inode.data.data(), &inode.data_level, &inode.block_count, kind};
}
ForkEdit edit_attribute_fork(format::InodeRecord& inode) {
  return {inode.attributes.data(), &inode.attribute_level, nullptr, LeafKind::kAttributes};
}

Result<> for_each_segment(BlockReader& reader, const Fork& fork, FileRange range, FunctionRef<bool(const Segment&)> visit) {
  Merger merger(visit);
  const FileRange inside = intersect(range, {FileBlock(0), fork.capacity()});
  bool go_on = true;
  if (inside.count != 0) go_on = TRY(walk(reader, fork.slots.data(), root_level(fork), inside, merger));
  const FileBlock beyond = std::max(range.first, FileBlock(fork.capacity()));
  if (go_on && range.end() > beyond) go_on = merger.add({{beyond, range.end() - beyond}, MapEntry{}});
  if (go_on) merger.flush();
  return {};
}

Result<std::optional<FileBlock>> first_block(BlockReader& reader, const Fork& fork, FileRange range, bool written) {
  return Search(reader, written).first_in(fork, range);
}

Result<Segment> first_segment(BlockReader& reader, const Fork& fork, FileRange range) {
  Segment first{{range.first, 0}, MapEntry{}};
  TRY(for_each_segment(reader, fork, range, [&](const Segment& segment) {
    first = segment;
    return false;
  }));
  return first;
}

Result<SlotView> slot_of(BlockReader& reader, const Fork& fork, FileBlock block) {
  if (block >= FileBlock(fork.capacity())) return SlotView{};
  auto log512 = static_cast<std::uint8_t>(fork.level - 1);
  MapEntry entry{fork.slots[block.value >> (log512 * format::kMapFanoutBits)]};
  for (; entry.present() && entry.is_node(); --log512) {
    if (log512 == 0) return fail(ErrorCode::kDamaged, "a map is deeper than its level");
    const BlockPtr node = TRY(reader.read(entry.block(), BlockType::kMapNode));
    const std::uint64_t index = block.value >> ((log512 - 1) * format::kMapFanoutBits);
    entry = MapEntry{node->as<format::MapNode>()[index % kMapFanout]};
  }
  return SlotView{entry, log512};
}

Result<MapEntry> entry_at(BlockReader& reader, const Fork& fork, FileBlock block) {
  const SlotView slot = TRY(slot_of(reader, fork, block));
  return slot.entry.present() ? advance(slot.entry, block.value % blocks_spanned(slot.log512)) : MapEntry{};
}

Result<bool> unshare(Transaction& transaction, ForkEdit fork, FileRange range, Unshare what) {
  return unshare_below(transaction, fork.kind, root_level(fork), range, what);
}

Result<bool> unshare(Transaction& transaction, const Fork& fork, FileRange range, Unshare what, FunctionRef<Result<ForkEdit>()> edit) {
  if (!TRY(any_shared_below(transaction, fork.kind, fork.slots.data(), root_level(fork), range, what))) return false;
  return unshare(transaction, TRY(edit()), range, what);
}

Result<> raise(Transaction& transaction, ForkEdit fork, FileBlock end) {
  while (kRootSlots * blocks_spanned(static_cast<std::uint8_t>(*fork.level - 1)) < end.value) {
    if (*fork.level >= format::kMaximumLevel) return fail(ErrorCode::kFileTooBig);
    if (std::any_of(fork.slots, fork.slots + kRootSlots, [](std::uint64_t slot) { return slot != 0; })) {
      const BlockNumber made = TRY(transaction.allocate(BlockType::kMapNode, *fork.level, fork.kind));
      Block* node = TRY(transaction.edit(made, BlockType::kMapNode));
      std::copy(fork.slots, fork.slots + kRootSlots, node->as<format::MapNode>().begin());
      std::fill(fork.slots, fork.slots + kRootSlots, 0);
      fork.slots[0] = MapEntry::node(made).raw;
    }
    ++*fork.level;
  }
  return {};
}

Result<> assign(Transaction& transaction, ForkEdit fork, FileRange range, BlockNumber target, bool unwritten, Graveyard& graveyard) {
  TRY(raise(transaction, fork, range.end()));
  return Editor(transaction, fork, graveyard).set(root_level(fork), range, MapEntry::leaf(target, unwritten));
}

Result<> clear(Transaction& transaction, ForkEdit fork, FileRange range, Graveyard& graveyard) {
  return Editor(transaction, fork, graveyard).set(root_level(fork), range, MapEntry{});
}

Result<std::uint64_t> share(Transaction& transaction, const Fork& from, FileBlock source, ForkEdit to, FileRange range,
                            Graveyard& graveyard) {
  // An empty target takes the source's shape, so that root slots match.
  if (std::all_of(to.slots, to.slots + kRootSlots, [](std::uint64_t slot) { return slot == 0; }))
    *to.level = std::max(*to.level, from.level);
  if (range.count == 0) return 0;
  TRY(raise(transaction, to, std::min(range.end(), FileBlock(kMaximumFileBlocks))));
  return Editor(transaction, to, graveyard).share(from, source, root_level(to), range);
}

Result<Block*> edit_leaf(Transaction& transaction, ForkEdit fork, FileBlock block, Graveyard& graveyard) {
  const BlockType type = format::leaf_block_type(fork.kind);
  Fork view{{}, *fork.level, fork.kind};
  std::copy(fork.slots, fork.slots + kRootSlots, view.slots.begin());
  const MapEntry entry = TRY(entry_at(transaction, view, block));
  if (entry.present()) return transaction.edit(entry.block(), type);
  const BlockNumber made = TRY(transaction.allocate(type, 0, LeafKind::kData));
  TRY(assign(transaction, fork, {block, 1}, made, false, graveyard));
  return transaction.edit(made, type);
}

}  // namespace daxcow
