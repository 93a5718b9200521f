// The trees are pruned: references that lead nowhere or to what they cannot lead to are taken from the reverse map if
// that knows better, else removed; a block that two places of one volume claim stays with the first. What inodes and
// directories say of themselves is corrected on the way up, when all below them is sound.
//
// Content that several volumes share is changed in place: what is wrong with it is wrong for all of them.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "engine/check_paths.h"
#include "engine/check_trees.h"
#include "engine/content_from_records.h"
#include "engine/repair_content.h"
#include "engine/repair_walk.h"

namespace daxcow::repairer {

using format::BlockDescriptor;
using format::BlockType;
using format::InodeRecord;
using format::kMapFanout;
using format::LeafKind;
using format::ReverseRecord;

namespace {

// --- blocks that are claimed twice -----------------------------------------------------------------------------------

class Claims {
 public:
  explicit Claims(RepairPool& pool) : pool_(pool) {}

  Result<> run() {
    for (const TableOfVolume& volume : volume_tables(pool_)) {
      met_.clear();
      struct Found {
        BlockNumber block;
        FileBlock at;
      };
      std::vector<Found> blocks;
      TRY(fork(volume.place, volume.table, [&](BlockNumber block, FileBlock at) { blocks.push_back({block, at}); }));
      for (const Found& found : blocks) TRY(inodes(found.block, found.at, volume.number));
    }
    return pool_.editor.commit();
  }

 private:
  Result<> inodes(BlockNumber block, FileBlock at, VolumeNumber volume) {
    const BlockPtr content = TRY(pool_.editor.read(block, BlockType::kInodes));
    const format::InodeBlock inodes = content->as<format::InodeBlock>();
    for (std::uint64_t i = 0; i < format::kInodesPerBlock; ++i) {
      const InodeRecord& inode = inodes.inodes[i];
      if (inode.mode == 0 || !has_valid_levels(inode)) continue;
      const LeafKind kind = checker::data_kind(inode, InodeNumber(at.value * format::kInodesPerBlock + i), volume);
      if (kind == LeafKind::kDirectory || kind == LeafKind::kOrphans)
        TRY(fork(root_place(block, i, false), data_fork(inode, kind), [](BlockNumber, FileBlock) {}));
      TRY(fork(root_place(block, i, true), attribute_fork(inode), [](BlockNumber, FileBlock) {}));
    }
    return pool_.commit_if_large();
  }

  Result<> fork(const SlotPlace& root, const Fork& fork, FunctionRef<void(BlockNumber, FileBlock)> visit) {
    std::vector<SlotPlace> twice;
    for_each_leaf(pool_.editor, root, fork, [&](const SlotPlace& place, MapEntry entry, bool node, FileBlock at) {
      const BlockDescriptor descriptor = pool_.editor.descriptor(entry.block());
      const bool fits = node ? descriptor.type == BlockType::kMapNode && descriptor.leaf_kind == fork.kind
                             : descriptor.type == format::leaf_block_type(fork.kind);
      if (!fits || !pool_.editor.read(entry.block(), descriptor.type)) return false;  // pruned later
      if (!met_.insert(entry.block().value).second) {
        twice.push_back(place);
        pool_.actions.add_loss(entry.block(), block_place(descriptor.type, entry.block()),
                               "used twice within a volume: the later reference was removed");
        return false;
      }
      if (!node) visit(entry.block(), at);
      return true;
    });
    for (const SlotPlace& place : twice) TRY(set_slot(pool_.editor, place, 0));
    return {};
  }

  RepairPool& pool_;
  std::unordered_set<std::uint64_t> met_;
};

// --- pruning ---------------------------------------------------------------------------------------------------------

struct Below {
  std::uint64_t leaves = 0;
  bool no_free_inode = true;  // inode tables
  bool anything = false;      // some entry is left
};
constexpr Below kHole{0, false, false};

void add(Below& sum, const Below& part) {
  sum.leaves += part.leaves;
  sum.no_free_inode &= part.no_free_inode;
  sum.anything |= part.anything;
}

class Pruning {
 public:
  // The dry run changes nothing: it collects sources whose records are worth a look.
  Pruning(RepairPool& pool, bool dry) : pool_(pool), dry_(dry) {}

  Result<> run() {
    const auto roots = pool_.editor.read(format::kRootsBlock, BlockType::kRoots);
    if (!roots)
      return fail(ErrorCode::kDamaged,
                  "the roots block is lost in both copies, and the reverse map does not say what it led to; restore "
                  "from a backup");
    stored_limit_ = (*roots)->as<format::Roots>().generation_limit;
    if (stored_limit_ > format::kMaximumGeneration) {
      stored_limit_ = 0;
      if (!dry_)
        pool_.actions.add(format::kRootsBlock, block_place(BlockType::kRoots, format::kRootsBlock),
                          "the limit of generations was corrected");
    }
    // Not known: what the dry run has found says it.
    generation_limit_ = next_generation_ = stored_limit_ != 0 || dry_ ? stored_limit_ : highest_generation_ + 1;
    Visit visit{kVolumeZero};
    InodeRecord zero = (*roots)->as<format::Roots>().volume_zero;
    TRY(prune_root_inode(zero, visit));
    for (std::size_t i = 0; i < volumes_.size(); ++i) {
      const Volume volume = volumes_[i];
      TRY(prune_postponed(volume.place, LeafKind::kInodes, {volume.number}));
    }
    if (graveyard_) TRY(prune_postponed(*graveyard_, LeafKind::kGraveyard, {kVolumeZero}));
    return dry_ ? Result<>{} : set_generation_limit();
  }

  const std::unordered_set<std::uint64_t>& suspects() const { return suspects_; }
  void set_records(std::unordered_map<std::uint64_t, std::vector<ReverseRecord>> records) {
    records_ = std::move(records);
  }
  std::uint64_t highest_generation() const { return highest_generation_; }
  void set_highest_generation(std::uint64_t highest) { highest_generation_ = highest; }

 private:
  struct Visit {
    VolumeNumber volume;
    bool buried = false;
    // As in the checker (check_trees.h). Volume 0 comes first, so it keeps what is shared with it.
    bool unshareable() const { return volume == kVolumeZero && !buried; }
  };
  struct Known {
    Below below;
    std::uint64_t at = 0;      // inode blocks: where in a table
    bool unshareable = false;  // nothing else may lead here
  };
  struct Volume {
    VolumeNumber number;
    InodePlace place;
  };
  struct Outcome {
    std::uint64_t raw = 0;  // the entry as it has to be
    Below below = kHole;
  };

  // --- entries -------------------------------------------------------------------------------------------------------

  // Prunes entries (copies of those in `place`'s block, from its slot on) and what is below.
  Result<Below> prune_entries(const Visit& visit, const SlotPlace& place, std::span<const std::uint64_t> entries,
                              std::uint8_t log512, LeafKind kind, FileBlock base) {
    Below sum;
    for (std::uint64_t i = 0; i < entries.size(); ++i) {
      if (entries[i] == 0) {
        add(sum, kHole);
        continue;
      }
      const SlotPlace slot{place.source, place.type, place.slot + i};
      const Outcome outcome =
          TRY(prune_entry(visit, slot, entries[i], log512, kind, base + i * blocks_spanned(log512)));
      if (outcome.raw != entries[i] && !dry_) TRY(set_slot(pool_.editor, slot, outcome.raw));
      add(sum, outcome.below);
    }
    return sum;
  }

  Result<Outcome> prune_entry(const Visit& visit, const SlotPlace& slot, std::uint64_t raw, std::uint8_t log512,
                              LeafKind kind, FileBlock at) {
    for (const bool recorded : {false, true}) {
      std::uint64_t candidate = raw;
      if (recorded) {
        suspects_.insert(slot.source.value);
        const auto entry = recorded_entry(slot, log512);
        if (!entry) break;
        candidate = *entry;
      }
      candidate = without_unknown_bits(candidate, log512, kind);
      const auto below = TRY(follow(visit, MapEntry{candidate}, log512, kind, at));
      if (!below) continue;
      if (below->leaves == 0 && !below->anything && !visit.buried) {
        if (!dry_)
          pool_.actions.add(slot.source, block_place(slot.type, slot.source),
                            "a reference to a block without content was removed");
        return Outcome{};
      }
      if ((candidate & format::kEntryFull) != 0 && !below->no_free_inode) {
        candidate &= ~format::kEntryFull;
        if (!dry_)
          pool_.actions.add(slot.source, block_place(slot.type, slot.source),
                            "a hint that said full above free inodes was cleared");
      } else if (candidate != raw && !dry_) {
        pool_.actions.add(
            slot.source, block_place(slot.type, slot.source),
            recorded ? "a reference was taken from the reverse map" : "bits without meaning were cleared");
      }
      return Outcome{candidate, *below};
    }
    if (!dry_)
      pool_.actions.add_loss(slot.source, block_place(slot.type, slot.source),
                             "a reference that led to nothing of its kind was removed");
    return Outcome{};
  }

  static std::uint64_t without_unknown_bits(std::uint64_t raw, std::uint8_t log512, LeafKind kind) {
    std::uint64_t known = format::kEntryPresent | format::kEntryNode | ~0ull << format::kEntryBlockShift;
    if (kind == LeafKind::kInodes) known |= format::kEntryFull;
    if (kind == LeafKind::kData && !MapEntry{raw}.is_node()) known |= format::kEntryUnwritten;
    (void)log512;
    return raw & known;
  }

  std::optional<std::uint64_t> recorded_entry(const SlotPlace& slot, std::uint8_t log512) const {
    const auto it = records_.find(slot.source.value);
    if (it == records_.end()) return std::nullopt;
    for (const ReverseRecord& record : it->second) {
      if (record.level != log512 || record.slot > slot.slot) continue;
      const std::uint64_t n = slot.slot - record.slot;
      if (n < slots_of(record)) return entry_of(record, n).raw;
    }
    return std::nullopt;
  }

  // Whether the reverse map knows the first reference of the inode's data fork, whatever its level.
  bool is_confirmed(const InodePlace& place, const InodeRecord& inode) {
    suspects_.insert(place.block.value);
    const auto it = records_.find(place.block.value);
    if (it == records_.end()) return false;
    for (std::uint64_t slot = 0; slot < format::kRootSlots; ++slot) {
      const MapEntry entry{inode.data[slot]};
      if (!entry.present()) continue;
      return std::ranges::any_of(it->second, [&](const ReverseRecord& record) {
        return record.slot == place.index * format::kSlotsPerInode + slot && record.first == entry.block().value;
      });
    }
    return false;
  }

  // What is below an entry; nothing if it leads to what it cannot lead to.
  Result<std::optional<Below>> follow(const Visit& visit, MapEntry entry, std::uint8_t log512, LeafKind kind,
                                      FileBlock at) {
    if (!entry.present()) return std::nullopt;
    if (entry.is_node()) {
      const BlockDescriptor descriptor = pool_.editor.descriptor(entry.block());
      if (log512 == 0 || descriptor.type != BlockType::kMapNode || descriptor.level != log512 ||
          descriptor.leaf_kind != kind)
        return std::nullopt;
      return prune_node(visit, entry.block(), log512, kind, at);
    }
    if (kind == LeafKind::kData) {
      if (!pool_.is_data_space({entry.block(), blocks_spanned(log512)})) return std::nullopt;
      return Below{blocks_spanned(log512), false, true};
    }
    const BlockType type = format::leaf_block_type(kind);
    if (log512 != 0 || pool_.editor.descriptor(entry.block()).type != type) return std::nullopt;
    if (!visit.buried && at.value >= leaf_limit(kind)) return std::nullopt;
    return prune_leaf(visit, entry.block(), type, at);
  }

  Result<std::optional<Below>> prune_node(const Visit& visit, BlockNumber block, std::uint8_t log512, LeafKind kind,
                                          FileBlock at) {
    if (const auto it = known_.find(block.value); it != known_.end()) {
      if (it->second.unshareable || visit.unshareable()) return std::nullopt;
      return it->second.below;
    }
    const auto content = pool_.editor.read(block, BlockType::kMapNode);
    if (!content) return std::nullopt;
    const format::MapNode entries = (*content)->as<format::MapNode>();  // a copy: it may change
    const Below below = TRY(prune_entries(visit, {block, BlockType::kMapNode, 0}, entries,
                                          static_cast<std::uint8_t>(log512 - 1), kind, at));
    known_[block.value] = {below, 0, visit.unshareable()};
    if (!dry_) TRY(pool_.commit_if_large());
    return below;
  }

  Result<std::optional<Below>> prune_leaf(const Visit& visit, BlockNumber block, BlockType type, FileBlock at) {
    if (const auto it = known_.find(block.value); it != known_.end()) {
      if (it->second.unshareable || visit.unshareable()) return std::nullopt;
      // Inodes mean something else in another place.
      if (type == BlockType::kInodes && !visit.buried && it->second.at != at.value) return std::nullopt;
      return it->second.below;
    }
    if (!pool_.editor.read(block, type)) return std::nullopt;
    Below below{1, false, true};
    known_[block.value] = {below, at.value, visit.unshareable()};
    if (type == BlockType::kInodes) below = TRY(prune_inodes(visit, block, at));
    if (type == BlockType::kGraveyard) TRY(prune_graveyard_block({visit.volume, true}, block));
    known_[block.value].below = below;
    return below;
  }

  // --- inodes --------------------------------------------------------------------------------------------------------

  Result<Below> prune_inodes(const Visit& visit, BlockNumber block, FileBlock at) {
    Below below{1, true, false};
    for (std::uint64_t i = 0; i < format::kInodesPerBlock; ++i) {
      const BlockPtr content = TRY(pool_.editor.read(block, BlockType::kInodes));
      const InodeRecord inode = content->as<format::InodeBlock>().inodes[i];
      const InodePlace place{visit.volume, InodeNumber(at.value * format::kInodesPerBlock + i), block, i};
      if (visit.buried) {
        TRY(prune_buried(visit, place, inode));
        below.anything = true;
        continue;
      }
      const bool used = TRY(prune_inode(visit, place, inode));
      below.anything |= used;
      below.no_free_inode &= used;
    }
    // An inode block without inodes is a hole.
    if (!below.anything) below.leaves = 0;
    if (!dry_) TRY(pool_.commit_if_large());
    return below;
  }

  Result<> write_inode(const InodePlace& place, const InodeRecord& inode) {
    if (dry_) return {};
    if (place.block == format::kRootsBlock) {
      TRY(pool_.editor.edit(place.block, BlockType::kRoots))->as<format::Roots>().volume_zero = inode;
      return {};
    }
    TRY(pool_.editor.edit(place.block, BlockType::kInodes))->as<format::InodeBlock>().inodes[place.index] = inode;
    return {};
  }

  Result<InodeRecord> read_inode(const InodePlace& place) {
    if (place.block == format::kRootsBlock) return TRY(pool_.editor.read(place.block, BlockType::kRoots))
        ->as<format::Roots>().volume_zero;
    return TRY(pool_.editor.read(place.block, BlockType::kInodes))->as<format::InodeBlock>().inodes[place.index];
  }

  std::string where(const InodePlace& place) {
    return pool_.actions.has_room() ? checker::Paths(pool_.editor).describe(place.volume, place.number) : "";
  }

  // False if it is free afterwards.
  Result<bool> prune_inode(const Visit& visit, const InodePlace& place, InodeRecord inode) {
    static constexpr InodeRecord kFree{};
    const InodeRecord before = inode;
    std::string changes;
    if (inode.mode == 0) {
      if (std::memcmp(&inode, &kFree, sizeof inode) == 0) return false;
      // With a generation it was one, and only its mode is gone.
      if (inode.generation == 0 || !has_valid_levels(inode) || inode.link_count == 0)
        return drop(place, "the rest of a free inode was cleared", false);
      inode.mode = 0600;
      changes = "mode";
    }
    const auto confirmed = [&] { return is_confirmed(place, inode); };
    if (!correct_kind(pool_, place, inode, confirmed, changes))
      return drop(place, "an inode that cannot be there was removed", true);
    if (inode.generation < kSaneGeneration) highest_generation_ = std::max(highest_generation_, inode.generation);
    if (inode.generation != 0 && inode.generation >= generation_limit_ && generation_limit_ != 0) {
      inode.generation = next_generation_++;
      changes += changes.empty() ? "generation" : ", generation";
    }
    // The slots are pruned where they are.
    if (std::memcmp(&inode, &before, sizeof inode) != 0) TRY(write_inode(place, inode));
    const LeafKind kind = checker::data_kind(inode, place.number, place.volume);
    std::uint64_t leaves = 0;
    if (kind == LeafKind::kInodes) {
      volumes_.push_back({place.number, place});
      TRY(prune_attributes(visit, place, inode));
      report(place, changes);
      return true;
    }
    if (kind == LeafKind::kGraveyard) {
      graveyard_ = place;
      TRY(prune_attributes(visit, place, inode));
      report(place, changes);
      return true;
    }
    if (!checker::has_flag(inode, format::InodeFlag::kInlineSymlink))
      leaves = TRY(prune_entries(visit, root_place(place.block, place.index, false), inode.data,
                                 static_cast<std::uint8_t>(inode.data_level - 1), kind, FileBlock(0)))
    .leaves;
    TRY(prune_attributes(visit, place, inode));
    return correct(place, leaves, changes);
  }

  Result<> prune_attributes(const Visit& visit, const InodePlace& place, const InodeRecord& inode) {
    const Fork fork = attribute_fork(inode);
    SlotPlace root = root_place(place.block, place.index, true);
    if (place.block == format::kRootsBlock) root = {format::kRootsBlock, BlockType::kRoots, format::kRootSlots};
    TRY(prune_entries(visit, root, fork.slots, static_cast<std::uint8_t>(fork.level - 1), fork.kind, FileBlock(0)));
    return {};
  }

  Result<bool> correct(const InodePlace& place, std::uint64_t leaves, std::string& changes) {
    if (dry_) return true;
    InodeRecord inode = TRY(read_inode(place));
    const InodeRecord before = inode;
    const bool keep = TRY(correct_inode(pool_, place, inode, leaves, changes));
    if (!keep && place.number >= format::kFirstInode) return drop(place, "what it held is lost: removed", true);
    if (std::memcmp(&inode, &before, sizeof inode) != 0) TRY(write_inode(place, inode));
    report(place, changes);
    return true;
  }

  void report(const InodePlace& place, const std::string& changes) {
    if (!changes.empty() && !dry_) pool_.actions.add(place.block, where(place), "corrected: " + changes);
  }

  Result<bool> drop(const InodePlace& place, const char* why, bool loss) {
    if (dry_) return false;
    if (loss)
      pool_.actions.add_loss(place.block, where(place), why);
    else
      pool_.actions.add(place.block, where(place), why);
    TRY(write_inode(place, InodeRecord{}));
    return false;
  }

  Result<> prune_root_inode(InodeRecord zero, const Visit& visit) {
    const InodePlace place{kVolumeZero, InodeNumber(0), format::kRootsBlock, 0};
    std::string changes;
    const InodeRecord before = zero;
    if (zero.mode == 0) {
      zero.mode = S_IFREG | 0600;
      changes = "mode";
    }
    const auto confirmed = [&] { return is_confirmed(place, zero); };
    (void)correct_kind(pool_, place, zero, confirmed, changes);
    if (zero.generation != 0 && zero.generation >= generation_limit_) zero.generation = 0;
    if (std::memcmp(&zero, &before, sizeof zero) != 0) TRY(write_inode(place, zero));
    const Below below =
        TRY(prune_entries(visit, volume_zero_place(), zero.data, static_cast<std::uint8_t>(zero.data_level - 1),
                          LeafKind::kInodes, FileBlock(0)));
    if (!below.anything && !dry_)
      return fail(ErrorCode::kDamaged,
                  "the volume table is lost, and nothing says where it was; restore from a backup");
    TRY(prune_attributes(visit, place, zero));
    TRY(correct(place, below.leaves, changes));
    return {};
  }

  // The tables of volumes and the graveyard.
  Result<> prune_postponed(const InodePlace& place, LeafKind kind, const Visit& visit) {
    const InodeRecord inode = TRY(read_inode(place));
    if (!has_valid_levels(inode)) return {};  // of the dry run
    const Below below = TRY(prune_entries(visit, root_place(place.block, place.index, false), inode.data,
                                          static_cast<std::uint8_t>(inode.data_level - 1), kind, FileBlock(0)));
    std::string changes;
    TRY(correct(place, below.leaves, changes));
    return {};
  }

  // --- what is buried ------------------------------------------------------------------------------------------------

  LeafKind kind_from_block(MapEntry entry) const {
    const BlockDescriptor descriptor = pool_.editor.descriptor(entry.block());
    if (entry.is_node()) return descriptor.leaf_kind;
    const auto type = static_cast<std::uint8_t>(descriptor.type);
    const bool leaf =
        type >= static_cast<std::uint8_t>(LeafKind::kInodes) && type <= static_cast<std::uint8_t>(LeafKind::kGraveyard);
    return leaf ? static_cast<LeafKind>(type) : LeafKind::kData;
  }

  Result<> prune_buried(const Visit& visit, const InodePlace& place, const InodeRecord& inode) {
    if (inode.mode == 0) return {};
    LeafKind kind = LeafKind::kData;
    for (const std::uint64_t raw : inode.data)
      if (MapEntry{raw}.present()) kind = kind_from_block(MapEntry{raw});
    if (kind == LeafKind::kInodes || kind == LeafKind::kGraveyard) kind = LeafKind::kData;
    if (format::is_valid_level(inode.data_level) && !checker::has_flag(inode, format::InodeFlag::kInlineSymlink))
      TRY(prune_entries(visit, root_place(place.block, place.index, false), inode.data,
                        static_cast<std::uint8_t>(inode.data_level - 1), kind, FileBlock(0)));
    if (format::is_valid_level(inode.attribute_level)) TRY(prune_attributes(visit, place, inode));
    return {};
  }

  Result<> prune_graveyard_block(const Visit& visit, BlockNumber block) {
    const BlockPtr content = TRY(pool_.editor.read(block, BlockType::kGraveyard));
    const format::MapNode entries = content->as<format::MapNode>();
    for (std::uint64_t i = 0; i < kMapFanout; ++i) {
      if (entries[i] == 0) continue;
      const MapEntry entry{entries[i]};
      const std::uint8_t log512 = entry.graveyard_level();
      const LeafKind kind = kind_from_block(entry);
      const std::uint64_t plain = without_unknown_bits(entry.raw, log512, kind) & ~format::kEntryFull;
      std::optional<Below> below;
      if (kind != LeafKind::kGraveyard) below = TRY(follow(visit, MapEntry{plain}, log512, kind, FileBlock(0)));
      const std::uint64_t wanted = below ? MapEntry{plain}.with_level(log512).raw : 0;
      if (wanted == entry.raw || dry_) continue;
      pool_.actions.add(block, block_place(BlockType::kGraveyard, block),
                        "an entry of the graveyard that made no sense was corrected or removed");
      TRY(set_slot(pool_.editor, {block, BlockType::kGraveyard, i}, wanted));
    }
    return {};
  }

  Result<> set_generation_limit() {
    if (next_generation_ == stored_limit_) return {};
    constexpr std::uint64_t kBatch = 4096;
    TRY(pool_.editor.edit(format::kRootsBlock, BlockType::kRoots))->as<format::Roots>().generation_limit = next_generation_ + kBatch;
    return {};
  }

  static constexpr std::uint64_t kSaneGeneration = 1ull << 56;

  RepairPool& pool_;
  const bool dry_;
  std::unordered_map<std::uint64_t, Known> known_;
  std::unordered_set<std::uint64_t> suspects_;
  std::unordered_map<std::uint64_t, std::vector<ReverseRecord>> records_;
  std::vector<Volume> volumes_;
  std::optional<InodePlace> graveyard_;
  std::uint64_t stored_limit_ = 0, generation_limit_ = 0, next_generation_ = 0, highest_generation_ = 0;
};

}  // namespace

Result<> repair_trees(RepairPool& pool) {
  TRY(Claims(pool).run());
  Pruning dry(pool, true);
  TRY(dry.run());
  std::unordered_map<std::uint64_t, std::vector<ReverseRecord>> records;
  if (!dry.suspects().empty())
    pool.for_each_record([&](BlockNumber, const ReverseRecord& record) {
      if (record.kind == format::RecordKind::kTree && dry.suspects().contains(record.source))
        records[record.source].push_back(record);
      return true;
    });
  Pruning pruning(pool, false);
  pruning.set_records(std::move(records));
  pruning.set_highest_generation(dry.highest_generation());
  TRY(pruning.run());
  return pool.editor.commit();
}

}  // namespace daxcow::repairer
