#include "engine/check_inode.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>

#include "engine/attribute_list.h"

namespace daxcow::checker {

using format::AttributeSpace;
using format::InodeFlag;
using format::InodeRecord;
using format::LeafKind;

namespace {

class InodeCheck {
 public:
  InodeCheck(Context& context, const TreeWalk& trees, const InodeInTable& inode)
      : context_(context),
        trees_(trees),
        inode_(inode),
        record_(inode.record),
        kind_(data_kind(record_, inode.number, inode.volume)) {}

  void run() {
    check_mode_and_flags();
    check_fields();
    check_size();
    check_blocks();
    if (S_ISLNK(record_.mode)) check_symlink();
  }

 private:
  void add(FindingKind kind, std::string what) {
    context_.findings.add(kind, Severity::kRepairable, inode_.block, Place{inode_.volume, inode_.number, {}},
                          std::move(what));
  }
  bool flag(InodeFlag f) const { return has_flag(record_, f); }

  void check_mode_and_flags() {
    static constexpr std::uint32_t kTypes[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFBLK, S_IFCHR};
    if (std::ranges::find(kTypes, record_.mode & S_IFMT) == std::end(kTypes) || record_.mode & ~(S_IFMT | 07777u))
      add(FindingKind::kInode, "its mode makes no sense: " + std::to_string(record_.mode));
    constexpr std::uint32_t kVolumeFlags =
        static_cast<std::uint32_t>(InodeFlag::kReadOnlyVolume) | static_cast<std::uint32_t>(InodeFlag::kSnapshot);
    constexpr std::uint32_t kKnown = kVolumeFlags | static_cast<std::uint32_t>(InodeFlag::kInlineSymlink) |
                                     static_cast<std::uint32_t>(InodeFlag::kVolume);
    if (record_.flags & ~kKnown) add(FindingKind::kInode, "it has unknown flags");
    if (flag(InodeFlag::kInlineSymlink) && !S_ISLNK(record_.mode))
      add(FindingKind::kInode, "it has a symlink's flag but is none");
    if (record_.flags & kVolumeFlags && !flag(InodeFlag::kVolume))
      add(FindingKind::kVolume, "it has a volume's flags but is none");
    if (inode_.number == format::kRootInode && !S_ISDIR(record_.mode))
      add(FindingKind::kInode, "the root is not a directory");
  }

  void check_fields() {
    if (!has_valid_levels(record_)) add(FindingKind::kInode, "the level of a map root is out of range");
    if (std::ranges::any_of(record_.reserved, [](std::uint8_t byte) { return byte != 0; }))
      add(FindingKind::kInode, "reserved bytes are not zero");
    if (std::ranges::any_of(record_.nanoseconds, [](std::uint32_t n) { return n >= 1'000'000'000; }))
      add(FindingKind::kInode, "a time has too many nanoseconds");
    if (record_.generation >= trees_.generation_limit() && record_.generation != 0)
      add(FindingKind::kInode, "its generation " + std::to_string(record_.generation) + " was not given out yet");
    // A snapshot has its origin there.
    if (record_.device != 0 && !S_ISBLK(record_.mode) && !S_ISCHR(record_.mode) && !flag(InodeFlag::kSnapshot))
      add(FindingKind::kInode, "it has a device number but is no device");
    if (record_.entry_count != 0 && !S_ISDIR(record_.mode))
      add(FindingKind::kInode, "it has an entry count but is no directory");
  }

  void check_size() {
    if (record_.size_bytes > format::kMaximumFileBytes) add(FindingKind::kInode, "its size is beyond the limit");
    if (kind_ == LeafKind::kDirectory && record_.size_bytes % kBlockBytes != 0)
      add(FindingKind::kInode, "the size of a directory is not a multiple of its blocks'");
    const bool special = kind_ == LeafKind::kData && !S_ISREG(record_.mode);
    if (special && record_.size_bytes != 0) add(FindingKind::kInode, "it has a size but is no file");
  }

  void check_blocks() {
    if (flag(InodeFlag::kInlineSymlink)) {
      if (record_.block_count != 0) add(FindingKind::kBlockCount, "an inline symlink has a block count");
      return;
    }
    const std::uint64_t mapped = trees_.below(data_fork(record_, kind_)).leaves;
    if (mapped != record_.block_count)
      add(FindingKind::kBlockCount,
          "it counts " + std::to_string(record_.block_count) + " blocks and has " + std::to_string(mapped));
    if (mapped != 0 && kind_ == LeafKind::kData && !S_ISREG(record_.mode))
      add(FindingKind::kInode, "it has blocks but is no file");
  }

  void check_symlink() {
    std::string target(record_.size_bytes < kBlockBytes ? record_.size_bytes : 0, '\0');
    if (target.empty()) return add(FindingKind::kInode, "the length of a symlink is out of range");
    if (flag(InodeFlag::kInlineSymlink)) {
      if (target.size() > sizeof record_.data) return add(FindingKind::kInode, "an inline symlink is too long");
      std::memcpy(target.data(), record_.data.data(), target.size());
    } else {
      const auto entry = entry_at(context_.metadata, data_fork(record_, LeafKind::kSymlink), FileBlock(0));
      if (!entry || !entry->present() || record_.block_count != 1)
        return add(FindingKind::kInode, "the target of a symlink is not in its one block");
      const auto block = context_.metadata.read(entry->block(), format::BlockType::kSymlink);
      if (!block) return;  // reported as a damaged block
      std::memcpy(target.data(), (*block)->bytes, target.size());
    }
    if (target.find('\0') != std::string::npos) add(FindingKind::kInode, "the target of a symlink holds a zero byte");
  }

  Context& context_;
  const TreeWalk& trees_;
  const InodeInTable& inode_;
  const InodeRecord& record_;
  const LeafKind kind_;
};

class AttributeCheck {
 public:
  AttributeCheck(Context& context, const TreeWalk& trees, const InodeInTable& inode)
      : context_(context), trees_(trees), inode_(inode), record_(inode.record) {}

  void check_fork() {
    if (record_.attribute_bytes > format::kMaximumAttributeForkBytes) add("the attribute fork is too large");
    if (trees_.below(attribute_fork(record_)).leaves != blocks_for(record_.attribute_bytes))
      add("the attribute fork has more or fewer blocks than its " + std::to_string(record_.attribute_bytes) + " bytes");
  }

  void check_list(const Result<AttributeList>& list) {
    if (!list) return add(describe(list.error()), Remedy::kRemove);
    std::set<std::pair<AttributeSpace, std::string_view>> names;
    for (const auto& item : list->items()) {
      check_item(item);
      if (!names.emplace(item.space, item.name).second) add("an attribute is there twice");
    }
  }

 private:
  void add(std::string what, std::optional<Remedy> remedy = {}) {
    context_.findings.add(FindingKind::kAttributes, Severity::kRepairable, inode_.block,
                          Place{inode_.volume, inode_.number, {}}, std::move(what), remedy);
  }

  void check_item(const AttributeList::Item& item) {
    if (item.space < AttributeSpace::kUser || item.space > AttributeSpace::kParent)
      return add("an attribute is of no known space");
    if (item.value.size() > format::kMaximumAttributeBytes) add("an attribute's value is too large");
    if (item.space == AttributeSpace::kParent) {
      if (item.name.size() != 16 || !item.value.empty()) add("a further parent makes no sense");
      if (S_ISDIR(record_.mode)) add("a directory has further parents");
    } else if (item.name.empty() || item.name.find('\0') != std::string::npos) {
      add("an attribute's name makes no sense");
    }
  }

  Context& context_;
  const TreeWalk& trees_;
  const InodeInTable& inode_;
  const InodeRecord& record_;
};

// The bad blocks below a file's map. Bounded: a hostile map may reach one bad block in more ways than can be listed.
class LostRanges {
 public:
  LostRanges(Context& context, const TreeWalk& trees, const InodeInTable& inode)
      : context_(context), trees_(trees), inode_(inode) {}

  void in(std::span<const std::uint64_t> entries, std::uint8_t log512, FileBlock base) {
    for (std::uint64_t i = 0; i < entries.size() && found_ < kMaximumPerInode; ++i) {
      const MapEntry entry{entries[i]};
      if (!trees_.below(entry, log512, LeafKind::kData).bad_data) continue;
      const FileBlock at = base + i * blocks_spanned(log512);
      if (!entry.is_node()) {
        in_run({entry.block(), blocks_spanned(log512)}, at);
      } else if (const auto node = context_.metadata.read(entry.block(), format::BlockType::kMapNode)) {
        in((*node)->as<format::MapNode>(), static_cast<std::uint8_t>(log512 - 1), at);
      }
    }
  }

 private:
  static constexpr std::uint64_t kMaximumPerInode = 1000;

  void in_run(BlockRun run, FileBlock at) {
    const auto [first, end] = context_.bad.in(run);
    for (const auto* bad = first; bad != end && found_ < kMaximumPerInode; ++bad, ++found_) {
      const BlockNumber block(bad->block);
      const Place place{inode_.volume, inode_.number, byte_offset(at + (block - run.first))};
      if (bad->in_ledger)
        context_.findings.add(FindingKind::kPoisoned, Severity::kLoss, block, place, "lost");
      else
        context_.findings.add(FindingKind::kPoisoned, Severity::kRepairable, block, place,
                              "the device lists it as bad; the ledger does not know yet");
    }
  }

  Context& context_;
  const TreeWalk& trees_;
  const InodeInTable& inode_;
  std::uint64_t found_ = 0;
};

}  // namespace

void check_inode(Context& context, const TreeWalk& trees, const InodeInTable& inode) {
  InodeCheck(context, trees, inode).run();
}

std::vector<std::pair<std::uint64_t, std::uint64_t>> check_attributes(Context& context, const TreeWalk& trees,
                                                                      const InodeInTable& inode, bool thorough) {
  AttributeCheck check(context, trees, inode);
  if (thorough) check.check_fork();
  std::vector<std::pair<std::uint64_t, std::uint64_t>> parents;
  if (inode.record.attribute_bytes == 0) return parents;
  const auto list = AttributeList::read(context.metadata, inode.record);
  if (thorough) check.check_list(list);
  if (!list) return parents;
  for (const auto& item : list->items())
    if (item.space == AttributeSpace::kParent && item.name.size() == 16)
      parents.push_back(AttributeList::parse_parent(item.name));
  return parents;
}

void report_lost(Context& context, const TreeWalk& trees, const InodeInTable& inode) {
  const Fork fork = data_fork(inode.record, LeafKind::kData);
  if (trees.below(fork).bad_data)
    LostRanges(context, trees, inode).in(fork.slots, static_cast<std::uint8_t>(fork.level - 1), FileBlock(0));
}

}  // namespace daxcow::checker
