// Media: in memory, in pool files, and pool files as a device that goes bad.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <thread>
#include <vector>

#include "engine/emulated_badblocks.h"
#include "engine/medium_dram.h"
#include "engine/medium_pmem2.h"
#include "test/temporary_directory.h"

namespace daxcow {
namespace {

using namespace test;

using Block = std::array<std::byte, kBlockBytes>;

// Where pools are tried: TMPDIR, mostly on a disk, and memory, where there is any.
std::vector<fs::path> base_directories() {
  std::vector<fs::path> bases{fs::temp_directory_path()};
  if (access("/dev/shm", W_OK) == 0) bases.emplace_back("/dev/shm");
  return bases;
}

bool is_in_memory(const fs::path& directory) {
  struct statfs status = {};
  REQUIRE(statfs(directory.c_str(), &status) == 0);
  return status.f_type == TMPFS_MAGIC;
}

Block filled_block(unsigned char value) {
  Block block;
  block.fill(std::byte{value});
  return block;
}

std::unique_ptr<Medium> make_pool(const std::string& path, std::uint64_t blocks = 64) {
  need(create_pool_file(path, blocks * kBlockBytes));
  return need(open_pmem2_medium(path, {}));
}

Result<> read_block(Medium& medium, std::uint64_t number) {
  Block block;
  return medium.read(number * kBlockBytes, block);
}

bool holds(Medium& medium, std::uint64_t number, const Block& expected) {
  Block block;
  need(medium.read(number * kBlockBytes, block));
  return block == expected;
}

// Waits, at most ten seconds, until `done` holds after some wake of wait_bad_change.
template <class Done>
bool waits_until(Medium& medium, Done done) {
  FileDescriptor stop(eventfd(0, EFD_CLOEXEC));
  std::atomic<bool> finished = false;
  std::thread watchdog([&] {
    for (int i = 0; i < 1000 && !finished; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    eventfd_write(stop.get(), 1);
  });
  bool result = done();
  while (!result && need(medium.wait_bad_change(stop.get()))) result = done();
  finished = true;
  watchdog.join();
  return result;
}

// How much of the mapping is not on its disk, as the kernel counts it.
std::uint64_t dirty_kibibytes(const Medium& medium) {
  std::ifstream in("/proc/self/smaps");
  std::uint64_t dirty = 0;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    unsigned long long first = 0, end = 0, amount = 0;
    const auto address = reinterpret_cast<std::uintptr_t>(medium.mapping());
    if (std::sscanf(line.c_str(), "%llx-%llx ", &first, &end) == 2) {
      inside = first >= address && end <= address + medium.size_bytes();
    } else if (inside && (std::sscanf(line.c_str(), "Shared_Dirty: %llu", &amount) == 1 ||
                          std::sscanf(line.c_str(), "Private_Dirty: %llu", &amount) == 1)) {
      dirty += amount;
    }
  }
  return dirty;
}

// --- DRAM ---

TEST_CASE("a medium in memory goes bad when told", "[dram]") {
  auto medium = need(DramMedium::create(16 * kBlockBytes + 100));
  CHECK(medium->size_bytes() == 16 * kBlockBytes);
  const Block ones = filled_block(1);
  for (std::uint64_t i = 0; i < 16; ++i) need(medium->store(i * kBlockBytes, ones));
  medium->inject(BlockNumber(3));
  medium->inject(BadRange{5 * kBlockBytes + 512, 512}, DramMedium::Injection::kLatent);

  CHECK(need(medium->bad_ranges()) == BadRanges{{3 * kBlockBytes, kBlockBytes}});
  CHECK(error_of(read_block(*medium, 3)) == ErrorCode::kPoisoned);
  CHECK(error_of(read_block(*medium, 5)) == ErrorCode::kPoisoned);
  CHECK(error_of(medium->store(5 * kBlockBytes, ones)) == ErrorCode::kPoisoned);
  CHECK(error_of(medium->store_zeros(3 * kBlockBytes, 1)) == ErrorCode::kPoisoned);
  CHECK(holds(*medium, 4, ones));

  FileDescriptor stop(eventfd(0, EFD_CLOEXEC));
  CHECK(need(medium->wait_bad_change(stop.get())));
  medium->note_fault(BlockNumber(5));
  CHECK(need(medium->wait_bad_change(stop.get())));
  CHECK(need(medium->bad_ranges()).back() == BadRange{5 * kBlockBytes + 512, 512});

  need(medium->clear_bad({BlockNumber(2), 4}));
  CHECK(need(medium->bad_ranges()).empty());
  CHECK(holds(*medium, 2, ones));
  CHECK(holds(*medium, 3, filled_block(0)));
  CHECK(holds(*medium, 5, filled_block(0)));
  CHECK(need(medium->wait_bad_change(stop.get())));
  eventfd_write(stop.get(), 1);
  CHECK_FALSE(need(medium->wait_bad_change(stop.get())));

  const auto image = medium->snapshot();
  auto copy = need(DramMedium::from_image(image));
  CHECK(holds(*copy, 2, ones));
  CHECK(copy->snapshot() == image);
  CHECK(error_of(DramMedium::create(100)) == ErrorCode::kInvalid);
}

// --- Pools in files ---

TEST_CASE("a pool file keeps what is stored", "[pmem2]") {
  const fs::path base = GENERATE(from_range(base_directories()));
  const bool relaxed = GENERATE(false, true);
  TemporaryDirectory directory(base);
  const std::string path = directory / "pool";
  need(create_pool_file(path, 64 * kBlockBytes + 100));
  {
    auto medium = need(open_pmem2_medium(path, {.relaxed = relaxed}));
    CHECK(medium->size_bytes() == 64 * kBlockBytes);
    if (medium->info().granularity == StoreGranularity::kPage) {
      CHECK(medium->info().kind == MediumKind::kEmulatedFile);
      CHECK(medium->info().durability == (is_in_memory(base) || relaxed ? Durability::kProcess : Durability::kSync));
    }
    CHECK(error_of(medium->identity()) == ErrorCode::kUnsupported);
    // Every length and alignment that a copy function may treat in a way of its own.
    std::vector<std::byte> pattern(3 * kBlockBytes);
    for (std::size_t i = 0; i < pattern.size(); ++i) pattern[i] = static_cast<std::byte>(i * 7 + i / 256);
    for (const std::size_t length : {0, 1, 8, 63, 64, 65, 255, 256, 257, 4095, 4096, 12287}) {
      for (const std::uint64_t offset : {0, 1, 40, 4090}) {
        need(medium->store(offset, std::span(pattern).first(length)));
        std::vector<std::byte> back(length);
        need(medium->read(offset, back));
        REQUIRE(std::equal(back.begin(), back.end(), pattern.begin()));
      }
    }
    for (std::uint64_t i = 0; i < 64; i += 3) need(medium->store(i * kBlockBytes, filled_block(9)));
    need(medium->store_zeros(3 * kBlockBytes, kBlockBytes));
    need(medium->drain());
    need(medium->drain());
  }
  auto medium = need(open_pmem2_medium(path, {}));
  CHECK(holds(*medium, 6, filled_block(9)));
  CHECK(holds(*medium, 3, filled_block(0)));
  CHECK(holds(*medium, 63, filled_block(9)));
}

TEST_CASE("a drain leaves no dirty page of what was stored", "[pmem2]") {
  const fs::path base = fs::temp_directory_path();
  TemporaryDirectory directory(base);
  const std::string path = directory / "pool";
  constexpr std::uint64_t kBlocks = 16384;
  auto medium = make_pool(path, kBlocks);
  if (medium->info().durability != Durability::kSync) return;  // nothing to write back to
  // More ranges, and farther apart, than are remembered one by one.
  for (std::uint64_t i = 0; i < 200; ++i) need(medium->store(i * 80 * kBlockBytes + 100, filled_block(5)));
  CHECK(dirty_kibibytes(*medium) >= 200 * 4);
  need(medium->drain());
  CHECK(dirty_kibibytes(*medium) == 0);
}

TEST_CASE("a pool is open for one writer or several readers", "[pmem2]") {
  TemporaryDirectory directory(fs::temp_directory_path());
  const std::string path = directory / "pool";
  {
    auto writer = make_pool(path);
    const auto second = open_pmem2_medium(path, {});
    CHECK(error_of(second) == ErrorCode::kBusy);
    CHECK(second.error().message.find(path) != std::string::npos);
    CHECK(error_of(open_pmem2_medium(path, {.read_only = true})) == ErrorCode::kBusy);
    CHECK(error_of(create_pool_file(path, 1 << 20, {.overwrite = true})) == ErrorCode::kBusy);
    need(open_pmem2_medium(path, {.read_only = true, .lock = false}));
  }
  auto reader = need(open_pmem2_medium(path, {.read_only = true}));
  auto other_reader = need(open_pmem2_medium(path, {.read_only = true}));
  CHECK(error_of(open_pmem2_medium(path, {})) == ErrorCode::kBusy);
  CHECK(error_of(reader->store(0, filled_block(1))) == ErrorCode::kReadOnly);
  CHECK(error_of(reader->store_zeros(0, 1)) == ErrorCode::kReadOnly);
  CHECK(error_of(reader->clear_bad({BlockNumber(0), 1})) == ErrorCode::kReadOnly);
  need(reader->drain());
}

TEST_CASE("what cannot be a pool is refused in one line", "[pmem2]") {
  TemporaryDirectory directory(fs::temp_directory_path());
  const auto refused = [](const std::string& path) {
    const auto medium = open_pmem2_medium(path, {});
    REQUIRE(!medium);
    CHECK(medium.error().message.find(path) != std::string::npos);
    CHECK(medium.error().message.find('\n') == std::string::npos);
    return medium.error().code;
  };
  CHECK(refused(directory / "missing") == ErrorCode::kNotFound);
  CHECK(refused(directory / "") == ErrorCode::kIsDirectory);
  CHECK(refused("/dev/null") == ErrorCode::kInvalid);
  write_text(directory / "empty", "");
  CHECK(refused(directory / "empty") == ErrorCode::kInvalid);
  write_text(directory / "short", std::string(100, 'x'));
  CHECK(refused(directory / "short") == ErrorCode::kInvalid);
  REQUIRE(mkfifo((directory / "pipe").c_str(), 0600) == 0);
  CHECK(refused(directory / "pipe") == ErrorCode::kInvalid);

  need(create_pool_file(directory / "new", kBlockBytes));
  CHECK(error_of(create_pool_file(directory / "new", kBlockBytes)) == ErrorCode::kExists);
  need(create_pool_file(directory / "new", 2 * kBlockBytes, {.overwrite = true}));
  CHECK(fs::file_size(directory / "new") == 2 * kBlockBytes);
  CHECK(error_of(create_pool_file(directory / "zero", 0)) == ErrorCode::kInvalid);
  const auto huge = create_pool_file(directory / "huge", 1ull << 50);
  CHECK_FALSE(huge);
  CHECK_FALSE(fs::exists(directory / "huge"));
}

TEST_CASE("a pool file cut short while open is an error, not poison and not a crash", "[pmem2]") {
  TemporaryDirectory directory(fs::temp_directory_path());
  const std::string path = directory / "pool";
  auto medium = make_pool(path);
  REQUIRE(truncate(path.c_str(), 32 * kBlockBytes) == 0);
  CHECK(error_of(read_block(*medium, 40)) == ErrorCode::kIo);
  CHECK(error_of(medium->store(40 * kBlockBytes, filled_block(1))) == ErrorCode::kIo);
  need(read_block(*medium, 31));
}

// --- Emulated poison ---

TEST_CASE("poison of an emulated pool is real", "[emulation]") {
  const fs::path base = GENERATE(from_range(base_directories()));
  TemporaryDirectory directory(base);
  const std::string path = directory / "pool";
  {
    auto medium = make_pool(path);
    for (std::uint64_t i = 0; i < 64; ++i) need(medium->store(i * kBlockBytes, filled_block(7)));
    need(medium->drain());
  }
  write_text(path + ".badblocks", "80 8\n");     // block 10
  write_text(path + ".injected", "163 1\n");     // one sector of block 20
  const bool read_only = GENERATE(false, true);  // poison is there for readers too
  auto medium = need(open_pmem2_medium(path, {.read_only = read_only}));
  CHECK(medium->info().badblocks_source == fs::canonical(path).string() + ".badblocks");
  CHECK(need(medium->bad_ranges()) == BadRanges{{10 * kBlockBytes, kBlockBytes}});
  for (std::uint64_t i = 0; i < 64; ++i) {
    const auto result = read_block(*medium, i);
    if (i == 10 || i == 20) {
      REQUIRE(error_of(result) == ErrorCode::kPoisoned);
    } else {
      need(result);
    }
  }
  // A system call fails too, rather than to raise a signal.
  int pipe_ends[2];
  REQUIRE(pipe(pipe_ends) == 0);
  errno = 0;
  CHECK(write(pipe_ends[1], medium->mapping() + 20 * kBlockBytes, kBlockBytes) == -1);
  CHECK(errno == EFAULT);
  close(pipe_ends[0]);
  close(pipe_ends[1]);

  if (!read_only) {
    CHECK(error_of(medium->store(20 * kBlockBytes + 100, std::as_bytes(std::span("x")))) == ErrorCode::kPoisoned);
    CHECK(error_of(medium->store_zeros(9 * kBlockBytes, 2 * kBlockBytes)) == ErrorCode::kPoisoned);
    need(medium->store(9 * kBlockBytes, filled_block(7)));
    need(medium->clear_bad({BlockNumber(0), 64}));
    CHECK(read_text(path + ".badblocks").empty());
    CHECK(read_text(path + ".injected").empty());
    CHECK(holds(*medium, 10, filled_block(0)));
    CHECK(holds(*medium, 20, filled_block(0)));
    CHECK(holds(*medium, 9, filled_block(7)));  // good neighbours are left alone
    need(medium->store(20 * kBlockBytes, filled_block(8)));
    need(medium->drain());
    medium.reset();
    medium = need(open_pmem2_medium(path, {}));
    CHECK(holds(*medium, 20, filled_block(8)));
    CHECK(holds(*medium, 10, filled_block(0)));
  }
}

TEST_CASE("good sectors of a page that is bad in part can be read, and no others", "[emulation]") {
  TemporaryDirectory directory(fs::temp_directory_path());
  const std::string path = directory / "pool";
  auto medium = make_pool(path);
  for (std::uint64_t i = 0; i < 64; ++i) need(medium->store(i * kBlockBytes, filled_block(7)));
  need(emulated_device::inject(path, 20 * 8 + 3, 1, /*notify=*/true));
  need(emulated_device::inject(path, 21 * 8, 1, /*notify=*/false));
  REQUIRE(waits_until(*medium, [&] { return !read_block(*medium, 20) && !read_block(*medium, 21); }));
  for (std::uint64_t offset = 19 * kBlockBytes; offset < 23 * kBlockBytes; offset += 100) {
    std::array<std::byte, 100> bytes{};
    const auto touches = [&](std::uint64_t sector) {
      return offset < (sector + 1) * 512 && offset + 100 > sector * 512;
    };
    const auto done = medium->read(offset, bytes);
    INFO(offset);
    if (touches(163) || touches(168)) {
      CHECK(error_of(done) == ErrorCode::kPoisoned);
    } else {
      need(done);
      CHECK(std::ranges::count(bytes, std::byte{7}) == 100);
    }
  }
}

TEST_CASE("latent poison is listed once it was met", "[emulation]") {
  TemporaryDirectory directory(fs::temp_directory_path());
  const std::string path = directory / "pool";
  auto medium = make_pool(path);
  const auto is_bad = [&](std::uint64_t block) { return !read_block(*medium, block).has_value(); };

  need(emulated_device::inject(path, 40, 16, /*notify=*/false));  // blocks 5 and 6
  REQUIRE(waits_until(*medium, [&] { return is_bad(5) && is_bad(6); }));
  CHECK(need(medium->bad_ranges()).empty());
  medium->note_fault(BlockNumber(4));
  CHECK(need(medium->bad_ranges()).empty());
  medium->note_fault(BlockNumber(5));
  CHECK(need(medium->bad_ranges()) == BadRanges{{5 * kBlockBytes, kBlockBytes}});

  need(emulated_device::uninject(path, 40, 16));
  CHECK(need(emulated_device::injected(path)).empty());
  REQUIRE(waits_until(*medium, [&] { return !is_bad(6); }));
  CHECK(is_bad(5));  // the device still lists it
  need(medium->clear_bad({BlockNumber(5), 1}));
  CHECK_FALSE(is_bad(5));

  need(emulated_device::inject(path, 8, 8, /*notify=*/true));
  REQUIRE(waits_until(*medium, [&] { return is_bad(1); }));
  CHECK(need(medium->bad_ranges()) == BadRanges{{kBlockBytes, kBlockBytes}});
  CHECK(need(emulated_device::injected(path)) == BadRanges{{kBlockBytes, kBlockBytes}});
}

TEST_CASE("lists may be edited by hand while a pool is open", "[emulation]") {
  const fs::path base = GENERATE(from_range(base_directories()));
  TemporaryDirectory directory(base);
  const std::string path = directory / "pool";
  const std::string list = path + ".badblocks";
  auto medium = make_pool(path);
  need(medium->store(kBlockBytes, filled_block(3)));
  const auto is_bad = [&](std::uint64_t block) { return !read_block(*medium, block).has_value(); };

  write_text(list, "8 8\n", std::ios::app);
  REQUIRE(waits_until(*medium, [&] { return is_bad(1); }));
  write_text(list, "32 8\n48 8\n", std::ios::app);
  REQUIRE(waits_until(*medium, [&] { return is_bad(4) && is_bad(6); }));
  CHECK(is_bad(1));
  CHECK_FALSE(is_bad(5));

  write_text(list + ".tmp", "40 8\n");
  fs::rename(list + ".tmp", list);
  REQUIRE(waits_until(*medium, [&] { return is_bad(5); }));
  CHECK_FALSE(is_bad(4));
  CHECK(holds(*medium, 1, filled_block(3)));  // the file's own page is back

  // A list that reaches beyond the pool, and one with a line that is not finished.
  write_text(list, "504 1000000\n8");
  REQUIRE(waits_until(*medium, [&] { return is_bad(63) && !is_bad(5); }));
  CHECK(need(medium->bad_ranges()) == BadRanges{{63 * kBlockBytes, kBlockBytes}});
  CHECK_FALSE(is_bad(1));
  fs::remove(list);
  REQUIRE(waits_until(*medium, [&] { return !is_bad(63); }));
  CHECK(need(medium->bad_ranges()).empty());
}

TEST_CASE("injection outside of a pool, or into no pool, is refused", "[emulation]") {
  TemporaryDirectory directory(fs::temp_directory_path());
  const std::string path = directory / "pool";
  make_pool(path);
  const auto outside = emulated_device::inject(path, 512, 1, true);
  CHECK(error_of(outside) == ErrorCode::kInvalid);
  CHECK(outside.error().message.find("512 sectors") != std::string::npos);
  CHECK(error_of(emulated_device::inject(path, 511, 2, true)) == ErrorCode::kInvalid);
  CHECK(error_of(emulated_device::inject(path, 0, 0, true)) == ErrorCode::kInvalid);
  CHECK(error_of(emulated_device::inject(path, 1, ~0ull, true)) == ErrorCode::kInvalid);
  CHECK(error_of(emulated_device::uninject(path, 512, 1)) == ErrorCode::kInvalid);
  CHECK_FALSE(fs::exists(path + ".injected"));
  CHECK(error_of(emulated_device::inject(directory / "missing", 0, 1, true)) == ErrorCode::kNotFound);
  CHECK(error_of(emulated_device::inject("/dev/null", 0, 1, true)) == ErrorCode::kUnsupported);
  // Through a link the same lists are meant.
  fs::create_symlink(path, directory / "link");
  need(emulated_device::inject(directory / "link", 511, 1, true));
  CHECK(read_text(path + ".injected") == "511 1\n");
  CHECK(read_text(path + ".badblocks") == "511 1\n");
}

TEST_CASE("more separate bad runs than can be mapped are refused", "[emulation]") {
  TemporaryDirectory directory(fs::temp_directory_path());
  const std::string path = directory / "pool";
  need(create_pool_file(path, 65536 * kBlockBytes));
  std::string text;
  for (int i = 0; i < 16384; ++i) text += std::to_string(i * 16) + " 8\n";
  write_text(path + ".badblocks", text);
  {
    auto medium = need(open_pmem2_medium(path, {}));
    CHECK(error_of(read_block(*medium, 16383 * 2)) == ErrorCode::kPoisoned);
    need(read_block(*medium, 16383 * 2 + 1));
  }
  CHECK(error_of(emulated_device::inject(path, 16384 * 16, 8, false)) == ErrorCode::kUnsupported);
  write_text(path + ".badblocks", std::to_string(16384 * 16) + " 8\n", std::ios::app);
  CHECK(error_of(open_pmem2_medium(path, {})) == ErrorCode::kUnsupported);
}

TEST_CASE("waiting for bad blocks ends when told", "[emulation]") {
  TemporaryDirectory directory(fs::temp_directory_path());
  auto medium = make_pool(directory / "pool");
  FileDescriptor stop(eventfd(0, EFD_CLOEXEC));
  std::thread waiter([&] {
    while (need(medium->wait_bad_change(stop.get()))) {
    }
  });
  write_text(directory / "unrelated", "x");
  eventfd_write(stop.get(), 1);
  waiter.join();
}

TEST_CASE("copies by several threads go on while blocks go bad and are cleared", "[emulation]") {
  TemporaryDirectory directory(fs::temp_directory_path());
  const std::string path = directory / "pool";
  auto medium = make_pool(path);
  std::atomic<bool> stop = false;
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      const Block mine = filled_block(static_cast<unsigned char>(t + 1));
      Block back;
      for (std::uint64_t i = 0; !stop; ++i) {
        const std::uint64_t at = (32 + t * 8 + i % 8) * kBlockBytes;  // never poisoned
        if (!medium->store(at, mine) || !medium->read(at, back) || back != mine) ++wrong;
        const auto elsewhere = medium->read(i % 8 * kBlockBytes, back);
        if (!elsewhere && elsewhere.error().code != ErrorCode::kPoisoned) ++wrong;
      }
    });
  }
  for (std::uint64_t i = 0; i < 50; ++i) {
    need(emulated_device::inject(path, i % 8 * 8, 8, true));
    REQUIRE(waits_until(*medium, [&] { return !read_block(*medium, i % 8).has_value(); }));
    need(medium->clear_bad({BlockNumber(0), 8}));
    need(read_block(*medium, i % 8));
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

}  // namespace
}  // namespace daxcow
