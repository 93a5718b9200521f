#include "engine/repair_content.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "engine/attribute_list.h"
#include "engine/check_trees.h"
#include "engine/content_from_records.h"
#include "engine/directory.h"

namespace daxcow::repairer {

using checker::has_flag;
using format::AttributeSpace;
using format::BlockDescriptor;
using format::BlockType;
using format::InodeFlag;
using format::InodeRecord;
using format::LeafKind;

namespace {

constexpr std::uint32_t bit(InodeFlag flag) { return static_cast<std::uint32_t>(flag); }

void note(std::string& changes, const char* what) { changes += (changes.empty() ? "" : ", ") + std::string(what); }

template <class T>
void correct(T& field, T wanted, std::string& changes, const char* what) {
  if (field == wanted) return;
  field = wanted;
  note(changes, what);
}

bool is_known_type(std::uint32_t mode) {
  static constexpr std::uint32_t kTypes[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFBLK, S_IFCHR};
  return std::ranges::find(kTypes, mode & S_IFMT) != std::end(kTypes);
}

void set_type(InodeRecord& inode, std::uint32_t type, std::string& changes) {
  correct(inode.mode, type | (inode.mode & 07777u), changes, "type");
}

bool holds_inline_target(const InodeRecord& inode) {
  const char* const bytes = reinterpret_cast<const char*>(inode.data.data());
  return inode.size_bytes >= 1 && inode.size_bytes <= sizeof inode.data &&
         strnlen(bytes, sizeof inode.data) == inode.size_bytes;
}

// The level that a root of these slots has, by what they lead to; 0 if they do not say.
std::uint8_t level_by_children(RepairPool& pool, std::span<const std::uint64_t> slots) {
  for (const std::uint64_t raw : slots) {
    const MapEntry entry{raw};
    if (!entry.present()) continue;
    const BlockDescriptor descriptor = pool.editor.descriptor(entry.block());
    if (entry.is_node() && descriptor.type == BlockType::kMapNode && descriptor.level < format::kMaximumLevel)
      return static_cast<std::uint8_t>(descriptor.level + 1);
    if (!entry.is_node()) return 1;
  }
  return 0;
}

void correct_level(RepairPool& pool, std::uint8_t& level, std::span<const std::uint64_t> slots,
                   FunctionRef<bool()> confirmed, std::string& changes) {
  if (format::is_valid_level(level)) {
    // A root whose children are all of one other level says so; the children carry checksums over theirs.
    bool fits = false, any = false;
    for (const std::uint64_t raw : slots) {
      const MapEntry entry{raw};
      if (!entry.present() || !entry.is_node()) continue;
      const BlockDescriptor descriptor = pool.editor.descriptor(entry.block());
      if (descriptor.type != BlockType::kMapNode) continue;
      any = true;
      fits |= descriptor.level + 1 == level;
    }
    if (!any || fits || !confirmed()) return;
  }
  const std::uint8_t by_children = level_by_children(pool, slots);
  correct(level, std::max<std::uint8_t>(by_children, 1), changes, "level of a map root");
}

}  // namespace

std::uint64_t leaf_limit(LeafKind kind) {
  switch (kind) {
    case LeafKind::kDirectory:
      return (1ull << 32) / format::kGranulesPerBlock - 1;  // positions have 32 bits
    case LeafKind::kAttributes:
      return format::kMaximumAttributeForkBytes / kBlockBytes;
    case LeafKind::kSymlink:
      return 1;
    case LeafKind::kOrphans:
      return 1ull << 13;
    case LeafKind::kInodes:
      return kMaximumFileBlocks - 1;
    case LeafKind::kData:
    case LeafKind::kGraveyard:
      break;
  }
  return ~0ull;
}

Evidence evidence_of(RepairPool& pool, const InodeRecord& inode) {
  for (const std::uint64_t raw : inode.data) {
    const MapEntry entry{raw};
    if (!entry.present()) continue;
    const BlockDescriptor descriptor = pool.editor.descriptor(entry.block());
    LeafKind kind = LeafKind::kData;
    if (entry.is_node()) {
      if (descriptor.type != BlockType::kMapNode) continue;
      kind = descriptor.leaf_kind;
    } else if (descriptor.type == BlockType::kFree) {
      if (!pool.is_data_space({entry.block(), 1})) continue;
    } else {
      kind = static_cast<LeafKind>(descriptor.type);
    }
    switch (kind) {
      case LeafKind::kData:
        return Evidence::kData;
      case LeafKind::kInodes:
        return Evidence::kInodes;
      case LeafKind::kDirectory:
        return Evidence::kDirectory;
      case LeafKind::kSymlink:
        return Evidence::kSymlink;
      default:
        return Evidence::kOther;
    }
  }
  return Evidence::kNothing;
}

bool correct_kind(RepairPool& pool, const InodePlace& place, InodeRecord& inode, FunctionRef<bool()> confirmed,
                  std::string& changes) {
  const bool in_zero = place.volume == kVolumeZero;
  const bool reserved = place.number < format::kFirstInode;
  const bool is_table = place.block == format::kRootsBlock;
  const bool has_a_use = is_table || place.number == format::kRootInode || place.number == format::kOrphansInode ||
                         (in_zero && place.number == format::kGraveyardInode);
  if (reserved && !has_a_use) return false;
  correct(inode.mode, inode.mode & (S_IFMT | 07777u), changes, "mode");
  constexpr std::uint32_t kVolumeFlags = bit(InodeFlag::kReadOnlyVolume) | bit(InodeFlag::kSnapshot);
  std::uint32_t flags = inode.flags & (kVolumeFlags | bit(InodeFlag::kInlineSymlink) | bit(InodeFlag::kVolume));
  const bool inline_target = flags & bit(InodeFlag::kInlineSymlink);
  Evidence evidence = inline_target ? Evidence::kNothing : evidence_of(pool, inode);
  if (is_table) flags |= bit(InodeFlag::kVolume);
  if (!in_zero || (reserved && !is_table)) flags &= ~bit(InodeFlag::kVolume);
  if (in_zero && !reserved && !(flags & bit(InodeFlag::kVolume))) {
    if (evidence != Evidence::kInodes) return false;  // everything there is a volume
    flags |= bit(InodeFlag::kVolume);
  }
  const bool volume = flags & bit(InodeFlag::kVolume);
  if (!volume) flags &= ~kVolumeFlags;
  if (volume) flags &= ~bit(InodeFlag::kInlineSymlink);
  const bool is_special =
      volume || place.number == format::kOrphansInode || (in_zero && place.number == format::kGraveyardInode);
  if (is_special) {
    set_type(inode, S_IFREG, changes);
    evidence = Evidence::kNothing;
  }
  const bool fits = evidence == Evidence::kNothing || (evidence == Evidence::kData && S_ISREG(inode.mode)) ||
                    (evidence == Evidence::kDirectory && S_ISDIR(inode.mode)) ||
                    (evidence == Evidence::kSymlink && S_ISLNK(inode.mode));
  if (!fits && is_known_type(inode.mode) && !confirmed()) evidence = Evidence::kNothing;
  if (is_special) {
    // Set above.
  } else if (place.number == format::kRootInode || evidence == Evidence::kDirectory) {
    set_type(inode, S_IFDIR, changes);
  } else if (evidence == Evidence::kSymlink || (inline_target && !S_ISLNK(inode.mode) && holds_inline_target(inode))) {
    set_type(inode, S_IFLNK, changes);
  } else if (evidence == Evidence::kData || !is_known_type(inode.mode)) {
    set_type(inode, S_IFREG, changes);
  }
  if (!S_ISLNK(inode.mode)) flags &= ~bit(InodeFlag::kInlineSymlink);
  correct(inode.flags, flags, changes, "flags");
  if (flags & bit(InodeFlag::kInlineSymlink))
    correct(inode.data_level, std::uint8_t{1}, changes, "level of a map root");
  else
    correct_level(pool, inode.data_level, inode.data, confirmed, changes);
  correct_level(
      pool, inode.attribute_level, inode.attributes, [] { return false; }, changes);
  return true;
}

namespace {

class Correction {
 public:
  Correction(RepairPool& pool, const InodePlace& place, InodeRecord& inode, std::string& changes)
      : pool_(pool),
        place_(place),
        inode_(inode),
        changes_(changes),
        kind_(checker::data_kind(inode, place.number, place.volume)) {}

  Result<bool> run(std::uint64_t leaves) {
    correct_fields();
    if (kind_ == LeafKind::kData && !S_ISREG(inode_.mode) && leaves != 0) {
      inode_.data = {};
      inode_.data_level = 1;
      leaves = 0;
      note(changes_, "data of what is no file was removed");
    }
    correct(inode_.block_count, has_flag(inode_, InodeFlag::kInlineSymlink) ? 0 : leaves, changes_, "block count");
    if (kind_ == LeafKind::kDirectory) TRY(correct_directory());
    if (kind_ == LeafKind::kOrphans) correct_orphans();
    if (kind_ == LeafKind::kGraveyard) TRY(correct_graveyard());
    if (kind_ == LeafKind::kData && !S_ISREG(inode_.mode))
      correct(inode_.size_bytes, std::uint64_t{0}, changes_, "size");
    if (kind_ == LeafKind::kData && inode_.size_bytes > format::kMaximumFileBytes)
      correct(inode_.size_bytes, std::min(end_of_blocks() * kBlockBytes, format::kMaximumFileBytes), changes_, "size");
    if (kind_ == LeafKind::kInodes && inode_.size_bytes > format::kMaximumFileBytes)
      correct(inode_.size_bytes, std::uint64_t{0}, changes_, "size");
    TRY(correct_attributes());
    return !S_ISLNK(inode_.mode) || TRY(correct_symlink());
  }

 private:
  struct Leaf {
    SlotPlace place;
    FileBlock at;
    BlockNumber block;
  };

  void correct_fields() {
    correct(inode_.reserved, {}, changes_, "reserved bytes");
    for (std::uint32_t& nanoseconds : inode_.nanoseconds)
      if (nanoseconds >= 1'000'000'000) correct(nanoseconds, 0u, changes_, "time");
    if (!S_ISBLK(inode_.mode) && !S_ISCHR(inode_.mode) && !has_flag(inode_, InodeFlag::kSnapshot))
      correct(inode_.device, 0u, changes_, "device number");
    if (!S_ISDIR(inode_.mode)) correct(inode_.entry_count, 0u, changes_, "entry count");
  }

  std::vector<Leaf> leaves(bool attributes, std::size_t limit = kMaximumLeaves) {
    std::vector<Leaf> found;
    SlotPlace root = root_place(place_.block, place_.index, attributes);
    if (place_.block == format::kRootsBlock)
      root = {format::kRootsBlock, BlockType::kRoots, attributes ? format::kRootSlots : 0};
    const Fork fork = attributes ? attribute_fork(inode_) : data_fork(inode_, kind_);
    for_each_leaf(pool_.editor, root, fork, [&](const SlotPlace& place, MapEntry entry, bool node, FileBlock at) {
      if (!node) found.push_back({place, at, entry.block()});
      return found.size() < limit;
    });
    return found;
  }

  // Slots of the inode itself are in the caller's copy; it writes that back.
  Result<> clear(const SlotPlace& place) {
    if (place.type != BlockType::kMapNode) {
      const std::uint64_t slot = place.slot % format::kSlotsPerInode;
      (slot < format::kRootSlots ? inode_.data[slot] : inode_.attributes[slot - format::kRootSlots]) = 0;
      return {};
    }
    return set_slot(pool_.editor, place, 0);
  }

  std::uint64_t end_of_blocks() {
    return std::min(mapped_end(pool_.editor, data_fork(inode_, kind_)), kMaximumFileBlocks - 1);
  }

  Result<> correct_directory() {
    std::set<std::string, std::less<>> names;
    std::uint64_t count = 0, end = 0;
    std::string changes;
    for (const Leaf& leaf : leaves(false)) {
      end = std::max(end, leaf.at.value + 1);
      const BlockPtr present = TRY(pool_.editor.read(leaf.block, BlockType::kDirectory));
      Block content = *present;
      std::vector<NameAt> found = correct_directory_block(content, changes);
      for (const NameAt& name : found) {
        if (names.insert(name.name).second) {
          ++count;
          continue;
        }
        // Whoever it led to is looked for by the check of names, and gets one in lost+found if it has no other.
        std::byte* const at = content.bytes + name.granule * format::kGranuleBytes;
        std::memset(at, 0, reinterpret_cast<const format::DirectoryEntry*>(at)->granules * format::kGranuleBytes);
        note(changes, "a name that was there twice was removed once");
      }
      if (std::memcmp(content.bytes, present->bytes, kBlockBytes) != 0)
        *TRY(pool_.editor.edit(leaf.block, BlockType::kDirectory))
      = content;
    }
    if (!changes.empty()) note(changes_, changes.c_str());
    correct(inode_.entry_count, static_cast<std::uint32_t>(count), changes_, "entry count");
    if (count == 0) {
      // No entries, no blocks.
      inode_.data = {};
      inode_.data_level = 1;
      inode_.block_count = 0;
      correct(inode_.size_bytes, std::uint64_t{0}, changes_, "size");
      return {};
    }
    const std::uint64_t blocks = inode_.size_bytes / kBlockBytes;
    if (inode_.size_bytes % kBlockBytes != 0 || blocks < end || blocks > leaf_limit(LeafKind::kDirectory))
      correct(inode_.size_bytes, end * kBlockBytes, changes_, "size");
    return {};
  }

  void correct_orphans() {
    const std::uint64_t end = end_of_blocks();
    if (inode_.size_bytes < end * kBlockBytes || inode_.size_bytes % kBlockBytes != 0 ||
        inode_.size_bytes > leaf_limit(LeafKind::kOrphans) * kBlockBytes)
      correct(inode_.size_bytes, end * kBlockBytes, changes_, "size");
  }

  // Its size is the number of entries, from the last one that is there.
  Result<> correct_graveyard() {
    const Fork fork = data_fork(inode_, kind_);
    const std::uint64_t blocks = mapped_end(pool_.editor, fork);
    std::uint64_t end = 0;
    if (blocks != 0) {
      const MapEntry last = TRY(entry_at(pool_.editor, fork, FileBlock(blocks - 1)));
      const BlockPtr content = TRY(pool_.editor.read(last.block(), BlockType::kGraveyard));
      const auto& entries = content->as<format::MapNode>();
      std::uint64_t used = entries.size();
      while (used > 0 && entries[used - 1] == 0) --used;
      end = (blocks - 1) * format::kMapFanout + used;
    }
    if (inode_.size_bytes < end || inode_.size_bytes > blocks * format::kMapFanout)
      correct(inode_.size_bytes, end, changes_, "size");
    return {};
  }

  Result<bool> correct_symlink() {
    std::string_view bytes;
    BlockPtr block;
    if (has_flag(inode_, InodeFlag::kInlineSymlink)) {
      bytes = {reinterpret_cast<const char*>(inode_.data.data()), sizeof inode_.data};
    } else {
      const auto found = leaves(false, 2);
      if (found.empty()) return false;  // its target is lost, and a symlink is nothing else
      block = TRY(pool_.editor.read(found[0].block, BlockType::kSymlink));
      bytes = {reinterpret_cast<const char*>(block->bytes), kBlockBytes - 1};
      if (found.size() != 1 || found[0].at != FileBlock(0)) {
        inode_.data = {MapEntry::leaf(found[0].block, false).raw};
        inode_.data_level = 1;
        correct(inode_.block_count, std::uint64_t{1}, changes_, "block count");
        note(changes_, "map of its target");
      }
    }
    const std::uint64_t length = bytes.substr(0, bytes.find('\0')).size();
    if (length == 0) return false;
    if (inode_.size_bytes == 0 || inode_.size_bytes > length)
      correct(inode_.size_bytes, length, changes_, "length of the target");
    return true;
  }

  // --- attributes ----------------------------------------------------------------------------------------------------

  Result<> correct_attributes() {
    const std::vector<Leaf> found = leaves(true);
    std::uint64_t whole = 0;  // leaves without a gap before them
    while (whole < found.size() && found[whole].at == FileBlock(whole)) ++whole;
    std::vector<std::byte> stream;
    for (std::uint64_t i = 0; i < whole; ++i) {
      const BlockPtr block = TRY(pool_.editor.read(found[i].block, BlockType::kAttributes));
      stream.insert(stream.end(), block->bytes, block->bytes + kBlockBytes);
    }
    std::vector<AttributeList::Item> items;
    const std::uint64_t parsed = parse(stream, items);
    const bool whole_stream = parsed == inode_.attribute_bytes && whole == found.size() && whole == blocks_for(parsed);
    if (whole_stream && !dropped_) return {};
    note(changes_, dropped_ || parsed < inode_.attribute_bytes
                       ? "attributes that made no sense or were lost were removed"
                       : "length of the attributes");
    return rewrite(found, items);
  }

  // The items that make sense, up to the first that leaves no way to the next. Returns the bytes up to there.
  std::uint64_t parse(std::span<const std::byte> stream, std::vector<AttributeList::Item>& items) {
    std::set<std::pair<AttributeSpace, std::string>> names;
    std::uint64_t at = 0;
    const std::uint64_t limit = std::min<std::uint64_t>(stream.size(), format::kMaximumAttributeForkBytes);
    while (at + sizeof(format::AttributeEntry) <= limit) {
      format::AttributeEntry entry;
      std::memcpy(&entry, stream.data() + at, sizeof entry);
      if (entry.name_bytes == 0 && entry.value_bytes == 0 && entry.space == AttributeSpace{}) break;  // the end
      const std::uint64_t bytes = (sizeof entry + entry.name_bytes + std::uint64_t{entry.value_bytes} + 7) / 8 * 8;
      if (entry.value_bytes > format::kMaximumAttributeBytes || bytes > limit - at) {
        dropped_ = true;
        break;
      }
      const char* const text = reinterpret_cast<const char*>(stream.data()) + at + sizeof entry;
      AttributeList::Item item{entry.space, std::string(text, entry.name_bytes),
                               std::string(text + entry.name_bytes, entry.value_bytes)};
      at += bytes;
      if (is_valid(item) && names.emplace(item.space, item.name).second)
        items.push_back(std::move(item));
      else
        dropped_ = true;
    }
    return at;
  }

  bool is_valid(const AttributeList::Item& item) const {
    if (item.space < AttributeSpace::kUser || item.space > AttributeSpace::kParent) return false;
    if (item.space == AttributeSpace::kParent)
      return item.name.size() == 16 && item.value.empty() && !S_ISDIR(inode_.mode);
    return !item.name.empty() && item.name.find('\0') == item.name.npos;
  }

  // Into the leaves that are there: it is never longer than before.
  Result<> rewrite(const std::vector<Leaf>& found, const std::vector<AttributeList::Item>& items) {
    std::vector<std::byte> stream;
    for (const AttributeList::Item& item : items) {
      const format::AttributeEntry entry{static_cast<std::uint32_t>(item.value.size()),
                                         static_cast<std::uint8_t>(item.name.size()), item.space, 0};
      const std::size_t at = stream.size();
      stream.resize(at + (sizeof entry + item.name.size() + item.value.size() + 7) / 8 * 8);
      std::memcpy(stream.data() + at, &entry, sizeof entry);
      std::memcpy(stream.data() + at + sizeof entry, item.name.data(), item.name.size());
      std::memcpy(stream.data() + at + sizeof entry + item.name.size(), item.value.data(), item.value.size());
    }
    inode_.attribute_bytes = static_cast<std::uint32_t>(stream.size());
    const std::uint64_t blocks = blocks_for(stream.size());
    stream.resize(blocks * kBlockBytes);
    for (std::uint64_t i = 0; i < found.size(); ++i) {
      if (i < blocks)
        std::memcpy(TRY(pool_.editor.edit(found[i].block, BlockType::kAttributes))->bytes,
                    stream.data() + i * kBlockBytes, kBlockBytes);
      else
        TRY(clear(found[i].place));
    }
    if (blocks == 0) {
      inode_.attributes = {};
      inode_.attribute_level = 1;
    }
    return {};
  }

  static constexpr std::size_t kMaximumLeaves = 1u << 25;  // a directory's limit

  RepairPool& pool_;
  const InodePlace& place_;
  InodeRecord& inode_;
  std::string& changes_;
  const LeafKind kind_;
  bool dropped_ = false;
};

}  // namespace

Result<bool> correct_inode(RepairPool& pool, const InodePlace& place, InodeRecord& inode, std::uint64_t leaves,
                           std::string& changes) {
  return Correction(pool, place, inode, changes).run(leaves);
}

}  // namespace daxcow::repairer
