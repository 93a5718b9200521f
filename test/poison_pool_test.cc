// Poison under real volumes: who is told, what can still be read, how owners heal, and that the space comes back.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "catch.h"
#include "engine/checker.h"
#include "engine/events.h"
#include "engine/medium_dram.h"
#include "engine/metadata.h"
#include "engine/pool.h"
#include "engine/store.h"
#include "engine/volume.h"
#include "seed.h"

using namespace daxcow;

namespace {

template <class T>
T must(Result<T>&& result) {
  if (!result) FAIL(describe(result.error()));
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

class Observer : public PoisonObserver {
 public:
  void on_lost(const LostRange& range) override {
    told.emplace(range.volume.value, range.inode.value, range.offset_bytes, range.length_bytes);
  }
  std::uint64_t read_cached(const LostRange& page, std::span<std::byte> to) override {
    return cached ? cached(page, to) : 0;
  }
  std::function<std::uint64_t(const LostRange&, std::span<std::byte>)> cached;
  std::set<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>> told;
};

class RealPool {
 public:
  explicit RealPool(std::uint64_t bytes = 64ull << 20) {
    auto made = must(DramMedium::create(bytes));
    must(Pool::format(*made, {.label = "test", .first_volume = "main", .progress = {}}));
    open(std::move(made));
  }
  ~RealPool() { close(); }

  void open(std::unique_ptr<DramMedium> new_medium) {
    medium = new_medium.get();
    pool = must(Pool::open(std::move(new_medium), {.background = false, .log = {}}));
    pool->set_poison_observer(&observer);
    seen = 0;
    main = must(pool->mount("main", false));
  }
  void close() {
    main.reset();
    snapshot.reset();
    pool.reset();
  }
  // What is on the medium now, opened again without having been closed.
  void crash() {
    const bool had_snapshot = snapshot != nullptr;
    const auto bad = must(medium->bad_ranges());
    auto again = must(DramMedium::from_image(medium->snapshot()));
    close();
    for (const BadRange& range : bad) again->inject(range);
    open(std::move(again));
    if (had_snapshot) mount_snapshot();
  }
  void mount_snapshot() { snapshot = must(pool->mount("snap", true)); }

  InodeNumber create(const std::string& name) {
    return must(main->create(InodeNumber(1), name, {.mode = S_IFREG | 0644, .symlink_target = {}})).inode;
  }
  void write(InodeNumber inode, std::uint64_t offset, std::uint64_t length, char fill) {
    const std::vector<std::byte> bytes(length, static_cast<std::byte>(fill));
    must(main->write(inode, offset, bytes));
  }
  // The first byte of each block of the file; '!' where it is lost.
  static std::string look(Volume& volume, const std::string& path) {
    const Attributes attributes = must(volume.find(path));
    std::string seen;
    for (std::uint64_t offset = 0; offset < attributes.size_bytes; offset += kBlockBytes) {
      std::byte block[kBlockBytes];
      const auto read = volume.read(attributes.inode, offset, block);
      if (!read && read.error().code != ErrorCode::kPoisoned) FAIL(describe(read.error()));
      seen += read ? (block[0] == std::byte{0} ? '0' : static_cast<char>(block[0])) : '!';
    }
    return seen;
  }
  BlockNumber block_of(Volume& volume, InodeNumber inode, FileBlock at) {
    BlockNumber found;
    must(volume.for_each_extent(inode, at, false, [&](const FileExtent& extent) {
      REQUIRE(extent.state == ExtentState::kWritten);
      found = extent.block + (at - std::min(at, extent.start));
      return false;
    }));
    return found;
  }
  std::vector<Event> events() {
    auto found = pool->events().after(seen, 100'000, 0);
    if (!found.empty()) seen = found.back().sequence;
    return found;
  }
  std::uint64_t free_blocks() {
    pool->settle();
    return must(pool->statistics()).data_free_blocks;
  }
  void expect_clean() {
    const CheckReport report = must(check(*pool, {.progress = {}}));
    for (const Finding& finding : report.findings)
      UNSCOPED_INFO(name_of(finding.kind)
                    << " block " << finding.block.value << " " << finding.where << ": " << finding.what);
    CHECK(report.clean());
  }

  DramMedium* medium = nullptr;
  std::unique_ptr<Pool> pool;
  std::shared_ptr<Volume> main, snapshot;
  Observer observer;
  std::uint64_t seen = 0;
};

}  // namespace

TEST_CASE("poison in a pool: a block with owners in two volumes", "[poison]") {
  RealPool pool;
  const InodeNumber file = pool.create("file"), clone = pool.create("clone"), bystander = pool.create("bystander");
  pool.write(bystander, 0, 4 * kBlockBytes, 'b');
  const std::uint64_t free_before = pool.free_blocks();
  for (int i = 0; i < 8; ++i)
    pool.write(file, static_cast<std::uint64_t>(i) * kBlockBytes, kBlockBytes, static_cast<char>('0' + i + 1));
  REQUIRE(must(pool.main->clone_range(file, 0, clone, 0, 8 * kBlockBytes)) == 8 * kBlockBytes);
  must(pool.pool->snapshot("main", "snap", true));
  pool.mount_snapshot();
  pool.main->remember(file);
  pool.main->remember(bystander);
  pool.snapshot->remember(file);
  pool.snapshot->remember(clone);
  pool.events();

  const BlockNumber block = pool.block_of(*pool.main, file, FileBlock(2));
  pool.medium->inject(BadRange{byte_offset(block) + 1024, 512});
  pool.pool->settle();

  const std::uint64_t main = pool.main->number().value, snap = pool.snapshot->number().value;
  CHECK(pool.observer.told ==
        std::set<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>>{
            {main, file.value, 8192, 4096}, {snap, file.value, 8192, 4096}, {snap, clone.value, 8192, 4096}});
  std::set<std::string> lost;
  for (const Event& event : pool.events())
    if (event.kind == EventKind::kDataLost) {
      CHECK(event.offset_bytes == 8192 + 1024);
      CHECK(event.length_bytes == 512);
      lost.insert(event.volume + ":" + event.path);
    }
  CHECK(lost == std::set<std::string>{"main:/file", "main:/clone", "snap:/file", "snap:/clone"});
  const BlockReport report = must(pool.pool->report(block));
  CHECK(report.use == BlockUse::kData);
  CHECK(report.bad_sectors == 0x04);
  CHECK(report.owners.size() == 4);
  CHECK(must(pool.pool->poison_list()).size() == 1);

  const auto expect = [&](const std::string& in_file, const std::string& in_clone, const std::string& in_snapshot) {
    CHECK(RealPool::look(*pool.main, "/file") == in_file);
    CHECK(RealPool::look(*pool.main, "/clone") == in_clone);
    if (pool.snapshot) {
      CHECK(RealPool::look(*pool.snapshot, "/file") == in_snapshot);
      CHECK(RealPool::look(*pool.snapshot, "/clone") == in_snapshot);
    }
    CHECK(RealPool::look(*pool.main, "/bystander") == "bbbb");
    pool.expect_clean();
  };
  expect("12!45678", "12!45678", "12!45678");
  pool.crash();
  pool.pool->settle();
  expect("12!45678", "12!45678", "12!45678");

  // The file is overwritten, the clone punched; the snapshot keeps the loss until it is deleted.
  pool.write(file, 2 * kBlockBytes, kBlockBytes, 'x');
  pool.pool->settle();
  expect("12x45678", "12!45678", "12!45678");
  pool.crash();
  must(pool.main->allocate(clone, AllocateMode::kPunch, 2 * kBlockBytes, kBlockBytes));
  pool.pool->settle();
  expect("12x45678", "12045678", "12!45678");
  CHECK(must(pool.pool->report(block)).owners.size() == 2);
  std::vector<Event> events = pool.events();
  CHECK(std::ranges::count(events, EventKind::kDataHealed, &Event::kind) == 1);  // the first was before the crash
  CHECK(std::ranges::count(events, EventKind::kBlockCleared, &Event::kind) == 0);
  pool.snapshot.reset();
  must(pool.pool->delete_volume("snap"));
  pool.pool->settle();
  expect("12x45678", "12045678", "");
  CHECK(must(pool.pool->poison_list()).empty());
  CHECK(must(pool.pool->report(block)).use == BlockUse::kFree);
  CHECK(must(pool.medium->bad_ranges()).empty());
  events = pool.events();
  CHECK(std::ranges::count(events, EventKind::kBlockCleared, &Event::kind) == 1);

  must(pool.main->unlink(InodeNumber(1), "file"));
  must(pool.main->unlink(InodeNumber(1), "clone"));
  CHECK(pool.free_blocks() == free_before);
  pool.expect_clean();
}

TEST_CASE("poison in a pool: a volume is unmounted while its pages are looked at", "[poison]") {
  RealPool pool;
  const InodeNumber file = pool.create("file");
  pool.write(file, 0, kBlockBytes, 'f');
  pool.main->remember(file);
  pool.events();
  const BlockNumber block = pool.block_of(*pool.main, file, FileBlock(0));
  unsigned times = 0;
  pool.observer.cached = [&](const LostRange&, std::span<std::byte>) -> std::uint64_t {
    ++times;
    pool.main.reset();  // the last that a mount had of it, let go of by whoever asks the mount
    for (const auto& volume : must(pool.pool->volumes())) CHECK_FALSE(volume.mounted);
    return 0;
  };
  pool.medium->inject(BadRange{byte_offset(block), kBlockBytes});
  pool.pool->settle();
  CHECK(times == 1);
  CHECK(pool.observer.told.empty());
  pool.main = must(pool.pool->mount("main", false));
  CHECK(RealPool::look(*pool.main, "/file") == "!");
  CHECK_FALSE(pool.pool->mount("main", true));
  pool.expect_clean();
}

TEST_CASE("poison in a pool: a page of what an owner has meanwhile is no rescue for the others", "[poison]") {
  RealPool pool;
  const InodeNumber file = pool.create("file"), clone = pool.create("clone");
  pool.write(file, 0, kBlockBytes, 'f');
  REQUIRE(must(pool.main->clone_range(file, 0, clone, 0, kBlockBytes)) == kBlockBytes);
  for (const InodeNumber inode : {file, clone}) pool.main->remember(inode);
  const BlockNumber block = pool.block_of(*pool.main, file, FileBlock(0));
  unsigned times = 0;
  pool.observer.cached = [&](const LostRange& page, std::span<std::byte> to) -> std::uint64_t {
    if (++times == 1) {  // it has no page; meanwhile the other is written to, by who opens and closes it
      const InodeNumber other = page.inode == file ? clone : file;
      pool.main->open_for_writing(other);
      pool.write(other, 0, kBlockBytes, 'n');
      pool.main->close_for_writing(other);
      return 0;
    }
    must(pool.main->read(page.inode, page.offset_bytes, to));
    return kBlockBytes;
  };
  pool.medium->inject(BadRange{byte_offset(block), kBlockBytes});
  pool.pool->settle();
  CHECK(times == 2);
  const std::string seen = RealPool::look(*pool.main, "/file") + RealPool::look(*pool.main, "/clone");
  CHECK((seen == "n!" || seen == "!n"));
  CHECK(pool.observer.told.size() == 1);
  pool.expect_clean();
}

TEST_CASE("poison in a pool: writers meet latent poison", "[poison]") {
  RealPool pool;
  const InodeNumber file = pool.create("file");
  for (int i = 0; i < 4; ++i)
    pool.write(file, static_cast<std::uint64_t>(i) * kBlockBytes, kBlockBytes, static_cast<char>('1' + i));
  const BlockNumber block = pool.block_of(*pool.main, file, FileBlock(1));
  const std::uint64_t free = pool.free_blocks();
  pool.medium->inject(block, DramMedium::Injection::kLatent);

  SECTION("overwriting in place goes around it") {
    pool.write(file, kBlockBytes, kBlockBytes, 'x');
    pool.pool->settle();
    CHECK(RealPool::look(*pool.main, "/file") == "1x34");
    CHECK(pool.free_blocks() == free);
    CHECK(must(pool.medium->bad_ranges()).empty());
  }
  SECTION("a write of a part of it says so") {
    const std::byte some[100] = {};
    const auto written = pool.main->write(file, kBlockBytes + 10, some);
    REQUIRE_FALSE(written.has_value());
    CHECK(written.error().code == ErrorCode::kPoisoned);
    pool.pool->settle();
    CHECK(RealPool::look(*pool.main, "/file") == "1!34");
  }
  SECTION("a reader finds it") {
    CHECK(RealPool::look(*pool.main, "/file") == "1!34");
    pool.pool->settle();
    const auto events = pool.events();
    CHECK(std::ranges::count(events, EventKind::kDataLost, &Event::kind) == 1);
    CHECK(RealPool::look(*pool.main, "/file") == "1!34");
  }
  SECTION("a free block is passed over") {
    for (std::uint64_t i = 0; i < 64; ++i) {
      BlockNumber bad(block.value + 100 + i);
      if (must(pool.pool->report(bad)).use == BlockUse::kFree) pool.medium->inject(bad, DramMedium::Injection::kLatent);
    }
    const InodeNumber other = pool.create("other");
    for (int tries = 0; tries < 200; ++tries) {
      const std::vector<std::byte> bytes(300 * kBlockBytes, std::byte{'o'});
      if (pool.main->write(other, 0, bytes)) break;
      pool.pool->settle();
      REQUIRE(tries < 199);
    }
    pool.pool->settle();
    CHECK(RealPool::look(*pool.main, "/other") == std::string(300, 'o'));
  }
  pool.expect_clean();
  pool.crash();
  pool.pool->settle();
  pool.expect_clean();
}

TEST_CASE("poison in a pool: any block, also together with a crash", "[poison]") {
  const std::uint64_t seed = test::random_seed();
  INFO(test::describe_seed(seed));
  std::mt19937_64 random(seed);
  RealPool pool(32ull << 20);
  std::map<std::string, std::string> content;
  const auto look = [&](Volume& volume) {
    std::map<std::string, std::string> found;
    for (int i = 0; i < 20; ++i) {
      const std::string path = "/file" + std::to_string(i);
      found[path] = RealPool::look(volume, path);
    }
    return found;
  };
  std::vector<InodeNumber> files;
  for (int i = 0; i < 20; ++i) {
    files.push_back(pool.create("file" + std::to_string(i)));
    pool.write(files.back(), 0, kBlockBytes * (1 + random() % 8), static_cast<char>('a' + i));
    if (i > 10) must(pool.main->clone_range(files[0], 0, files.back(), 0, 4 * kBlockBytes));
  }
  must(pool.pool->snapshot("main", "snap", true));
  pool.mount_snapshot();
  for (int i = 0; i < 10; ++i) pool.write(files[static_cast<std::size_t>(i)], 0, kBlockBytes, 'z');
  const std::uint64_t free = pool.free_blocks();
  const auto in_main = look(*pool.main), in_snapshot = look(*pool.snapshot);

  const std::uint64_t pool_blocks = 8192;
  std::set<std::uint64_t> bad_data;
  for (int round = 0; round < 400; ++round) {
    const BlockNumber block(round < 300 && random() % 2 ? format::kFirstChunk.value + random() % 512
                                                        : random() % pool_blocks);
    INFO("block " << block.value);
    const BlockUse use = must(pool.pool->report(block)).use;
    if (use == BlockUse::kData) continue;
    pool.medium->inject(block, random() % 2 ? DramMedium::Injection::kListed : DramMedium::Injection::kLatent);
    if (random() % 2) pool.pool->suspect({block, 1});
    if (random() % 8 == 0) pool.crash();
    must(pool.pool->scrub({}));
    if (random() % 16 == 0) pool.crash();
  }
  CHECK(look(*pool.main) == in_main);
  CHECK(look(*pool.snapshot) == in_snapshot);
  CHECK(pool.free_blocks() == free);
  pool.expect_clean();
}

TEST_CASE("poison in a pool: map nodes and leaves of the reverse map are made again when both copies are lost", "[poison]") {
  RealPool pool;
  const InodeNumber file = pool.create("file"), clone = pool.create("clone");
  for (std::uint64_t i = 0; i < 700; ++i)  // with holes between: many records, and nodes of two levels
    pool.write(file, i * 3 * kBlockBytes, kBlockBytes, static_cast<char>('a' + i % 26));
  pool.write(file, 600ull << 20, kBlockBytes, 'z');
  REQUIRE(must(pool.main->clone_range(file, 0, clone, 0, 1ull << 30)) != 0);
  for (int i = 0; i < 40; ++i) pool.create("name" + std::to_string(i));
  must(pool.pool->snapshot("main", "snap", true));
  pool.write(clone, 0, kBlockBytes, 'c');
  const std::string content = RealPool::look(*pool.main, "/file");
  pool.pool->settle();

  Store& store = pool.pool->store();
  std::vector<BlockNumber> lost;
  for (const BlockNumber chunk : store.metadata().chunks())
    for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i) {
      const auto type = store.metadata().descriptor(chunk + i).type;
      if (type == format::BlockType::kMapNode || type == format::BlockType::kReverseLeaf) lost.push_back(chunk + i);
    }
  REQUIRE(lost.size() > 10);
  for (const BlockNumber block : lost) {
    INFO("block " << block.value << ", type " << static_cast<int>(store.metadata().descriptor(block).type));
    if (store.metadata().descriptor(block).type == format::BlockType::kFree) continue;  // leaves come and go
    pool.medium->inject(block);
    pool.medium->inject(Metadata::mirror_of(block));
    store.metadata().forget(block);
    pool.pool->settle();
    CHECK(store.ledger().size() == 0);
    const auto events = pool.events();
    CHECK(std::ranges::count(events, EventKind::kMetadataLost, &Event::kind) == 0);
    CHECK(std::ranges::count(events, EventKind::kMetadataRepaired, &Event::kind) == 2);
  }
  pool.expect_clean();
  CHECK(RealPool::look(*pool.main, "/file") == content);
  pool.crash();
  pool.expect_clean();
  CHECK(RealPool::look(*pool.main, "/file") == content);
}
