// The redo journal: one record at a time, in two copies. Its record is always the newest change and everything before it
// is home, so recovery applies the newest valid record and needs no reasoning about sequences.
//
// Worked example: a transaction changes lines of blocks A and B. The record with both goes to both copies; drain. If power
// fails before, neither copy verifies (or the previous record still does in one of them, and applying it again changes
// nothing): the change never happened. If power fails after, recovery copies the lines home again: the change happened.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "engine/block.h"
#include "engine/format.h"
#include "engine/function_ref.h"
#include "engine/medium.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

// One changed block within a record: the lines of `content` that `line_mask` names.
struct JournalChange {
  BlockNumber block;
  std::uint64_t line_mask = 0;
  const std::byte* content = nullptr;  // of the whole block
};

// What the medium has in an area of the journal: a header and as many bytes as it says, or the header alone if it cannot be
// one. Not verified. Blocks are read as wholes: of one with a bad sector the other sectors could be read, but not stored
// to (commit, discard), so that what is in them may be of long ago.
Result<std::vector<std::byte>> read_journal_area(Medium& medium, BlockNumber area);

class Journal {
 public:
  // `first`: the record area; its mirror follows. `seed`: see journal_seed() in checksum.h.
  Journal(Medium& medium, BlockNumber first, std::uint64_t seed);

  // The newest valid record. Who is going to write to the pool has both copies made equal first. kDamaged if a record that
  // verifies makes no sense.
  enum class Copies { kLeave, kMakeEqual };
  struct Recovered {
    bool found = false;
    std::vector<std::pair<BlockNumber, std::uint64_t>> groups;
    std::vector<Block> contents;  // parallel to groups; lines outside of the mask are undefined
  };
  Result<Recovered> recover(Copies copies);
  // Brings home what recover() found: every line to home and mirror, then drains. Lines that read equal too, for after the
  // end of a process they may have been in a cache only. Names the copies that cannot be stored to. Returns whether any
  // line that could be read differed.
  Result<bool> apply(const Recovered& recovered, FunctionRef<void(BlockNumber block, bool mirror)> on_failed_copy);

  // True if a record with these changes fits.
  static bool fits(std::uint64_t groups, std::uint64_t lines) {
    return groups * sizeof(format::JournalGroup) + lines * kLineBytes <= format::kJournalPayloadBytes;
  }
  // Writes the next record to both copies and drains: when it returns without error the changes are committed. One good
  // copy is enough. On an error both copies were invalidated, as far as they can be written, and nothing is committed.
  // Under the transaction mutex.
  Result<> commit(std::span<const JournalChange> changes);

  // Drops the record, which must be home. For repair.
  Result<> discard();
  // Rewrites what is in the area of `copy` from the other one (after the device was cleared). Under the transaction mutex.
  Result<> rewrite_copy(bool mirror);

  // The areas whose last record could not be stored, once each time: one copy is left.
  std::vector<BlockRun> take_failed_copies() { return std::exchange(failed_copies_, {}); }

  // When the pool was opened that wrote the record which recover() found, in seconds since 1970; 0 if it found none.
  std::int64_t found_opened_seconds() const { return found_opened_seconds_; }
  std::uint64_t bytes_written() const { return bytes_written_; }
  BlockNumber first() const { return first_; }

 private:
  BlockNumber area(bool mirror) const { return mirror ? first_ + format::kMirrorBlocks : first_; }
  std::uint64_t area_offset(bool mirror) const { return byte_offset(area(mirror)); }
  Result<std::vector<std::byte>> read_record(bool mirror);

  Medium& medium_;
  BlockNumber first_;
  std::uint64_t seed_;
  std::uint64_t sequence_ = 0;
  std::int64_t found_opened_seconds_ = 0;
  std::uint64_t bytes_written_ = 0;
  std::vector<std::byte> buffer_;   // the newest record that was committed, header included
  std::vector<std::byte> staging_;  // the record being written
  std::vector<BlockRun> failed_copies_;
};

}  // namespace daxcow
