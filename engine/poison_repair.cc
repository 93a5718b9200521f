#include "engine/poison_repair.h"

#include <cstring>
#include <memory>
#include <span>

#include "engine/check.h"
#include "engine/rebuild_metadata.h"

namespace daxcow {

using format::BlockType;

namespace {

enum class Kind { kSuperblock, kJournal, kHeader, kUnused, kMetadata };

Kind kind_of(Store& store, BlockNumber block) {
  if (!store.metadata().in_chunk(block))
    return BlockRun{format::kJournalChunk, format::kChunkBlocks}.contains(block) ? Kind::kJournal : Kind::kSuperblock;
  const BlockNumber primary = copy_at(block).block;
  if (primary == Metadata::chunk_base(block)) return Kind::kHeader;
  return store.metadata().descriptor(primary).type == BlockType::kFree ? Kind::kUnused : Kind::kMetadata;
}

// What has to be in the block, from memory or from the copy that passes its check.
Result<std::unique_ptr<Block>> good_content(Store& store, BlockNumber block, Kind kind) REQUIRES(store.mutex) {
  auto content = std::make_unique<Block>();
  std::memset(content->bytes, 0, kBlockBytes);
  switch (kind) {
    case Kind::kSuperblock:
      content->as<format::Superblock>() = store.superblock();
      break;
    case Kind::kHeader:
      store.metadata().make_header(copy_at(block).block, content->as<format::ChunkHeader>());
      break;
    case Kind::kMetadata: {
      const BlockNumber primary = copy_at(block).block;
      const BlockType type = store.metadata().descriptor(primary).type;
      auto found = store.metadata().read(primary, type);
      if (!found) {
        TRY(rebuild_metadata(store, primary));
        found = store.metadata().read(primary, type);
      }
      *content = *TRY(std::move(found));
      break;
    }
    case Kind::kJournal:  // as a whole, by the journal itself
    case Kind::kUnused:
      break;
  }
  return content;
}

Result<> store_and_verify(Store& store, BlockNumber block, const Block& content) {
  TRY(store.medium().store(byte_offset(block), content.bytes));
  TRY(store.medium().drain());
  Block now;
  TRY(store.medium().read(byte_offset(block), now.bytes));
  if (std::memcmp(now.bytes, content.bytes, kBlockBytes) != 0)
    return fail(ErrorCode::kIo, "block " + std::to_string(block.value) + " does not keep what is written to it");
  return {};
}

Result<> verify_readable(Store& store, BlockNumber block) {
  Block now;
  return store.medium().read(byte_offset(block), now.bytes);
}

}  // namespace

BadCopy copy_at(BlockNumber block) {
  const bool mirror = block.value % format::kChunkBlocks >= format::kMirrorBlocks;
  return {mirror ? block - format::kMirrorBlocks : block, mirror ? Copy::kMirror : Copy::kPrimary};
}

BlockNumber place_of_copy(BadCopy copy) {
  return copy.copy == Copy::kPrimary ? copy.block : Metadata::mirror_of(copy.block);
}

Result<Mended> mend_poisoned(Store& store, BlockNumber block) {
  // Under the mutex: nobody else may write to either copy meanwhile, and what is published is home.
  const LockGuard guard(store.mutex);
  const Kind kind = kind_of(store, block);
  const auto content = good_content(store, block, kind);
  if (!content) return Mended::kLost;
  if (kind == Kind::kJournal) {
    // A record may lie in several bad blocks: the area is cleared as a whole before it is written.
    const bool mirror = block >= format::kJournalChunk + format::kMirrorBlocks;
    TRY(store.medium().clear_bad(
        {mirror ? format::kJournalChunk + format::kMirrorBlocks : format::kJournalChunk, format::kMirrorBlocks}));
    TRY(store.journal().rewrite_copy(mirror));
    TRY(verify_readable(store, block));
    return Mended::kRewritten;
  }
  TRY(store.medium().clear_bad({block, 1}));
  TRY(store_and_verify(store, block, **content));
  return kind == Kind::kUnused ? Mended::kUnused : Mended::kRewritten;
}

Result<Mended> mend_failed(Store& store, BadCopy copy) {
  const LockGuard guard(store.mutex);
  const BlockNumber block = place_of_copy(copy);
  if (!store.metadata().in_chunk(block)) return Mended::kWasGood;  // a record of the journal need not be honest
  const Kind kind = kind_of(store, block);
  if (kind == Kind::kUnused) {
    TRY(verify_readable(store, block));
    return Mended::kWasGood;
  }
  auto checked = store.metadata().verify_copy(copy.block, copy.copy);
  if (checked) return Mended::kWasGood;
  if (checked.error().code == ErrorCode::kPoisoned) return std::unexpected(std::move(checked).error());
  const auto content = good_content(store, block, kind);
  if (!content) return Mended::kLost;
  TRY(store_and_verify(store, block, **content));
  return Mended::kRewritten;
}

}  // namespace daxcow
