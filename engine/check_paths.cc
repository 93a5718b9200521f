#include "engine/check_paths.h"

#include <algorithm>
#include <string_view>

namespace daxcow::checker {

using format::BlockType;
using format::DirectoryEntry;
using format::InodeRecord;
using format::kGranuleBytes;
using format::kGranulesPerBlock;
using format::LeafKind;

std::string printable(std::string_view name) {
  std::string shown(name);
  std::ranges::replace_if(
      shown, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return shown;
}

std::string Paths::describe(VolumeNumber volume) {
  if (volume == kVolumeZero) return "volume table";
  const auto path = path_of(kVolumeZero, volume);
  return path ? "volume " + path->substr(1) : "volume with inode " + std::to_string(volume.value);
}

std::string Paths::describe(VolumeNumber volume, InodeNumber inode) {
  const auto path = path_of(volume, inode);
  const std::string number = "inode " + std::to_string(inode.value);
  return describe(volume) + ", " + (path ? *path + " (" + number + ")" : number);
}

std::optional<std::string> Paths::path_of(VolumeNumber volume, InodeNumber inode) {
  constexpr int kMaximumDepth = 128;  // deeper paths, and circles, are shown from there on
  std::string path;
  for (int depth = 0; inode != format::kRootInode; ++depth) {
    if (depth == kMaximumDepth) return "..." + path;
    const auto record = InodeTable::read(reader_, volume, inode);
    if (!record) return std::nullopt;
    const InodeNumber directory(record->parent);
    const auto name = name_in(volume, directory, record->parent_cookie, inode);
    if (!name) return depth == 0 ? std::nullopt : std::optional("..." + path);
    path = "/" + *name + path;
    inode = directory;
  }
  return path.empty() ? "/" : path;
}

std::optional<std::string> Paths::name_in(VolumeNumber volume, InodeNumber directory, std::uint64_t cookie,
                                          InodeNumber inode) {
  const auto record = InodeTable::read(reader_, volume, directory);
  if (!record || cookie / kGranulesPerBlock >= kMaximumFileBlocks) return std::nullopt;
  const auto entry = entry_at(reader_, data_fork(*record, LeafKind::kDirectory), FileBlock(cookie / kGranulesPerBlock));
  if (!entry || !entry->present()) return std::nullopt;
  const auto block = reader_.read(entry->block(), BlockType::kDirectory);
  if (!block) return std::nullopt;
  const std::uint64_t at = cookie % kGranulesPerBlock * kGranuleBytes;
  const auto* found = reinterpret_cast<const DirectoryEntry*>((*block)->bytes + at);
  if (found->granules == 0 || found->inode != inode.value) return std::nullopt;
  if (at + sizeof *found + found->name_bytes > kBlockBytes) return std::nullopt;
  return printable({reinterpret_cast<const char*>(found + 1), found->name_bytes});
}

}  // namespace daxcow::checker
