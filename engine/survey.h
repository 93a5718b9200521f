// What lies where in a pool, for a picture of it: every block counted by what it is, in cells of equal size, and the
// surroundings of bad blocks one by one.
//
// How many own a block of data is how many ways lead to it from the roots. Each metadata block has as many as the
// blocks that refer to it have together, so one sum for each, from the top, answers that for all data at once, without
// a climb for each block (engine/owners.h). The graveyard leads nowhere.
//
// The mutex is taken for one stretch of the pool at a time; what changes meanwhile may be seen before or after.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/result.h"
#include "engine/store.h"
#include "engine/types.h"

namespace daxcow {

enum class SurveyKind : std::uint8_t {
  kFree,
  kDataOfOne,       // data with one owner
  kDataOfTwo,       // two, of whatever volumes and snapshots
  kDataOfFew,       // 3 to 9
  kDataOfTens,      // 10 to 99
  kDataOfHundreds,  // 100 and more
  kDying,           // data and metadata that is being freed
  kMetadata,
  kMetadataUnused,  // in a metadata chunk, ready for use
  kMirror,          // of metadata, used or not
  kJournal,
  kSuperblock,
  kQuarantined,  // bad, and nobody's
};
inline constexpr std::size_t kSurveyKinds = 13;
const char* name_of(SurveyKind kind);  // "free", "data-1", "data-2", "data-3", "data-10", "data-100", "dying", ...

struct SurveyCell {
  std::array<std::uint64_t, kSurveyKinds> blocks{};
  std::uint64_t bad = 0;     // blocks of the ledger
  std::uint64_t healed = 0;  // blocks that were bad, and were cleared, rewritten or replaced since the pool was opened
};

// A stretch of one kind.
struct SurveySpan {
  BlockRun run;
  SurveyKind kind{};
  std::uint64_t owners = 0;  // of data
};

struct PoolSurvey {
  std::uint64_t pool_blocks = 0;
  std::uint64_t cell_blocks = 0;  // a power of two; the last cell may have fewer
  std::vector<SurveyCell> cells;
  struct Bad {
    BlockNumber block;
    std::uint8_t sectors = 0;
  };
  std::vector<Bad> bad;             // ascending
  std::vector<BlockNumber> healed;  // ascending
  // Around the first bad blocks: kSurroundingBlocks, aligned, for each that has some.
  std::vector<std::vector<SurveySpan>> surroundings;
};
inline constexpr std::uint64_t kSurroundingBlocks = 64;
inline constexpr std::size_t kSurroundingsLimit = 64;

// At most `cells` of them. Reads the reverse map and no block that is bad.
Result<PoolSurvey> survey_of(Store& store, std::size_t cells) EXCLUDES(store.mutex);

}  // namespace daxcow
