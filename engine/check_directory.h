// Directory blocks, and the walk over blocks that belong to one inode of a volume only.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/check_context.h"
#include "engine/check_inode.h"
#include "engine/format.h"
#include "engine/function_ref.h"
#include "engine/map.h"

namespace daxcow::checker {

// Visits the metadata leaves of forks, in order. Inode tables, directories, orphan lists and attributes share blocks
// with those of other volumes but never within their own, so a block met twice in a volume is damage, and going round
// with it could take for ever.
class LeafWalk {
 public:
  explicit LeafWalk(Context& context) : context_(context) {}

  void start_volume() { met_.assign(context_.described.size(), false); }
  using Visit = FunctionRef<void(BlockNumber block, FileBlock at, const Block& content)>;
  // False if a block was met before in this volume; what is below it is not visited again.
  bool for_each(const Fork& fork, const Place& place, Visit visit);

 private:
  void below(std::span<const std::uint64_t> entries, std::uint8_t log512, format::LeafKind kind, FileBlock base,
             const Place& place, Visit visit);
  BlockPtr enter(MapEntry entry, format::BlockType type, const Place& place);

  Context& context_;
  std::vector<bool> met_;
  bool met_again_ = false;
};

// Visits every entry of a directory that makes sense, with its cookie. When `thorough`, the content is checked too: it
// need not be where another volume shares it.
using VisitEntry = FunctionRef<void(std::uint64_t cookie, const format::DirectoryEntry& entry)>;
void check_directory(Context& context, LeafWalk& walk, const InodeInTable& directory, bool thorough, VisitEntry visit);

}  // namespace daxcow::checker
