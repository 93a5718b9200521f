// The superblock: from either copy, or made anew when both are lost. Journal, first chunk and roots have fixed places
// in this version; the size follows from the reverse map's record of the last block; only UUID and label are not known.
#include <algorithm>
#include <cstring>
#include <optional>

#include "engine/repair_pool.h"
#include "engine/reverse_leaf.h"
#include "engine/store.h"

namespace daxcow::repairer {

using format::BlockType;
using format::RecordKind;
using format::Superblock;

namespace {

// Where the reverse map says that the second superblock is.
std::optional<BlockNumber> recorded_last_block(Medium& medium) {
  Metadata metadata(medium, 16ull << 20);
  (void)metadata.load_chunks(format::kFirstChunk);  // as far as it goes
  for (const BlockNumber base : metadata.chunks()) {
    for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i) {
      if (metadata.descriptor(base + i).type != BlockType::kReverseLeaf) continue;
      const auto content = metadata.read(base + i, BlockType::kReverseLeaf);
      if (!content) continue;
      std::optional<BlockNumber> found;
      reverse_leaf::for_each_record((*content)->as<format::ReverseLeaf>(), [&](const format::ReverseRecord& record) {
        if (record.kind == RecordKind::kSystem && record.source == 0 && record.slot == 1 && record.length_blocks == 1)
          found = BlockNumber(record.first);
      });
      if (found && found->value < medium.block_count() && found->value >= format::kMinimumPoolBytes / kBlockBytes - 1)
        return found;
    }
  }
  return std::nullopt;
}

bool has_first_chunk(Medium& medium) {
  const Metadata metadata(medium, 1 << 20);
  return metadata.read_header(format::kFirstChunk, Copy::kPrimary) ||
         metadata.read_header(format::kFirstChunk, Copy::kMirror);
}

bool starts_with_zeros(Medium& medium) {
  Block first;
  return medium.read(0, first.bytes) &&
         std::ranges::all_of(first.bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

// What describes the pool when the ordinary look at both copies fails with `error`.
Result<Superblock> find_superblock(Medium& medium, const Error& error, Actions& actions) {
  Superblock copy;
  for (const BlockNumber at : {format::kSuperblockPrimary, second_superblock(medium.block_count())}) {
    if (read_superblock_copy(medium, at, copy) != SuperblockState::kGood) continue;
    if (copy.pool_bytes > medium.size_bytes()) return std::unexpected(error);  // truncated
    if (makes_sense(copy)) return copy;
  }
  if (!has_first_chunk(medium)) return std::unexpected(error);
  // The chunk may be what another filesystem has left of a pool.
  if (error.code == ErrorCode::kNotAPool && !starts_with_zeros(medium))
    return fail(ErrorCode::kNotAPool,
                "it begins with something else than a pool, but has a part of one; if it is to be a pool again, write "
                "zeros to its first 4 KiB and repair it then");
  const auto last = recorded_last_block(medium);
  if (last && read_superblock_copy(medium, *last, copy) == SuperblockState::kGood && makes_sense(copy) &&
      copy.pool_bytes == byte_offset(*last + 1)) {
    actions.add(*last, "superblock", "found where the pool ended before its medium grew");
    return copy;
  }
  auto made = TRY(make_superblock(last ? last->value + 1 : medium.block_count(), ""));
  actions.add_loss(format::kSuperblockPrimary, "superblock",
                   "both copies were lost: made anew, with a new UUID and without a label");
  return made;
}

}  // namespace

Result<Superblock> repair_superblock(Medium& medium, Actions& actions) {
  auto superblock = Store::read_superblock(medium);
  if (!superblock) {
    const auto code = superblock.error().code;
    const bool small = medium.block_count() < format::kMinimumPoolBytes / kBlockBytes;
    if (small || (code != ErrorCode::kDamaged && code != ErrorCode::kNotAPool))
      return std::unexpected(superblock.error());
    superblock = find_superblock(medium, superblock.error(), actions);
    if (!superblock) return superblock;
  }
  const auto content = std::as_bytes(std::span(&*superblock, 1));
  // The copy at the end first: it is the one that was not looked at.
  for (const BlockNumber at : {second_superblock(superblock->pool_bytes / kBlockBytes), format::kSuperblockPrimary}) {
    Superblock found;
    const bool read = medium.read(byte_offset(at), std::as_writable_bytes(std::span(&found, 1))).has_value();
    if (read && std::memcmp(&found, &*superblock, sizeof found) == 0) continue;
    TRY(store_mended(medium, at, content));
    TRY(medium.drain());
    actions.add(at, "superblock", "written again from what describes the pool");
  }
  return superblock;
}

}  // namespace daxcow::repairer
