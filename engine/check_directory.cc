#include "engine/check_directory.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <string>

#include "engine/directory.h"

namespace daxcow::checker {

using format::BlockType;
using format::DirectoryEntry;
using format::kGranuleBytes;
using format::kGranulesPerBlock;
using format::LeafKind;

// --- leaves ----------------------------------------------------------------------------------------------------------

BlockPtr LeafWalk::enter(MapEntry entry, BlockType type, const Place& place) {
  // What leads to a wrong block or cannot be read was reported before (check_trees, check_copies).
  auto content = context_.metadata.read(entry.block(), type);
  if (!content) return nullptr;
  const std::size_t index = context_.described.index(entry.block());
  if (met_[index]) {
    met_again_ = true;
    context_.findings.add(FindingKind::kMapShape, Severity::kLoss, entry.block(), place,
                          std::string("a block of type ") + name_of(type) + " is used twice within the volume");
    return nullptr;
  }
  met_[index] = true;
  return *std::move(content);
}

void LeafWalk::below(std::span<const std::uint64_t> entries, std::uint8_t log512, LeafKind kind, FileBlock base,
                     const Place& place, Visit visit) {
  for (std::uint64_t i = 0; i < entries.size(); ++i) {
    const MapEntry entry{entries[i]};
    if (!entry.present() || (log512 == 0) == entry.is_node()) continue;
    const FileBlock at = base + i * blocks_spanned(log512);
    const BlockPtr content = enter(entry, entry.is_node() ? BlockType::kMapNode : format::leaf_block_type(kind), place);
    if (!content) continue;
    if (entry.is_node())
      below(content->as<format::MapNode>(), static_cast<std::uint8_t>(log512 - 1), kind, at, place, visit);
    else
      visit(entry.block(), at, *content);
  }
}

bool LeafWalk::for_each(const Fork& fork, const Place& place, Visit visit) {
  met_again_ = false;
  below(fork.slots, static_cast<std::uint8_t>(fork.level - 1), fork.kind, FileBlock(0), place, visit);
  return !met_again_;
}

// --- directories -----------------------------------------------------------------------------------------------------

namespace {

std::string_view name_of(const DirectoryEntry& entry) {
  return {reinterpret_cast<const char*>(&entry + 1), entry.name_bytes};
}

bool is_zero(const std::byte* bytes, std::uint64_t count) {
  return std::all_of(bytes, bytes + count, [](std::byte byte) { return byte == std::byte{0}; });
}

class DirectoryCheck {
 public:
  DirectoryCheck(Context& context, const InodeInTable& directory, bool thorough, VisitEntry visit)
      : context_(context), directory_(directory), thorough_(thorough), visit_(visit) {}

  void block(BlockNumber number, FileBlock at, const Block& content) {
    block_ = number;
    end_ = at + 1;
    for (std::uint64_t granule = 0; granule < kGranulesPerBlock;) {
      const std::byte* bytes = content.bytes + granule * kGranuleBytes;
      const auto& entry = *reinterpret_cast<const DirectoryEntry*>(bytes);
      if (entry.granules == 0) {
        if (thorough_ && !is_zero(bytes, kGranuleBytes)) add("a free place is not zero");
        ++granule;
        continue;
      }
      if (entry.name_bytes == 0 || entry.granules != granules_for(entry.name_bytes) ||
          granule + entry.granules > kGranulesPerBlock) {
        add("an entry makes no sense; the rest of its block is passed over", Remedy::kRemove);
        return;
      }
      if (thorough_) check_entry(entry, at.value * kGranulesPerBlock + granule);
      ++count_;
      visit_(at.value * kGranulesPerBlock + granule, entry);
      granule += entry.granules;
    }
  }

  void finish() {
    if (!thorough_) return;
    block_ = directory_.block;
    check_unique();
    const auto& record = directory_.record;
    if (count_ != record.entry_count)
      add("it counts " + std::to_string(record.entry_count) + " entries and has " + std::to_string(count_));
    if (byte_offset(end_) > record.size_bytes) add("it has blocks beyond its size");
    if (record.entry_count == 0 && record.size_bytes != 0) add("it is empty but has a size");
  }

 private:
  struct Name {
    std::uint64_t hash;  // keyed: names that collide in it cannot be made up
    std::uint64_t cookie;
  };

  void add(std::string what, std::optional<Remedy> remedy = {}) {
    context_.findings.add(FindingKind::kDirectory, Severity::kRepairable, block_,
                          Place{directory_.volume, directory_.number, {}}, std::move(what), remedy);
  }

  void check_entry(const DirectoryEntry& entry, std::uint64_t cookie) {
    const std::string_view name = name_of(entry);
    const auto add_named = [&](const char* what) { add("entry \"" + printable(name) + "\": " + what); };
    if (name == "." || name == ".." || name.find('/') != name.npos || name.find('\0') != name.npos)
      add_named("no name may be so");
    if (entry.hash != name_hash(name)) add_named("its hash is wrong");
    if (entry.reserved != 0) add_named("reserved bytes are not zero");
    const std::uint64_t used = sizeof entry + entry.name_bytes;
    if (!is_zero(reinterpret_cast<const std::byte*>(&entry) + used, entry.granules * kGranuleBytes - used))
      add_named("bytes after its name are not zero");
    names_.push_back({keyed_hash(name), cookie});
  }

  std::uint64_t keyed_hash(std::string_view name) const {
    std::uint64_t hash = key_ ^ name.size();
    while (!name.empty()) {
      std::uint64_t word = 0;
      const std::size_t bytes = std::min(name.size(), sizeof word);
      std::memcpy(&word, name.data(), bytes);
      hash = (hash ^ word) * 0x9fb21c651e98df25ull;
      hash ^= hash >> 32 ^ key_;
      name.remove_prefix(bytes);
    }
    return hash;
  }

  void check_unique() {
    std::ranges::sort(names_, {}, &Name::hash);
    for (std::size_t i = 1; i < names_.size(); ++i) {
      if (names_[i - 1].hash != names_[i].hash) continue;
      const auto first = name_at(context_.metadata, directory_.record, names_[i - 1].cookie);
      const auto second = name_at(context_.metadata, directory_.record, names_[i].cookie);
      if (first && second && *first && *second && **first == **second)
        add("the name \"" + printable(**first) + "\" is there twice", Remedy::kLostAndFound);
    }
  }

  static std::uint64_t random_key() {
    std::random_device random;
    return static_cast<std::uint64_t>(random()) << 32 | random();
  }

  Context& context_;
  const InodeInTable& directory_;
  const bool thorough_;
  VisitEntry visit_;
  BlockNumber block_;
  FileBlock end_{0};
  std::uint64_t count_ = 0;
  std::vector<Name> names_;
  static const std::uint64_t key_;
};

const std::uint64_t DirectoryCheck::key_ = DirectoryCheck::random_key();

}  // namespace

void check_directory(Context& context, LeafWalk& walk, const InodeInTable& directory, bool thorough, VisitEntry visit) {
  DirectoryCheck check(context, directory, thorough, visit);
  walk.for_each(data_fork(directory.record, LeafKind::kDirectory), Place{directory.volume, directory.number, {}},
                [&](BlockNumber block, FileBlock at, const Block& content) { check.block(block, at, content); });
  check.finish();
}

}  // namespace daxcow::checker
