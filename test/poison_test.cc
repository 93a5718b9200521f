#include "engine/poison.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "engine/patrol.h"
#include "hand_made_pool.h"
#include "seed.h"
#include "stubborn_medium.h"

using namespace daxcow;
using namespace daxcow::test;
using namespace std::chrono_literals;

namespace {

constexpr VolumeNumber kMain{16}, kSnapshot{17};
constexpr InodeNumber kFile{17}, kClone{18}, kBystander{19};

class FakeHost : public PoisonHost {
 public:
  std::string volume_name(VolumeNumber volume) override { return "volume " + std::to_string(volume.value); }
  std::string path_of(VolumeNumber, InodeNumber inode) override { return "/file" + std::to_string(inode.value); }
  bool is_mounted(VolumeNumber volume) override { return mounted.contains(volume.value); }
  bool is_remembered(VolumeNumber volume, InodeNumber inode) override {
    return remembered.contains({volume.value, inode.value});
  }
  Rescue read_page(const LostRange&, Block&) override { return Rescue::kNobody; }
  Result<bool> restore_page(const LostRange&, const Block&) override { return false; }
  void on_lost(const LostRange& range) override {
    // No lock may be held here.
    REQUIRE(store->mutex.try_lock());
    store->mutex.unlock();
    lost.push_back(range);
  }
  void ledger_grew() override {
    ++grown;
    CHECK(store->ledger().size() != 0);  // before anything else: reads are refused already
  }

  Store* store = nullptr;
  std::set<std::uint64_t> mounted;
  std::set<std::pair<std::uint64_t, std::uint64_t>> remembered;
  std::vector<LostRange> lost;
  int grown = 0;
};

// Two volumes, the second a snapshot of the first: a file, its clone and a bystander. The inode block is shared and
// edited in place, so what is punched in one volume is gone from both.
class PoisonedPool : public HandMadePool {
 public:
  explicit PoisonedPool(std::uint64_t bytes = 64ull << 20) : HandMadePool(bytes) {
    volumes_block = add_inode_block(VolumeNumber(0), 1);
    add_volume(kMain);
    inodes_block = add_inode_block(kMain, 1);
    data = take(4);
    other = take(1, BlockNumber(6000));
    for (const InodeNumber inode : {kFile, kClone, kBystander}) add_inode(kMain, inode, S_IFREG | 0644);
    assign_data(kMain, kFile, {FileBlock(0), 4}, data.first);
    assign_data(kMain, kClone, {FileBlock(4), 4}, data.first);
    assign_data(kMain, kBystander, {FileBlock(0), 1}, other.first);
    snapshot(kMain, kSnapshot);
    attach();
  }

  void attach() {
    host.store = store.get();
    poison = std::make_unique<Poison>(*store, host);
    seen = 0;
  }
  // As after a crash: what is on the medium, with what is bad.
  void crash() {
    poison.reset();
    reopen();
    attach();
  }

  std::vector<Event> events() {
    auto found = store->events().after(seen, 100'000, 0);
    if (!found.empty()) seen = found.back().sequence;
    return found;
  }
  std::vector<EventKind> kinds() {
    std::vector<EventKind> found;
    for (const Event& event : events()) found.push_back(event.kind);
    return found;
  }
  format::Roots roots() {
    return must(store->metadata().read(format::kRootsBlock, format::BlockType::kRoots))->as<format::Roots>();
  }
  BlockUse use(BlockNumber block) { return must(classify(*store, block)); }
  std::uint64_t records() {
    const LockGuard guard(store->mutex);
    must(store->reverse_map().verify(store->metadata()));
    return store->reverse_map().record_count();
  }
  // Every copy of everything that has two.
  void check_copies() {
    for (const BlockNumber base : store->metadata().chunks())
      for (const Copy copy : {Copy::kPrimary, Copy::kMirror}) {
        CHECK(store->metadata().verify_header_copy(base, copy).has_value());
        for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i)
          if (store->metadata().descriptor(base + i).type != format::BlockType::kFree)
            if (!store->metadata().read_copy(base + i, copy)) FAIL_CHECK("block " << base.value + i);
      }
    const BlockNumber last(store->pool_blocks() - 1);
    for (const BlockNumber copy : {format::kSuperblockPrimary, last}) {
      format::Superblock superblock;
      must(medium->read(byte_offset(copy), std::as_writable_bytes(std::span(&superblock, 1))));
      CHECK(std::memcmp(&superblock, &store->superblock(), sizeof superblock) == 0);
    }
    CHECK(must(medium->bad_ranges()).empty());
  }
  // A whole pass, and what is to be done about what it found. Returns the blocks found.
  std::uint64_t scrub(const Patrol::Progress& progress = {}) {
    const std::uint64_t found = must(Patrol(*store).run(0, progress));
    poison->process_now();
    return found;
  }

  FakeHost host;
  std::unique_ptr<Poison> poison;
  std::uint64_t seen = 0;
  BlockNumber volumes_block, inodes_block;
  BlockRun data, other;
};

}  // namespace

// --- free space -----------------------------------------------------------------------------------------------------

TEST_CASE("poison: free blocks are cleared and stay free", "[poison]") {
  PoisonedPool pool;
  const std::uint64_t free = pool.free_blocks(), records = pool.records();
  const BlockNumber block(7000);
  REQUIRE(pool.use(block) == BlockUse::kFree);
  for (std::uint64_t i = 0; i < 100; ++i) pool.medium->inject(block + i);
  pool.poison->process_now();
  CHECK(pool.free_blocks() == free);
  CHECK(pool.records() == records);
  CHECK(pool.store->ledger().size() == 0);
  CHECK(must(pool.medium->bad_ranges()).empty());
  CHECK(pool.roots().blocks_cleared == 100);
  CHECK(pool.host.lost.empty());
  const auto events = pool.events();
  REQUIRE(events.size() == 101);
  CHECK(events[0].kind == EventKind::kPoisonFound);
  CHECK(events[0].block == block);
  CHECK(events[0].length_bytes == 100 * kBlockBytes);
  for (std::size_t i = 1; i < events.size(); ++i) CHECK(events[i].kind == EventKind::kBlockCleared);
  pool.poison->process_now();
  CHECK(pool.events().empty());
}

TEST_CASE("poison: a crash between recording a free block and clearing it", "[poison]") {
  PoisonedPool pool;
  const std::uint64_t free = pool.free_blocks();
  const BlockNumber block(7000);
  const bool cleared_before_the_crash = GENERATE(false, true);
  pool.change([&](Transaction& transaction) { return transaction.set_ledger(block, 0x0f); });
  if (!cleared_before_the_crash) pool.medium->inject(BadRange{byte_offset(block), 4 * kSectorBytes});
  pool.crash();
  CHECK(pool.use(block) == BlockUse::kQuarantined);
  CHECK(pool.free_blocks() == free - 1);
  pool.poison->process_now();
  CHECK(pool.use(block) == BlockUse::kFree);
  CHECK(pool.free_blocks() == free);
  CHECK(pool.kinds() == std::vector{EventKind::kBlockCleared});
}

TEST_CASE("poison: what cannot be cleared stays out of use", "[poison]") {
  auto dram = must(DramMedium::create(32ull << 20));
  must(Store::format(*dram, ""));
  auto made = std::make_unique<StubbornMedium>(std::move(dram));
  StubbornMedium& medium = *made;
  auto store = must(Store::open(std::move(made), {}));
  FakeHost host;
  host.store = store.get();
  Poison poison(*store, host);
  const std::uint64_t free = store->space().free_blocks();
  const BlockNumber block(7000);
  const BlockNumber roots_mirror = Metadata::mirror_of(format::kRootsBlock);
  medium.inner().inject(block);
  medium.inner().inject(roots_mirror);
  poison.process_now();
  CHECK(must(classify(*store, block)) == BlockUse::kQuarantined);
  CHECK(store->space().free_blocks() == free - 1);
  CHECK(store->ledger().mask(block) == 0xff);
  CHECK(store->ledger().mask(roots_mirror) == 0xff);
  const int clears = medium.clears;
  poison.process_now();
  CHECK(medium.clears == clears);  // not again and again
  std::vector<Event> events = store->events().after(0, 100, 0);
  CHECK(std::ranges::count(events, EventKind::kClearFailed, &Event::kind) == 2);

  // Somebody else makes them work.
  must(medium.inner().clear_bad({block, 1}));
  must(medium.inner().clear_bad({roots_mirror, 1}));
  poison.process_now();
  events = store->events().after(0, 100, 0);
  CHECK(std::ranges::count(events, EventKind::kPoisonGone, &Event::kind) == 2);
}

TEST_CASE("poison: the spare chunk", "[poison]") {
  PoisonedPool pool;
  BlockNumber block(8);
  {
    const LockGuard guard(pool.store->mutex);
    while (block.value < 16384 && !pool.store->in_spare_chunk(block)) ++block;
    REQUIRE(block.value < 16384);
  }
  const std::uint64_t free = pool.free_blocks();
  pool.medium->inject(block);
  pool.poison->process_now();
  CHECK(must(pool.medium->bad_ranges()).empty());
  CHECK(pool.store->ledger().size() == 0);
  CHECK(pool.free_blocks() == free);  // and there is a spare chunk again
  CHECK(pool.use(block) == BlockUse::kFree);
}

// --- metadata, journal, superblocks ---------------------------------------------------------------------------------

TEST_CASE("poison: every block that has a second copy is rewritten", "[poison]") {
  PoisonedPool pool;
  std::vector<BlockNumber> blocks;
  for (std::uint64_t i = 0; i < format::kChunkBlocks; ++i) {
    blocks.push_back(format::kFirstChunk + i);
    if (i % 16 == 0) blocks.push_back(format::kJournalChunk + i);
  }
  blocks.push_back(format::kSuperblockPrimary);
  blocks.push_back(BlockNumber(pool.store->pool_blocks() - 1));
  const std::uint64_t records = pool.records();
  const std::uint64_t free = pool.free_blocks();
  std::uint64_t count = 0;
  for (const BlockNumber block : blocks) {
    INFO("block " << block.value);
    pool.medium->inject(block);
    pool.poison->process_now();
    ++count;
    REQUIRE(pool.roots().blocks_cleared == count);
    REQUIRE(pool.store->ledger().size() == 0);
    const auto kinds = pool.kinds();
    REQUIRE(kinds.size() == 2);
    REQUIRE(kinds[0] == EventKind::kPoisonFound);
    REQUIRE((kinds[1] == EventKind::kMetadataRepaired || kinds[1] == EventKind::kBlockCleared));
  }
  pool.check_copies();
  CHECK(pool.records() == records);
  CHECK(pool.free_blocks() == free);
  CHECK(pool.roots().metadata_repaired > 0);
  CHECK(pool.host.lost.empty());
  pool.crash();
  pool.check_copies();
  CHECK(pool.records() == records);
}

TEST_CASE("poison: a copy of the journal has the newest record again", "[poison]") {
  PoisonedPool pool;
  const bool mirror = GENERATE(false, true);
  const BlockNumber area = mirror ? format::kJournalChunk + format::kMirrorBlocks : format::kJournalChunk;
  format::JournalHeader before, after;
  const auto read = [&](format::JournalHeader& header) {
    must(pool.medium->read(byte_offset(area), std::as_writable_bytes(std::span(&header, 1))));
  };
  read(before);
  REQUIRE(before.magic == format::kJournalMagic);
  pool.medium->inject(area);
  CHECK(must(mend_poisoned(*pool.store, area)) == Mended::kRewritten);
  read(after);
  CHECK(std::memcmp(&before, &after, sizeof before) == 0);
}

TEST_CASE("poison: found only when the pool is opened again", "[poison]") {
  PoisonedPool pool;
  const std::uint64_t records = pool.records();
  // One copy of everything, primary or mirror in turn.
  for (std::uint64_t i = 0; i < format::kMirrorBlocks; ++i)
    pool.medium->inject(format::kFirstChunk + (i % 2 == 0 ? i : i + format::kMirrorBlocks));
  for (std::uint64_t i = 0; i < format::kMirrorBlocks; ++i) pool.medium->inject(format::kJournalChunk + i);
  pool.medium->inject(format::kSuperblockPrimary);
  pool.crash();
  pool.poison->process_now();
  pool.check_copies();
  CHECK(pool.store->ledger().size() == 0);
  CHECK(pool.records() == records);
  pool.crash();
  CHECK(pool.records() == records);
}

TEST_CASE("poison: a metadata block that lost both copies", "[poison]") {
  PoisonedPool pool;
  pool.medium->inject(pool.inodes_block);
  pool.medium->inject(Metadata::mirror_of(pool.inodes_block));
  SECTION("is rewritten from memory") {
    must(pool.store->metadata().read(pool.inodes_block, format::BlockType::kInodes));
    pool.poison->process_now();
    pool.check_copies();
  }
  SECTION("is reported once, and the rest goes on") {
    pool.crash();
    pool.poison->process_now();
    pool.poison->process_now();
    const auto events = pool.events();
    std::set<std::uint64_t> inodes;
    for (const Event& event : events)
      if (event.kind == EventKind::kMetadataLost) inodes.insert(event.inode.value);
    CHECK(inodes.size() == 16);  // nobody can say which of them are in use
    CHECK(std::ranges::count(events, EventKind::kMetadataLost, &Event::kind) == 16);
    CHECK(pool.store->ledger().size() == 2);
    CHECK_FALSE(pool.store->metadata().read(pool.inodes_block, format::BlockType::kInodes).has_value());
    pool.add_inode_block(VolumeNumber(0), 2);
    pool.crash();
    pool.poison->process_now();
    CHECK(pool.store->ledger().size() == 2);
  }
}

TEST_CASE("poison: a copy that fails its check is rewritten", "[poison]") {
  PoisonedPool pool;
  const Copy copy = GENERATE(Copy::kPrimary, Copy::kMirror);
  const int which = GENERATE(0, 1, 2);
  const BlockNumber primary = which == 0 ? pool.inodes_block : which == 1 ? format::kRootsBlock : format::kFirstChunk;
  const BlockNumber at = copy == Copy::kPrimary ? primary : Metadata::mirror_of(primary);
  const std::byte rubbish[64] = {std::byte{0xee}};
  must(pool.medium->store(byte_offset(at) + 128, rubbish));
  pool.crash();
  SECTION("when it is read, or reported without reason") {
    pool.store->bad_copy({primary, copy});
    pool.store->bad_copy({primary, copy == Copy::kPrimary ? Copy::kMirror : Copy::kPrimary});
  }
  SECTION("when it is scrubbed") { CHECK(pool.scrub() >= 1); }
  pool.poison->process_now();
  pool.check_copies();
  CHECK(pool.roots().metadata_repaired == 1);
  CHECK(pool.kinds() == std::vector{EventKind::kMetadataRepaired});
}

// --- data -----------------------------------------------------------------------------------------------------------

TEST_CASE("poison: each owner of lost data is told, and nobody else", "[poison]") {
  PoisonedPool pool;
  const std::uint64_t free = pool.free_blocks();
  pool.host.mounted = {16, 17};
  pool.host.remembered = {{16, 17}, {16, 19}, {17, 18}, {17, 19}};
  const BlockNumber block = pool.data.first + 2;
  pool.medium->inject(BadRange{byte_offset(block) + 512, 1024});
  pool.poison->process_now();

  CHECK(pool.store->ledger().mask(block) == 0x06);
  CHECK(pool.roots().blocks_lost == 1);
  CHECK(pool.host.grown == 1);
  std::set<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>> told;
  for (const Event& event : pool.events()) {
    if (event.kind != EventKind::kDataLost) continue;
    CHECK(event.length_bytes == 1024);
    CHECK(event.block == block);
    CHECK(event.path == "/file" + std::to_string(event.inode.value));
    CHECK(event.text.find(event.path) != std::string::npos);
    told.emplace(std::stoull(event.volume.substr(7)), event.inode.value, event.offset_bytes);
  }
  CHECK(told ==
        std::set<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>>{
            {16, 17, 2 * 4096 + 512}, {16, 18, 6 * 4096 + 512}, {17, 17, 2 * 4096 + 512}, {17, 18, 6 * 4096 + 512}});
  REQUIRE(pool.host.lost.size() == 2);
  for (const LostRange& range : pool.host.lost) {
    CHECK(pool.host.remembered.contains({range.volume.value, range.inode.value}));
    CHECK(range.offset_bytes == (range.inode == kFile ? 2 : 6) * kBlockBytes);
    CHECK(range.length_bytes == kBlockBytes);
    CHECK(range.block == block);
  }
  const BlockReport report = must(pool.poison->report(block, 3));
  CHECK(report.use == BlockUse::kData);
  CHECK(report.bad_sectors == 0x06);
  CHECK(report.owners.size() == 3);
  CHECK(report.owners_truncated);

  SECTION("once") {
    pool.poison->process_now();
    pool.medium->wake();
    pool.poison->process_now();
    CHECK(pool.events().empty());
    CHECK(pool.host.lost.size() == 2);
  }
  SECTION("again of more that is lost") {
    pool.medium->inject(BadRange{byte_offset(block) + 7 * 512, 512});
    pool.poison->process_now();
    CHECK(pool.store->ledger().mask(block) == 0x86);
    const auto events = pool.events();
    REQUIRE(events.size() == 5);
    CHECK(events[1].length_bytes == 512);
    CHECK(pool.roots().blocks_lost == 1);
  }
  SECTION("and the ledger outlives a crash") {
    pool.crash();
    CHECK(pool.store->ledger().mask(block) == 0x06);
    pool.poison->process_now();
    CHECK(pool.events().empty());
    CHECK(pool.host.lost.size() == 2);
  }
  SECTION("and the device's list does not heal data") {
    must(pool.medium->clear_bad({block, 1}));
    pool.poison->process_now();
    CHECK(pool.kinds() == std::vector{EventKind::kPoisonGone});
    CHECK(pool.store->ledger().mask(block) == 0x06);
    CHECK(pool.use(block) == BlockUse::kData);
  }
  SECTION("until the last owner has replaced it") {
    const bool crash = GENERATE(false, true);
    const auto heal = [&](InodeNumber inode, FileRange range) {
      pool.punch(kMain, inode, range);
      pool.poison->note_healed(kMain, inode, byte_offset(range.first), kBlockBytes, block);
      if (crash) pool.crash();
      pool.poison->process_now();
    };
    heal(kFile, {FileBlock(2), 1});
    CHECK(pool.store->ledger().mask(block) == 0x06);
    if (!crash) CHECK(pool.kinds() == std::vector{EventKind::kDataHealed});
    heal(kClone, {FileBlock(6), 1});
    CHECK(pool.store->ledger().size() == 0);
    CHECK(pool.use(block) == BlockUse::kFree);
    CHECK(pool.free_blocks() == free + 1);
    CHECK(must(pool.medium->bad_ranges()).empty());
    if (!crash) {
      CHECK(pool.kinds() == std::vector{EventKind::kDataHealed, EventKind::kBlockCleared});
      CHECK(pool.roots().blocks_healed == 2);
    }
    CHECK(pool.roots().blocks_lost == 1);
    CHECK(pool.roots().blocks_cleared == 1);
    pool.records();
  }
}

TEST_CASE("poison: space that was only reserved loses nothing", "[poison]") {
  PoisonedPool pool;
  const BlockRun run = pool.take(1, BlockNumber(6500));
  pool.assign_data(kMain, kBystander, {FileBlock(1), 1}, run.first, true);
  pool.host.mounted = {16};
  pool.host.remembered = {{16, 19}};
  pool.medium->inject(run.first);
  pool.poison->process_now();
  CHECK(pool.kinds() == std::vector{EventKind::kPoisonFound});
  CHECK(pool.host.lost.empty());
  CHECK(pool.store->ledger().mask(run.first) == 0xff);  // nobody may write there
}

TEST_CASE("poison: latent until somebody sees it", "[poison]") {
  PoisonedPool pool;
  const BlockNumber block = pool.data.first;
  SECTION("a reader's fault, for which the device has a range") {
    pool.medium->inject(BadRange{byte_offset(block), 512}, DramMedium::Injection::kLatent);
    pool.poison->process_now();
    CHECK(pool.events().empty());
    pool.store->suspect({block, 2});
    pool.poison->process_now();
    CHECK(pool.store->ledger().mask(block) == 0x01);
    CHECK(pool.store->ledger().size() == 1);
  }
  SECTION("a writer's fault, entered into the ledger at once") {
    pool.medium->inject(BadRange{byte_offset(block), 512}, DramMedium::Injection::kLatent);
    pool.store->ledger().set(block, 0xff);
    pool.store->suspect({block, 1});
    pool.poison->process_now();
    CHECK(pool.store->ledger().mask(block) == 0x01);
    CHECK(pool.events().size() == 5);
    pool.store->ledger().set(block, 0xff);
    pool.store->suspect({block, 1});
    pool.poison->process_now();
    CHECK(pool.store->ledger().mask(block) == 0x01);
    CHECK(pool.events().empty());
    pool.crash();
    CHECK(pool.store->ledger().mask(block) == 0x01);
  }
  SECTION("a suspicion without reason") {
    pool.store->ledger().set(block, 0xff);
    pool.store->suspect({block, 4});
    pool.store->suspect({BlockNumber(16380), 100});
    pool.poison->process_now();
    CHECK(pool.events().empty());
    CHECK(pool.store->ledger().size() == 0);
  }
  SECTION("a scrub") {
    const BlockNumber mirror = Metadata::mirror_of(pool.volumes_block);
    const BlockNumber unused = format::kFirstChunk + 200;
    for (const BlockNumber bad : {block, mirror, unused, format::kJournalChunk + 300, format::kSuperblockPrimary})
      pool.medium->inject(bad, DramMedium::Injection::kLatent);
    std::uint64_t last = 0, total = 0;
    CHECK(pool.scrub([&](std::uint64_t done, std::uint64_t all) {
            CHECK(done >= last);
            CHECK(done <= all);
            last = done;
            total = all;
          }) == 5);
    CHECK(last == total);
    CHECK(total > 1000);
    CHECK(pool.store->ledger().size() == 1);
    CHECK(pool.store->ledger().mask(block) == 0xff);
    CHECK(pool.scrub() == 0);
  }
}

// --- blocks in flight -----------------------------------------------------------------------------------------------

TEST_CASE("poison: a block that a writer has reserved", "[poison]") {
  PoisonedPool pool;
  const std::uint64_t free = pool.free_blocks();
  auto operation = std::make_optional(pool.store->operations().begin());
  auto reservation = std::make_optional(must(pool.store->reserve(BlockNumber(7000), 1)));
  const BlockNumber block = reservation->run().first;
  pool.medium->inject(block);
  pool.poison->process_now();
  CHECK(pool.store->ledger().mask(block) == 0xff);
  CHECK(pool.use(block) == BlockUse::kQuarantined);
  CHECK(pool.kinds() == std::vector{EventKind::kPoisonFound});
  SECTION("and given back") {
    reservation.reset();
    operation.reset();
    pool.poison->process_now();
    CHECK(pool.use(block) == BlockUse::kFree);
    CHECK(pool.free_blocks() == free);
    CHECK(pool.kinds() == std::vector{EventKind::kBlockCleared});
  }
  SECTION("and used") {
    pool.assign_data(kMain, kBystander, {FileBlock(1), 1}, block);
    reservation->keep();
    operation.reset();
    pool.poison->process_now();
    CHECK(pool.kinds() == std::vector{EventKind::kDataLost, EventKind::kDataLost});
    CHECK(pool.use(block) == BlockUse::kData);
    CHECK(pool.roots().blocks_lost == 1);
  }
  SECTION("and forgotten") {
    reservation->keep();  // as if it had been used and freed before anybody looked
    operation.reset();
    pool.poison->process_now();
    CHECK(pool.use(block) == BlockUse::kFree);
    CHECK(pool.free_blocks() == free);
  }
  reservation.reset();
  CHECK(pool.store->ledger().size() == (pool.use(block) == BlockUse::kData ? 1 : 0));
}

TEST_CASE("poison: a free block that somebody took for bad", "[poison]") {
  PoisonedPool pool;
  const std::uint64_t free = pool.free_blocks();
  const BlockNumber block = [&] {
    const auto operation = pool.store->operations().begin();
    const auto reservation = must(pool.store->reserve(BlockNumber(7000), 1));
    pool.store->ledger().set(reservation.run().first, 0xff);
    pool.store->suspect(reservation.run());
    return reservation.run().first;
  }();
  CHECK(pool.free_blocks() == free - 1);  // kept out of circulation
  pool.poison->process_now();
  CHECK(pool.store->ledger().size() == 0);
  CHECK(pool.use(block) == BlockUse::kFree);
  CHECK(pool.free_blocks() == free);
}

TEST_CASE("poison: a freed block that somebody still looks at", "[poison]") {
  PoisonedPool pool;
  const std::uint64_t free = pool.free_blocks();
  const BlockNumber block = pool.other.first;
  auto operation = std::make_optional(pool.store->operations().begin());
  const bool before = GENERATE(false, true);  // it goes bad before it is freed
  if (before) pool.medium->inject(block);
  if (before) pool.poison->process_now();
  pool.punch(kMain, kBystander, {FileBlock(0), 1});
  if (!before) pool.medium->inject(block);
  pool.poison->process_now();
  CHECK(pool.store->ledger().mask(block) == 0xff);
  CHECK_FALSE(must(pool.medium->bad_ranges()).empty());  // not cleared under the reader
  operation.reset();
  pool.poison->process_now();
  CHECK(must(pool.medium->bad_ranges()).empty());
  CHECK(pool.store->ledger().size() == 0);
  CHECK(pool.free_blocks() == free + 1);
}

// --- threads, and everything at once --------------------------------------------------------------------------------

TEST_CASE("poison: the threads see what the device reports", "[poison]") {
  PoisonedPool pool;
  must(pool.poison->start());
  const auto wait_for = [&](auto&& condition) {
    for (int i = 0; i < 5000 && !condition(); ++i) std::this_thread::sleep_for(1ms);
    return condition();
  };
  pool.medium->inject(BlockNumber(7000));
  CHECK(wait_for([&] { return must(pool.medium->bad_ranges()).empty(); }));
  pool.medium->inject(pool.other.first);
  CHECK(wait_for([&] { return pool.store->ledger().size() == 1; }));
  pool.punch(kMain, kBystander, {FileBlock(0), 1});
  CHECK(wait_for([&] { return pool.store->ledger().size() == 0 && must(pool.medium->bad_ranges()).empty(); }));
  pool.poison->process_now();
  pool.poison->stop();
  pool.poison->stop();
  must(pool.poison->start());
}

TEST_CASE("poison: random blocks, crashes and writers in between", "[poison]") {
  const std::uint64_t seed = random_seed();
  INFO(describe_seed(seed));
  std::mt19937_64 random(seed);
  PoisonedPool pool(32ull << 20);
  const std::uint64_t pool_blocks = pool.store->pool_blocks();
  const std::uint64_t free = pool.free_blocks();
  for (int round = 0; round < 200; ++round) {
    switch (random() % 4) {
      case 0: {  // one copy of anything at a time: two would be a loss that is allowed to happen
        BlockNumber block(random() % pool_blocks);
        if (random() % 2) block = format::kFirstChunk + random() % format::kChunkBlocks;
        pool.medium->inject(block, random() % 2 ? DramMedium::Injection::kLatent : DramMedium::Injection::kListed);
        if (random() % 2) pool.store->suspect({block, 1});
        // Latent poison that nobody was told of must not meet another.
        if (has_second_copy(*pool.store, block)) pool.scrub();
        break;
      }
      case 1:
        pool.poison->process_now();
        break;
      case 2: {
        const std::uint64_t at = 1 + random() % 7;
        if (auto reservation = pool.store->reserve(BlockNumber(random() % pool_blocks), 1)) {
          pool.assign_data(kMain, kBystander, {FileBlock(at), 1}, reservation->run().first);
          reservation->keep();
        }
        break;
      }
      default:
        if (random() % 4 == 0) pool.crash();
    }
  }
  pool.scrub();
  pool.punch(kMain, kBystander, {FileBlock(1), 7});
  pool.poison->process_now();
  pool.crash();
  pool.poison->process_now();
  pool.check_copies();
  pool.records();
  for (const auto& [block, sectors] : pool.store->ledger().all()) CHECK(pool.use(block) == BlockUse::kData);
  CHECK(pool.free_blocks() == free);
}
