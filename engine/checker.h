// The complete read-only check of a pool: every checksum of both copies, every structure, and that the reverse map
// equals the set of references found by walking all trees.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/medium.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

enum class FindingKind {
  kSuperblock,     // a copy of the superblock is bad or differs
  kChunk,          // a chunk header is bad
  kChecksum,       // both copies of a metadata block fail
  kCopy,           // one of the two copies of a metadata block is bad or differs
  kType,           // a reference points to a block of another type
  kUnreachable,    // a metadata block has a type but nothing refers to it
  kUnused,         // a reference points to a metadata block that is free
  kOutOfRange,     // a reference leaves the pool or enters metadata
  kMissingRecord,  // a reference that the reverse map does not have
  kExtraRecord,    // a reverse-map record without a reference
  kRecordOrder,    // leaves overlap or are inconsistent
  kMapShape,       // a map entry that makes no sense, or a collapsible/empty node where the format forbids it
  kInode,          // an inode's fields make no sense
  kBlockCount,     // an inode's block count is wrong
  kLinkCount,      //
  kDirectory,      // an entry that makes no sense, a duplicate name, a wrong count
  kParent,         // a parent link that does not lead to an entry
  kOrphan,         // an inode without a name that is not in the orphan list, or the other way
  kFullHint,       // a "full" hint above a free inode
  kAttributes,     // an attribute fork that makes no sense
  kVolume,         // the volume table is inconsistent
  kPoisoned,       // a block in use is listed as bad (a loss, not an inconsistency)
};
const char* name_of(FindingKind kind);

enum class Severity { kNote, kRepairable, kLoss };

// What repair (engine/repair.h) does about a finding.
enum class Remedy {
  kNone,          // nothing: there is nothing to be done
  kCopy,          // writes it again from its other copy, or from what is known
  kCorrect,       // corrects it from what it counts or names
  kRecords,       // makes the reverse map say what the trees say
  kLedger,        // enters the block into the ledger
  kLostAndFound,  // gives it a name in lost+found
  kRebuild,       // rebuilds it from the reverse map and from what leads to it; what cannot be known is lost
  kFree,          // gives the block back
  kRemove,        // removes the reference, entry or attribute: what it led to is lost already
  kUnrepairable,  // nothing: it cannot be repaired
};
const char* describe(Remedy remedy);  // "write it again from its other copy"
const char* name_of(Remedy remedy);   // one word
// True if the remedy loses nothing and needs nobody's decision.
bool is_safe(Remedy remedy);

struct Finding {
  FindingKind kind{};
  Severity severity{};
  BlockNumber block;
  std::string where;  // volume, path, inode: for people
  std::string what;
  Remedy remedy = Remedy::kNone;
};
// What is done about findings of this kind if nothing else is known of them.
Remedy usual_remedy(FindingKind kind, Severity severity);

struct CheckReport {
  std::vector<Finding> findings;  // at most kMaximumFindings are kept
  std::uint64_t finding_count = 0;
  std::uint64_t volumes = 0, inodes = 0, directories = 0, metadata_blocks = 0, data_blocks = 0, shared_blocks = 0;
  std::uint64_t free_blocks = 0, records = 0, ledger_blocks = 0;
  bool journal_replayed = false;  // the check saw the pool as the next open would
  // No finding but notes and losses that the ledger knows of.
  bool clean() const;
  static constexpr std::size_t kMaximumFindings = 10'000;
};

struct CheckOptions {
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;  // may be empty
};

class Pool;
// Checks a pool that is open (in any mode) and quiet: nothing may change it meanwhile. Never writes.
Result<CheckReport> check(Pool& pool, const CheckOptions& options);
// Opens the medium read-only in DRAM terms (replays the journal in memory, writes nothing) and checks.
Result<CheckReport> check(std::unique_ptr<Medium> medium, const CheckOptions& options);

}  // namespace daxcow
