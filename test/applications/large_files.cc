// A sparse file, a long one, a file of many clones.
#include <fmt/core.h>
#include <linux/falloc.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <random>

#include "test/applications/large_steps.h"

namespace daxcow::large {

void sparse(const Arguments& arguments) {
  const auto& path = arguments.at(0);
  const auto bytes = number(arguments, 1);
  Figures figures;
  const auto file = open_at(AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL);
  const std::array<std::uint64_t, 5> places = {0, bytes / 3 / 4096 * 4096, bytes / 2 / 4096 * 4096 + 4096, bytes / 7 * 6 / 4096 * 4096, bytes - 4096};
  auto sorted = places;
  std::ranges::sort(sorted);
  for (const auto place : places) write_at(file.get(), place, fmt::format("{:4096}", place));
  struct stat status {};
  if (fstat(file.get(), &status) != 0) fail_call("fstat");
  require(static_cast<std::uint64_t>(status.st_size) == bytes, "another size");
  require(status.st_blocks == static_cast<blkcnt_t>(places.size() * 8), fmt::format("{} blocks", status.st_blocks));
  // Data is found just where it was written.
  std::uint64_t at = 0;
  for (const auto place : sorted) {
    const auto data = lseek(file.get(), static_cast<off_t>(at), SEEK_DATA);
    require(data == static_cast<off_t>(place), fmt::format("data at {:#x} instead of {:#x}", data, place));
    const auto hole = lseek(file.get(), data, SEEK_HOLE);
    require(hole == data + 4096, fmt::format("the hole begins at {:#x}", hole));
    at = static_cast<std::uint64_t>(hole);
  }
  figures.add("write and seek");
  std::array<char, 8192> block;
  const auto require_content = [&](std::uint64_t place, bool data) {
    read_at(file.get(), place, std::span(block).first(4096));
    const std::string wanted = data ? fmt::format("{:4096}", place) : std::string(4096, 0);
    require(std::memcmp(block.data(), wanted.data(), 4096) == 0, fmt::format("wrong content at {:#x}", place));
  };
  for (const auto place : places) {
    require_content(place, true);
    if (place > 4096) require_content(place - 8192, false);
  }
  std::mt19937_64 random(1);
  for (int i = 0; i < 10'000; ++i) {
    const auto place = random() % (bytes / 4096) * 4096;
    require_content(place, std::ranges::find(places, place) != places.end());
  }
  figures.add("read", 10'000);
  // Shorter, longer, a hole in one piece of almost all, nothing.
  for (const auto size : {bytes / 2, bytes * 2, bytes / 4, bytes}) {
    if (ftruncate(file.get(), static_cast<off_t>(size)) != 0) fail_call("ftruncate");
    require_content(0, true);
    if (size > bytes / 2) require_content(bytes - 4096, false);
  }
  write_at(file.get(), bytes - 4096, fmt::format("{:4096}", bytes - 4096));
  if (fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, static_cast<off_t>(bytes - 8192)) != 0) fail_call("fallocate");
  require_content(0, true);
  require_content(bytes - 4096, true);
  require(lseek(file.get(), 4096, SEEK_DATA) == static_cast<off_t>(bytes - 4096), "data in the hole");
  if (ftruncate(file.get(), 0) != 0) fail_call("ftruncate");
  if (fstat(file.get(), &status) != 0) fail_call("fstat");
  require(status.st_blocks == 0, "blocks are left");
  figures.add("truncate and punch");
  figures.print();
}

// As large as files can be.
void largest(const Arguments& arguments) {
  Figures figures;
  const auto file = open_at(AT_FDCWD, arguments.at(0), O_RDWR | O_CREAT | O_EXCL);
  for (std::uint64_t size = 1ull << 62;; size |= size >> 1) {
    if (ftruncate(file.get(), static_cast<off_t>(size)) != 0) fail_call("ftruncate to the largest size");
    if (size == LLONG_MAX) break;
  }
  write_at(file.get(), LLONG_MAX - 4096, std::string(4096, 'e'));
  require(pwrite(file.get(), "x", 1, LLONG_MAX) == -1 && (errno == EFBIG || errno == EINVAL), "a byte behind the largest size can be written");
  require(lseek(file.get(), 0, SEEK_DATA) >= LLONG_MAX - 8192, "no data at the end of the largest file");
  if (ftruncate(file.get(), 0) != 0) fail_call("ftruncate");
  figures.add("write at the end");
  figures.print();
}

void write_whole(const Arguments& arguments) {
  const auto bytes = number(arguments, 1);
  Figures figures;
  const auto file = open_at(AT_FDCWD, arguments[0], O_RDWR | O_CREAT | O_TRUNC);
  std::vector<std::uint64_t> words(kPiece / 8);
  for (std::uint64_t offset = 0; offset < bytes; offset += kPiece) {
    fill(words, offset, 1);
    write_at(file.get(), offset, as_characters(words));
  }
  if (fsync(file.get()) != 0) fail_call("fsync");
  figures.add("write");
  figures.print();
}

void read_whole(const Arguments& arguments) {
  const auto bytes = number(arguments, 1);
  Figures figures;
  const auto file = open_at(AT_FDCWD, arguments[0], O_RDONLY);
  std::vector<std::uint64_t> words(kPiece / 8), expected(kPiece / 8);
  for (std::uint64_t offset = 0; offset < bytes; offset += kPiece) {
    read_at(file.get(), offset, as_characters(words));
    fill(expected, offset, 1);
    require(words == expected, fmt::format("wrong content in the MiB at {:#x}", offset));
    posix_fadvise(file.get(), static_cast<off_t>(offset), kPiece, POSIX_FADV_DONTNEED);
  }
  figures.add("read");
  figures.print();
}

void clones(const Arguments& arguments) {
  const auto& path = arguments.at(0);
  const auto count = number(arguments, 1);
  Figures figures;
  if (mkdir(path.c_str(), 0755) != 0) fail_call("mkdir");
  const auto directory = open_directory(path);
  std::vector<std::uint64_t> words(kPiece / 8), found(kPiece / 8);
  fill(words, 0, 2);
  const auto source = open_at(directory.get(), "source", O_RDWR | O_CREAT | O_EXCL);
  write_at(source.get(), 0, as_characters(words));
  const auto name = [](std::uint64_t index) { return fmt::format("clone-{}", index); };
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto clone = open_at(directory.get(), name(i), O_RDWR | O_CREAT | O_EXCL);
    off_t from = 0, to = 0;
    while (from < static_cast<off_t>(kPiece)) {
      const auto copied = copy_file_range(source.get(), &from, clone.get(), &to, kPiece - static_cast<std::uint64_t>(from), 0);
      if (copied <= 0) fail_call("copy_file_range");
    }
  }
  figures.add("clone", count);
  // One is written to: it alone changes.
  const auto changed = count / 2;
  {
    const auto file = open_at(directory.get(), name(changed), O_RDWR);
    write_at(file.get(), 12345, "changed");
    write_at(file.get(), kPiece / 2, std::string(4096, 'x'));
  }
  figures.add("write to one");
  std::mt19937_64 random(1);
  const auto looks = std::min<std::uint64_t>(count, 300);
  const auto require_content = [&](const std::string& file_name, bool same) {
    read_at(open_at(directory.get(), file_name, O_RDONLY).get(), 0, as_characters(found));
    require((found == words) == same, "wrong content of " + file_name);
  };
  for (std::uint64_t i = 0; i < looks; ++i)
    if (const auto which = random() % count; which != changed) require_content(name(which), true);
  require_content("source", true);
  require_content(name(changed), false);
  figures.add("read some", looks);
  if (unlinkat(directory.get(), "source", 0) != 0) fail_call("unlinkat");
  for (std::uint64_t i = 0; i + 1 < count; ++i)
    if (unlinkat(directory.get(), name(i).c_str(), 0) != 0) fail_call("unlinkat");
  require_content(name(count - 1), true);
  if (unlinkat(directory.get(), name(count - 1).c_str(), 0) != 0) fail_call("unlinkat");
  figures.add("remove", count);
  if (rmdir(path.c_str()) != 0) fail_call("rmdir");
  figures.print();
}

}  // namespace daxcow::large
