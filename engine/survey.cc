#include "engine/survey.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <set>
#include <unordered_map>
#include <utility>

#include "engine/events.h"
#include "engine/metadata.h"
#include "engine/record_key.h"

namespace daxcow {

using format::BlockType;
using format::RecordKind;
using format::ReverseRecord;

namespace {

constexpr std::uint64_t kStretchBlocks = 1 << 16;  // looked at under the mutex at a time
constexpr std::uint64_t kMost = 1'000'000'000;     // ways; more are not counted
constexpr unsigned kDeepest = 64;                  // levels, of any sound pool: an image may have circles

SurveyKind kind_of_data(std::uint64_t owners) {
  if (owners == 0) return SurveyKind::kDying;
  if (owners == 1) return SurveyKind::kDataOfOne;
  if (owners == 2) return SurveyKind::kDataOfTwo;
  if (owners < 10) return SurveyKind::kDataOfFew;
  return owners < 100 ? SurveyKind::kDataOfTens : SurveyKind::kDataOfHundreds;
}

// How many ways lead from the roots to a metadata block.
class Ways {
 public:
  explicit Ways(Store& store) : store_(store) {}

  // The references between metadata blocks.
  Result<> read() {
    std::vector<BlockNumber> chunks;
    {
      const LockGuard guard(store_.mutex);
      chunks = store_.metadata().chunks();
    }
    for (const BlockNumber base : chunks) {
      const LockGuard guard(store_.mutex);
      TRY(store_.reverse_map().for_each_covering(
          store_.metadata(), {base, format::kChunkBlocks}, [&](const ReverseRecord& record) {
            if (record.kind == RecordKind::kTree)
              for (std::uint64_t i = 0; i < std::min(record.length_blocks, format::kChunkBlocks); ++i)
                holders_[BlockNumber(record.first + i)].push_back(BlockNumber(record.source));
            return true;
          }));
    }
    return {};
  }

  std::uint64_t to(BlockNumber block, unsigned depth = 0) {
    if (block == format::kRootsBlock) return 1;
    if (const auto known = ways_.find(block); known != ways_.end()) return known->second;
    std::uint64_t ways = 0;
    if (depth < kDeepest && store_.metadata().descriptor(block).type != BlockType::kGraveyard)
      if (const auto holders = holders_.find(block); holders != holders_.end())
        for (const BlockNumber holder : holders->second) ways = std::min(kMost, ways + to(holder, depth + 1));
    ways_[block] = ways;
    return ways;
  }

 private:
  Store& store_;
  std::unordered_map<BlockNumber, std::vector<BlockNumber>> holders_;
  std::unordered_map<BlockNumber, std::uint64_t> ways_;
};

class Survey {
 public:
  Survey(Store& store, std::size_t cells) : store_(store), ways_(store) {
    survey_.pool_blocks = store.pool_blocks();
    const std::uint64_t least = (survey_.pool_blocks + cells - 1) / std::max<std::size_t>(cells, 1);
    survey_.cell_blocks = std::bit_ceil(std::max<std::uint64_t>(least, 1));
    survey_.cells.resize((survey_.pool_blocks + survey_.cell_blocks - 1) / survey_.cell_blocks);
  }

  Result<PoolSurvey> run() {
    note_bad();
    note_healed();
    TRY(ways_.read());
    for (std::uint64_t at = 0; at < survey_.pool_blocks; at += kStretchBlocks)
      TRY(look_at({BlockNumber(at), std::min(kStretchBlocks, survey_.pool_blocks - at)}));
    return std::move(survey_);
  }

 private:
  SurveyCell& cell_of(BlockNumber block) { return survey_.cells[block.value / survey_.cell_blocks]; }

  void note_bad() {
    std::set<std::uint64_t> windows;
    for (const auto& [block, sectors] : store_.ledger().all()) {
      if (block.value >= survey_.pool_blocks) continue;
      survey_.bad.push_back({block, sectors});
      ++cell_of(block).bad;
      if (windows.size() < kSurroundingsLimit) windows.insert(block.value / kSurroundingBlocks);
    }
    for (const std::uint64_t window : windows) windows_.push_back(window * kSurroundingBlocks);
    survey_.surroundings.resize(windows_.size());
  }

  void note_healed() {
    std::set<BlockNumber> healed;
    for (const Event& event : store_.events().after(0, EventLog::kCapacity, 0))
      if ((event.kind == EventKind::kDataHealed || event.kind == EventKind::kBlockCleared ||
           event.kind == EventKind::kMetadataRepaired || event.kind == EventKind::kDataRescued) &&
          event.block.value < survey_.pool_blocks && store_.ledger().mask(event.block) == 0)
        healed.insert(event.block);
    for (const BlockNumber block : healed) ++cell_of(block).healed;
    survey_.healed.assign(healed.begin(), healed.end());
  }

  // What the records of a stretch say. Data is where ways begin and end; everything else has its own place.
  Result<> look_at(BlockRun stretch) {
    std::vector<std::pair<std::uint64_t, std::int64_t>> changes;  // of the number of owners, from a block on
    std::vector<std::pair<std::uint64_t, int>> covered;           // likewise of references
    std::vector<SurveySpan> placed;
    {
      const LockGuard guard(store_.mutex);
      TRY(store_.reverse_map().for_each_covering(store_.metadata(), stretch, [&](const ReverseRecord& record) {
        const std::uint64_t first = std::max(record.first, stretch.first.value);
        const std::uint64_t end = std::min(record.first + record.length_blocks, stretch.end().value);
        if (first >= end) return true;
        const BlockRun run{BlockNumber(first), end - first};
        if (record.kind == RecordKind::kSystem) {
          place_system(run, placed);
        } else if (record.kind == RecordKind::kLedger) {
          ledger_.insert(first);
        } else if (!store_.metadata().in_chunk(run.first)) {
          const auto owners =
              static_cast<std::int64_t>(record.kind == RecordKind::kTree ? ways_.to(BlockNumber(record.source)) : 0);
          changes.emplace_back(first, owners);
          changes.emplace_back(end, -owners);
          covered.emplace_back(first, 1);
          covered.emplace_back(end, -1);
        }
        return true;
      }));
    }
    place_data(changes, covered, placed);
    // What has no record at all is free, but for what the ledger holds.
    std::ranges::sort(placed, {}, [](const SurveySpan& span) { return span.run.first; });
    BlockNumber at = stretch.first;
    for (SurveySpan span : placed) {
      if (at < span.run.first) place_unreferenced({at, span.run.first - at});
      if (span.run.end() <= at) continue;  // records of an unsound pool may overlap: each block counts once
      if (span.run.first < at) span.run = {at, span.run.end() - at};
      add(span);
      at = span.run.end();
    }
    if (at < stretch.end()) place_unreferenced({at, stretch.end() - at});
    ledger_.clear();
    return {};
  }

  void place_system(BlockRun run, std::vector<SurveySpan>& placed) {
    if (run.first == format::kSuperblockPrimary || run.first.value == survey_.pool_blocks - 1) {
      placed.push_back({{run.first, run.count}, SurveyKind::kSuperblock});
      return;
    }
    if (run.first >= format::kJournalChunk && run.first < format::kJournalChunk + format::kChunkBlocks) {
      placed.push_back({run, SurveyKind::kJournal});
      return;
    }
    for (BlockNumber block = run.first; block < run.end(); ++block) {
      const BlockNumber base = Metadata::chunk_base(block);
      SurveyKind kind = SurveyKind::kMirror;
      if (block - base < format::kMirrorBlocks) {
        const bool used = block == base || store_.metadata().descriptor(block).type != BlockType::kFree;
        kind = used ? SurveyKind::kMetadata : SurveyKind::kMetadataUnused;
      }
      if (!placed.empty() && placed.back().kind == kind && placed.back().run.end() == block)
        ++placed.back().run.count;
      else
        placed.push_back({{block, 1}, kind});
    }
  }

  static void place_data(std::vector<std::pair<std::uint64_t, std::int64_t>>& changes,
                         std::vector<std::pair<std::uint64_t, int>>& covered, std::vector<SurveySpan>& placed) {
    std::ranges::sort(changes);
    std::ranges::sort(covered);
    std::int64_t owners = 0;
    int references = 0;
    std::size_t next_covered = 0;
    for (std::size_t i = 0; i < changes.size();) {
      const std::uint64_t at = changes[i].first;
      for (; i < changes.size() && changes[i].first == at; ++i) owners += changes[i].second;
      for (; next_covered < covered.size() && covered[next_covered].first <= at; ++next_covered)
        references += covered[next_covered].second;
      if (references == 0 || i == changes.size()) continue;
      const auto count = static_cast<std::uint64_t>(owners);
      placed.push_back({{BlockNumber(at), changes[i].first - at}, kind_of_data(count), count});
    }
  }

  void place_unreferenced(BlockRun run) {
    for (auto bad = ledger_.lower_bound(run.first.value); run.count != 0;) {
      if (bad == ledger_.end() || *bad >= run.end().value) return add({run, SurveyKind::kFree});
      const BlockNumber block(*bad);
      if (run.first < block) add({{run.first, block - run.first}, SurveyKind::kFree});
      add({{block, 1}, SurveyKind::kQuarantined});
      run = {block + 1, run.end() - (block + 1)};
      ++bad;
    }
  }

  void add(const SurveySpan& span) {
    for (BlockRun rest = span.run; rest.count != 0;) {
      const std::uint64_t room = survey_.cell_blocks - rest.first.value % survey_.cell_blocks;
      const std::uint64_t count = std::min(room, rest.count);
      cell_of(rest.first).blocks[static_cast<std::size_t>(span.kind)] += count;
      rest = {rest.first + count, rest.count - count};
    }
    auto window = std::ranges::upper_bound(windows_, span.run.first.value);
    if (window != windows_.begin()) --window;
    for (; window != windows_.end() && *window < span.run.end().value; ++window) {
      const std::uint64_t first = std::max(*window, span.run.first.value);
      const std::uint64_t end = std::min(*window + kSurroundingBlocks, span.run.end().value);
      if (first < end)
        survey_.surroundings[static_cast<std::size_t>(window - windows_.begin())].push_back(
            {{BlockNumber(first), end - first}, span.kind, span.owners});
    }
  }

  Store& store_;
  Ways ways_;
  PoolSurvey survey_;
  std::vector<std::uint64_t> windows_;  // first blocks of the surroundings
  std::set<std::uint64_t> ledger_;      // of the stretch
};

}  // namespace

const char* name_of(SurveyKind kind) {
  switch (kind) {
    case SurveyKind::kFree:
      return "free";
    case SurveyKind::kDataOfOne:
      return "data-1";
    case SurveyKind::kDataOfTwo:
      return "data-2";
    case SurveyKind::kDataOfFew:
      return "data-3";
    case SurveyKind::kDataOfTens:
      return "data-10";
    case SurveyKind::kDataOfHundreds:
      return "data-100";
    case SurveyKind::kDying:
      return "dying";
    case SurveyKind::kMetadata:
      return "metadata";
    case SurveyKind::kMetadataUnused:
      return "metadata-unused";
    case SurveyKind::kMirror:
      return "mirror";
    case SurveyKind::kJournal:
      return "journal";
    case SurveyKind::kSuperblock:
      return "superblock";
    case SurveyKind::kQuarantined:
      return "quarantined";
  }
  return "unknown";
}

Result<PoolSurvey> survey_of(Store& store, std::size_t cells) { return Survey(store, cells).run(); }

}  // namespace daxcow
