// What the parts of a volume that deal with file data share. Internal to engine/volume_*.cc and file_writer.cc.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <boost/container/small_vector.hpp>

#include "engine/format.h"
#include "engine/map.h"
#include "engine/volume_state.h"

namespace daxcow {

// An area of zeros, for replies that lead into holes and for zeroing parts of blocks.
inline constexpr std::uint64_t kZeroBytes = 1 << 20;
extern const std::byte kZeros[kZeroBytes];

// The blocks that [offset, +length) touches.
FileRange block_range(std::uint64_t offset, std::uint64_t length);

// kIsDirectory, kInvalid.
Result<> check_regular(const format::InodeRecord& record);

struct FileView {
  format::InodeRecord record;
  boost::container::small_vector<Segment, 4> segments;
};
// Record and map of a stretch of a file as of one moment, or of its first `most_segments`. kDamaged if the map leads out of
// the data. Without a limit only for ranges that somebody reads or writes: a file may hold one subtree more often than
// anybody can count.
Result<FileView> view_of(Volume::State& state, InodeNumber inode, FileRange range,
                         std::size_t most_segments = std::numeric_limits<std::size_t>::max());

// Written, neither a hole nor unwritten.
inline bool holds_data(const Segment& segment) { return segment.entry.present() && !segment.entry.unwritten(); }

// Which parts of these segments (all present, inside `range`) others refer to as well. Makes the path to the whole range
// exclusive first. Valid as long as the caller holds the inode's lock exclusively and stays in its operation.
struct SharingAnswer {
  Segment segment;
  bool shared;
};
Result<std::vector<SharingAnswer>> ask_sharing(Volume::State& state, InodeNumber inode, FileRange range,
                                               std::span<const Segment> segments);

// Bytes behind the end of a file, in its last block, mean nothing: an append puts its data there before the file has grown,
// and a truncation leaves there what it cuts off. So whoever makes a file grow to `end_bytes` and leaves a gap zeroes it first.
// Nothing visible changes; with the inode's lock held exclusively. Where others refer to the block (to them the bytes may be
// data) or it is bad, the file gets a copy. kPoisoned if what is before the end is lost.
Result<> zero_behind_end(Volume::State& state, InodeState& held, std::uint64_t end_bytes);

}  // namespace daxcow
