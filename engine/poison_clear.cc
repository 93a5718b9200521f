// Poison: making blocks work again. Those with a second copy are rewritten from it, those that nobody refers to are
// cleared and given back to the free space.
#include <algorithm>
#include <string>
#include <utility>

#include "engine/bad_range.h"
#include "engine/poison.h"
#include "engine/repoint.h"

namespace daxcow {

namespace {

constexpr std::uint64_t kClearAtOnce = 32;    // blocks: with their ledger records they fit a transaction with ease
constexpr std::size_t kOwnersInAnEvent = 16;  // of a metadata block that is lost

std::string describe_place(BlockNumber block) { return "block " + std::to_string(block.value); }

}  // namespace

// --- what has a second copy -----------------------------------------------------------------------------------------

void Poison::mend(BlockNumber block) {
  if (store_.read_only()) return;  // reads come from the other copy
  // Recorded until it is rewritten: after a crash in between nobody may take what is in it for the block.
  record({{block, handled_[block]}}, {});
  const auto mended = mend_poisoned(store_, block);
  if (!mended) return could_not_mend(block, mended.error());
  if (*mended == Mended::kLost) return publish_metadata_lost(block);
  record({{block, 0}}, [&](format::Roots& roots) {
    roots.blocks_cleared += 1;
    roots.metadata_repaired += *mended == Mended::kRewritten;
  });
  cannot_clear_.erase(block);
  listed_.erase(block);
  publish_mended(block, *mended, "was poisoned");
}

void Poison::mend_copy(BadCopy copy) {
  const BlockNumber block = place_of_copy(copy);
  if (handled_.contains(block)) return;  // known, and tried
  const auto mended = mend_failed(store_, copy);
  if (!mended && mended.error().code == ErrorCode::kPoisoned) {
    // The next pass sees what the device says of it; if it says nothing, the whole block counts as bad.
    store_.suspect({block, 1});
    return;
  }
  if (!mended) {
    // Nobody lists it, but it must not be used again.
    store_.ledger().set(block, handled_[block] = kWholeBlock);
    record({{block, kWholeBlock}}, {});
    return could_not_mend(block, mended.error());
  }
  if (*mended == Mended::kLost) return publish_metadata_lost(block);
  if (*mended != Mended::kRewritten) return;
  record({}, [](format::Roots& roots) { roots.metadata_repaired += 1; });
  publish_mended(block, *mended, "failed its check");
}

// Its content goes elsewhere, if it may: until then there is one copy of it only.
void Poison::could_not_mend(BlockNumber block, const Error& error) {
  if (cannot_clear_.contains(block)) return;  // tried, and said
  could_not_clear(block, error);
  const BlockNumber primary = copy_at(block).block;
  const auto moved = move_metadata(store_, primary);
  if (!moved && moved.error().code != ErrorCode::kUnsupported)
    store_.log("the metadata in " + describe_place(primary) + " cannot be given another place: " + describe(moved.error()));
  if (!moved || !*moved) return;
  record({}, [](format::Roots& roots) { roots.metadata_repaired += 1; });
  Event event = event_of(EventKind::kMetadataRepaired, block);
  event.text = "what was in " + describe_place(block) + " was given another place, from its other copy";
  publish(std::move(event));
}

void Poison::publish_mended(BlockNumber block, Mended mended, const std::string& why) {
  const bool rewritten = mended == Mended::kRewritten;
  Event event = event_of(rewritten ? EventKind::kMetadataRepaired : EventKind::kBlockCleared, block);
  event.text = describe_place(block) + " " + why +
               (rewritten ? " and was rewritten from its other copy" : " and was cleared; nothing was in it");
  publish(std::move(event));
}

void Poison::publish_metadata_lost(BlockNumber block) {
  const BlockNumber primary = copy_at(block).block;
  if (!metadata_lost_.insert(primary).second) return;
  Event event = event_of(EventKind::kMetadataLost, primary);
  const std::string what = "both copies of metadata " + describe_place(primary) + " are lost";
  const std::string advice = "; restore from a backup what can no longer be read";
  const auto owners = find_owners(store_, store_.metadata(), primary);
  const auto ranges = owners ? owners->expand(kOwnersInAnEvent) : std::vector<OwnerRange>{};
  if (ranges.empty()) {
    event.text = what + advice;
    publish(std::move(event));
    return;
  }
  for (const OwnerRange& range : ranges) {
    event.volume = host_.volume_name(range.volume);
    event.inode = range.inode;
    event.path = range.inode.value != 0 ? host_.path_of(range.volume, range.inode) : "";
    event.text = what + " (" + name_of(range.role) + " of volume " + event.volume + (event.path.empty() ? "" : ", ") +
                 event.path + ")" + advice;
    publish(event);
  }
}

// --- what nobody refers to ------------------------------------------------------------------------------------------

void Poison::clear_ours(const std::set<BlockNumber>& blocks) {
  if (store_.read_only()) return;
  for (auto it = blocks.begin(); it != blocks.end();) {
    BlockRun run{*it, 1};
    for (++it; it != blocks.end() && *it == run.end() && run.count < kClearAtOnce; ++it) ++run.count;
    clear_run(run);
  }
}

void Poison::clear_run(BlockRun run) {
  Sectors ledger, none;
  for (BlockNumber block = run.first; block < run.end(); ++block) {
    ledger.emplace(block, handled_[block]);
    none.emplace(block, 0);
  }
  record(ledger, {});
  if (const auto cleared = clear_and_verify(run); !cleared) {
    if (run.count == 1) return could_not_clear(run.first, cleared.error());
    for (BlockNumber block = run.first; block < run.end(); ++block) clear_run({block, 1});
    return;
  }
  // Without the change of the ledger they stay ours, and are cleared again at the next open.
  if (!record(none, [&](format::Roots& roots) { roots.blocks_cleared += run.count; })) return;
  for (BlockNumber block = run.first; block < run.end(); ++block) {
    ours_.erase(block);
    cannot_clear_.erase(block);
    listed_.erase(block);
  }
  store_.space().release(run);
  for (BlockNumber block = run.first; block < run.end(); ++block) {
    Event event = event_of(EventKind::kBlockCleared, block);
    event.text = describe_place(block) + " was cleared on the device and is free again";
    publish(std::move(event));
  }
}

Result<> Poison::clear_and_verify(BlockRun run) {
  TRY(store_.medium().clear_bad(run));
  for (BlockNumber block = run.first; block < run.end(); ++block) {
    Block content;
    TRY(store_.medium().read(byte_offset(block), content.bytes));
  }
  if (overlaps(normalise(TRY(store_.medium().bad_ranges())), range_of(run)))
    return fail(ErrorCode::kIo, "the device still lists it as bad");
  return {};
}

void Poison::could_not_clear(BlockNumber block, const Error& error) {
  if (!cannot_clear_.insert(block).second) return;
  Event event = event_of(EventKind::kClearFailed, block);
  event.text = describe_place(block) + " cannot be cleared and stays out of use: " + describe(error);
  publish(std::move(event));
}

}  // namespace daxcow
