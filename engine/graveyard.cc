#include "engine/graveyard.h"

#include <algorithm>
#include <utility>

namespace daxcow {

using format::BlockType;
using format::InodeRecord;
using format::kMapFanout;
using format::LeafKind;

// Each entry has a slot in a metadata block of its own. More of them, or one without a block, is damage, and no reason to
// count down from 2^63.
Result<std::uint64_t> PoolGraveyard::entry_count(const InodeRecord& inode) const {
  if (inode.size_bytes > store_.metadata().block_count() * kMapFanout)
    return fail(ErrorCode::kDamaged, "the list of what deleted files leave behind has an impossible length; run fsck.daxcow");
  return inode.size_bytes;
}

Result<std::uint64_t*> PoolGraveyard::edit_entry(Transaction& transaction, ForkEdit fork, std::uint64_t index) {
  return &TRY(edit_leaf(transaction, fork, FileBlock(index / kMapFanout), *this))->as<format::MapNode>()[index % kMapFanout];
}

Result<> PoolGraveyard::bury(Transaction& transaction, MapEntry entry, std::uint8_t log512) {
  InodeRecord* inode = TRY(table_.edit(transaction, format::kGraveyardInode));
  const std::uint64_t index = TRY(entry_count(*inode));
  *TRY(edit_entry(transaction, edit_data_fork(*inode, LeafKind::kGraveyard), index)) = entry.plain().with_level(log512).raw;
  inode->size_bytes = index + 1;
  return {};
}

Result<> PoolGraveyard::bury_fork(Transaction& transaction, ForkEdit fork) {
  const auto log512 = static_cast<std::uint8_t>(*fork.level - 1);
  for (std::uint64_t* slot = fork.slots; slot != fork.slots + format::kRootSlots; ++slot) {
    const MapEntry entry{*slot};
    // Inode blocks hold references of their own and may be large below.
    if (entry.present() && (entry.is_node() || fork.kind == LeafKind::kInodes)) TRY(bury(transaction, entry, log512));
    *slot = 0;
  }
  *fork.level = 1;
  if (fork.block_count) *fork.block_count = 0;
  return {};
}

// What `entry` refers to takes its place: child nodes, inode blocks, and the roots of the inodes in an inode block. The
// leaves without references of their own are freed with their parent.
Result<> PoolGraveyard::bury_children(Transaction& transaction, MapEntry entry, std::uint8_t log512) {
  const format::BlockDescriptor descriptor = transaction.descriptor(entry.block());
  if (entry.is_node()) {
    if (descriptor.level != log512 || log512 == 0) return fail(ErrorCode::kDamaged, "a dropped map node has another level");
    const BlockPtr node = TRY(transaction.read(entry.block(), BlockType::kMapNode));
    for (const std::uint64_t raw : node->as<format::MapNode>()) {
      const MapEntry child{raw};
      if (!child.present()) continue;
      if (child.is_node() || descriptor.leaf_kind == LeafKind::kInodes)
        TRY(bury(transaction, child, static_cast<std::uint8_t>(log512 - 1)));
    }
  } else if (descriptor.type == BlockType::kInodes) {
    const BlockPtr block = TRY(transaction.read(entry.block(), BlockType::kInodes));
    for (std::uint64_t slot = 0; slot < slot_count(BlockType::kInodes); ++slot) {
      const SlotView view = slot_at(BlockType::kInodes, 0, *block, slot);
      if (view.entry.present() && view.entry.is_node()) TRY(bury(transaction, view.entry, view.log512));
    }
  }
  return {};
}

Result<> PoolGraveyard::set_aside(std::uint64_t index, std::uint64_t entry) {
  return store_.run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
    InodeRecord* inode = TRY(table_.edit(transaction, format::kGraveyardInode));
    const ForkEdit fork = edit_data_fork(*inode, LeafKind::kGraveyard);
    if (TRY(entry_count(*inode)) <= index || index < stuck_) return Step::kDone;
    std::uint64_t* from = TRY(edit_entry(transaction, fork, index));
    std::uint64_t* to = TRY(edit_entry(transaction, fork, stuck_));
    if (*from != entry) return Step::kDone;  // another thread was here first
    std::swap(*from, *to);
    transaction.on_commit([this] { ++stuck_; });
    return Step::kDone;
  });
}

Result<bool> PoolGraveyard::step() {
  bool any = false;
  std::uint64_t index = 0, taken = 0;
  const auto done = store_.run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
    any = false;
    InodeRecord* inode = TRY(table_.edit(transaction, format::kGraveyardInode));
    if (TRY(entry_count(*inode)) <= stuck_) return Step::kDone;
    index = inode->size_bytes - 1;
    const FileBlock leaf(index / kMapFanout);
    ForkEdit fork = edit_data_fork(*inode, LeafKind::kGraveyard);
    if (!TRY(entry_at(transaction, data_fork(*inode, LeafKind::kGraveyard), leaf)).present())
      return fail(ErrorCode::kDamaged, "the list of what deleted files leave behind has a hole; run fsck.daxcow");
    any = true;
    auto& entries = TRY(edit_leaf(transaction, fork, leaf, *this))->as<format::MapNode>();
    // Damage may have left entries empty.
    while (!MapEntry{entries[index % kMapFanout]}.present() && index % kMapFanout != 0 && index > stuck_) --index;
    taken = std::exchange(entries[index % kMapFanout], 0);
    const MapEntry entry{taken};
    inode->size_bytes = index;
    // The stack shrinks before it may grow again: at most one block more than needed now.
    if (entry.present() && TRY(transaction.references_before(entry.block(), 2)) < 2)
      TRY(bury_children(transaction, entry, entry.graveyard_level()));
    const std::uint64_t used = (inode->size_bytes + kMapFanout - 1) / kMapFanout;
    if (used <= leaf.value) TRY(clear(transaction, fork, {leaf, 1}, *this));
    return Step::kDone;
  });
  if (!done && done.error().code == ErrorCode::kDamaged && any) {
    store_.log("space of deleted files cannot be given back: " + describe(done.error()));
    TRY(set_aside(index, taken));
    return true;
  }
  TRY(done);
  return any;
}

}  // namespace daxcow
