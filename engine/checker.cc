#include "engine/checker.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "engine/check_context.h"
#include "engine/check_copies.h"
#include "engine/check_records.h"
#include "engine/check_trees.h"
#include "engine/check_volume.h"
#include "engine/checksum.h"
#include "engine/journal.h"
#include "engine/overlay_medium.h"
#include "engine/pool.h"
#include "engine/store.h"

namespace daxcow {

using checker::Context;
using format::BlockType;
using format::Superblock;

namespace {

constexpr std::uint64_t kCacheBytes = 256ull << 20;
constexpr std::uint64_t kMaximumDeviceBlocks =
    1'000'000;  // bad blocks that are looked for; a device with more is lost anyway

std::uint64_t used_blocks(const Metadata& metadata) {
  std::uint64_t used = 0;
  for (const BlockNumber base : metadata.chunks())
    for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i)
      used += metadata.descriptor(base + i).type != BlockType::kFree;
  return used;
}

// What the device says beyond what the ledger says: nobody has reacted to it yet.
void add_device_list(Context& context) {
  const auto ranges = context.medium.bad_ranges();
  if (!ranges) return;  // not every medium has one
  std::uint64_t added = 0;
  for (const BadRange& range : *ranges) {
    const std::uint64_t end = std::min(blocks_for(range.offset_bytes + range.length_bytes), context.pool_blocks);
    for (std::uint64_t block = range.offset_bytes / kBlockBytes; block < end && added < kMaximumDeviceBlocks;
         ++block, ++added)
      context.bad.add(BlockNumber(block), false);
  }
}

// The allocators of an open pool against the reverse map: free is what no record covers.
void check_space(Context& context, Store& store, const std::vector<BlockRun>& unrecorded) {
  std::uint64_t free_data = 0;
  auto whole = unrecorded.begin();
  for (const BlockRun& run : store.space().free_runs()) {
    free_data += run.count;
    while (whole != unrecorded.end() && whole->end() <= run.first) ++whole;
    if (whole == unrecorded.end() || run.first < whole->first || run.end() > whole->end())
      context.findings.add(FindingKind::kUnused, Severity::kRepairable, run.first, "free space",
                           "of " + std::to_string(run.count) + " blocks to be handed out some have references");
  }
  const std::uint64_t payload = store.metadata().chunks().size() * format::kChunkPayload;
  const std::uint64_t free_metadata = payload - context.report.metadata_blocks;
  const std::uint64_t all = context.report.free_blocks + free_metadata;
  const std::uint64_t known = free_data + store.metadata().free_count() + store.retired_blocks();
  // The store may keep a chunk in reserve.
  if (all != known && all != known + format::kChunkBlocks)
    context.findings.add(FindingKind::kUnreachable, Severity::kNote, BlockNumber(0), "free space",
                         std::to_string(all) + " blocks have no reference, " + std::to_string(known) +
                             " are known to be free; opening the pool anew corrects it");
}

// All of the check but how the pool was opened. `store`: null if it is not.
void check_all(Context& context, Store* store) {
  context.work_total = 2 * used_blocks(context.metadata);
  checker::ReverseScan reverse(context);
  reverse.scan();
  add_device_list(context);
  context.bad.sort();
  checker::check_copies(context);
  checker::TreeWalk trees(context, reverse.empty_tally());
  trees.walk();
  reverse.compare(trees.tally(), [&](checker::ReverseScan::Visit visit) { trees.for_each_record(visit); });
  checker::VolumeChecks(context, trees).run();
  if (store != nullptr) check_space(context, *store, reverse.free_runs());
  if (context.options.progress) context.options.progress(context.work_total, context.work_total);
}

Finding damage(FindingKind kind, BlockNumber block, std::string where, const Error& error) {
  return {kind, Severity::kLoss, block, std::move(where), describe(error), usual_remedy(kind, Severity::kLoss)};
}

// Applies the journal to the overlay. Returns whether that changed anything: the newest record is usually home already.
Result<bool> replay(Medium& overlay, const Superblock& superblock) {
  Journal journal(overlay, format::kJournalChunk, journal_seed(superblock));
  const auto recovered = TRY(journal.recover(Journal::Copies::kLeave));
  return journal.apply(recovered, [](BlockNumber, bool) {});  // poison: said of the copy as a whole
}

}  // namespace

Result<CheckReport> check(Pool& pool, const CheckOptions& options) {
  Store& store = pool.store();
  const LockGuard guard(store.mutex);
  CheckReport report;
  Context context(store.medium(), store.metadata(), store.superblock(), options, report);
  if (const auto verified = store.reverse_map().verify(store.metadata()); !verified)
    context.findings.add(FindingKind::kRecordOrder, Severity::kRepairable, BlockNumber(0),
                         "reverse map, index in memory", describe(verified.error()));
  check_all(context, &store);
  return report;
}

// Without a Store: that would not open where there is most to say, and keeps nothing that the check needs.
Result<CheckReport> check(std::unique_ptr<Medium> medium, const CheckOptions& options) {
  OverlayMedium overlay(std::move(medium));
  CheckReport report;
  const auto stop = [&report](Finding finding) {
    report.findings.insert(report.findings.begin(), std::move(finding));
    ++report.finding_count;
    return std::move(report);
  };
  const auto superblock = Store::read_superblock(overlay);
  if (!superblock) {
    if (superblock.error().code != ErrorCode::kDamaged) return std::unexpected(superblock.error());
    return stop(damage(FindingKind::kSuperblock, format::kSuperblockPrimary, "superblock", superblock.error()));
  }
  const auto replayed = replay(overlay, *superblock);
  if (!replayed) return stop(damage(FindingKind::kChecksum, format::kJournalChunk, "journal", replayed.error()));
  report.journal_replayed = *replayed;

  Metadata metadata(overlay, kCacheBytes);
  const auto loaded = metadata.load_chunks(format::kFirstChunk);
  Context context(overlay, metadata, *superblock, options, report);
  if (!loaded) {
    // Without all chunks nothing can be said of what refers to what.
    checker::check_copies(context);
    return stop(damage(FindingKind::kChunk, metadata.chunks().empty() ? format::kFirstChunk : metadata.last_chunk(),
                       "metadata chunks", loaded.error()));
  }
  check_all(context, nullptr);
  return report;
}

}  // namespace daxcow
