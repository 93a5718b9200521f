// The engine's vocabulary: one type per meaning, so that a file block can never be used as a pool block.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace daxcow {

// An ordinal counts from zero within its own space. Ordinals of different spaces do not mix; the difference of two
// ordinals of one space is a plain count.
template <class Tag>
struct Ordinal {
  std::uint64_t value = 0;

  constexpr Ordinal() = default;
  explicit constexpr Ordinal(std::uint64_t v) : value(v) {}

  friend constexpr auto operator<=>(Ordinal, Ordinal) = default;
  friend constexpr Ordinal operator+(Ordinal a, std::uint64_t count) { return Ordinal(a.value + count); }
  friend constexpr Ordinal operator-(Ordinal a, std::uint64_t count) { return Ordinal(a.value - count); }
  friend constexpr std::uint64_t operator-(Ordinal a, Ordinal b) { return a.value - b.value; }
  constexpr Ordinal& operator++() {
    ++value;
    return *this;
  }
  constexpr Ordinal& operator+=(std::uint64_t count) {
    value += count;
    return *this;
  }
};

using BlockNumber = Ordinal<struct BlockNumberTag>;  // a 4 KiB block of the pool
using FileBlock = Ordinal<struct FileBlockTag>;      // a 4 KiB block of a file (or of an inode table)
using InodeNumber = Ordinal<struct InodeNumberTag>;  // an inode of one volume
using VolumeNumber = InodeNumber;                    // a volume is an inode of volume 0

inline constexpr std::uint64_t kBlockBytes = 4096;
inline constexpr std::uint64_t kLineBytes = 64;
inline constexpr std::uint64_t kLinesPerBlock = kBlockBytes / kLineBytes;
inline constexpr std::uint64_t kSectorBytes = 512;
inline constexpr std::uint64_t kSectorsPerBlock = kBlockBytes / kSectorBytes;

constexpr std::uint64_t byte_offset(BlockNumber b) { return b.value * kBlockBytes; }
constexpr std::uint64_t byte_offset(FileBlock b) { return b.value * kBlockBytes; }
constexpr std::uint64_t blocks_for(std::uint64_t bytes) { return bytes / kBlockBytes + (bytes % kBlockBytes != 0); }

// A run of consecutive pool blocks.
struct BlockRun {
  BlockNumber first;
  std::uint64_t count = 0;

  constexpr BlockNumber end() const { return first + count; }
  constexpr bool contains(BlockNumber b) const { return b >= first && b < end(); }
  friend constexpr bool operator==(const BlockRun&, const BlockRun&) = default;
};

// Seconds and nanoseconds since the epoch, as in struct timespec; nanoseconds in [0, 1e9).
struct Timestamp {
  std::int64_t seconds = 0;
  std::uint32_t nanoseconds = 0;
  friend constexpr auto operator<=>(const Timestamp&, const Timestamp&) = default;
};

}  // namespace daxcow

template <class Tag>
struct std::hash<daxcow::Ordinal<Tag>> {
  std::size_t operator()(daxcow::Ordinal<Tag> o) const noexcept {
    std::uint64_t x = o.value + 0x9e3779b97f4a7c15ull;  // splitmix64's finaliser: neighbours land far apart
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return static_cast<std::size_t>(x ^ (x >> 31));
  }
};
