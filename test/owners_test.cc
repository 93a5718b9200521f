#include "engine/owners.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>
#include <tuple>

#include "hand_made_pool.h"
#include "seed.h"

using namespace daxcow;
using namespace daxcow::test;
using format::BlockType;
using format::LeafKind;

namespace {

constexpr VolumeNumber kMain{16}, kSnapshot{17};

// (volume, inode, first block, blocks)
using Place = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>;

std::set<Place> places(const OwnerSet& owners, std::size_t limit = 1'000'000) {
  std::set<Place> found;
  const auto ranges = owners.expand(limit);
  for (const OwnerRange& range : ranges)
    found.emplace(range.volume.value, range.inode.value, range.first.value, range.count);
  CHECK(found.size() == ranges.size());  // no owner twice
  return found;
}

OwnerSet owners_of(HandMadePool& pool, BlockNumber block) {
  return must(find_owners(*pool.store, pool.store->metadata(), block));
}

// A volume with room for inodes 16..31, and for volumes 16..31.
class OneVolume : public HandMadePool {
 public:
  explicit OneVolume(std::uint64_t bytes = 32ull << 20) : HandMadePool(bytes) {
    volumes_block = add_inode_block(VolumeNumber(0), 1);
    add_volume(kMain);
    inodes_block = add_inode_block(kMain, 1);
  }
  BlockNumber volumes_block, inodes_block;
};

}  // namespace

TEST_CASE("owners: through a shared map node and a snapshot", "[owners]") {
  OneVolume pool;
  const BlockRun data = pool.take(1);
  pool.add_inode(kMain, InodeNumber(17), S_IFREG | 0644);
  pool.add_inode(kMain, InodeNumber(18), S_IFREG | 0644);
  BlockNumber node;
  pool.change([&](Transaction& transaction) -> Result<> {
    node = TRY(transaction.allocate(BlockType::kMapNode, 1, LeafKind::kData));
    TRY(transaction.edit(node, BlockType::kMapNode))->as<format::MapNode>()[3] = MapEntry::leaf(data.first, false).raw;
    for (const std::uint64_t inode : {17, 18}) {
      format::InodeRecord& record = *TRY(pool.edit_inode(transaction, kMain, InodeNumber(inode)));
      record.data_level = 2;
      record.data[inode == 17 ? 0 : 2] = MapEntry::node(node).raw;
    }
    return {};
  });
  pool.snapshot(kMain, kSnapshot);

  SECTION("of data") {
    const OwnerSet owners = owners_of(pool, data.first);
    CHECK(owners.reference_count() == 6);
    CHECK(places(owners) == std::set<Place>{{16, 17, 3, 1}, {16, 18, 1027, 1}, {17, 17, 3, 1}, {17, 18, 1027, 1}});
    for (const OwnerRange& range : owners.expand(10)) CHECK(range.role == OwnerRole::kData);
  }
  SECTION("of one volume") {
    std::set<std::uint64_t> seen;
    owners_of(pool, data.first)
        .for_each([](VolumeNumber volume) { return volume == kSnapshot; },
                  [&](const OwnerRange& range) {
                    CHECK(range.volume == kSnapshot);
                    seen.insert(range.inode.value);
                    return true;
                  });
    CHECK(seen == std::set<std::uint64_t>{17, 18});
  }
  SECTION("with a limit") {
    bool truncated = false;
    CHECK(owners_of(pool, data.first).expand(3, &truncated).size() == 3);
    CHECK(truncated);
    CHECK(owners_of(pool, data.first).expand(4, &truncated).size() == 4);
    CHECK_FALSE(truncated);
  }
  SECTION("of the map node") {
    const OwnerSet owners = owners_of(pool, node);
    CHECK(places(owners) ==
          std::set<Place>{{16, 17, 0, 512}, {16, 18, 1024, 512}, {17, 17, 0, 512}, {17, 18, 1024, 512}});
    for (const OwnerRange& range : owners.expand(10)) CHECK(range.role == OwnerRole::kMap);
  }
  SECTION("of the inode block") {
    const OwnerSet owners = owners_of(pool, pool.inodes_block);
    CHECK(places(owners) == std::set<Place>{{16, 17, 0, 0}, {16, 18, 0, 0}, {17, 17, 0, 0}, {17, 18, 0, 0}});
    for (const OwnerRange& range : owners.expand(10)) CHECK(range.role == OwnerRole::kInode);
  }
  SECTION("of the block with the volumes' inodes") {
    const OwnerSet owners = owners_of(pool, pool.volumes_block);
    CHECK(places(owners) == std::set<Place>{{16, 0, 0, 0}, {17, 0, 0, 0}});
    for (const OwnerRange& range : owners.expand(10)) CHECK(range.role == OwnerRole::kVolume);
  }
  SECTION("of what nobody owns") {
    CHECK(owners_of(pool, format::kRootsBlock).expand(10).empty());
    CHECK(owners_of(pool, format::kRootsBlock + 1).expand(10).empty());  // a leaf of the reverse map
    CHECK(owners_of(pool, data.first + 1).expand(10).empty());
    CHECK(owners_of(pool, BlockNumber(0)).expand(10).empty());
    CHECK_FALSE(find_owners(*pool.store, pool.store->metadata(), BlockNumber(1ull << 40)).has_value());
  }
  SECTION("after a reopen") {
    pool.reopen();
    CHECK(places(owners_of(pool, data.first)).size() == 4);
  }
}

TEST_CASE("owners: metadata of files", "[owners]") {
  OneVolume pool;
  struct Case {
    BlockType type;
    LeafKind kind;
    OwnerRole role;
    std::uint32_t mode;
    bool attributes;
  };
  const Case cases[] = {{BlockType::kDirectory, LeafKind::kDirectory, OwnerRole::kDirectory, S_IFDIR, false},
                        {BlockType::kSymlink, LeafKind::kSymlink, OwnerRole::kSymlink, S_IFLNK, false},
                        {BlockType::kAttributes, LeafKind::kAttributes, OwnerRole::kAttributes, S_IFREG, true},
                        {BlockType::kOrphans, LeafKind::kOrphans, OwnerRole::kOrphans, S_IFREG, false}};
  std::uint64_t inode = 20;
  for (const Case& one : cases) {
    pool.add_inode(kMain, InodeNumber(++inode), one.mode | 0644);
    BlockNumber made;
    pool.change([&](Transaction& transaction) -> Result<> {
      made = TRY(transaction.allocate(one.type, 0, LeafKind::kData));
      format::InodeRecord& record = *TRY(pool.edit_inode(transaction, kMain, InodeNumber(inode)));
      (one.attributes ? record.attributes : record.data)[5] = MapEntry::leaf(made, false).raw;
      return {};
    });
    const auto found = owners_of(pool, made).expand(10);
    REQUIRE(found.size() == 1);
    CHECK(found[0].role == one.role);
    CHECK(found[0].volume == kMain);
    CHECK(found[0].inode == InodeNumber(inode));
    CHECK(found[0].first == FileBlock(5));
    CHECK(found[0].count == 1);
  }
}

TEST_CASE("owners: what is only in the graveyard belongs to nobody", "[owners]") {
  OneVolume pool;
  const BlockRun data = pool.take(2);
  pool.add_inode(kMain, InodeNumber(17), S_IFREG | 0644);
  pool.assign_data(kMain, InodeNumber(17), {FileBlock(0), 1}, data.first);
  pool.add_inode_block(VolumeNumber(0), 0);
  pool.add_inode(VolumeNumber(0), format::kGraveyardInode, S_IFREG);
  BlockNumber graveyard;
  pool.change([&](Transaction& transaction) -> Result<> {
    graveyard = TRY(transaction.allocate(BlockType::kGraveyard, 0, LeafKind::kData));
    auto& slots = TRY(transaction.edit(graveyard, BlockType::kGraveyard))->as<format::MapNode>();
    slots[7] = MapEntry::leaf(data.first, false).with_level(0).raw;
    slots[9] = MapEntry::leaf(data.first + 1, false).with_level(0).raw;
    (*TRY(pool.edit_inode(transaction, VolumeNumber(0), format::kGraveyardInode))).data[0] =
        MapEntry::leaf(graveyard, false).raw;
    return {};
  });
  CHECK(places(owners_of(pool, data.first)) == std::set<Place>{{16, 17, 0, 1}});
  CHECK(owners_of(pool, data.first + 1).expand(10).empty());
  const auto found = owners_of(pool, graveyard).expand(10);
  REQUIRE(found.size() == 1);
  CHECK(found[0].role == OwnerRole::kGraveyard);
}

TEST_CASE("owners: runs of large entries", "[owners]") {
  OneVolume pool(64ull << 20);
  // 1024 aligned blocks: entries that span 512 blocks each, one record.
  const BlockRun data = pool.take(1024, BlockNumber(4096));
  REQUIRE(data.first.value % 512 == 0);
  pool.add_inode(kMain, InodeNumber(17), S_IFREG | 0644);
  pool.assign_data(kMain, InodeNumber(17), {FileBlock(0), 8}, data.first);
  pool.assign_data(kMain, InodeNumber(17), {FileBlock(1024), 1024}, data.first);
  CHECK(places(owners_of(pool, data.first + 5)) == std::set<Place>{{16, 17, 5, 1}, {16, 17, 1029, 1}});
  CHECK(places(owners_of(pool, data.first + 700)) == std::set<Place>{{16, 17, 1724, 1}});
}

TEST_CASE("owners: agree with a walk over all files", "[owners]") {
  const std::uint64_t seed = random_seed();
  INFO(describe_seed(seed));
  std::mt19937_64 random(seed);
  const auto below = [&](std::uint64_t limit) { return random() % limit; };
  OneVolume pool(64ull << 20);
  constexpr std::uint64_t kFiles = 8;
  const BlockRun area = pool.take(2048, BlockNumber(4096));
  for (std::uint64_t i = 0; i < kFiles; ++i) pool.add_inode(kMain, InodeNumber(16 + i), S_IFREG | 0644);
  const auto fork_of = [&](Transaction& transaction, InodeNumber inode) -> Result<ForkEdit> {
    return edit_data_fork(*TRY(pool.edit_inode(transaction, kMain, inode)), LeafKind::kData);
  };
  for (int step = 0; step < 60; ++step) {
    const InodeNumber inode(16 + below(kFiles)), other(16 + below(kFiles));
    if (below(3) != 0) {
      const std::uint64_t count = below(4) == 0 ? 512 : 1 + below(40);
      const std::uint64_t first = count == 512 ? below(4) * 512 : below(5000);
      const std::uint64_t target = count == 512 && below(2) ? below(4) * 512 : below(area.count - count);
      const FileRange range{FileBlock(first), count};
      must(pool.store->run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
        const ForkEdit fork = TRY(fork_of(transaction, inode));
        return TRY(unshare(transaction, fork, range, Unshare::kEdges))
        ? Step::kAgain : Step::kDone;
      }));
      pool.change([&](Transaction& transaction) -> Result<> {
        return assign(transaction, TRY(fork_of(transaction, inode)), range, area.first + target, below(8) == 0,
                      pool.graveyard);
      });
    } else if (inode != other) {
      pool.change([&](Transaction& transaction) -> Result<> {
        const ForkEdit to = TRY(fork_of(transaction, other));
        if (std::any_of(to.slots, to.slots + format::kRootSlots, [](std::uint64_t slot) { return slot != 0; }))
          return {};
        format::InodeRecord& source = *TRY(pool.edit_inode(transaction, kMain, inode));
        TRY(share(transaction, data_fork(source, LeafKind::kData), FileBlock(0), to, {FileBlock(0), 8192},
                  pool.graveyard));
        return {};
      });
    }
  }
  pool.snapshot(kMain, VolumeNumber(18));
  pool.snapshot(kMain, VolumeNumber(21));

  std::map<std::uint64_t, std::set<Place>> expected;
  BlockReader& reader = pool.store->metadata();
  const BlockPtr inodes = must(reader.read(pool.inodes_block, BlockType::kInodes));
  for (std::uint64_t i = 0; i < kFiles; ++i) {
    const Fork fork = data_fork(inodes->as<format::InodeBlock>().inodes[i], LeafKind::kData);
    must(for_each_segment(reader, fork, {FileBlock(0), 10'000}, [&](const Segment& segment) {
      if (!segment.entry.present()) return true;
      for (std::uint64_t k = 0; k < segment.range.count; ++k)
        for (const std::uint64_t volume : {16, 18, 21})
          expected[segment.entry.block().value + k].emplace(volume, 16 + i, segment.range.first.value + k, 1);
      return true;
    }));
  }
  std::size_t shared = 0;
  for (std::uint64_t block = area.first.value; block < area.end().value; ++block) {
    const auto found = places(owners_of(pool, BlockNumber(block)));
    if (found != expected[block]) FAIL_CHECK("block " << block);
    shared += found.size() > 3;
  }
  CHECK(shared > 0);
}

TEST_CASE("owners: ten thousand clones in a thousand snapshots", "[owners]") {
  constexpr std::uint64_t kClones = 10'000, kSnapshots = 1'000;
  HandMadePool pool(128ull << 20);
  const BlockRun data = pool.take(1);
  BlockNumber file_node, volumes_node;
  std::vector<BlockNumber> table_nodes;
  const auto entries = [](Transaction& transaction, BlockNumber node) -> Result<format::MapNode*> {
    return &TRY(transaction.edit(node, BlockType::kMapNode))->as<format::MapNode>();
  };
  pool.change([&](Transaction& transaction) -> Result<> {
    file_node = TRY(transaction.allocate(BlockType::kMapNode, 1, LeafKind::kData));
    (*TRY(entries(transaction, file_node)))[100] = MapEntry::leaf(data.first, false).raw;
    // Held by volume 0's attribute fork until the tables refer to them.
    format::InodeRecord& root = *TRY(pool.table_root(transaction, VolumeNumber(0)));
    root.attribute_level = 2;
    root.attributes[0] = MapEntry::node(file_node).raw;
    for (int i = 0; i < 2; ++i) {
      table_nodes.push_back(TRY(transaction.allocate(BlockType::kMapNode, 1, LeafKind::kInodes)));
      root.attributes[1 + static_cast<std::size_t>(i) * 2] = MapEntry::node(table_nodes.back()).raw;
    }
    volumes_node = TRY(transaction.allocate(BlockType::kMapNode, 1, LeafKind::kInodes));
    root.data_level = 2;
    root.data[0] = MapEntry::node(volumes_node).raw;
    return {};
  });
  const auto fill = [&](std::uint64_t first, std::uint64_t count, BlockNumber node, std::uint64_t slot, auto&& set) {
    pool.change([&](Transaction& transaction) -> Result<> {
      const BlockNumber made = TRY(transaction.allocate(BlockType::kInodes, 0, LeafKind::kData));
      auto& block = TRY(transaction.edit(made, BlockType::kInodes))->as<format::InodeBlock>();
      for (std::uint64_t i = 0; i < 16 && first + i < count; ++i) set(block.inodes[i]);
      (*TRY(entries(transaction, node)))[slot] = MapEntry::leaf(made, false).raw;
      return {};
    });
  };
  for (std::uint64_t first = 0; first < kClones; first += 16)
    fill(first, kClones, table_nodes[first / 16 / 512], first / 16 % 512, [&](format::InodeRecord& inode) {
      inode.mode = S_IFREG | 0644;
      inode.data_level = 2;
      inode.attribute_level = 1;
      inode.data[0] = MapEntry::node(file_node).raw;
    });
  for (std::uint64_t first = 0; first < kSnapshots; first += 16)
    fill(first, kSnapshots, volumes_node, 1 + first / 16, [&](format::InodeRecord& inode) {
      inode.mode = S_IFDIR | 0755;
      inode.flags = static_cast<std::uint32_t>(format::InodeFlag::kVolume);
      inode.data_level = 2;
      inode.attribute_level = 1;
      inode.data[0] = MapEntry::node(table_nodes[0]).raw;
      inode.data[1] = MapEntry::node(table_nodes[1]).raw;
    });

  const OwnerSet owners = owners_of(pool, data.first);
  CHECK(owners.reference_count() < kClones + 3 * kSnapshots);
  bool truncated = false;
  CHECK(owners.expand(1000, &truncated).size() == 1000);
  CHECK(truncated);
  std::set<std::uint64_t> inodes;
  owners.for_each([](VolumeNumber volume) { return volume.value == 16 + 777; },
                  [&](const OwnerRange& range) {
                    CHECK(range.first == FileBlock(100));
                    inodes.insert(range.inode.value);
                    return true;
                  });
  CHECK(inodes.size() == kClones);
  CHECK(*inodes.begin() == 0);
  CHECK(*inodes.rbegin() == kClones - 1);
}

// A thread switches between two states of a map node: slot 0 refers to the block and the inode has the node in root
// slot 0, or neither slot 0 nor that, but root slot 5. A search that mixed both would find file block 5 * 512.
TEST_CASE("owners: beside a thread that commits", "[owners]") {
  OneVolume pool;
  constexpr InodeNumber kFile{17};
  const BlockRun data = pool.take(1);
  pool.add_inode(kMain, kFile, S_IFREG | 0644);
  std::vector<BlockNumber> nodes;
  pool.change([&](Transaction& transaction) -> Result<> {
    format::InodeRecord& record = *TRY(pool.edit_inode(transaction, kMain, kFile));
    record.data_level = 2;
    for (std::size_t i = 0; i < 3; ++i) {  // together more references than a batch of the search
      nodes.push_back(TRY(transaction.allocate(BlockType::kMapNode, 1, LeafKind::kData)));
      auto& slots = TRY(transaction.edit(nodes.back(), BlockType::kMapNode))->as<format::MapNode>();
      slots.fill(MapEntry::leaf(data.first, false).raw);
      record.data[i] = MapEntry::node(nodes.back()).raw;
    }
    return {};
  });
  const auto toggle = [&](bool second) {
    return pool.store->run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
      format::InodeRecord& record = *TRY(pool.edit_inode(transaction, kMain, kFile));
      auto& slots = TRY(transaction.edit(nodes[0], BlockType::kMapNode))->as<format::MapNode>();
      slots[0] = second ? 0 : MapEntry::leaf(data.first, false).raw;
      record.data[0] = second ? 0 : MapEntry::node(nodes[0]).raw;
      record.data[5] = second ? MapEntry::node(nodes[0]).raw : 0;
      return Step::kDone;
    });
  };
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (bool second = true; !stop; second = !second) (void)toggle(second);
  });
  int mixed = 0;
  for (int i = 0; i < 300; ++i) {
    const auto found = places(owners_of(pool, data.first));
    const bool first_state =
        found.contains({16, 17, 0, 1}) && found.contains({16, 17, 1, 1}) && found.size() == 3 * 512;
    const bool second_state = found.contains({16, 17, 5 * 512 + 1, 1}) && found.size() == 3 * 512 - 1;
    mixed += first_state == second_state;
  }
  stop = true;
  writer.join();
  CHECK(mixed == 0);
}

TEST_CASE("classify: every kind of block", "[owners]") {
  OneVolume pool(64ull << 20);
  Store& store = *pool.store;
  const auto use = [&](BlockNumber block) { return must(classify(store, block)); };
  const BlockNumber last(store.pool_blocks() - 1);
  CHECK(use(BlockNumber(0)) == BlockUse::kSuperblock);
  CHECK(use(last) == BlockUse::kSuperblock);
  CHECK(use(format::kJournalChunk) == BlockUse::kJournal);
  CHECK(use(format::kJournalChunk + 511) == BlockUse::kJournal);
  CHECK(use(format::kFirstChunk) == BlockUse::kMetadata);
  CHECK(use(format::kRootsBlock) == BlockUse::kMetadata);
  CHECK(use(Metadata::mirror_of(format::kRootsBlock)) == BlockUse::kMetadataMirror);
  CHECK(use(BlockNumber(1)) == BlockUse::kFree);
  CHECK_FALSE(classify(store, last + 1).has_value());

  auto reservation = must(store.reserve(BlockNumber(5000), 2));
  const BlockNumber block = reservation.run().first;
  CHECK(use(block) == BlockUse::kInFlight);
  pool.add_inode(kMain, InodeNumber(17), S_IFREG | 0644);
  pool.assign_data(kMain, InodeNumber(17), {FileBlock(0), 2}, block);
  reservation.keep();
  CHECK(use(block) == BlockUse::kData);
  {
    const auto operation = store.operations().begin();
    pool.punch(kMain, InodeNumber(17), {FileBlock(0), 1});
    CHECK(use(block) == BlockUse::kInFlight);
    CHECK(use(block + 1) == BlockUse::kData);
  }
  pool.free_blocks();
  CHECK(use(block) == BlockUse::kFree);
  REQUIRE(store.space().withdraw({block, 1}).size() == 1);
  store.ledger().set(block, 1);
  CHECK(use(block) == BlockUse::kQuarantined);
}
