#include "engine/check_copies.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include "engine/checksum.h"
#include "engine/journal.h"
#include "engine/pool_layout.h"
#include "engine/references.h"

namespace daxcow::checker {

using format::BlockDescriptor;
using format::BlockType;
using format::JournalHeader;
using format::LeafKind;
using format::Superblock;

namespace {

// Block by block, so that the answer to one bad block is not "all of it is bad".
bool any_in_ledger(const Context& context, BlockRun run) {
  const auto [first, end] = context.bad.in(run);
  return std::any_of(first, end, [](const BadBlocks::Bad& bad) { return bad.in_ledger; });
}

// One bad copy is what the second is for; if the ledger knows it, the pool is already living with it.
Severity severity_of_copy(const Context& context, BlockRun at) {
  return any_in_ledger(context, at) ? Severity::kNote : Severity::kRepairable;
}

void check_superblock(Context& context, BlockNumber at, const char* where) {
  Superblock copy;
  const auto add = [&](const char* what) {
    context.findings.add(FindingKind::kSuperblock, severity_of_copy(context, {at, 1}), at, where, what);
  };
  if (!context.medium.read(byte_offset(at), std::as_writable_bytes(std::span(&copy, 1))))
    add("cannot be read");
  else if (copy.magic != format::kSuperblockMagic || copy.crc != superblock_crc(copy))
    add("is damaged");
  else if (std::memcmp(&copy, &context.superblock, sizeof copy) != 0)
    add("differs from the other copy");
}

// --- Journal ---------------------------------------------------------------------------------------------------------

enum class RecordState { kValid, kEmpty, kInvalid, kUnreadable };

RecordState read_record(Context& context, BlockNumber area, std::uint64_t& sequence) {
  const auto record = read_journal_area(context.medium, area);
  if (!record) return RecordState::kUnreadable;
  JournalHeader header;
  std::memcpy(&header, record->data(), sizeof header);
  static constexpr JournalHeader kEmptyHeader{};
  if (std::memcmp(&header, &kEmptyHeader, sizeof header) == 0) return RecordState::kEmpty;
  const auto payload = std::span(*record).subspan(sizeof header);
  if (header.magic != format::kJournalMagic || header.payload_bytes != payload.size()) return RecordState::kInvalid;
  sequence = header.sequence;
  return journal_crc(journal_seed(context.superblock), header, payload) == header.check ? RecordState::kValid
                                                                                        : RecordState::kInvalid;
}

// A record that does not verify is what a crash while it was written leaves behind: everything before it is home. So
// only what cannot be read at all is worth more than a note, and only in both copies.
void check_journal(Context& context) {
  const BlockNumber areas[2] = {format::kJournalChunk, Metadata::mirror_of(format::kJournalChunk)};
  std::uint64_t sequences[2] = {0, 0};
  RecordState states[2];
  for (int i = 0; i < 2; ++i) states[i] = read_record(context, areas[i], sequences[i]);
  if (states[0] == RecordState::kUnreadable && states[1] == RecordState::kUnreadable) {
    context.findings.add(FindingKind::kCopy, Severity::kRepairable, areas[0], "journal", "neither copy can be read");
    return;
  }
  if (states[0] == states[1] && sequences[0] == sequences[1]) return;
  for (int i = 0; i < 2; ++i) {
    const char* where = i == 0 ? "journal" : "journal, mirror";
    if (states[i] == RecordState::kUnreadable)
      context.findings.add(FindingKind::kCopy, Severity::kNote, areas[i], where, "cannot be read; the other copy can");
    else if (states[i] != RecordState::kValid && states[1 - i] == RecordState::kValid)
      context.findings.add(FindingKind::kCopy, Severity::kNote, areas[i], where,
                           "has no valid record; the other copy is newer");
    else if (states[1 - i] == RecordState::kValid && sequences[i] < sequences[1 - i])
      context.findings.add(FindingKind::kCopy, Severity::kNote, areas[i], where,
                           "has an older record than the other copy");
  }
}

// --- Metadata blocks -------------------------------------------------------------------------------------------------

void check_header(Context& context, BlockNumber base) {
  const bool primary = context.metadata.verify_header_copy(base, Copy::kPrimary).has_value();
  const bool mirror = context.metadata.verify_header_copy(base, Copy::kMirror).has_value();
  if (primary && mirror) return;
  const std::string where = "chunk at block " + std::to_string(base.value);
  if (!primary && !mirror) {
    context.findings.add(FindingKind::kChunk, Severity::kLoss, base, where, "both copies of its header are bad");
    return;
  }
  const BlockNumber bad = primary ? Metadata::mirror_of(base) : base;
  context.findings.add(
      FindingKind::kChunk, severity_of_copy(context, {bad, 1}), bad, where,
      primary ? "the mirror of its header is bad or old" : "the primary copy of its header is bad or old");
}

// What refers to something is rebuilt from the reverse map, and that from what refers, but for the bad blocks that it
// may have listed; the rest only said what it said.
Remedy remedy_of_lost(BlockType type) {
  return holds_references(type) || type == BlockType::kReverseLeaf ? Remedy::kRebuild : Remedy::kRemove;
}

void check_block(Context& context, BlockNumber block, const BlockDescriptor& descriptor) {
  const auto primary = context.metadata.read_copy(block, Copy::kPrimary);
  const auto mirror = context.metadata.read_copy(block, Copy::kMirror);
  const auto where = [&] { return std::string(name_of(descriptor.type)) + ", " + block_name(block); };
  if (!primary && !mirror) {
    context.findings.add(FindingKind::kChecksum, Severity::kLoss, block, where(), "both copies are bad",
                         remedy_of_lost(descriptor.type));
  } else if (!primary || !mirror) {
    const BlockNumber bad = primary ? Metadata::mirror_of(block) : block;
    context.findings.add(
        FindingKind::kCopy, severity_of_copy(context, {bad, 1}), bad, where(),
        primary ? "the mirror is bad; the primary copy is good" : "the primary copy is bad; the mirror is good");
  } else if (std::memcmp((*primary)->bytes, (*mirror)->bytes, kBlockBytes) != 0) {
    context.findings.add(FindingKind::kCopy, Severity::kRepairable, block, where(),
                         "the copies differ although both verify");
  }
}

}  // namespace

const char* descriptor_fault(const BlockDescriptor& descriptor) {
  static constexpr BlockDescriptor kFreeDescriptor{};
  if (descriptor.type == BlockType::kFree)
    return std::memcmp(&descriptor, &kFreeDescriptor, sizeof descriptor) == 0
               ? nullptr
               : "the descriptor of a free block is not zero";
  if (static_cast<std::uint8_t>(descriptor.type) >= format::kBlockTypeCount) return "a descriptor's type is unknown";
  if (descriptor.reserved != 0) return "reserved bytes of a descriptor are not zero";
  const auto kind = static_cast<std::uint8_t>(descriptor.leaf_kind);
  if (descriptor.type != BlockType::kMapNode)
    return descriptor.level == 0 && kind == 0 ? nullptr : "the descriptor has a level although it is not a map node's";
  if (!format::is_valid_level(descriptor.level)) return "a map node's level is out of range";
  const bool known = kind == 0 || (kind >= static_cast<std::uint8_t>(LeafKind::kInodes) &&
                                   kind <= static_cast<std::uint8_t>(LeafKind::kGraveyard));
  return known ? nullptr : "a map node's kind of leaves is unknown";
}

void check_copies(Context& context) {
  check_superblock(context, format::kSuperblockPrimary, "superblock");
  check_superblock(context, second_superblock(context.pool_blocks), "superblock, second copy");
  check_journal(context);
  for (const BlockNumber base : context.metadata.chunks()) {
    check_header(context, base);
    for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i) {
      const BlockDescriptor descriptor = context.metadata.descriptor(base + i);
      if (const char* fault = descriptor_fault(descriptor))
        context.findings.add(FindingKind::kChunk, Severity::kRepairable, base + i,
                             "chunk at block " + std::to_string(base.value), fault, Remedy::kRebuild);
      if (descriptor.type == BlockType::kFree) continue;
      check_block(context, base + i, descriptor);
      context.advance();
    }
  }
}

}  // namespace daxcow::checker
