// What an exerciser did: kinds of operations, and the last few thousand of them, to be told when something goes wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "test/exercise/pattern.h"

namespace daxcow::exercise {

// The order is that of the figures printed at the end; kinds.cc has the names and the weights.
enum class Kind : std::uint8_t {
  kRead,
  kReadVector,
  kReadDirect,
  kReadMapped,
  kStorePrivate,
  kTouchBehindEnd,
  kWrite,
  kWriteVector,
  kWriteDirect,
  kWriteSync,
  kAppend,
  kStoreMapped,
  kTruncate,
  kPunch,
  kZero,
  kZeroKeep,
  kAllocate,
  kAllocateKeep,
  kCopyWithin,
  kCopyBetween,
  kCopyOverlapping,
  kSync,
  kUnmap,
  kDropPages,
  kReopen,
  kSparse,
  kAttributes,
  kSetTimes,
  kSetMode,
  kCompare,
  kRename,
  kRenameOver,
  kExchange,
  kLink,
  kUnlink,
  kReplace,
  kList,
  kClone,
  kSnapshot,
  kSnapshotCompare,
  kCount,
};

struct KindOfOperation {
  const char* name;
  unsigned weight;    // of all that are possible
  bool keeps_size;    // can be done to a file that several processes share
  bool writes = false;
};
const KindOfOperation& about(Kind kind);

struct Operation {
  std::uint64_t number = 0;
  Kind kind = Kind::kRead;
  unsigned world = 0;  // 0, or the number of a snapshot that is worked on
  unsigned file = 0;
  std::optional<unsigned> other_file{};
  std::uint64_t offset = 0, length = 0, other_offset = 0;
  std::uint64_t size_before = 0;
  unsigned variant = 0;  // of the kind: a flag, a whence
};
std::string describe(const Operation& operation);

class History {
 public:
  // The newest operation; valid until the next one is added.
  Operation& add(const Operation& operation);
  const Operation& newest() const { return ring_[(count_ - 1) % kLength]; }
  std::uint64_t count() const { return count_; }

  // The last operations that had to do with the file, oldest first, a line each.
  std::string last(unsigned file, std::size_t lines) const;
  // Who wrote these bytes, as far as the history goes back.
  std::string origin(std::span<const std::byte> bytes, const Pattern& pattern) const;

 private:
  static constexpr std::size_t kLength = 1u << 14;
  std::vector<Operation> ring_{kLength};
  std::uint64_t count_ = 0;
};

}  // namespace daxcow::exercise
