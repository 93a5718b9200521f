// Checksums of the medium's structures: CRC32C (Castagnoli, as in iSCSI) and CRC-64 (ECMA-182), computed by ISA-L.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/block.h"
#include "engine/format.h"
#include "engine/types.h"

namespace daxcow {

std::uint32_t crc32c(std::uint32_t seed, std::span<const std::byte> bytes);
std::uint64_t crc64(std::uint64_t seed, std::span<const std::byte> bytes);

// CRC of a metadata block as kept in its descriptor: seeded with what the block is and where, so that a good block of
// another kind or from another place does not pass. descriptor.crc is ignored.
std::uint32_t block_crc(BlockNumber block, const format::BlockDescriptor& descriptor, const Block& content);
std::uint32_t chunk_header_crc(const format::ChunkHeader& header);
std::uint32_t superblock_crc(const format::Superblock& superblock);
// Of a record of the journal. The seed is from the pool's UUID, so that a record of an older pool on the same medium is never
// taken for one of this.
std::uint64_t journal_seed(const format::Superblock& superblock);
std::uint64_t journal_crc(std::uint64_t seed, const format::JournalHeader& header, std::span<const std::byte> payload);

// Hash of a name in a directory; part of the format.
std::uint32_t name_hash(std::span<const std::byte> name);

}  // namespace daxcow
