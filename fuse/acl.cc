#include "fuse/acl.h"

#include <endian.h>

#include <algorithm>
#include <cstring>

namespace daxcow {

namespace {

constexpr std::uint16_t kUserObject = 0x01, kUser = 0x02, kGroupObject = 0x04, kGroup = 0x08, kMask = 0x10,
                        kOther = 0x20;
constexpr std::uint32_t kVersion = 2;

struct StoredHeader {
  std::uint32_t version;
};
struct StoredEntry {
  std::uint16_t tag;
  std::uint16_t permissions;
  std::uint32_t id;
};
static_assert(sizeof(StoredHeader) == 4 && sizeof(StoredEntry) == 8);

// posix_acl_valid() of the kernel, without the check of ids: tags ascend, and each object tag comes once.
bool is_valid(const std::vector<AclEntry>& entries) {
  std::size_t seen[kOther + 1] = {};
  std::uint16_t last = 0;
  for (const auto& entry : entries) {
    if (entry.permissions > 7 || entry.tag < last) return false;
    if (entry.tag != kUserObject && entry.tag != kUser && entry.tag != kGroupObject && entry.tag != kGroup &&
        entry.tag != kMask && entry.tag != kOther)
      return false;
    last = entry.tag;
    ++seen[entry.tag];
  }
  const bool named = seen[kUser] != 0 || seen[kGroup] != 0;
  return seen[kUserObject] == 1 && seen[kGroupObject] == 1 && seen[kOther] == 1 && seen[kMask] <= 1 &&
         (!named || seen[kMask] == 1);
}

}  // namespace

std::optional<Acl> Acl::parse(std::span<const std::byte> value) {
  StoredHeader header;
  if (value.size() < sizeof header || (value.size() - sizeof header) % sizeof(StoredEntry) != 0) return std::nullopt;
  std::memcpy(&header, value.data(), sizeof header);
  if (le32toh(header.version) != kVersion) return std::nullopt;
  Acl acl;
  for (auto rest = value.subspan(sizeof header); !rest.empty(); rest = rest.subspan(sizeof(StoredEntry))) {
    StoredEntry stored;
    std::memcpy(&stored, rest.data(), sizeof stored);
    acl.entries_.push_back({le16toh(stored.tag), le16toh(stored.permissions), le32toh(stored.id)});
  }
  if (!is_valid(acl.entries_)) return std::nullopt;
  return acl;
}

std::string Acl::value() const {
  const StoredHeader header{htole32(kVersion)};
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  for (const auto& entry : entries_) {
    const StoredEntry stored{htole16(entry.tag), htole16(entry.permissions), htole32(entry.id)};
    bytes.append(reinterpret_cast<const char*>(&stored), sizeof stored);
  }
  return bytes;
}

AclEntry* Acl::find(std::uint16_t tag) {
  const auto found = std::ranges::find(entries_, tag, &AclEntry::tag);
  return found == entries_.end() ? nullptr : &*found;
}

AclEntry& Acl::group_class() {
  AclEntry* mask = find(kMask);
  return mask != nullptr ? *mask : *find(kGroupObject);
}

bool Acl::is_minimal() const { return entries_.size() == 3; }

std::uint32_t Acl::mode_bits() const {
  const std::uint32_t group = const_cast<Acl*>(this)->group_class().permissions;
  return std::uint32_t{find(kUserObject)->permissions} << 6 | group << 3 | find(kOther)->permissions;
}

void Acl::set_mode_bits(std::uint32_t mode) {
  find(kUserObject)->permissions = mode >> 6 & 7;
  group_class().permissions = mode >> 3 & 7;
  find(kOther)->permissions = mode & 7;
}

void Acl::restrict_to(std::uint32_t mode) { set_mode_bits(mode_bits() & mode); }

}  // namespace daxcow
