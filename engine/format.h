// Everything that is on the medium, and nothing else. docs/FORMAT.md draws it.
//
// All integers are little-endian. Reserved bytes are zero. A change of anything here changes kFormatMajor (old programs
// must refuse) or kFormatMinor (old programs may go on).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "engine/types.h"

namespace daxcow::format {

static_assert(std::endian::native == std::endian::little, "the pool is little-endian and mapped in place");

inline constexpr std::uint64_t kSuperblockMagic = 0x0001574f43584144ull;  // "DAXCOW", 1
inline constexpr std::uint64_t kChunkMagic = 0x4b4e484357435844ull;       // "DXCWCHNK"
inline constexpr std::uint64_t kJournalMagic = 0x4c4e524a57435844ull;     // "DXCWJRNL"
inline constexpr std::uint16_t kFormatMajor = 1;
inline constexpr std::uint16_t kFormatMinor = 0;

// --- Layout of the pool -----------------------------------------------------------------------------------------------
//
//   0                 superblock (block 0)
//   2 MiB .. 4 MiB    journal: one record area of 1 MiB and its mirror
//   4 MiB .. 6 MiB    first metadata chunk: 1 MiB and its mirror; block 1 of it is the roots block
//   last block        superblock, second copy
// Everything else is data blocks and, as they are needed, further metadata chunks.

inline constexpr std::uint64_t kChunkBlocks = 512;    // a chunk with its mirror: 2 MiB, aligned
inline constexpr std::uint64_t kMirrorBlocks = 256;   // mirror of a block = block + 256
inline constexpr std::uint64_t kChunkPayload = 255;   // metadata blocks in a chunk
inline constexpr BlockNumber kSuperblockPrimary{0};
inline constexpr BlockNumber kJournalChunk{kChunkBlocks};
inline constexpr BlockNumber kFirstChunk{2 * kChunkBlocks};
inline constexpr BlockNumber kRootsBlock{2 * kChunkBlocks + 1};
inline constexpr std::uint64_t kMinimumPoolBytes = 16ull << 20;
inline constexpr std::uint64_t kMaximumPoolBytes = 1ull << 60;

struct Superblock {
  std::uint64_t magic;
  std::uint16_t major;
  std::uint16_t minor;
  std::uint16_t oldest_minor;  // the oldest minor version that may write this pool
  std::uint16_t reserved0;
  std::uint64_t incompatible_features;         // unknown bit: refuse
  std::uint64_t read_only_compatible_features; // unknown bit: read-only
  std::array<std::uint8_t, 16> uuid;
  std::uint64_t pool_bytes;
  std::uint64_t journal;      // block numbers
  std::uint64_t first_chunk;
  std::uint64_t roots;
  std::int64_t created_seconds;
  std::array<char, 64> label;  // UTF-8, zero-filled
  std::array<std::uint8_t, 4096 - 156> reserved;
  std::uint32_t crc;  // CRC32C of everything before it
};
static_assert(sizeof(Superblock) == kBlockBytes && offsetof(Superblock, uuid) == 32 && offsetof(Superblock, crc) == 4092);

// --- Metadata chunks --------------------------------------------------------------------------------------------------

enum class BlockType : std::uint8_t {
  kFree = 0,
  kRoots = 1,
  kMapNode = 2,
  kInodes = 3,
  kDirectory = 4,
  kAttributes = 5,
  kSymlink = 6,
  kOrphans = 7,
  kGraveyard = 8,
  kReverseLeaf = 9,
};
inline constexpr std::uint8_t kBlockTypeCount = 10;

// What the leaves of a map are; a map node carries it so that trees of different kinds cannot be mixed up.
// kData: blocks of user data, outside chunks. Otherwise: metadata blocks of that type.
enum class LeafKind : std::uint8_t { kData = 0, kInodes = 3, kDirectory = 4, kAttributes = 5, kSymlink = 6, kOrphans = 7, kGraveyard = 8 };

constexpr BlockType leaf_block_type(LeafKind kind) { return static_cast<BlockType>(kind); }  // not for kData

struct BlockDescriptor {
  BlockType type;
  std::uint8_t level;  // map nodes: 1..kMaximumLevel; all others 0
  LeafKind leaf_kind;  // map nodes: what its leaves are; all others kData (0)
  std::uint8_t reserved;
  std::uint32_t crc;  // CRC32C of the block, seeded with type, level, leaf kind and address (see block_crc)
};
static_assert(sizeof(BlockDescriptor) == 8);

struct ChunkHeader {  // block 0 of a chunk
  std::uint64_t magic;
  std::uint64_t self;  // first block of this chunk
  std::uint64_t next;  // first block of the next chunk, 0 at the last
  std::uint32_t crc;   // CRC32C of this block without this field, seeded with the address (see chunk_header_crc)
  std::uint32_t reserved0;
  std::uint64_t sequence;  // grows with every change: of two good copies the one with the higher counts
  std::array<std::uint8_t, 24> reserved1;
  std::array<BlockDescriptor, kChunkPayload> blocks;  // of block 1, 2, ... of the chunk
  std::array<std::uint8_t, 4096 - 64 - 8 * kChunkPayload> reserved2;
};
static_assert(sizeof(ChunkHeader) == kBlockBytes && offsetof(ChunkHeader, blocks) == 64);

// --- Journal ----------------------------------------------------------------------------------------------------------
//
// The record area starts with this header; groups follow without gaps: {block, line mask} and the masked lines, lowest
// first. Blocks are primaries inside chunks; the same lines go to their mirrors.

struct JournalHeader {
  std::uint64_t magic;
  std::uint64_t sequence;
  std::uint64_t payload_bytes;
  std::uint64_t group_count;
  std::uint64_t check;  // CRC-64 over the payload and the three fields before, seeded with pool UUID and sequence
  std::array<std::uint8_t, 24> reserved;
};
static_assert(sizeof(JournalHeader) == kLineBytes);

struct JournalGroup {
  std::uint64_t block;
  std::uint64_t line_mask;
};
static_assert(sizeof(JournalGroup) == 16);
inline constexpr std::uint64_t kJournalBytes = kMirrorBlocks * kBlockBytes;
inline constexpr std::uint64_t kJournalPayloadBytes = kJournalBytes - sizeof(JournalHeader);

// --- Maps -------------------------------------------------------------------------------------------------------------
//
// An entry at level L (1..kMaximumLevel) spans 512^(L-1) file blocks. It is absent (0: a hole), points to a map node of
// level L-1 (kEntryNode), or to a run of 512^(L-1) contiguous leaf blocks.

inline constexpr std::uint64_t kMapFanoutBits = 9;
inline constexpr std::uint64_t kMapFanout = 1ull << kMapFanoutBits;
inline constexpr std::uint8_t kMaximumLevel = 7;  // 8 root slots * 512^6 blocks * 4 KiB = 2^69 > 2^63: the kernel's limit rules
constexpr bool is_valid_level(std::uint8_t level) { return level >= 1 && level <= kMaximumLevel; }
inline constexpr std::uint64_t kRootSlots = 8;
inline constexpr std::uint64_t kMaximumFileBytes = 0x7fffffffffffffffull;

inline constexpr std::uint64_t kEntryPresent = 1;
inline constexpr std::uint64_t kEntryNode = 2;
inline constexpr std::uint64_t kEntryUnwritten = 4;
inline constexpr std::uint64_t kEntryFull = 8;  // inode tables: nothing free below (a hint)
inline constexpr std::uint64_t kEntryLevelShift = 4;  // graveyard slots only: log512 of the blocks the entry spans
inline constexpr std::uint64_t kEntryLevelMask = 7ull << kEntryLevelShift;
inline constexpr std::uint64_t kEntryBlockShift = 12;

using MapNode = std::array<std::uint64_t, kMapFanout>;
static_assert(sizeof(MapNode) == kBlockBytes);

// --- Inodes -----------------------------------------------------------------------------------------------------------

enum class InodeFlag : std::uint32_t {
  kInlineSymlink = 1,   // `data` holds the target's bytes
  kVolume = 2,          // an inode of volume 0 whose map is a volume's inode table
  kReadOnlyVolume = 4,  // with kVolume: writable mounts are refused
  kSnapshot = 8,        // with kVolume: made from the volume whose number is in `device`
};

struct InodeRecord {
  std::uint32_t mode;  // S_IFMT and permission bits; 0: this inode is free
  std::uint32_t link_count;
  std::uint32_t uid;
  std::uint32_t gid;
  std::uint64_t size_bytes;
  std::uint64_t block_count;  // leaf blocks mapped, shared ones included
  std::uint64_t generation;   // never used before in this pool with this inode number
  std::uint32_t flags;        // InodeFlag
  std::uint32_t device;       // block and character devices
  std::uint32_t entry_count;  // directories
  std::uint32_t attribute_bytes;
  std::uint8_t data_level;       // level of the entries in `data`, 1..kMaximumLevel
  std::uint8_t attribute_level;  // likewise of `attributes`
  std::array<std::uint8_t, 6> reserved;

  // access, modification, change, birth
  std::array<std::int64_t, 4> seconds;
  std::array<std::uint32_t, 4> nanoseconds;
  std::uint64_t parent;         // inode number of the (first) directory with an entry for this inode
  std::uint64_t parent_cookie;  // where in it

  std::array<std::uint64_t, kRootSlots> data;        // map root
  std::array<std::uint64_t, kRootSlots> attributes;  // map root of the attribute fork
};
static_assert(sizeof(InodeRecord) == 256 && offsetof(InodeRecord, seconds) == 64 && offsetof(InodeRecord, data) == 128 &&
              offsetof(InodeRecord, attributes) == 192);

inline constexpr std::uint64_t kInodesPerBlock = 16;
struct InodeBlock {
  std::array<InodeRecord, kInodesPerBlock> inodes;
};
static_assert(sizeof(InodeBlock) == kBlockBytes);

inline constexpr InodeNumber kRootInode{1};
inline constexpr InodeNumber kOrphansInode{2};
inline constexpr InodeNumber kGraveyardInode{3};  // used in volume 0 only
inline constexpr InodeNumber kFirstInode{16};

// Source slots of references: in an inode block inode * 16 + fork * 8 + root slot; in a map node, a graveyard block and
// the roots block the index of the entry (roots: as inode 0 of an inode block).
inline constexpr std::uint64_t kSlotsPerInode = 2 * kRootSlots;

// The scrub's pass that is under way, and the last one (engine/patrol.h). A hint: whatever is in here, a pass reads
// what is in use. Was reserved at first: programs that do not know it leave it as it is.
struct ScrubRecord {
  std::uint64_t state;     // 0 none under way, 1 running, 2 paused
  std::uint64_t position;  // the place that it goes on with (engine/poison_scrub.h)
  std::uint64_t blocks_read;
  std::uint64_t blocks_found;      // bad ones that nobody knew of
  std::int64_t started_seconds;    // of this pass, or of the last one
  std::int64_t finished_seconds;   // of the last one; 0: never
  std::uint64_t passes;            // finished ones, ever
  std::uint64_t bytes_per_second;  // of this pass; 0: no bound
};
static_assert(sizeof(ScrubRecord) == 64);

inline constexpr std::uint64_t kMaximumGeneration = 1ull << 62;  // one is given out for each inode that is made

struct Roots {
  std::uint64_t generation_limit;  // generations below it may be in use; at most kMaximumGeneration
  std::uint64_t mount_count;
  std::uint64_t in_use;             // 1 while a writable engine has the pool open
  std::uint64_t unsafe_shutdowns;   // of the device, when it was last opened
  std::uint64_t unsafe_shutdowns_known;
  std::array<std::uint8_t, 64> device_id;
  std::uint64_t blocks_lost;        // data blocks reported as lost, ever
  std::uint64_t blocks_healed;      // blocks whose content was restored or whose range was healed by its owner, ever
  std::uint64_t blocks_cleared;     // cleared on the device, ever
  std::uint64_t metadata_repaired;  // metadata copies rewritten from the other one, ever
  std::array<std::uint8_t, 256 - 136> reserved0;
  InodeRecord volume_zero;
  ScrubRecord scrub;
  std::array<std::uint8_t, 4096 - 576> reserved1;
};
static_assert(sizeof(Roots) == kBlockBytes && offsetof(Roots, volume_zero) == 256 && offsetof(Roots, scrub) == 512);

// --- Directories ------------------------------------------------------------------------------------------------------
//
// A directory block is 128 granules of 32 B. An entry takes ceil((16 + name) / 32) granules and never moves; its cookie is
// block * 128 + granule. A free granule is all zero. "." and ".." are not stored: a directory's parent is in its inode.

inline constexpr std::uint64_t kGranuleBytes = 32;
inline constexpr std::uint64_t kGranulesPerBlock = kBlockBytes / kGranuleBytes;
inline constexpr std::uint64_t kMaximumNameBytes = 255;

struct DirectoryEntry {  // the name follows
  std::uint64_t inode;
  std::uint32_t hash;  // of the name, see name_hash
  std::uint8_t name_bytes;
  std::uint8_t type;      // mode >> 12, as in d_type
  std::uint8_t granules;  // 0: this granule is free
  std::uint8_t reserved;
};
static_assert(sizeof(DirectoryEntry) == 16);

// --- Extended attributes ----------------------------------------------------------------------------------------------
//
// The attribute fork is a byte stream of entries, each padded to 8 bytes: this header, the name without its prefix, the
// value. kParent entries (a further directory entry of a hard-linked inode) have a name of 16 bytes: directory, cookie.

enum class AttributeSpace : std::uint8_t { kUser = 1, kTrusted = 2, kSecurity = 3, kSystem = 4, kParent = 5 };

struct AttributeEntry {
  std::uint32_t value_bytes;
  std::uint8_t name_bytes;
  AttributeSpace space;
  std::uint16_t reserved;
};
static_assert(sizeof(AttributeEntry) == 8);
inline constexpr std::uint64_t kMaximumAttributeBytes = 65536;        // one value (the kernel's limit)
inline constexpr std::uint64_t kMaximumAttributeForkBytes = 64 * 4096;  // all of an inode

// --- Reverse map ------------------------------------------------------------------------------------------------------

enum class RecordKind : std::uint8_t {
  kTree = 1,    // a reference in a tree: source block and slot
  kSystem = 2,  // superblocks, journal, chunks: source is the superblock or the chunk that links it
  kHold = 3,    // the healer keeps a block while it moves; counts as a sharer
  kLedger = 4,  // the poison ledger; does not count; first is the bad block, length 1
};

struct ReverseRecord {
  std::uint64_t first;
  std::uint64_t source;
  std::uint64_t length_blocks;
  std::uint16_t slot;  // first of the consecutive slots
  RecordKind kind;
  std::uint8_t level;       // log512 of the file blocks one slot spans
  std::uint8_t flags;       // kRecordNode, kRecordUnwritten
  std::uint8_t sector_mask; // ledger: bit n = the n-th 512 B of the block are lost
  std::uint16_t reserved;
};
static_assert(sizeof(ReverseRecord) == 32);
inline constexpr std::uint8_t kRecordNode = 1;
inline constexpr std::uint8_t kRecordUnwritten = 2;

// Records are unsorted; a bit of `used` says which are valid. All keys of a leaf lie below the smallest key of the next.
inline constexpr std::uint64_t kRecordsPerLeaf = 126;
struct ReverseLeaf {
  std::array<std::uint64_t, 2> used;
  std::array<std::uint64_t, 6> reserved;
  std::array<ReverseRecord, kRecordsPerLeaf> records;
};
static_assert(sizeof(ReverseLeaf) == kBlockBytes);

static_assert(std::is_trivially_copyable_v<Superblock> && std::has_unique_object_representations_v<Superblock>);
static_assert(std::is_trivially_copyable_v<ChunkHeader> && std::has_unique_object_representations_v<ChunkHeader>);
static_assert(std::is_trivially_copyable_v<JournalHeader> && std::has_unique_object_representations_v<JournalHeader>);
static_assert(std::is_trivially_copyable_v<InodeRecord> && std::has_unique_object_representations_v<InodeRecord>);
static_assert(std::is_trivially_copyable_v<Roots> && std::has_unique_object_representations_v<Roots>);
static_assert(std::is_trivially_copyable_v<DirectoryEntry> && std::has_unique_object_representations_v<DirectoryEntry>);
static_assert(std::is_trivially_copyable_v<AttributeEntry> && std::has_unique_object_representations_v<AttributeEntry>);
static_assert(std::is_trivially_copyable_v<ReverseRecord> && std::has_unique_object_representations_v<ReverseRecord>);
static_assert(std::is_trivially_copyable_v<ReverseLeaf> && std::has_unique_object_representations_v<ReverseLeaf>);

}  // namespace daxcow::format
