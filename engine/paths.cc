#include "engine/paths.h"

#include <sys/stat.h>

#include <optional>

#include "engine/attribute_list.h"
#include "engine/directory.h"
#include "engine/inode_table.h"

namespace daxcow {

using format::InodeRecord;

namespace {

constexpr int kMaximumDepth = 4096;  // longer chains are a circle or beyond what a path can say

// The path of one directory entry; nothing if the chain does not lead to the root.
Result<std::optional<std::string>> path_of_entry(BlockReader& reader, VolumeNumber volume, std::uint64_t directory, std::uint64_t cookie) {
  std::string path;
  for (int depth = 0; depth < kMaximumDepth && directory != 0; ++depth) {
    const InodeRecord parent = TRY(InodeTable::read(reader, volume, InodeNumber(directory)));
    const auto name = TRY(name_at(reader, parent, cookie));
    if (!name) return std::nullopt;
    path = "/" + *name + path;
    if (InodeNumber(directory) == format::kRootInode) return path;
    directory = parent.parent;
    cookie = parent.parent_cookie;
  }
  return std::nullopt;
}

}  // namespace

Result<std::vector<std::string>> paths_of(BlockReader& reader, VolumeNumber volume, InodeNumber inode, std::size_t limit) {
  if (inode == format::kRootInode) return std::vector<std::string>{"/"};
  const InodeRecord record = TRY(InodeTable::read(reader, volume, inode));
  std::vector<std::pair<std::uint64_t, std::uint64_t>> parents;
  if (record.parent != 0) parents.emplace_back(record.parent, record.parent_cookie);
  if (!S_ISDIR(record.mode) && record.attribute_bytes != 0 && record.link_count > 1) {
    const AttributeList list = TRY(AttributeList::read(reader, record));
    for (const auto& item : list.items())
      if (item.space == format::AttributeSpace::kParent && item.name.size() == 16) parents.push_back(AttributeList::parse_parent(item.name));
  }
  std::vector<std::string> paths;
  for (const auto& [directory, cookie] : parents) {
    if (paths.size() >= limit) break;
    if (auto path = TRY(path_of_entry(reader, volume, directory, cookie))) paths.push_back(std::move(*path));
  }
  return paths;
}

}  // namespace daxcow
