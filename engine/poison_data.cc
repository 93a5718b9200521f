// Poison: telling people and owners what is lost, and what was healed.
#include <bit>
#include <string>
#include <utility>
#include <vector>

#include "engine/poison.h"

namespace daxcow {

namespace {

constexpr std::size_t kRecordsAtOnce = 32;      // ledger records in a transaction
constexpr std::size_t kEventsForABlock = 1000;      // owners that get an event of their own
constexpr std::size_t kToldOfABlock = 1'000'000;  // ranges that mounts are told of; to the others access fails, no more

// A maximal run of set bits.
struct SectorRun {
  unsigned first = 0, count = 0;
};
std::vector<SectorRun> sector_runs(std::uint8_t sectors) {
  std::vector<SectorRun> runs;
  for (unsigned first = 0; sectors >> first != 0;) {
    first += static_cast<unsigned>(std::countr_zero(static_cast<unsigned>(sectors >> first)));
    const auto count = static_cast<unsigned>(std::countr_one(static_cast<unsigned>(sectors >> first)));
    runs.push_back({first, count});
    first += count;
  }
  return runs;
}

std::string describe_range(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  return "bytes " + std::to_string(offset_bytes) + "-" + std::to_string(offset_bytes + length_bytes - 1);
}

}  // namespace

LostRange lost_range(const OwnerRange& owner, BlockNumber block) {
  return {.volume = owner.volume,
          .inode = owner.inode,
          .offset_bytes = byte_offset(owner.first),
          .length_bytes = owner.count * kBlockBytes,
          .block = block};
}

Event Poison::event_of_owner(EventKind kind, BlockNumber block, VolumeNumber volume, InodeNumber inode) {
  Event event = event_of(kind, block);
  event.volume = host_.volume_name(volume);
  event.inode = inode;
  event.path = host_.path_of(volume, inode);
  return event;
}

// One event for each stretch of bad bytes.
void Poison::publish_found(const Sectors& bad) {
  BadRange found;
  const auto flush = [&] {
    if (found.length_bytes == 0) return;
    Event event = event_of(EventKind::kPoisonFound, BlockNumber(found.offset_bytes / kBlockBytes));
    event.offset_bytes = found.offset_bytes;
    event.length_bytes = found.length_bytes;
    event.text = "poison in block " + std::to_string(event.block.value) + " (" +
                 describe_range(found.offset_bytes, found.length_bytes) + " of the pool)";
    publish(std::move(event));
  };
  for (const auto& [block, sectors] : bad) {
    for (const SectorRun& run : sector_runs(sectors)) {
      const std::uint64_t offset = byte_offset(block) + run.first * kSectorBytes;
      if (found.length_bytes == 0 || found.offset_bytes + found.length_bytes != offset) {
        flush();
        found = {offset, 0};
      }
      found.length_bytes += run.count * kSectorBytes;
    }
  }
  flush();
}

void Poison::lose(const Sectors& lost) {
  for (auto it = lost.begin(); it != lost.end();) {
    Sectors ledger, fresh;
    for (; it != lost.end() && ledger.size() < kRecordsAtOnce; ++it) {
      ledger.emplace(it->first, handled_[it->first]);
      fresh.insert(*it);
    }
    record(ledger, {});
    std::uint64_t blocks = 0;
    for (const auto& [block, sectors] : fresh) {
      rescue(block);
      const bool told = report_loss(block, sectors);
      blocks += told && sectors == ledger[block];  // not one of which more is lost than before
    }
    if (blocks != 0) record({}, [blocks](format::Roots& roots) { roots.blocks_lost += blocks; });
  }
}

// Returns whether anybody has lost anything.
bool Poison::report_loss(BlockNumber block, std::uint8_t sectors) {
  const auto owners = find_owners(store_, store_.metadata(), block);
  if (!owners) {
    store_.log("block " + std::to_string(block.value) +
               " is lost; its owners cannot be found: " + describe(owners.error()));
    return true;
  }
  // Who has only reserved the space (unwritten) has lost nothing.
  std::size_t told = 0;
  bool more = false;
  std::vector<OwnerRange> mounted;
  owners->for_each([](VolumeNumber) { return true; },
                   [&](const OwnerRange& owner) {
                     if (owner.unwritten) return true;
                     more = told == kEventsForABlock;
                     if (!more) publish_lost(block, sectors, owner);
                     ++told;
                     return !more;
                   });
  if (more) {
    Event event = event_of(EventKind::kDataLost, block);
    event.text = "data lost in block " + std::to_string(block.value) +
                 ": it has more owners than are listed here; see daxcow owners " + std::to_string(byte_offset(block));
    publish(std::move(event));
  }
  std::size_t ranges = 0;
  owners->for_each([&](VolumeNumber volume) { return host_.is_mounted(volume); },
                   [&](const OwnerRange& owner) {
                     if (owner.unwritten || !host_.is_remembered(owner.volume, owner.inode)) return true;
                     host_.on_lost(lost_range(owner, block));
                     return ++ranges < kToldOfABlock;
                   });
  return told != 0;
}

void Poison::publish_lost(BlockNumber block, std::uint8_t sectors, const OwnerRange& owner) {
  Event event = event_of_owner(EventKind::kDataLost, block, owner.volume, owner.inode);
  for (const SectorRun& run : sector_runs(sectors)) {
    event.offset_bytes = byte_offset(owner.first) + run.first * kSectorBytes;
    event.length_bytes = run.count * kSectorBytes;
    event.text = "data lost: " + event.path + " of volume " + event.volume + ", " +
                 describe_range(event.offset_bytes, event.length_bytes) +
                 ": reading them fails from now on; restore or overwrite this range, punch a hole, or remove the file";
    publish(event);
  }
}

void Poison::publish_healed() {
  std::vector<Mailbox::Healed> healed;
  {
    const LockGuard guard(mailbox_->mutex);
    healed.swap(mailbox_->healed);
  }
  if (healed.empty()) return;
  record({}, [&](format::Roots& roots) { roots.blocks_healed += healed.size(); });
  for (const Mailbox::Healed& one : healed) {
    Event event = event_of_owner(EventKind::kDataHealed, one.block, one.volume, one.inode);
    event.offset_bytes = one.offset_bytes;
    event.length_bytes = one.length_bytes;
    event.text = "data healed: volume " + event.volume + ", " + event.path + ", " +
                 describe_range(one.offset_bytes, one.length_bytes) + " was replaced by its owner";
    publish(std::move(event));
  }
}

}  // namespace daxcow
