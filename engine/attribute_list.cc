#include "engine/attribute_list.h"

#include <algorithm>
#include <cstring>

namespace daxcow {

using format::AttributeEntry;
using format::AttributeSpace;
using format::BlockType;
using format::InodeRecord;

namespace {

struct Prefix {
  AttributeSpace space;
  std::string_view text;
};
constexpr Prefix kPrefixes[] = {{AttributeSpace::kUser, "user."},
                                {AttributeSpace::kTrusted, "trusted."},
                                {AttributeSpace::kSecurity, "security."},
                                {AttributeSpace::kSystem, "system."}};

constexpr std::uint64_t padded(std::uint64_t bytes) { return (bytes + 7) / 8 * 8; }

}  // namespace

Result<AttributeName> parse_attribute_name(std::string_view full) {
  for (const Prefix& prefix : kPrefixes) {
    if (!full.starts_with(prefix.text)) continue;
    const std::string_view name = full.substr(prefix.text.size());
    if (name.empty()) return fail(ErrorCode::kInvalid);
    if (prefix.space == AttributeSpace::kSystem && name != "posix_acl_access" && name != "posix_acl_default") break;
    if (name.size() > 255) break;
    return AttributeName{prefix.space, std::string(name)};
  }
  return fail(ErrorCode::kUnsupported);
}

std::string full_attribute_name(const AttributeName& name) {
  for (const Prefix& prefix : kPrefixes)
    if (prefix.space == name.space) return std::string(prefix.text) + name.name;
  return {};
}

Result<AttributeList> AttributeList::read(BlockReader& reader, const InodeRecord& inode) {
  AttributeList list;
  if (inode.attribute_bytes == 0) return list;
  if (inode.attribute_bytes > format::kMaximumAttributeForkBytes) return fail(ErrorCode::kDamaged, "an attribute fork is too large");
  std::vector<std::byte> stream(blocks_for(inode.attribute_bytes) * kBlockBytes);
  const Fork fork = attribute_fork(inode);
  for (std::uint64_t i = 0; i < stream.size() / kBlockBytes; ++i) {
    const MapEntry entry = TRY(entry_at(reader, fork, FileBlock(i)));
    if (!entry.present()) return fail(ErrorCode::kDamaged, "an attribute fork has a hole");
    const BlockPtr block = TRY(reader.read(entry.block(), BlockType::kAttributes));
    std::memcpy(stream.data() + i * kBlockBytes, block->bytes, kBlockBytes);
  }
  for (std::uint64_t at = 0; at < inode.attribute_bytes;) {
    AttributeEntry entry;
    if (inode.attribute_bytes - at < sizeof entry) return fail(ErrorCode::kDamaged, "an attribute fork is cut short");
    std::memcpy(&entry, stream.data() + at, sizeof entry);
    const std::uint64_t bytes = padded(sizeof entry + entry.name_bytes + entry.value_bytes);
    if (bytes > inode.attribute_bytes - at) return fail(ErrorCode::kDamaged, "an attribute fork is cut short");
    const char* text = reinterpret_cast<const char*>(stream.data()) + at + sizeof entry;
    list.items_.push_back({entry.space, std::string(text, entry.name_bytes), std::string(text + entry.name_bytes, entry.value_bytes)});
    at += bytes;
  }
  return list;
}

Result<> AttributeList::write(Transaction& transaction, InodeRecord& inode, Graveyard& graveyard) const {
  std::vector<std::byte> stream;
  for (const Item& item : items_) {
    const AttributeEntry entry{static_cast<std::uint32_t>(item.value.size()), static_cast<std::uint8_t>(item.name.size()), item.space, 0};
    const std::size_t at = stream.size();
    stream.resize(at + padded(sizeof entry + item.name.size() + item.value.size()));
    std::memcpy(stream.data() + at, &entry, sizeof entry);
    std::memcpy(stream.data() + at + sizeof entry, item.name.data(), item.name.size());
    std::memcpy(stream.data() + at + sizeof entry + item.name.size(), item.value.data(), item.value.size());
  }
  const std::uint64_t bytes = stream.size();
  if (bytes > format::kMaximumAttributeForkBytes) return fail(ErrorCode::kNoSpace);
  const ForkEdit fork = edit_attribute_fork(inode);
  const std::uint64_t blocks = blocks_for(bytes), old_blocks = blocks_for(inode.attribute_bytes);
  stream.resize(blocks * kBlockBytes);
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::byte* content = stream.data() + i * kBlockBytes;
    if (i < old_blocks) {  // a long list, of many hard links say, changes in one place
      const MapEntry entry = TRY(entry_at(transaction, attribute_fork(inode), FileBlock(i)));
      const BlockPtr old = TRY(transaction.read(entry.block(), BlockType::kAttributes));
      if (std::memcmp(old->bytes, content, kBlockBytes) == 0) continue;
    }
    Block* block = TRY(edit_leaf(transaction, fork, FileBlock(i), graveyard));
    std::memcpy(block->bytes, content, kBlockBytes);
  }
  if (old_blocks > blocks) TRY(clear(transaction, fork, {FileBlock(blocks), old_blocks - blocks}, graveyard));
  inode.attribute_bytes = static_cast<std::uint32_t>(bytes);
  if (blocks == 0) inode.attribute_level = 1;
  return {};
}

std::uint64_t AttributeList::stream_bytes() const {
  std::uint64_t bytes = 0;
  for (const Item& item : items_) bytes += padded(sizeof(AttributeEntry) + item.name.size() + item.value.size());
  return bytes;
}

AttributeList::Item* AttributeList::find(AttributeSpace space, std::string_view name) {
  const auto it = std::ranges::find_if(items_, [&](const Item& item) { return item.space == space && item.name == name; });
  return it == items_.end() ? nullptr : &*it;
}

void AttributeList::set(AttributeSpace space, std::string_view name, std::string value) {
  if (Item* item = find(space, name))
    item->value = std::move(value);
  else
    items_.push_back({space, std::string(name), std::move(value)});
}

bool AttributeList::remove(AttributeSpace space, std::string_view name) {
  return std::erase_if(items_, [&](const Item& item) { return item.space == space && item.name == name; }) != 0;
}

std::string AttributeList::parent_name(std::uint64_t directory, std::uint64_t cookie) {
  std::string name(16, '\0');
  std::memcpy(name.data(), &directory, 8);
  std::memcpy(name.data() + 8, &cookie, 8);
  return name;
}

std::pair<std::uint64_t, std::uint64_t> AttributeList::parse_parent(std::string_view name) {
  std::uint64_t directory = 0, cookie = 0;
  std::memcpy(&directory, name.data(), 8);
  std::memcpy(&cookie, name.data() + 8, 8);
  return {directory, cookie};
}

}  // namespace daxcow
