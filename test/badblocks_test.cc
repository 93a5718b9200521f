// Lists of bad blocks: the text, the sets, and where the kernel keeps them.
#include "engine/badblocks.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <thread>

#include "engine/bad_range.h"
#include "engine/medium_pmem2.h"
#include "test/temporary_directory.h"

namespace daxcow {
namespace {

using namespace test;

TEST_CASE("the kernel's format is read, and torn or foreign lines are left out", "[badblocks]") {
  CHECK(parse_badblocks("").empty());
  CHECK(parse_badblocks("\n").empty());
  CHECK(parse_badblocks("8 8\n") == BadRanges{{4096, 4096}});
  CHECK(parse_badblocks("8 8") == BadRanges{{4096, 4096}});
  CHECK(parse_badblocks(" 8\t8 \r\n") == BadRanges{{4096, 4096}});
  CHECK(parse_badblocks("8 8\n16").size() == 1);
  CHECK(parse_badblocks("8 8\n64 ").size() == 1);
  CHECK(parse_badblocks("eight 8\n-1 8\n8 8 8\n8 0\n0x8 8\n8-8\n").empty());
  CHECK(parse_badblocks("99999999999999999999999 1\n18446744073709551615 1\n").empty());
  const BadRanges huge = parse_badblocks("8 18446744073709551615\n");
  REQUIRE(huge.size() == 1);
  CHECK(huge[0].offset_bytes + huge[0].length_bytes > huge[0].offset_bytes);
  CHECK(parse_badblocks("16 8\n8 8\n100 1\n9 1\n") == BadRanges{{4096, 8192}, {51200, 512}});
  CHECK(format_badblocks({{4096, 8192}, {51200, 512}}) == "8 16\n100 1\n");
  CHECK(format_badblocks({}).empty());
}

TEST_CASE("sets of ranges agree with sets of sectors", "[badblocks]") {
  constexpr std::uint64_t kSectors = 96;
  std::uint64_t state = GENERATE(1u, 2u, 3u, 4u, 5u);
  INFO("seed " << state);
  const auto random = [&](std::uint64_t limit) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (state >> 33) % limit;
  };
  const auto bits_of = [](const BadRanges& ranges) {
    std::array<bool, kSectors> bits{};
    for (const BadRange& range : ranges) {
      for (std::uint64_t i = 0; i < range.length_bytes / kSectorBytes; ++i)
        bits[range.offset_bytes / kSectorBytes + i] = true;
    }
    return bits;
  };
  for (int round = 0; round < 300; ++round) {
    BadRanges a, b;
    for (BadRanges* list : {&a, &b}) {
      for (std::uint64_t i = random(6); i > 0; --i) {
        const std::uint64_t first = random(kSectors);
        list->push_back(
            {first * kSectorBytes, random(std::min<std::uint64_t>(kSectors - first + 1, 20)) * kSectorBytes});
      }
    }
    const auto in_a = bits_of(a), in_b = bits_of(b);
    const auto both = bits_of(intersect(a, b)), either = bits_of(unite(a, b)), rest = bits_of(subtract(a, b));
    const auto pages = bits_of(whole_blocks(a));
    const BadRanges sorted = normalise(a);
    for (std::uint64_t i = 0; i < kSectors; ++i) {
      REQUIRE(both[i] == (in_a[i] && in_b[i]));
      REQUIRE(either[i] == (in_a[i] || in_b[i]));
      REQUIRE(rest[i] == (in_a[i] && !in_b[i]));
      bool page = false;
      for (std::uint64_t j = i / 8 * 8; j < i / 8 * 8 + 8; ++j) page = page || in_a[j];
      REQUIRE(pages[i] == page);
      REQUIRE(overlaps(sorted, {i * kSectorBytes, kSectorBytes}) == in_a[i]);
    }
    for (const BadRanges& list : {intersect(a, b), unite(a, b), subtract(a, b), whole_blocks(a)}) {
      REQUIRE(normalise(list) == list);
    }
  }
}

TEST_CASE("offsets on a device become offsets in a file", "[badblocks]") {
  const std::vector<FileExtent> extents{{0, 1 << 20, 8192}, {8192, 4 << 20, 4096}, {65536, 2 << 20, 1 << 20}};
  CHECK(translate_to_file({{0, 4096}}, extents).empty());
  CHECK(translate_to_file({{(1 << 20) + 4096, 4096}}, extents) == BadRanges{{4096, 4096}});
  CHECK(translate_to_file({{(1 << 20) - 512, 1024}}, extents) == BadRanges{{0, 512}});
  CHECK(translate_to_file({{1 << 20, 4 << 20}}, extents) == BadRanges{{0, 12288}, {65536, 1 << 20}});
  CHECK(clip({{0, 1024}, {4096, 4096}}, 512, 4096) == BadRanges{{0, 512}, {3584, 512}});
}

TEST_CASE("extents of a file are found", "[badblocks]") {
  TemporaryDirectory directory(fs::temp_directory_path());
  const std::string path = directory / "file";
  need(create_pool_file(path, 1 << 20));
  const FileDescriptor file(open(path.c_str(), O_RDWR | O_CLOEXEC));
  const std::vector<std::byte> ones(1 << 20, std::byte{1});
  REQUIRE(pwrite(file.get(), ones.data(), ones.size(), 0) == 1 << 20);
  REQUIRE(fsync(file.get()) == 0);
  const auto extents = file_extents(file.get());
  if (!extents) {
    CHECK(extents.error().code == ErrorCode::kUnsupported);  // tmpfs
    return;
  }
  std::uint64_t bytes = 0;
  for (const FileExtent& extent : *extents) bytes += extent.length_bytes;
  CHECK(bytes >= 1 << 20);
}

TEST_CASE("the right attribute is found in sysfs", "[badblocks]") {
  TemporaryDirectory root(fs::temp_directory_path());
  const auto make = [&](const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root / path).parent_path());
    write_text(root / path, text);
  };
  const auto link = [&](const std::string& name, const std::string& target) {
    fs::create_directories(fs::path(root / name).parent_path());
    fs::create_directory_symlink(fs::path(root / target), root / name);
  };
  make("devices/nd/region0/resource", "0x100000000\n");
  make("devices/nd/region0/badblocks", "8 8\n16384 1\n16392 2\n99999999 1\n");
  make("devices/nd/region0/dax0.1/resource", "0x100800000\n");
  make("devices/nd/region0/dax0.1/dax0.0/size", "1048576\n");
  make("devices/nd/region0/pmem0/badblocks", "4104 8\n");
  make("devices/nd/region0/pmem0/pmem0p1/partition", "1\n");
  make("devices/nd/region0/pmem0/pmem0p1/start", "4096\n");
  make("devices/nd/region0/pmem0/pmem0p1/size", "2048\n");
  make("devices/virtual/mem/null/uevent", "");
  make("bus/dax/x", "");
  link("dev/char/252:0", "devices/nd/region0/dax0.1/dax0.0");
  link("devices/nd/region0/dax0.1/dax0.0/subsystem", "bus/dax");
  link("dev/char/1:3", "devices/virtual/mem/null");
  link("dev/block/259:0", "devices/nd/region0/pmem0");
  link("dev/block/259:1", "devices/nd/region0/pmem0/pmem0p1");
  const std::string sysfs = root / "";

  CHECK(is_devdax(sysfs, makedev(252, 0)));
  CHECK_FALSE(is_devdax(sysfs, makedev(1, 3)));
  CHECK_FALSE(is_devdax(sysfs, makedev(9, 9)));

  const BadblocksSource dax = need(find_devdax_badblocks(sysfs, makedev(252, 0)));
  CHECK(dax.start_bytes == 0x800000);
  CHECK(need(read_badblocks(dax)) == BadRanges{{0, 512}, {4096, 1024}});
  CHECK(error_of(find_devdax_badblocks(sysfs, makedev(1, 3))) == ErrorCode::kUnsupported);
  make("devices/nd/region0/dax0.1/dax0.0/resource", "0x0\n");
  CHECK(error_of(find_devdax_badblocks(sysfs, makedev(252, 0))) == ErrorCode::kPermission);
  make("devices/nd/region0/dax0.1/dax0.0/resource", "0x100801000\n");
  CHECK(need(read_badblocks(need(find_devdax_badblocks(sysfs, makedev(252, 0))))) == BadRanges{{0, 1024}});

  CHECK(need(read_badblocks(need(find_block_device_badblocks(sysfs, makedev(259, 0))))) ==
        BadRanges{{4104 * 512, 4096}});
  CHECK(need(read_badblocks(need(find_block_device_badblocks(sysfs, makedev(259, 1))))) == BadRanges{{8 * 512, 4096}});
  CHECK(error_of(find_block_device_badblocks(sysfs, makedev(0, 42))) == ErrorCode::kUnsupported);
}

TEST_CASE("a watch whose attribute is away waits for it and can be stopped", "[badblocks]") {
  TemporaryDirectory directory(fs::temp_directory_path());
  const std::string path = directory / "badblocks";
  BadblocksWatch watch({.attribute = path, .start_bytes = 0});
  FileDescriptor stop(eventfd(0, EFD_CLOEXEC));
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    std::ofstream(path) << "8 8\n";  // no assertion in a thread: Catch2 is not made for it
  });
  CHECK(need(watch.wait(stop.get())));
  later.join();
  eventfd_write(stop.get(), 1);
  CHECK_FALSE(need(watch.wait(stop.get())));
}

}  // namespace
}  // namespace daxcow
