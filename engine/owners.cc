#include "engine/owners.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "engine/map.h"
#include "engine/references.h"

namespace daxcow {

using format::BlockDescriptor;
using format::BlockType;
using format::RecordKind;
using format::ReverseRecord;

namespace {

constexpr std::uint64_t kBatchRecords = 1000;
constexpr int kRestarts = 3;

OwnerRole role_of(BlockType type) {
  switch (type) {
    case BlockType::kMapNode:
      return OwnerRole::kMap;
    case BlockType::kInodes:
      return OwnerRole::kInode;
    case BlockType::kDirectory:
      return OwnerRole::kDirectory;
    case BlockType::kAttributes:
      return OwnerRole::kAttributes;
    case BlockType::kSymlink:
      return OwnerRole::kSymlink;
    case BlockType::kOrphans:
      return OwnerRole::kOrphans;
    case BlockType::kGraveyard:
      return OwnerRole::kGraveyard;
    default:
      return OwnerRole::kData;
  }
}

}  // namespace

const char* name_of(OwnerRole role) {
  switch (role) {
    case OwnerRole::kData:
      return "data";
    case OwnerRole::kDirectory:
      return "directory";
    case OwnerRole::kAttributes:
      return "attributes";
    case OwnerRole::kSymlink:
      return "symlink";
    case OwnerRole::kOrphans:
      return "orphans";
    case OwnerRole::kGraveyard:
      return "graveyard";
    case OwnerRole::kMap:
      return "map";
    case OwnerRole::kInode:
      return "inode";
    case OwnerRole::kVolume:
      return "volume";
  }
  return "unknown";
}

// --- the search -----------------------------------------------------------------------------------------------------

class OwnerSearch {
 public:
  OwnerSearch(Store& store, BlockReader& reader, BlockNumber block) : store_(store), reader_(reader) {
    set_.block_ = block;
  }

  // True when the search is complete, false if a commit between two batches spoilt it.
  Result<bool> run(std::uint64_t batch_records) EXCLUDES(store_.mutex) {
    for (std::uint64_t sequence = 0, batch = 0;; ++batch) {
      const LockGuard guard(store_.mutex);
      if (batch == 0) {
        sequence = store_.commit_sequence();
        TRY(describe_start());
        enter(set_.block_);
      } else if (store_.commit_sequence() != sequence) {
        return false;
      }
      // A block's references are taken together: a batch may get longer by the owners of one block.
      for (std::uint64_t records = 0; records < batch_records && next_ < queue_.size();)
        records += 1 + TRY(climb(queue_[next_++]));
      if (next_ == queue_.size()) return true;
    }
  }

  OwnerSet take() { return std::move(set_); }

 private:
  Result<> describe_start() REQUIRES(store_.mutex) {
    const BlockDescriptor descriptor = store_.metadata().descriptor(set_.block_);
    set_.role_ = role_of(descriptor.type);
    if (descriptor.type == BlockType::kMapNode) {
      set_.blocks_ = blocks_spanned(descriptor.level);
      set_.is_table_ = descriptor.leaf_kind == format::LeafKind::kInodes;
      if (set_.is_table_) set_.role_ = OwnerRole::kVolume;
    } else if (descriptor.type == BlockType::kInodes) {
      set_.is_table_ = true;
      set_.used_inodes_ = 0xffff;  // when its copies are both lost, each of its inodes may be concerned
      if (const auto content = reader_.read(set_.block_, BlockType::kInodes))
        describe_inodes((*content)->as<format::InodeBlock>());
    }
    return {};
  }

  void describe_inodes(const format::InodeBlock& block) {
    set_.used_inodes_ = 0;
    for (std::size_t i = 0; i < format::kInodesPerBlock; ++i) {
      if (block.inodes[i].mode == 0) continue;
      const auto bit = static_cast<std::uint16_t>(1u << i);
      set_.used_inodes_ |= bit;
      if (block.inodes[i].flags & static_cast<std::uint32_t>(format::InodeFlag::kVolume)) set_.volume_inodes_ |= bit;
    }
  }

  void enter(BlockNumber block) {
    if (set_.references_.try_emplace(block).second) queue_.push_back(block);
  }

  // Notes who refers to a block. Returns the number of records looked at.
  Result<std::uint64_t> climb(BlockNumber block) REQUIRES(store_.mutex) {
    const std::uint8_t level = store_.metadata().descriptor(block).level;
    std::vector<OwnerSet::Reference> references;
    std::uint64_t records = 0;
    TRY(std::as_const(store_).reverse_map().for_each_covering(reader_, {block, 1}, [&](const ReverseRecord& record) {
      ++records;
      if (record.kind == RecordKind::kTree) note(block, level, record, references);
      return true;
    }));
    for (const OwnerSet::Reference& reference : references)
      if (reference.kind != OwnerSet::Holder::kRoots) enter(reference.holder);
    set_.references_[block] = std::move(references);
    return records;
  }

  // Levels rise from each block to its holders, also in an image that is hostile: no way up ever comes back.
  void note(BlockNumber block, std::uint8_t level, const ReverseRecord& record,
            std::vector<OwnerSet::Reference>& references) {
    if (record.level >= format::kMaximumLevel) return;
    const bool is_node = record.flags & format::kRecordNode;
    if (is_node ? record.level != level || level == 0 : level != 0) return;
    const std::uint64_t per_slot = blocks_per_slot(record);
    const std::uint64_t inside = block.value - record.first;
    const std::uint64_t slot = record.slot + inside / per_slot;
    const BlockNumber holder(record.source);
    const BlockDescriptor descriptor = store_.metadata().descriptor(holder);
    if (slot >= slot_count(descriptor.type)) return;

    OwnerSet::Reference reference{.holder = holder, .unwritten = (record.flags & format::kRecordUnwritten) != 0};
    std::uint64_t fork_slot = slot;
    switch (descriptor.type) {
      case BlockType::kMapNode:
        if (descriptor.level != record.level + 1) return;
        reference.kind = OwnerSet::Holder::kMapNode;
        break;
      case BlockType::kInodes:
        reference.kind = OwnerSet::Holder::kInode;
        reference.inode_index = static_cast<std::uint8_t>(slot / format::kSlotsPerInode);
        fork_slot = slot % format::kRootSlots;
        break;
      case BlockType::kRoots:
        reference.kind = OwnerSet::Holder::kRoots;
        fork_slot = slot % format::kRootSlots;
        break;
      default:
        return;  // the graveyard: nobody's
    }
    reference.offset = fork_slot * blocks_spanned(record.level) + inside % per_slot;
    references.push_back(reference);
  }

  Store& store_;
  BlockReader& reader_;
  OwnerSet set_;
  std::vector<BlockNumber> queue_;
  std::size_t next_ = 0;
};

Result<OwnerSet> find_owners(Store& store, BlockReader& reader, BlockNumber block) {
  if (block.value >= store.pool_blocks()) return fail(ErrorCode::kInvalid, "beyond the end of the pool");
  for (int attempt = 0; attempt < kRestarts; ++attempt) {
    OwnerSearch search(store, reader, block);
    if (TRY(search.run(kBatchRecords))) return search.take();
  }
  OwnerSearch search(store, reader, block);
  TRY(search.run(std::numeric_limits<std::uint64_t>::max()));
  return search.take();
}

// --- from references to owners --------------------------------------------------------------------------------------

// Follows the ways up from a block: through a file's map to its inode, through an inode table to its volume's inode,
// and through volume 0's table to the roots. Each stage can be entered once, so that a way is at most three trees high.
class OwnerWalk {
 public:
  OwnerWalk(const OwnerSet& set, FunctionRef<bool(VolumeNumber)> wanted, FunctionRef<bool(const OwnerRange&)> visit)
      : set_(set), wanted_(wanted), visit_(visit) {}

  void run() {
    owner_.role = set_.role_;
    if (!set_.is_table_) {
      climb_file(set_.block_, 0, true);
    } else {
      climb_table(set_.block_, 0);
    }
  }

 private:
  using Reference = OwnerSet::Reference;
  using Holder = OwnerSet::Holder;
  enum Stage : std::size_t { kFile, kTable, kStages };

  const std::vector<Reference>& references(BlockNumber block) const {
    static const std::vector<Reference> none;
    const auto it = set_.references_.find(block);
    return it == set_.references_.end() ? none : it->second;
  }

  void climb_file(BlockNumber block, std::uint64_t offset, bool first) {
    for (const Reference& reference : references(block)) {
      if (stopped_) return;
      if (first) owner_.unwritten = reference.unwritten;
      const std::uint64_t at = offset + reference.offset;
      if (reference.kind == Holder::kMapNode) {
        if (leads_to_wanted(kFile, reference.holder)) climb_file(reference.holder, at, false);
      } else if (reference.kind == Holder::kInode && leads_to_wanted(kTable, reference.holder)) {
        owner_.first = FileBlock(std::min(at, kMaximumFileBlocks));
        owner_.count = std::min(set_.blocks_, kMaximumFileBlocks - owner_.first.value);
        inode_index_ = reference.inode_index;
        climb_table(reference.holder, 0);
      }
    }
  }

  void climb_table(BlockNumber block, std::uint64_t table_block) {
    for (const Reference& reference : references(block)) {
      if (stopped_) return;
      const std::uint64_t at = table_block + reference.offset;
      switch (reference.kind) {
        case Holder::kMapNode:
          if (leads_to_wanted(kTable, reference.holder)) climb_table(reference.holder, at);
          break;
        case Holder::kRoots:
          if (wanted_(VolumeNumber(0))) found(VolumeNumber(0), at);
          break;
        case Holder::kInode:
          for (const std::uint64_t first : volume_numbers(reference.holder)) {
            const VolumeNumber volume(first + reference.inode_index);
            if (!stopped_ && wanted_(volume)) found(volume, at);
          }
          break;
      }
    }
  }

  void found(VolumeNumber volume, std::uint64_t table_block) {
    if (--ways_left_ == 0) stopped_ = true;
    const InodeNumber first_inode(table_block * format::kInodesPerBlock);
    owner_.volume = volume;
    if (!set_.is_table_) {
      owner_.inode = first_inode + inode_index_;
      stopped_ |= !visit_(owner_);
    } else if (set_.role_ == OwnerRole::kInode) {
      found_inodes(volume, first_inode);
    } else {
      stopped_ |= !visit_(owner_);
    }
  }

  void found_inodes(VolumeNumber volume, InodeNumber first_inode) {
    for (unsigned i = 0; i < format::kInodesPerBlock && !stopped_; ++i) {
      if ((set_.used_inodes_ >> i & 1) == 0) continue;
      OwnerRange owner = owner_;
      owner.inode = first_inode + i;
      if (volume.value == 0 && (set_.volume_inodes_ >> i & 1) != 0) {
        owner = {.volume = owner.inode, .inode = InodeNumber(0), .role = OwnerRole::kVolume, .first = {}};
      }
      stopped_ = !visit_(owner);
    }
  }

  // Whether any way up from `block` ends in a wanted volume; remembered, so that each block is looked at once a stage.
  bool leads_to_wanted(Stage stage, BlockNumber block) {
    if (const auto it = useful_[stage].find(block); it != useful_[stage].end()) return it->second;
    const bool useful = std::ranges::any_of(references(block), [&](const Reference& reference) {
      if (reference.kind == Holder::kMapNode) return leads_to_wanted(stage, reference.holder);
      if (reference.kind == Holder::kInode && stage == kFile) return leads_to_wanted(kTable, reference.holder);
      if (reference.kind == Holder::kRoots) return stage == kTable && wanted_(VolumeNumber(0));
      return std::ranges::any_of(volume_numbers(reference.holder), [&](std::uint64_t first) {
        return wanted_(VolumeNumber(first + reference.inode_index));
      });
    });
    useful_[stage].emplace(block, useful);
    return useful;
  }

  // The numbers in volume 0 that the first inode of an inode block has: one, or none if it is not in that table.
  const std::vector<std::uint64_t>& volume_numbers(BlockNumber inode_block) {
    const auto [it, is_new] = volume_numbers_.try_emplace(inode_block);
    if (is_new) {
      std::vector<std::uint64_t> numbers;
      climb_volume_table(inode_block, 0, numbers);
      it->second = std::move(numbers);
    }
    return it->second;
  }

  void climb_volume_table(BlockNumber block, std::uint64_t table_block, std::vector<std::uint64_t>& numbers) {
    for (const Reference& reference : references(block)) {
      const std::uint64_t at = table_block + reference.offset;
      if (reference.kind == Holder::kRoots) numbers.push_back(at * format::kInodesPerBlock);
      if (reference.kind == Holder::kMapNode) climb_volume_table(reference.holder, at, numbers);
    }
  }

  const OwnerSet& set_;
  FunctionRef<bool(VolumeNumber)> wanted_;
  FunctionRef<bool(const OwnerRange&)> visit_;
  std::uint64_t ways_left_ = OwnerSet::kMaximumOwners;
  OwnerRange owner_;
  unsigned inode_index_ = 0;
  bool stopped_ = false;
  std::array<std::unordered_map<BlockNumber, bool>, kStages> useful_;
  std::unordered_map<BlockNumber, std::vector<std::uint64_t>> volume_numbers_;
};

void OwnerSet::for_each(FunctionRef<bool(VolumeNumber)> wanted, FunctionRef<bool(const OwnerRange&)> visit) const {
  OwnerWalk(*this, wanted, visit).run();
}

std::vector<OwnerRange> OwnerSet::expand(std::size_t limit, bool* truncated) const {
  std::vector<OwnerRange> owners;
  bool more = false;
  for_each([](VolumeNumber) { return true; },
           [&](const OwnerRange& owner) {
             if (owners.size() == limit) {
               more = true;
               return false;
             }
             owners.push_back(owner);
             return true;
           });
  if (truncated != nullptr) *truncated = more;
  return owners;
}

std::size_t OwnerSet::reference_count() const {
  std::size_t count = 0;
  for (const auto& [block, references] : references_) count += references.size();
  return count;
}

// --- what a block is ------------------------------------------------------------------------------------------------

namespace {

bool is_superblock(Store& store, BlockNumber block) {
  return block == format::kSuperblockPrimary || block.value == store.pool_blocks() - 1;
}
bool is_journal(BlockNumber block) { return BlockRun{format::kJournalChunk, format::kChunkBlocks}.contains(block); }

}  // namespace

bool has_second_copy(Store& store, BlockNumber block) {
  return is_superblock(store, block) || is_journal(block) || store.metadata().in_chunk(block);
}

Result<BlockUse> classify(Store& store, BlockNumber block) {
  if (block.value >= store.pool_blocks()) return fail(ErrorCode::kInvalid, "beyond the end of the pool");
  if (is_superblock(store, block)) return BlockUse::kSuperblock;
  if (is_journal(block)) return BlockUse::kJournal;
  const LockGuard guard(store.mutex);
  if (store.metadata().in_chunk(block))
    return block.value % format::kChunkBlocks < format::kMirrorBlocks ? BlockUse::kMetadata : BlockUse::kMetadataMirror;
  if (TRY(store.reverse_map().count_references(store.metadata(), block, 1)) != 0) return BlockUse::kData;
  if (store.space().is_free(block) || store.in_spare_chunk(block)) return BlockUse::kFree;
  if (store.ledger().mask(block) != 0) return BlockUse::kQuarantined;
  return BlockUse::kInFlight;
}

}  // namespace daxcow
