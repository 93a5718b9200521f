// The journal and the chain of chunks. Where a chunk's header is lost in both copies, what comes next is found through
// the reverse map's record of it, or else by looking for headers at every place where a chunk can begin.
#include <algorithm>
#include <cstring>
#include <optional>

#include "engine/check_copies.h"
#include "engine/repair_pool.h"
#include "engine/reverse_leaf.h"

namespace daxcow::repairer {

using format::BlockDescriptor;
using format::BlockType;
using format::ChunkHeader;
using format::RecordKind;
using format::ReverseRecord;

namespace {

class Chain {
 public:
  explicit Chain(RepairPool& pool) : pool_(pool) {}

  Result<> run() {
    follow(format::kFirstChunk);
    if (broken_) find_recorded();
    if (broken_) find_by_magic();
    return relink();
  }

 private:
  bool is_place(std::uint64_t base) const {
    return base % format::kChunkBlocks == 0 && base >= format::kFirstChunk.value &&
           base + format::kChunkBlocks < pool_.pool_blocks && !pool_.metadata.in_chunk(BlockNumber(base));
  }

  std::optional<ChunkHeader> header_at(BlockNumber base) const {
    auto primary = pool_.metadata.read_header(base, Copy::kPrimary);
    auto mirror = pool_.metadata.read_header(base, Copy::kMirror);
    if (primary && (!mirror || primary->sequence >= mirror->sequence)) return *primary;
    if (mirror) return *mirror;
    return std::nullopt;
  }

  // Takes over this chunk and those behind it.
  void follow(BlockNumber base) {
    while (true) {
      auto header = header_at(base);
      if (!header) {
        lost_.push_back(base);
        broken_ = true;
        pool_.metadata.adopt_chunk(base, ChunkHeader{});
        for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i) pool_.undescribed.insert(base.value + i);
        return;
      }
      for (std::uint64_t i = 0; i < format::kChunkPayload; ++i) {
        if (checker::descriptor_fault(header->blocks[i])) pool_.undescribed.insert(base.value + i + 1);
      }
      pool_.metadata.adopt_chunk(base, *header);
      if (header->next == 0) return;
      if (!is_place(header->next) || (!header_at(BlockNumber(header->next)) && !is_recorded(header->next))) {
        broken_ = true;
        return;
      }
      base = BlockNumber(header->next);
    }
  }

  static bool is_chunk_record(const ReverseRecord& record) {
    return record.kind == RecordKind::kSystem && record.length_blocks == format::kChunkBlocks && record.source != 0 &&
           record.slot == 0;
  }

  bool is_recorded(std::uint64_t base) {
    bool found = false;
    pool_.for_each_record([&](BlockNumber, const ReverseRecord& record) {
      found = is_chunk_record(record) && record.first == base;
      return !found;
    });
    return found || base == format::kFirstChunk.value;
  }

  // Chunks that the reverse map knows, in any leaf of those found so far; also in those of chunks without a header, which can
  // only be recognized.
  void find_recorded() {
    for (bool found = true; found;) {
      std::uint64_t next = 0;
      const auto look = [&](const ReverseRecord& record) {
        if (is_chunk_record(record) && is_place(record.first)) next = record.first;
        return next == 0;
      };
      pool_.for_each_record([&](BlockNumber, const ReverseRecord& record) { return look(record); });
      for (const std::uint64_t block : pool_.undescribed) {
        if (next != 0) break;
        const auto leaf = leaf_without_description(pool_, BlockNumber(block));
        if (leaf) reverse_leaf::for_each_record(leaf->as<format::ReverseLeaf>(), [&](const ReverseRecord& record) { (void)look(record); });
      }
      found = next != 0;
      if (found) follow(BlockNumber(next));
    }
  }

  // A file may hold what looks like a chunk: where the reverse map knows of data there is none.
  void find_by_magic() {
    std::vector<BlockNumber> candidates;
    for (std::uint64_t base = format::kFirstChunk.value; base < pool_.pool_blocks; base += format::kChunkBlocks)
      if (is_place(base) && header_at(BlockNumber(base))) candidates.push_back(BlockNumber(base));
    if (candidates.empty()) return;
    std::vector<bool> data(candidates.size());
    pool_.for_each_record([&](BlockNumber, const ReverseRecord& record) {
      if (record.kind != RecordKind::kTree || record.length_blocks > pool_.pool_blocks) return true;
      auto it =
          std::ranges::lower_bound(candidates, BlockNumber(record.first / format::kChunkBlocks * format::kChunkBlocks));
      for (; it != candidates.end() && it->value < record.first + record.length_blocks; ++it)
        if (pool_.is_data_space({BlockNumber(record.first), 1}) && (record.flags & format::kRecordNode) == 0)
          data[static_cast<std::size_t>(it - candidates.begin())] = true;
      return true;
    });
    for (std::size_t i = 0; i < candidates.size(); ++i)
      if (!data[i] && is_place(candidates[i].value)) follow(candidates[i]);
  }

  Result<> relink() {
    const auto& chunks = pool_.metadata.chunks();
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      const BlockNumber next = i + 1 < chunks.size() ? chunks[i + 1] : BlockNumber(0);
      const bool lost = std::ranges::find(lost_, chunks[i]) != lost_.end();
      ChunkHeader header;
      pool_.metadata.make_header(chunks[i], header);
      if (header.next == next.value && !lost) continue;
      pool_.metadata.set_next_chunk(chunks[i], next);
      pool_.editor.rewrite_header(chunks[i]);
      pool_.actions.add(chunks[i], "chunk at block " + std::to_string(chunks[i].value),
                        lost ? "both copies of its header were lost: made anew from what leads to its blocks"
                             : "linked to the next chunk again");
    }
    return {};
  }

  RepairPool& pool_;
  std::vector<BlockNumber> lost_;  // chunks without a header
  bool broken_ = false;
};

}  // namespace

Result<> recover_journal(RepairPool& pool) {
  auto recovered = pool.journal.recover(Journal::Copies::kMakeEqual);
  if (!recovered) {
    if (recovered.error().code != ErrorCode::kDamaged) return std::unexpected(recovered.error());
    // A record that verifies and makes no sense: nobody can have meant it.
    pool.actions.add(format::kJournalChunk, "journal", "a record that makes no sense was dropped");
    for (const BlockNumber area : {format::kJournalChunk, Metadata::mirror_of(format::kJournalChunk)})
      TRY(store_mended(pool.medium, area, Block{}.bytes));
    return pool.medium.drain();
  }
  // Poisoned copies are mended with all others.
  const bool changed = TRY(pool.journal.apply(*recovered, [](BlockNumber, bool) {}));
  if (changed) pool.actions.add(format::kJournalChunk, "journal", "a change that was not home yet was brought home");
  // From here on blocks are also written past the journal: what it holds must not come over them at the next open.
  TRY(pool.journal.discard());
  // Areas that cannot be read are cleared, so that there are two again.
  for (const bool mirror : {false, true}) {
    const BlockNumber area = mirror ? Metadata::mirror_of(format::kJournalChunk) : format::kJournalChunk;
    bool cleared = false;
    for (BlockNumber block = area; block < area + format::kMirrorBlocks; ++block) {
      Block content;
      if (pool.medium.read(byte_offset(block), content.bytes)) continue;
      TRY(pool.medium.clear_bad({block, 1}));
      cleared = true;
    }
    if (!cleared) continue;
    TRY(pool.journal.rewrite_copy(mirror));
    pool.actions.add(area, "journal", "a copy that could not be read was cleared and written again");
  }
  return {};
}

Result<> repair_chunks(RepairPool& pool) { return Chain(pool).run(); }

}  // namespace daxcow::repairer
