#include "engine/checksum.h"

#include <isa-l.h>

#include <cstring>

namespace daxcow {

namespace {
constexpr std::uint32_t kNameSeed = 0x9d5c2f31;

unsigned char* mutable_bytes(const std::byte* p) {  // ISA-L reads only, but its prototype is not const
  return const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(p));
}
}  // namespace

std::uint32_t crc32c(std::uint32_t seed, std::span<const std::byte> bytes) {
  return crc32_iscsi(mutable_bytes(bytes.data()), static_cast<int>(bytes.size()), seed);
}

std::uint64_t crc64(std::uint64_t seed, std::span<const std::byte> bytes) {
  return crc64_ecma_refl(seed, mutable_bytes(bytes.data()), bytes.size());
}

std::uint32_t block_crc(BlockNumber block, const format::BlockDescriptor& descriptor, const Block& content) {
  const std::uint64_t seed[2] = {block.value, static_cast<std::uint64_t>(descriptor.type) |
                                                  static_cast<std::uint64_t>(descriptor.level) << 8 |
                                                  static_cast<std::uint64_t>(descriptor.leaf_kind) << 16};
  return crc32c(crc32c(~0u, std::as_bytes(std::span(seed))), content.bytes);
}

std::uint32_t chunk_header_crc(const format::ChunkHeader& header) {
  static_assert(offsetof(format::ChunkHeader, crc) == 24);
  const auto bytes = std::as_bytes(std::span(&header, 1));
  return crc32c(crc32c(~static_cast<std::uint32_t>(header.self), bytes.first(24)), bytes.subspan(28));
}

std::uint32_t superblock_crc(const format::Superblock& superblock) {
  return crc32c(~0u, std::as_bytes(std::span(&superblock, 1)).first(offsetof(format::Superblock, crc)));
}

std::uint64_t journal_seed(const format::Superblock& superblock) {
  return crc64(0, std::as_bytes(std::span(superblock.uuid)));
}

std::uint64_t journal_crc(std::uint64_t seed, const format::JournalHeader& header, std::span<const std::byte> payload) {
  static_assert(offsetof(format::JournalHeader, sequence) == 8 && offsetof(format::JournalHeader, check) == 32);
  return crc64(crc64(seed, std::as_bytes(std::span(&header, 1)).subspan(8, 24)), payload);
}

std::uint32_t name_hash(std::span<const std::byte> name) { return crc32c(kNameSeed, name); }

}  // namespace daxcow
