#include "engine/pool_layout.h"

#include <sys/random.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "engine/checksum.h"

namespace daxcow {

using format::ReverseRecord;
using format::Superblock;

namespace {

ReverseRecord system_record(BlockNumber first, std::uint64_t length, BlockNumber source, std::uint16_t slot) {
  ReverseRecord record{};
  record.first = first.value;
  record.length_blocks = length;
  record.source = source.value;
  record.slot = slot;
  record.kind = format::RecordKind::kSystem;
  return record;
}

}  // namespace

Result<Superblock> make_superblock(std::uint64_t pool_blocks, std::string_view label) {
  Superblock superblock{};
  superblock.magic = format::kSuperblockMagic;
  superblock.major = format::kFormatMajor;
  superblock.minor = format::kFormatMinor;
  if (getrandom(superblock.uuid.data(), superblock.uuid.size(), 0) != static_cast<ssize_t>(superblock.uuid.size()))
    return fail(ErrorCode::kIo, "no random numbers for the pool's UUID");
  superblock.uuid[6] = static_cast<std::uint8_t>((superblock.uuid[6] & 0x0f) | 0x40);  // RFC 4122, version 4
  superblock.uuid[8] = static_cast<std::uint8_t>((superblock.uuid[8] & 0x3f) | 0x80);
  superblock.pool_bytes = pool_blocks * kBlockBytes;
  superblock.journal = format::kJournalChunk.value;
  superblock.first_chunk = format::kFirstChunk.value;
  superblock.roots = format::kRootsBlock.value;
  superblock.created_seconds = std::time(nullptr);
  std::memcpy(superblock.label.data(), label.data(), std::min(label.size(), superblock.label.size() - 1));
  superblock.crc = superblock_crc(superblock);
  return superblock;
}

SuperblockState read_superblock_copy(Medium& medium, BlockNumber at, Superblock& superblock) {
  if (!medium.read(byte_offset(at), std::as_writable_bytes(std::span(&superblock, 1)))) return SuperblockState::kDamaged;
  if (superblock.magic != format::kSuperblockMagic) return SuperblockState::kAbsent;
  return superblock.crc == superblock_crc(superblock) ? SuperblockState::kGood : SuperblockState::kDamaged;
}

bool makes_sense(const Superblock& superblock) {
  return superblock.major == format::kFormatMajor && superblock.pool_bytes % kBlockBytes == 0 &&
         superblock.pool_bytes >= format::kMinimumPoolBytes &&
         superblock.journal == format::kJournalChunk.value && superblock.first_chunk == format::kFirstChunk.value &&
         superblock.roots == format::kRootsBlock.value;
}

bool is_data_space(const Metadata& metadata, std::uint64_t pool_blocks, BlockRun run) {
  const BlockNumber last = second_superblock(pool_blocks);
  if (run.count == 0 || run.first == format::kSuperblockPrimary || run.first >= last || run.count > last - run.first)
    return false;
  const auto meets = [&](BlockNumber base) { return run.first < base + format::kChunkBlocks && base < run.end(); };
  if (meets(format::kJournalChunk)) return false;
  const auto& chunks = metadata.chunks();
  if (run.count / format::kChunkBlocks > chunks.size()) return std::ranges::none_of(chunks, meets);
  for (BlockNumber base = Metadata::chunk_base(run.first); base < run.end(); base += format::kChunkBlocks)
    if (metadata.in_chunk(base)) return false;
  return true;
}

ReverseRecord chunk_record(BlockNumber chunk, BlockNumber linked_from) {
  return system_record(chunk, format::kChunkBlocks, linked_from, 0);
}

void for_each_system_record(const std::vector<BlockNumber>& chunks, std::uint64_t pool_blocks,
                            FunctionRef<void(const ReverseRecord&)> visit) {
  const BlockNumber first = format::kSuperblockPrimary;
  visit(system_record(first, 1, first, 0));
  visit(system_record(second_superblock(pool_blocks), 1, first, 1));
  visit(system_record(format::kJournalChunk, format::kChunkBlocks, first, 2));
  visit(system_record(format::kFirstChunk, format::kChunkBlocks, first, 3));
  for (std::size_t i = 1; i < chunks.size(); ++i) visit(chunk_record(chunks[i], chunks[i - 1]));
}

}  // namespace daxcow
