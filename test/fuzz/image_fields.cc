#include "test/fuzz/image_fields.h"

#include <array>
#include <cstddef>

#include "engine/format.h"

namespace daxcow::fuzz {

using namespace format;

namespace {

#define FIELD(type, member) \
  { offsetof(type, member), sizeof(type::member) }
#define PART(type, member, index, size) \
  { static_cast<std::uint16_t>(offsetof(type, member) + (index) * (size)), size }

constexpr Field kWordField[] = {{0, 8}};

constexpr Field kSuperblockFields[] = {
    FIELD(Superblock, magic), FIELD(Superblock, major), FIELD(Superblock, minor), FIELD(Superblock, oldest_minor), FIELD(Superblock, reserved0),
    FIELD(Superblock, incompatible_features), FIELD(Superblock, read_only_compatible_features), PART(Superblock, uuid, 0, 8),
    FIELD(Superblock, pool_bytes), FIELD(Superblock, pool_bytes), FIELD(Superblock, journal), FIELD(Superblock, first_chunk),
    FIELD(Superblock, roots), FIELD(Superblock, created_seconds), PART(Superblock, label, 0, 8), PART(Superblock, label, 7, 8)};

constexpr Field kHeaderFields[] = {FIELD(ChunkHeader, magic), FIELD(ChunkHeader, self), FIELD(ChunkHeader, next), FIELD(ChunkHeader, next),
                                   FIELD(ChunkHeader, sequence), FIELD(ChunkHeader, sequence), FIELD(ChunkHeader, reserved0)};

constexpr Field kDescriptorFields[] = {FIELD(BlockDescriptor, type), FIELD(BlockDescriptor, level), FIELD(BlockDescriptor, leaf_kind),
                                       FIELD(BlockDescriptor, reserved), FIELD(BlockDescriptor, crc), {0, 8}};

constexpr Field kRootsFields[] = {FIELD(Roots, generation_limit), FIELD(Roots, mount_count), FIELD(Roots, in_use), FIELD(Roots, unsafe_shutdowns),
                                  FIELD(Roots, unsafe_shutdowns_known), PART(Roots, device_id, 0, 8), FIELD(Roots, blocks_lost),
                                  FIELD(Roots, blocks_healed), FIELD(Roots, blocks_cleared), FIELD(Roots, metadata_repaired)};

constexpr Field kScrubFields[] = {FIELD(ScrubRecord, state),           FIELD(ScrubRecord, position),
                                  FIELD(ScrubRecord, blocks_read),     FIELD(ScrubRecord, blocks_found),
                                  FIELD(ScrubRecord, started_seconds), FIELD(ScrubRecord, finished_seconds),
                                  FIELD(ScrubRecord, passes),          FIELD(ScrubRecord, bytes_per_second)};

// What leads somewhere or counts is there twice.
constexpr Field kInodeFields[] = {
    FIELD(InodeRecord, mode), {1, 1}, FIELD(InodeRecord, link_count), FIELD(InodeRecord, uid), FIELD(InodeRecord, gid),
    FIELD(InodeRecord, size_bytes), FIELD(InodeRecord, size_bytes), FIELD(InodeRecord, block_count), FIELD(InodeRecord, generation),
    FIELD(InodeRecord, flags), FIELD(InodeRecord, device), FIELD(InodeRecord, entry_count), FIELD(InodeRecord, attribute_bytes),
    FIELD(InodeRecord, attribute_bytes), FIELD(InodeRecord, data_level), FIELD(InodeRecord, data_level), FIELD(InodeRecord, attribute_level),
    PART(InodeRecord, reserved, 0, 2), PART(InodeRecord, seconds, 0, 8), PART(InodeRecord, seconds, 2, 8), PART(InodeRecord, nanoseconds, 1, 4),
    FIELD(InodeRecord, parent), FIELD(InodeRecord, parent_cookie), PART(InodeRecord, data, 0, 8), PART(InodeRecord, data, 0, 8),
    PART(InodeRecord, data, 0, 8), PART(InodeRecord, data, 1, 8), PART(InodeRecord, data, 2, 8), PART(InodeRecord, data, 7, 8),
    PART(InodeRecord, attributes, 0, 8), PART(InodeRecord, attributes, 0, 8), PART(InodeRecord, attributes, 1, 8), PART(InodeRecord, attributes, 7, 8)};

constexpr Field kGranuleFields[] = {FIELD(DirectoryEntry, inode), FIELD(DirectoryEntry, inode), FIELD(DirectoryEntry, hash),
                                    FIELD(DirectoryEntry, name_bytes), FIELD(DirectoryEntry, type), FIELD(DirectoryEntry, granules),
                                    FIELD(DirectoryEntry, reserved), {16, 1}, {16, 8}, {24, 8}};

constexpr Field kAttributeFields[] = {FIELD(AttributeEntry, value_bytes), FIELD(AttributeEntry, value_bytes), FIELD(AttributeEntry, name_bytes),
                                      FIELD(AttributeEntry, space), FIELD(AttributeEntry, reserved), {8, 1}, {8, 8}, {16, 8}};

constexpr Field kRecordFields[] = {FIELD(ReverseRecord, first), FIELD(ReverseRecord, first), FIELD(ReverseRecord, source), FIELD(ReverseRecord, source),
                                   FIELD(ReverseRecord, length_blocks), FIELD(ReverseRecord, length_blocks), FIELD(ReverseRecord, slot),
                                   FIELD(ReverseRecord, kind), FIELD(ReverseRecord, level), FIELD(ReverseRecord, flags),
                                   FIELD(ReverseRecord, sector_mask), FIELD(ReverseRecord, reserved)};

constexpr Field kJournalFields[] = {FIELD(JournalHeader, magic), FIELD(JournalHeader, sequence), FIELD(JournalHeader, payload_bytes),
                                    FIELD(JournalHeader, payload_bytes), FIELD(JournalHeader, group_count), FIELD(JournalHeader, group_count),
                                    FIELD(JournalHeader, check), PART(JournalHeader, reserved, 0, 8)};

constexpr std::uint16_t kDescriptorOffset = offsetof(ChunkHeader, blocks);

constexpr std::array<Layout, kEdits> make_layouts() {
  std::array<Layout, kEdits> layouts;
  layouts.fill({0, 8, 512, kWordField});
  const auto set = [&](Target target, Layout layout) { layouts[static_cast<std::size_t>(target)] = layout; };
  set(Target::kSuperblock, {0, 4096, 1, kSuperblockFields});
  set(Target::kChunkHeader, {0, 4096, 1, kHeaderFields});
  set(Target::kDescriptor, {kDescriptorOffset, 8, kChunkPayload, kDescriptorFields});
  set(Target::kRoots, {0, 4096, 1, kRootsFields});
  set(Target::kVolumeZero, {offsetof(Roots, volume_zero), 256, 1, kInodeFields});
  set(Target::kScrubRecord, {offsetof(Roots, scrub), sizeof(ScrubRecord), 1, kScrubFields});
  set(Target::kInode, {0, sizeof(InodeRecord), kInodesPerBlock, kInodeFields});
  set(Target::kGranule, {0, kGranuleBytes, kGranulesPerBlock, kGranuleFields});
  set(Target::kAttribute, {0, 8, 509, kAttributeFields});
  set(Target::kRecord, {offsetof(ReverseLeaf, records), sizeof(ReverseRecord), kRecordsPerLeaf, kRecordFields});
  set(Target::kLeafBitmap, {0, 8, 8, kWordField});
  set(Target::kJournalHeader, {0, 4096, 1, kJournalFields});
  set(Target::kJournalGroup, {0, 8, 512, kWordField});
  return layouts;
}

constexpr auto kLayouts = make_layouts();

}  // namespace

const Layout& layout_of(Target target) { return kLayouts[static_cast<std::size_t>(target)]; }

}  // namespace daxcow::fuzz
