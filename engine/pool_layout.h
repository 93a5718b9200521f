// What a pool keeps for itself, and where: superblocks, journal, metadata chunks. Everything else holds user data.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/format.h"
#include "engine/function_ref.h"
#include "engine/medium.h"
#include "engine/metadata.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

// Where the second copy of the superblock is.
constexpr BlockNumber second_superblock(std::uint64_t pool_blocks) { return BlockNumber(pool_blocks - 1); }

// A superblock for a new pool of this many blocks, sealed: a new UUID, the time of day, the label as far as it fits.
Result<format::Superblock> make_superblock(std::uint64_t pool_blocks, std::string_view label);
enum class SuperblockState { kGood, kAbsent, kDamaged };
// Reads one copy; of kGood only the checksum is known to be right.
SuperblockState read_superblock_copy(Medium& medium, BlockNumber at, format::Superblock& superblock);
// Whether version, size and places are such as this program knows.
bool makes_sense(const format::Superblock& superblock);

// True if the whole run can hold user data: inside the pool, and no superblock, journal or metadata chunk. For a pool that is
// quiet, since it may look at the list of chunks: a run as long as a hostile image likes costs no more than that.
// (Store::holds_data is for any thread.)
bool is_data_space(const Metadata& metadata, std::uint64_t pool_blocks, BlockRun run);

// The record that keeps a chunk, behind the one that links it.
format::ReverseRecord chunk_record(BlockNumber chunk, BlockNumber linked_from);
// The records that keep what the pool has for itself; `chunks` in the order of their chain.
void for_each_system_record(const std::vector<BlockNumber>& chunks, std::uint64_t pool_blocks,
                            FunctionRef<void(const format::ReverseRecord&)> visit);

}  // namespace daxcow
