// What a fuzzed input is: a base image and a short list of records of 16 bytes, each an edit of the image or an operation
// on the pool that is opened from it. Any bytes are an input; what makes no sense is taken modulo what does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace daxcow::fuzz {

// What a record is about. The order is the encoding, which inputs are kept in: what is new comes last.
enum class Target : std::uint8_t {
  // --- edits
  kSuperblock, kChunkHeader, kDescriptor, kRoots, kVolumeZero, kMapEntry, kInode, kGranule, kName, kAttribute, kSymlink, kOrphan,
  kGraveyard, kRecord, kLeafBitmap, kJournalHeader, kJournalGroup,
  kAnyWord,    // 8 bytes at any place of any metadata block
  kBlockCopy,  // the content of another block of the same type
  kBadBlock,   // the medium lists the block as bad
  kScrubRecord,
  kBadCopies,  // both copies of a metadata block
  kEditCount,
  // --- operations
  kCreate = 64, kWrite, kRead, kUnlink, kRename, kLink, kTruncate, kAllocate, kClone, kSetAttribute, kRemoveAttribute, kSnapshot,
  kDeleteVolume, kRollback, kReport, kSeek, kSettle, kScrub, kRemoveDirectory,
  kReadZeros,  // as for files whose policy is zero
  kPolicy,     // for lost data
  kReflink,    // shares ranges as the kernel's ioctls do, equal ones too
  kUsage,      // what space belongs to what
  kSurvey,     // figures of the whole pool
  kPatrol,     // orders to the scrub in the background
  kGoBad,      // blocks become bad while the pool is in use
  kOperationEnd,
};
inline constexpr std::uint8_t kEdits = static_cast<std::uint8_t>(Target::kEditCount);
inline constexpr std::uint8_t kFirstOperation = static_cast<std::uint8_t>(Target::kCreate);
inline constexpr std::uint8_t kOperations = static_cast<std::uint8_t>(Target::kOperationEnd) - kFirstOperation;

// How the new value of a field comes from Record::value.
enum class ValueKind : std::uint8_t {
  kLiteral,      // it
  kAdd,          // what was there, plus it
  kXor,          // what was there, with its bits flipped
  kInteresting,  // one of a list of limits
  kBlock,        // the number of a metadata block: bits 0..15 which, 16..23 of which type, 24..31 signed distance
  kEntry,        // the same block as a map entry, flags in bits 32..43
  kDataEntry,    // any block of the pool as a map entry: bits 0..31 the block, 32..43 the flags
  kSelf,         // the edited block's own number, plus it
  kSelfEntry,    // as a map entry, flags in bits 32..43
  kOther,        // the same field of another element: bits 0..15 slot, 16..31 block
  kCount,
};

// Bits of Record::how.
enum How : std::uint8_t {
  kPrimaryOnly = 1,
  kMirrorOnly = 2,
  kLeaveBlockCrc = 4,
  kLeaveHeaderCrc = 8,
  kAnySlot = 16,  // also elements that are not in use
};

struct Record {
  Target target{};
  std::uint8_t how = 0;
  std::uint16_t block = 0;  // which of the base's blocks of that kind. Operations: which file
  std::uint16_t slot = 0;   // which element of the block. Operations: which other file
  std::uint8_t field = 0;   // which field of the element. Operations: the mode
  ValueKind value_kind{};
  std::uint64_t value = 0;

  bool makes_bad() const { return target == Target::kBadBlock || target == Target::kBadCopies || target == Target::kGoBad; }
  bool is_edit() const { return static_cast<std::uint8_t>(target) < kFirstOperation; }
};
static_assert(sizeof(Record) == 16);

// Bits of Input::flags.
enum InputFlag : std::uint8_t {
  kRebuildReverseMap = 1,  // after the edits: the records are made to agree with the trees, whatever these look like
  kOpenReadOnly = 2,
  kMountReadOnly = 4,
  kRepairFirst = 8,
  kSkipWalk = 16,
  kRepairLast = 64,
  kSkipChecks = 32,  // for speed; then nothing is known of whether the image was clean
  kSmallCache = 128,  // so that metadata is read from the medium again
};

struct Input {
  std::uint8_t base = 0;
  std::uint8_t flags = 0;
  std::vector<Record> records;
};
inline constexpr std::size_t kMaximumRecords = 40;

Input decode(std::span<const std::uint8_t> bytes);
// Into `bytes`; returns the length. What does not fit is left out.
std::size_t encode(const Input& input, std::span<std::uint8_t> bytes);

}  // namespace daxcow::fuzz
