// Directory blocks. An entry carries the hash of its name: where its lengths are wrong, the name that has this hash
// says which are right.
#include <algorithm>
#include <cstring>
#include <optional>

#include "engine/directory.h"
#include "engine/repair_content.h"

namespace daxcow::repairer {

using format::DirectoryEntry;
using format::kGranuleBytes;
using format::kGranulesPerBlock;

namespace {

std::string_view name_at(const Block& content, std::uint64_t granule, std::size_t bytes) {
  return {reinterpret_cast<const char*>(content.bytes) + granule * kGranuleBytes + sizeof(DirectoryEntry), bytes};
}

bool is_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos && name.find('\0') == name.npos;
}

bool has_sane_lengths(const DirectoryEntry& entry, std::uint64_t granule) {
  return entry.name_bytes != 0 && entry.granules == granules_for(entry.name_bytes) &&
         granule + entry.granules <= kGranulesPerBlock;
}

// The length of the name at this place that has the entry's hash.
std::optional<std::uint8_t> length_by_hash(const Block& content, std::uint64_t granule, const DirectoryEntry& entry) {
  const std::uint64_t room = (kGranulesPerBlock - granule) * kGranuleBytes - sizeof(DirectoryEntry);
  for (std::size_t bytes = 1; bytes <= std::min<std::uint64_t>(room, format::kMaximumNameBytes); ++bytes) {
    const std::string_view name = name_at(content, granule, bytes);
    if (name.back() == '\0') return std::nullopt;
    if (name_hash(name) == entry.hash && is_name(name)) return static_cast<std::uint8_t>(bytes);
  }
  return std::nullopt;
}

}  // namespace

std::vector<NameAt> correct_directory_block(Block& content, std::string& changes) {
  std::vector<NameAt> names;
  const auto changed = [&](const char* what) {
    if (changes.find(what) == changes.npos) changes += (changes.empty() ? "" : ", ") + std::string(what);
  };
  bool after_garbage = false;  // what looks like an entry may be a part of one
  for (std::uint64_t granule = 0; granule < kGranulesPerBlock;) {
    std::byte* const at = content.bytes + granule * kGranuleBytes;
    const bool zero = std::all_of(at, at + kGranuleBytes, [](std::byte b) { return b == std::byte{0}; });
    if (zero) {
      ++granule;
      continue;
    }
    auto& entry = *reinterpret_cast<DirectoryEntry*>(at);
    bool keep = has_sane_lengths(entry, granule);
    const bool hash_fits = keep && name_hash(name_at(content, granule, entry.name_bytes)) == entry.hash;
    if (!keep || (after_garbage && !hash_fits)) {
      const auto length = length_by_hash(content, granule, entry);
      keep = length.has_value() && granule + granules_for(*length) <= kGranulesPerBlock;
      if (keep) {
        entry.name_bytes = *length;
        entry.granules = granules_for(*length);
        changed("the length of an entry was corrected");
      }
    }
    if (!keep) {
      std::memset(at, 0, kGranuleBytes);
      changed("an entry that made no sense was removed");
      after_garbage = true;
      ++granule;
      continue;
    }
    std::string name(name_at(content, granule, entry.name_bytes));
    if (!is_name(name)) {
      if (name == "." || name == "..") name.assign(name.size(), '_');
      std::ranges::replace(name, '/', '_');
      std::ranges::replace(name, '\0', '_');
      std::memcpy(at + sizeof entry, name.data(), name.size());
      changed("a name that may not be was changed");
    }
    if (entry.hash != name_hash(name)) {
      entry.hash = name_hash(name);
      changed("the hash of a name was corrected");
    }
    std::byte* const rest = at + sizeof entry + entry.name_bytes;
    std::byte* const end = at + entry.granules * kGranuleBytes;
    if (entry.reserved != 0 || !std::all_of(rest, end, [](std::byte b) { return b == std::byte{0}; })) {
      entry.reserved = 0;
      std::fill(rest, end, std::byte{0});
      changed("bytes that are zero were cleared");
    }
    names.push_back({std::move(name), granule});
    granule += entry.granules;
  }
  return names;
}

}  // namespace daxcow::repairer
