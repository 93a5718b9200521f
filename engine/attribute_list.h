// Extended attributes of one inode: the attribute fork read as a whole, changed in memory, and written back as a whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/format.h"
#include "engine/map.h"
#include "engine/result.h"
#include "engine/transaction.h"

namespace daxcow {

struct AttributeName {
  format::AttributeSpace space;
  std::string name;  // without the prefix
};
// "user.x" -> {kUser, "x"}. kUnsupported for an unknown prefix, and after "system." for all but the two POSIX ACL names;
// kInvalid for a prefix alone.
Result<AttributeName> parse_attribute_name(std::string_view full);
std::string full_attribute_name(const AttributeName& name);  // empty for kParent

class AttributeList {
 public:
  struct Item {
    format::AttributeSpace space;
    std::string name;
    std::string value;
  };

  // Parses the fork. kDamaged if it makes no sense.
  static Result<AttributeList> read(BlockReader& reader, const format::InodeRecord& inode);
  // Writes the list to the inode's fork, whose path must be exclusive. kNoSpace beyond kMaximumAttributeForkBytes.
  Result<> write(Transaction& transaction, format::InodeRecord& inode, Graveyard& graveyard) const;

  const std::vector<Item>& items() const { return items_; }
  std::uint64_t stream_bytes() const;  // of the fork that holds it
  Item* find(format::AttributeSpace space, std::string_view name);
  void set(format::AttributeSpace space, std::string_view name, std::string value);
  bool remove(format::AttributeSpace space, std::string_view name);

  // Further parents of a hard-linked inode.
  static std::string parent_name(std::uint64_t directory, std::uint64_t cookie);
  static std::pair<std::uint64_t, std::uint64_t> parse_parent(std::string_view name);  // of exactly 16 bytes

 private:
  std::vector<Item> items_;
};

}  // namespace daxcow
