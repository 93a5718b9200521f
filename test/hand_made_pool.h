// A pool without the layers above Store: volumes, inode tables and files put together by hand in transactions, so that
// tests of what looks at references do not depend on the code that normally makes them.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "catch.h"
#include "engine/map.h"
#include "engine/medium_dram.h"
#include "engine/store.h"

namespace daxcow::test {

template <class T>
T must(Result<T>&& result) {
  if (!result) FAIL(describe(result.error()));
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

// Nothing is ever big enough to be buried here.
class NoGraveyard : public Graveyard {
 public:
  Result<> bury(Transaction&, MapEntry, std::uint8_t) override { return fail(ErrorCode::kUnsupported); }
};

class HandMadePool {
 public:
  explicit HandMadePool(std::uint64_t bytes = 32ull << 20) {
    auto medium = must(DramMedium::create(bytes));
    must(Store::format(*medium, "test"));
    open(std::move(medium));
  }
  virtual ~HandMadePool() = default;

  void open(std::unique_ptr<DramMedium> new_medium) {
    store.reset();
    medium = new_medium.get();
    store = must(Store::open(std::move(new_medium), {}));
  }
  // As after a crash: what is on the medium now, opened again. Bad blocks stay bad.
  void reopen() {
    const auto bad = must(medium->bad_ranges());
    auto again = must(DramMedium::from_image(medium->snapshot()));
    for (const BadRange& range : bad) again->inject(range);
    open(std::move(again));
  }

  template <class Body>
  void change(Body body) {
    must(store->run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
      TRY(body(transaction));
      return Step::kDone;
    }));
  }

  // Gives a volume's inode table, or volume 0's, an inode block at `table_block` (0..7: root slots only).
  BlockNumber add_inode_block(VolumeNumber volume, std::uint64_t table_block) {
    BlockNumber made;
    change([&](Transaction& transaction) -> Result<> {
      made = TRY(transaction.allocate(format::BlockType::kInodes, 0, format::LeafKind::kData));
      format::InodeRecord& root = *TRY(table_root(transaction, volume));
      root.data[table_block] = MapEntry::leaf(made, false).raw;
      return {};
    });
    return made;
  }

  // The inode of a volume's table: in the roots block for volume 0, else in volume 0.
  Result<format::InodeRecord*> table_root(Transaction& transaction, VolumeNumber volume) {
    if (volume.value == 0) {
      auto& root = TRY(transaction.edit(format::kRootsBlock, format::BlockType::kRoots))
      ->as<format::Roots>().volume_zero;
      root.mode = S_IFDIR | 0755;
      if (root.data_level == 0) root.data_level = root.attribute_level = 1;
      return &root;
    }
    return edit_inode(transaction, VolumeNumber(0), volume);
  }

  // Root slots only.
  Result<format::InodeRecord*> edit_inode(Transaction& transaction, VolumeNumber volume, InodeNumber inode) {
    const format::InodeRecord& root = *TRY(table_root(transaction, volume));
    const MapEntry entry{root.data[inode.value / format::kInodesPerBlock]};
    auto& block = TRY(transaction.edit(entry.block(), format::BlockType::kInodes))
    ->as<format::InodeBlock>();
    return &block.inodes[inode.value % format::kInodesPerBlock];
  }

  // Fills in an inode. Its block must be there.
  void add_inode(VolumeNumber volume, InodeNumber inode, std::uint32_t mode, std::uint32_t flags = 0) {
    change([&](Transaction& transaction) -> Result<> {
      format::InodeRecord& record = *TRY(edit_inode(transaction, volume, inode));
      record.mode = mode;
      record.flags = flags;
      record.link_count = 1;
      record.data_level = record.attribute_level = 1;
      return {};
    });
  }

  // A volume with an empty table.
  void add_volume(VolumeNumber volume) {
    add_inode(VolumeNumber(0), volume, S_IFDIR | 0755, static_cast<std::uint32_t>(format::InodeFlag::kVolume));
  }
  void snapshot(VolumeNumber from, VolumeNumber to) {
    add_volume(to);
    change([&](Transaction& transaction) -> Result<> {
      const format::InodeRecord& source = *TRY(edit_inode(transaction, VolumeNumber(0), from));
      format::InodeRecord& target = *TRY(edit_inode(transaction, VolumeNumber(0), to));
      target.data = source.data;
      target.data_level = source.data_level;
      return {};
    });
  }

  // Points the file's map at the run; nothing on the way may be shared.
  void assign_data(VolumeNumber volume, InodeNumber inode, FileRange range, BlockNumber target,
                   bool unwritten = false) {
    change([&](Transaction& transaction) -> Result<> {
      format::InodeRecord& record = *TRY(edit_inode(transaction, volume, inode));
      return assign(transaction, edit_data_fork(record, format::LeafKind::kData), range, target, unwritten, graveyard);
    });
  }
  void punch(VolumeNumber volume, InodeNumber inode, FileRange range) {
    change([&](Transaction& transaction) -> Result<> {
      format::InodeRecord& record = *TRY(edit_inode(transaction, volume, inode));
      return clear(transaction, edit_data_fork(record, format::LeafKind::kData), range, graveyard);
    });
  }

  // A run of data blocks that the caller refers to before anything else is reserved.
  BlockRun take(std::uint64_t blocks, BlockNumber goal = BlockNumber(format::kFirstChunk + 3 * format::kChunkBlocks)) {
    auto reservation = must(store->reserve(goal, blocks));
    REQUIRE(reservation.run().count == blocks);
    const BlockRun run = reservation.run();
    reservation.keep();
    return run;
  }

  std::uint64_t free_blocks() {
    const LockGuard guard(store->mutex);
    store->reclaim();
    return store->space().free_blocks();
  }

  DramMedium* medium = nullptr;
  std::unique_ptr<Store> store;
  NoGraveyard graveyard;
};

}  // namespace daxcow::test
