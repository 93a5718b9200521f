// What several threads asked of a pool and what they were told, and whether that can be explained: is there one order of
// these calls, in which a call that had ended comes before one that began later, so that a simple model of files and names
// gives every call the answer it got, and ends in the state that was found? (Linearizability; after a crash: durable
// linearizability, where calls under way may have happened or not.)
//
// Files are made of units of 1 KiB, each filled with the number of the write that it comes from; so every read says which
// writes it saw, and a unit that is not whole, or of another file, is seen at once.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"
#include "test/dump.h"

namespace daxcow::test {

inline constexpr std::uint64_t kUnitBytes = 1024, kUnitsPerBlock = kBlockBytes / kUnitBytes;
inline constexpr std::uint64_t kSectorsPerUnit = kUnitBytes / kSectorBytes;
inline constexpr std::uint64_t kMaximumUnits = 64;    // of a write or read
inline constexpr std::uint64_t kLargestFile = 1 << 20;  // in bytes; larger ones only fill the pool

using Unit = std::uint16_t;          // 0: zeros; else write * kMaximumUnits + index
inline constexpr Unit kTorn = 0xffff;  // not whole, or nothing that was ever written
inline constexpr Unit kAny = 0xfffe;   // in the model: may be anything
using Units = std::vector<Unit>;

constexpr Unit unit_of(std::uint64_t write, std::uint64_t index) { return static_cast<Unit>(write * kMaximumUnits + index); }
void fill(std::span<std::byte> bytes, std::uint64_t write);      // units 0, 1, ... of that write
// A partial unit at the end counts as torn. With kSectorBytes as `piece`: what each sector has.
Units decode(std::span<const std::byte> bytes, std::uint64_t piece = kUnitBytes);
std::string text(const Units& units);

// Files of one volume. A file is known by its inode's generation, which no other ever has.
struct ModelFile {
  Units units;
  unsigned held = 0;        // by how many the number is remembered
  bool any_size = false;    // after a crash in a call of several steps
  friend auto operator<=>(const ModelFile&, const ModelFile&) = default;
};
struct ModelVolume {
  std::map<std::string, std::uint64_t> names;         // "x", "d/x" -> file
  std::map<std::uint64_t, ModelFile> files;           // all that are in use, and some that no longer are
  std::map<std::uint64_t, std::uint64_t> by_number;   // inode number -> file
  friend auto operator<=>(const ModelVolume&, const ModelVolume&) = default;
};
struct ModelState {
  std::map<std::string, ModelVolume> volumes;  // snapshots too: of those only names and what these lead to count
  friend auto operator<=>(const ModelState&, const ModelState&) = default;
};

enum class CallKind {
  kWrite, kAppend, kRead, kReadZeros, kLease, kTruncate, kPunch, kZero, kZeroKeep, kAllocate, kClone, kReflink, kDedupe, kAttributes, kSync,
  kCreate, kUnlink, kRename, kRenameNoReplace, kExchange, kLink, kLookup, kList, kForget,
  kSnapshot, kDelete, kRollback, kVerify,
  kSyncAll, kSettle, kScrub, kPatrol, kPoison,
};
// Whether it is about two files.
constexpr bool is_clone(CallKind kind) { return kind == CallKind::kClone || kind == CallKind::kReflink || kind == CallKind::kDedupe; }
const char* name_of(CallKind kind);

struct Call {
  CallKind kind{};
  unsigned thread = 0;
  // What is asked for. Files by number in `volume`; `to_*` is a clone's target.
  std::string volume, to_volume;
  std::size_t file = 0, to_file = 0;  // handles
  std::uint64_t number = 0, to_number = 0;
  std::string name, to_name;  // names, volumes. A file created under a name that begins with p stays remembered
  std::uint64_t first = 0, to_first = 0, count = 0;  // units
  std::uint64_t write = 0;
  // What was answered.
  std::optional<ErrorCode> error;
  std::string message;
  Units units;  // kReadZeros: sectors, for data is lost by these
  std::uint64_t size = 0, links = 0, got = 0;            // units
  std::uint64_t got_number = 0, got_generation = 0;
  std::map<std::string, std::uint64_t> listing;          // name -> inode number
  std::string wrong;                                     // what no model could explain
  std::optional<ModelVolume> content;
  // When: from one counter; and where in the medium's log.
  std::uint64_t begin = 0, end = 0;
  std::size_t log_begin = 0, log_end = 0;
  std::string text() const;
};

// What a run allows beyond the model.
struct Rules {
  bool may_be_full = false;     // kNoSpace, with nothing done
  bool may_be_poisoned = false;  // kPoisoned: a read refused; a range written in part
  bool may_patrol = false;       // the scrub is told what to do by several
};

// What can be seen of it in a dump; lost blocks are kAny.
ModelVolume model_of(const DumpedVolume& volume);
// Empty if `seen` is what the model says.
std::string compare(const ModelVolume& model, const ModelVolume& seen);

struct Observation {
  std::map<std::string, ModelVolume> volumes;
};
// Calls in `done` have answers to explain; those in `pending` were under way in a crash and may have happened, wholly or as
// far as their kind may, or not.
// An explanation of what is wrong, or nothing.
std::string explain(const ModelState& start, const std::vector<const Call*>& done, const std::vector<const Call*>& pending,
                    const Observation& end, const Rules& rules);

}  // namespace daxcow::test
