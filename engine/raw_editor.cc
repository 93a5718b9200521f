#include "engine/raw_editor.h"

#include <bit>
#include <string>

#include "engine/checksum.h"
#include "engine/lines.h"

namespace daxcow {

using format::BlockDescriptor;
using format::BlockType;
using format::ChunkHeader;

namespace {
constexpr std::uint64_t kAllLines = ~0ull;
}

Result<> store_mended(Medium& medium, BlockNumber at, std::span<const std::byte> content) {
  if (medium.store(byte_offset(at), content)) return {};
  TRY(medium.clear_bad({at, 1}));
  return medium.store(byte_offset(at), content);
}

Result<BlockPtr> RawEditor::read(BlockNumber block, BlockType type) {
  if (const auto it = dirty_.find(block.value); it != dirty_.end()) {
    if (it->second.freed || it->second.descriptor.type != type) return fail(ErrorCode::kDamaged);
    return BlockPtr(it->second.copy);
  }
  return metadata_.read(block, type);
}

Result<Block*> RawEditor::edit(BlockNumber block, BlockType type) {
  if (const auto it = dirty_.find(block.value); it != dirty_.end()) {
    if (it->second.freed || it->second.descriptor.type != type) return fail(ErrorCode::kDamaged);
    return it->second.copy.get();
  }
  BlockPtr before = TRY(metadata_.read(block, type));
  Dirty dirty;
  dirty.copy = copy_block(*before);
  dirty.before = std::move(before);
  dirty.descriptor = metadata_.descriptor(block);
  return dirty_.emplace(block.value, std::move(dirty)).first->second.copy.get();
}

Result<BlockNumber> RawEditor::allocate(BlockType type, std::uint8_t level, format::LeafKind leaf_kind) {
  const auto block = metadata_.take_free();
  if (!block) return fail(ErrorCode::kNeedChunk);
  taken_.push_back(*block);
  Dirty dirty;
  dirty.copy = make_block();
  dirty.descriptor = BlockDescriptor{type, level, leaf_kind, 0, 0};
  dirty.is_new = true;
  dirty_.insert_or_assign(block->value, std::move(dirty));
  return *block;
}

void RawEditor::release(BlockNumber block) {
  Dirty& dirty = dirty_[block.value];
  dirty.freed = true;
  dirty.descriptor = BlockDescriptor{};
}

BlockDescriptor RawEditor::descriptor(BlockNumber block) const {
  if (const auto it = dirty_.find(block.value); it != dirty_.end()) return it->second.descriptor;
  return metadata_.descriptor(block);
}

void RawEditor::put(BlockNumber block, const BlockDescriptor& descriptor, const Block& content) {
  if (metadata_.descriptor(block).type == BlockType::kFree) metadata_.withdraw_free(block);
  Dirty dirty;
  dirty.copy = copy_block(content);
  dirty.descriptor = descriptor;
  dirty_.insert_or_assign(block.value, std::move(dirty));
}

void RawEditor::describe(BlockNumber block, const BlockDescriptor& descriptor, const Block& content) {
  put(block, descriptor, content);
  Dirty& dirty = dirty_[block.value];
  dirty.before = copy_block(content);
  dirty.described = true;
}

void RawEditor::describe_lost(BlockNumber block, const BlockDescriptor& descriptor) {
  describe(block, descriptor, Block{});
  dirty_[block.value].lost = true;
}

void RawEditor::abort() {
  for (auto it = taken_.rbegin(); it != taken_.rend(); ++it) metadata_.give_back(*it);
  taken_.clear();
  dirty_.clear();
  headers_.clear();
  whole_headers_.clear();
  linked_chunk_ = {};
}

// A checksum that fits neither copy.
std::uint32_t RawEditor::crc_of_neither(BlockNumber block, const BlockDescriptor& descriptor) const {
  std::set<std::uint32_t> taken;
  for (const BlockNumber at : {block, Metadata::mirror_of(block)}) {
    Block content;
    if (medium_.read(byte_offset(at), content.bytes)) taken.insert(block_crc(block, descriptor, content));
  }
  std::uint32_t crc = 0;
  while (taken.contains(crc)) ++crc;
  return crc;
}

void RawEditor::seal() {
  for (auto& [block, dirty] : dirty_) {
    if (dirty.freed) continue;
    dirty.line_mask = dirty.before ? changed_lines(*dirty.before, *dirty.copy) : kAllLines;
    if (dirty.lost)
      dirty.descriptor.crc = crc_of_neither(BlockNumber(block), dirty.descriptor);
    else if (dirty.changed())
      dirty.descriptor.crc = block_crc(BlockNumber(block), dirty.descriptor, *dirty.copy);
  }
}

void RawEditor::make_headers() {
  const auto header_of = [this](BlockNumber base) -> Header& {
    Header& header = headers_[base.value];
    if (!header.content) {
      header.content = make_block_for_overwrite();
      metadata_.describe_chunk(base, header.content->as<ChunkHeader>());
      header.line_mask = whole_headers_.contains(base.value) ? kAllLines : 1;  // the first has magic, next and CRC
    }
    return header;
  };
  for (const std::uint64_t base : whole_headers_) header_of(BlockNumber(base));
  for (const auto& [block, dirty] : dirty_) {
    if (dirty.freed ? dirty.is_new : !dirty.changed()) continue;
    Header& header = header_of(Metadata::chunk_base(BlockNumber(block)));
    const std::uint64_t index = block % format::kChunkBlocks - 1;
    header.content->as<ChunkHeader>().blocks[index] = dirty.descriptor;
    header.line_mask |= 1ull << ((offsetof(ChunkHeader, blocks) + index * sizeof(BlockDescriptor)) / kLineBytes);
  }
  if (linked_chunk_.second.value != 0)
    header_of(linked_chunk_.first).content->as<ChunkHeader>().next = linked_chunk_.second.value;
  for (auto& [base, header] : headers_) {
    auto& content = header.content->as<ChunkHeader>();
    ++content.sequence;
    content.crc = chunk_header_crc(content);
  }
}

Result<> RawEditor::write_new_blocks() {
  for (const auto& [block, dirty] : dirty_) {
    if (!dirty.is_new || dirty.freed) continue;
    const bool home = store_mended(medium_, BlockNumber(block), dirty.copy->bytes).has_value();
    const bool mirror = store_mended(medium_, Metadata::mirror_of(BlockNumber(block)), dirty.copy->bytes).has_value();
    if (!home && !mirror)
      return fail(ErrorCode::kIo, "metadata block " + std::to_string(block) + ": both copies cannot be written");
  }
  return medium_.drain();
}

Result<> RawEditor::write_lines(BlockNumber block, std::uint64_t mask, const Block& content) {
  unsigned written = 0;
  for (const BlockNumber at : {block, Metadata::mirror_of(block)})
    written += store_lines(medium_, at, mask, content) || store_mended(medium_, at, content.bytes);  // poison: whole
  if (written == 0)
    return fail(ErrorCode::kIo, "metadata block " + std::to_string(block.value) + ": both copies cannot be written");
  return {};
}

Result<> RawEditor::write_home() {
  for (const auto& [block, dirty] : dirty_)
    if (!dirty.freed && !dirty.is_new && dirty.line_mask != 0)
      TRY(write_lines(BlockNumber(block), dirty.line_mask, *dirty.copy));
  for (const auto& [base, header] : headers_) TRY(write_lines(BlockNumber(base), header.line_mask, *header.content));
  return medium_.drain();
}

void RawEditor::publish() {
  for (const auto& [block, dirty] : dirty_) {
    const BlockNumber at(block);
    if (dirty.freed) {
      if (!dirty.is_new) metadata_.forget(at);
      if (dirty.is_new || metadata_.descriptor(at).type != BlockType::kFree) metadata_.give_back(at);
      metadata_.publish_descriptor(at, BlockDescriptor{});
    } else if (dirty.changed()) {
      if (!dirty.lost) metadata_.publish(at, dirty.copy);
      metadata_.publish_descriptor(at, dirty.descriptor);
    }
  }
  for (const auto& [base, header] : headers_)
    metadata_.set_header_sequence(BlockNumber(base), header.content->as<ChunkHeader>().sequence);
  if (linked_chunk_.second.value != 0) metadata_.set_next_chunk(linked_chunk_.first, linked_chunk_.second);
}

// As Transaction::commit, without records. An error leaves the change undone or, once it is in the journal, to the next
// recovery: the caller stops then.
Result<> RawEditor::commit() {
  seal();
  make_headers();
  std::vector<JournalChange> changes;
  std::uint64_t lines = 0;
  for (const auto& [block, dirty] : dirty_) {
    if (dirty.freed || dirty.is_new || dirty.line_mask == 0) continue;
    changes.push_back({BlockNumber(block), dirty.line_mask, dirty.copy->bytes});
    lines += static_cast<std::uint64_t>(std::popcount(dirty.line_mask));
  }
  for (const auto& [base, header] : headers_) {
    changes.push_back({BlockNumber(base), header.line_mask, header.content->bytes});
    lines += static_cast<std::uint64_t>(std::popcount(header.line_mask));
  }
  if (changes.empty()) {
    abort();
    return {};
  }
  if (!Journal::fits(changes.size(), lines)) return fail(ErrorCode::kTooBig, "a repair does not fit the journal");
  TRY(write_new_blocks());
  TRY(journal_.commit(changes));
  publish();
  TRY(write_home());
  for (const auto& [block, dirty] : dirty_)
    if (!dirty.freed && dirty.changed() && !dirty.lost) metadata_.unpin(BlockNumber(block));
  taken_.clear();
  abort();
  return {};
}

}  // namespace daxcow
