// Poison: what the kernel still has of a bad block's content.
//
// A page of any owner in any mount will do, if it is known to be what was in the block: then all owners are given it,
// and nobody has lost anything. If programs may have changed the page since it was read, it is still what they see of
// their own file, so this owner keeps it, and the others are told of a loss.
#include <string>
#include <utility>
#include <vector>

#include "engine/poison.h"
#include "engine/repoint.h"

namespace daxcow {

namespace {

// Looking for a page costs some system calls; those who have lost something should hear of it soon.
constexpr std::size_t kOwnersAsked = 32;

}  // namespace

void Poison::rescue(BlockNumber block) {
  if (store_.read_only()) return;
  const auto owners = find_owners(store_, store_.metadata(), block);
  if (!owners) return;  // told when the loss is reported
  std::vector<OwnerRange> candidates;
  owners->for_each([&](VolumeNumber volume) { return host_.is_mounted(volume); },
                   [&](const OwnerRange& owner) {
                     if (!owner.unwritten && owner.count == 1 && host_.is_remembered(owner.volume, owner.inode))
                       candidates.push_back(owner);
                     return candidates.size() < kOwnersAsked;
                   });
  std::vector<std::pair<OwnerRange, Block>> own_pages;
  for (const OwnerRange& owner : candidates) {
    Block content;
    const Rescue whom = host_.read_page(lost_range(owner, block), content);
    if (whom == Rescue::kOwner) own_pages.emplace_back(owner, content);
    if (whom != Rescue::kAll) continue;
    const auto moved = repoint(store_, block, content);
    if (moved && *moved != 0) return publish_rescued(block, owner, whom);
    if (!moved)
      store_.log("block " + std::to_string(block.value) + " cannot be given a new place: " + describe(moved.error()));
    break;
  }
  for (const auto& [owner, content] : own_pages) {
    const auto restored = host_.restore_page(lost_range(owner, block), content);
    if (restored && *restored) publish_rescued(block, owner, Rescue::kOwner);
    if (!restored)
      store_.log("a page of block " + std::to_string(block.value) +
                 " cannot be written: " + describe(restored.error()));
  }
}

void Poison::publish_rescued(BlockNumber block, const OwnerRange& owner, Rescue whom) {
  record({}, [](format::Roots& roots) { roots.blocks_healed += 1; });
  Event event = event_of_owner(EventKind::kDataRescued, block, owner.volume, owner.inode);
  event.offset_bytes = byte_offset(owner.first);
  event.text = "data rescued: block " + std::to_string(block.value) +
               " went bad, but the kernel still had the page: volume " + event.volume + ", " + event.path + ", byte " +
               std::to_string(event.offset_bytes) +
               (whom == Rescue::kAll ? "; every file that shares it has a good block again"
                                     : "; this file has a good block again");
  publish(std::move(event));
}

}  // namespace daxcow
