// Sets of bad bytes, and the kernel's text format for them.
//
// A *normalised* list is sorted, its ranges are not empty and neither overlap nor touch. Every function here returns
// normalised lists, and takes any list unless it says otherwise.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/medium.h"
#include "engine/types.h"

namespace daxcow {

using BadRanges = std::vector<BadRange>;

BadRanges normalise(BadRanges ranges);
BadRanges unite(BadRanges a, const BadRanges& b);
BadRanges subtract(BadRanges a, BadRanges b);
BadRanges intersect(BadRanges a, BadRanges b);
// The parts in [0, length_bytes) of ranges shifted down by start_bytes.
BadRanges clip(BadRanges ranges, std::uint64_t start_bytes, std::uint64_t length_bytes);
// Grown to whole blocks: a page cannot be accessed when one sector of it is bad.
BadRanges whole_blocks(BadRanges ranges);
// Whether any byte of `range` is in the normalised list; O(log n).
bool overlaps(const BadRanges& normalised, BadRange range);

constexpr BadRange range_of(BlockRun run) { return {byte_offset(run.first), run.count * kBlockBytes}; }

// The sectors of a block that cannot be read, as a mask; all of them if each can, but the block as a whole cannot.
std::uint8_t unreadable_sectors(Medium& medium, BlockNumber block);

// Lines of "sector count" in units of 512 bytes, as /sys/block/*/badblocks shows them (block/badblocks.c). A line that
// is not two numbers is left out: it may be half written, and its writer is not finished. A last line without a newline
// counts when it is two numbers.
BadRanges parse_badblocks(std::string_view text);
// Ranges must be multiples of kSectorBytes. An empty list is an empty text.
std::string format_badblocks(const BadRanges& ranges);

}  // namespace daxcow
