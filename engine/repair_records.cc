// The reverse map is made to say what the trees say: by a difference, since most of it is right. Leaves that make no
// sense or overlap are given back with what they said but the ledger, and what is missing then is put into the others.
// Each step is a transaction of its own: stopped anywhere, the next run sees the same difference, only smaller.
//
// Space to add a chunk is taken from what the trees say is free, never from what a damaged reverse map says.
#include <algorithm>
#include <cstring>
#include <string>

#include "engine/check_context.h"
#include "engine/check_records.h"
#include "engine/check_trees.h"
#include "engine/checksum.h"
#include "engine/pool_layout.h"
#include "engine/record_key.h"
#include "engine/repair_pool.h"
#include "engine/reverse_leaf.h"
#include "engine/reverse_map.h"

namespace daxcow::repairer {

using format::BlockType;
using format::RecordKind;
using format::ReverseLeaf;
using format::ReverseRecord;

namespace {

constexpr std::uint64_t kRecordsPerSlice = 4'000'000;  // of each side

bool is_ledger(const ReverseRecord& record, std::uint64_t pool_blocks) {
  return record.kind == RecordKind::kLedger && record.first < pool_blocks && record.length_blocks == 1 &&
         record.sector_mask != 0;
}

std::uint64_t slice_of(const ReverseRecord& record, std::uint64_t slices) {
  std::uint64_t hash = (record.first ^ record.source << 20) * 0x9fb21c651e98df25ull ^ record.slot;
  hash ^= hash >> 31;
  return hash * 0xbf58476d1ce4e5b9ull % slices;
}

class Records {
 public:
  explicit Records(RepairPool& pool)
      : pool_(pool),
        context_(pool.medium, pool.metadata, pool.superblock, options_, report_),
        trees_(context_, checker::Tally()) {}

  Result<> run() {
    trees_.walk();
    TRY(free_unreachable());
    TRY(load_leaves());
    find_untouched();
    TRY(drop_leaves());
    std::uint64_t records = 0;
    for_each_wanted([&](const ReverseRecord&) { ++records; });
    const std::uint64_t slices = std::max(records, map_.record_count()) / kRecordsPerSlice + 1;
    for (std::uint64_t slice = 0; slice < slices; ++slice) TRY(compare(slice, slices));
    TRY(commit());
    if (erased_ + inserted_ != 0)
      pool_.actions.add(format::kSuperblockPrimary, "reverse map",
                        std::to_string(inserted_) + " records were added and " + std::to_string(erased_) + " removed");
    return {};
  }

 private:
  // What has a type and was not met. Its own references go with its records, which nobody wants any more.
  Result<> free_unreachable() {
    std::vector<std::pair<BlockNumber, BlockType>> unreachable;
    trees_.for_each_unreachable([&](BlockNumber block, BlockType type) { unreachable.emplace_back(block, type); });
    for (const auto& [block, type] : unreachable) {
      pool_.editor.release(block);
      pool_.actions.add(block, block_place(type, block), "nothing leads to it: given back");
      TRY(pool_.commit_if_large());
    }
    return pool_.editor.commit();
  }

  void for_each_wanted(FunctionRef<void(const ReverseRecord&)> visit) {
    trees_.for_each_record(visit);
    for_each_system_record(pool_.metadata.chunks(), pool_.pool_blocks, visit);
  }

  // --- leaves --------------------------------------------------------------------------------------------------------

  struct Found {
    RecordKey smallest, largest;
    BlockNumber block;
  };

  // Sorts leaves into those that go into the index and those that go.
  Result<> load_leaves() {
    std::vector<Found> found;
    std::vector<BlockNumber> blocks;
    pool_.for_each_block([&](BlockNumber block, const format::BlockDescriptor& descriptor) {
      if (descriptor.type == BlockType::kReverseLeaf) blocks.push_back(block);
    });
    for (const BlockNumber block : blocks) {
      const auto content = pool_.editor.read(block, BlockType::kReverseLeaf);
      if (!content || !ReverseMap().add_leaf(block, (*content)->as<ReverseLeaf>(), pool_.pool_blocks)) {
        broken_.push_back(block);
        continue;
      }
      Found leaf{{}, {}, block};
      bool any = false;
      reverse_leaf::for_each_record((*content)->as<ReverseLeaf>(), [&](const ReverseRecord& record) {
        const RecordKey key = key_of(record);
        if (!any || key < leaf.smallest) leaf.smallest = key;
        if (!any || leaf.largest < key) leaf.largest = key;
        any = true;
      });
      found.push_back(leaf);
    }
    // Of leaves that overlap none can be told to be the right one. Their records come back from the trees.
    std::ranges::sort(found, {}, &Found::smallest);
    std::vector<bool> overlaps(found.size());
    std::size_t reaching = 0;  // of those before, the one that reaches furthest
    for (std::size_t i = 1; i < found.size(); ++i) {
      if (found[reaching].largest >= found[i].smallest) overlaps[i] = overlaps[reaching] = true;
      if (found[reaching].largest < found[i].largest) reaching = i;
    }
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (overlaps[i]) {
        broken_.push_back(found[i].block);
        continue;
      }
      const BlockPtr content = TRY(pool_.editor.read(found[i].block, BlockType::kReverseLeaf));
      TRY(map_.add_leaf(found[i].block, content->as<ReverseLeaf>(), pool_.pool_blocks));
    }
    return map_.finish_open();
  }

  Result<> drop_leaves() {
    for (const BlockNumber block : broken_) {
      std::vector<ReverseRecord> ledger;
      if (const auto content = pool_.editor.read(block, BlockType::kReverseLeaf)) {
        reverse_leaf::for_each_record((*content)->as<ReverseLeaf>(), [&](const ReverseRecord& record) {
          if (is_ledger(record, pool_.pool_blocks)) ledger.push_back(record);
        });
      }
      TRY(change([&]() -> Result<> {
        pool_.editor.release(block);
        for (const ReverseRecord& record : ledger) TRY(insert_ledger(record));
        return {};
      }));
      TRY(commit());
      pool_.actions.add(block, block_place(BlockType::kReverseLeaf, block),
                        "made no sense or overlapped another: given back, its records made anew");
    }
    return {};
  }

  Result<> insert_ledger(const ReverseRecord& record) {
    ReverseRecord wanted{};
    wanted.first = record.first;
    wanted.length_blocks = 1;
    wanted.kind = RecordKind::kLedger;
    wanted.sector_mask = record.sector_mask;
    ReverseRecord present{};
    TRY(map_.for_each_covering(pool_.editor, {BlockNumber(record.first), 1}, [&](const ReverseRecord& other) {
      if (other.kind == RecordKind::kLedger && other.first == record.first) present = other;
      return true;
    }));
    if (present.length_blocks != 0) {
      wanted.sector_mask |= present.sector_mask;
      TRY(map_.erase(pool_.editor, present));
    }
    return map_.insert(pool_.editor, wanted);
  }

  // --- the difference ------------------------------------------------------------------------------------------------

  Result<> compare(std::uint64_t slice, std::uint64_t slices) {
    std::vector<ReverseRecord> wanted, present;
    for_each_wanted([&](const ReverseRecord& record) {
      if (slice_of(record, slices) == slice) wanted.push_back(record);
    });
    std::vector<ReverseRecord> ledger;  // with fields that no ledger record has
    TRY(map_.for_each_record(pool_.editor, [&](const ReverseRecord& record) {
      if (record.kind != RecordKind::kLedger) {
        if (slice_of(record, slices) == slice) present.push_back(record);
      } else if (slice == 0 && (record.source != 0 || record.slot != 0 || record.level != 0 || record.flags != 0)) {
        ledger.push_back(record);
      }
      return true;
    }));
    std::ranges::sort(wanted, record_before);
    // Two references of one slot cannot be; a map that is not a tree could say so. One record is what the map can hold.
    const auto twice = std::ranges::unique(wanted, [](const auto& a, const auto& b) { return key_of(a) == key_of(b); });
    wanted.erase(twice.begin(), twice.end());
    std::ranges::sort(present, record_before);
    std::vector<ReverseRecord> missing, extra;
    std::ranges::set_difference(wanted, present, std::back_inserter(missing), record_before);
    std::ranges::set_difference(present, wanted, std::back_inserter(extra), record_before);
    // Erased first: a missing record may have the key of an extra one.
    for (const ReverseRecord& record : extra) TRY(change([&] { return map_.erase(pool_.editor, record); }));
    for (const ReverseRecord& record : missing) TRY(change([&] { return map_.insert(pool_.editor, record); }));
    for (const ReverseRecord& record : ledger)
      TRY(change([&]() -> Result<> {
        TRY(map_.erase(pool_.editor, record));
        return insert_ledger(record);
      }));
    erased_ += extra.size();
    inserted_ += missing.size();
    return {};
  }

  // Makes a change of the map in the pending transaction. When metadata blocks run out, what was done before is
  // committed and a chunk is added; and the change is made again.
  template <class Change>
  Result<> change(Change make) {
    // A change needs few blocks. Fewer free ones than that may stop it in its middle, where it cannot be undone alone.
    constexpr std::uint64_t kEnough = 8;
    if (pool_.metadata.free_count() < kEnough) {
      TRY(commit());
      if (pool_.metadata.free_count() < kEnough) TRY(add_chunk());
    }
    if (auto made = make(); !made) {
      map_.drop_changes();
      pool_.editor.abort();
      return made;
    }
    if (pool_.editor.large()) TRY(commit());
    return {};
  }

  Result<> commit() {
    if (auto done = pool_.editor.commit(); !done) {
      map_.drop_changes();
      return done;
    }
    map_.keep_changes();
    return {};
  }

  // --- room ----------------------------------------------------------------------------------------------------------

  // Which stretches of 2 MiB no reference and no bad block touches.
  void find_untouched() {
    touched_.assign(pool_.pool_blocks / format::kChunkBlocks + 1, false);
    const auto touch = [&](const ReverseRecord& record) {
      const std::uint64_t end = std::min(record.first + record.length_blocks, pool_.pool_blocks);
      for (std::uint64_t at = record.first / format::kChunkBlocks; at * format::kChunkBlocks < end; ++at)
        touched_[at] = true;
    };
    for_each_wanted(touch);
    pool_.for_each_record([&](BlockNumber, const ReverseRecord& record) {
      if (is_ledger(record, pool_.pool_blocks)) touch(record);
      return true;
    });
  }

  Result<> add_chunk() {
    for (std::uint64_t at = touched_.size(); at-- > 0;) {
      const BlockNumber base(at * format::kChunkBlocks);
      if (touched_[at] || base <= format::kFirstChunk || base.value + format::kChunkBlocks >= pool_.pool_blocks)
        continue;
      touched_[at] = true;
      Block block{};
      auto& header = block.as<format::ChunkHeader>();
      header.magic = format::kChunkMagic;
      header.self = base.value;
      header.crc = chunk_header_crc(header);
      if (!pool_.medium.store(byte_offset(base), block.bytes) ||
          !pool_.medium.store(byte_offset(Metadata::mirror_of(base)), block.bytes))
        continue;  // a bad place
      TRY(pool_.medium.drain());
      const BlockNumber last = pool_.metadata.last_chunk();
      pool_.editor.link_chunk(last, base);
      // With the record or without it, as far as blocks go: the comparison adds what is missing.
      TRY(commit());
      pool_.metadata.add_chunk(base);
      if (auto inserted = map_.insert(pool_.editor, chunk_record(base, last)); !inserted) return inserted;
      ++inserted_;
      return commit();
    }
    return fail(ErrorCode::kNoSpace, "the pool has no room for the records that are missing");
  }

  RepairPool& pool_;
  CheckOptions options_;
  CheckReport report_;
  checker::Context context_;
  checker::TreeWalk trees_;
  ReverseMap map_;
  std::vector<BlockNumber> broken_;
  std::vector<bool> touched_;
  std::uint64_t erased_ = 0, inserted_ = 0;
};

}  // namespace

Result<> repair_records(RepairPool& pool) { return Records(pool).run(); }

}  // namespace daxcow::repairer
