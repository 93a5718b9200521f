// POSIX access control lists, as the kernel leaves them to a FUSE filesystem: it checks permissions with them
// (FUSE_POSIX_ACL), but keeping mode and list in step and inheriting them is the filesystem's part. See acl(5).
//
// The value of system.posix_acl_access and system.posix_acl_default is the kernel's: a version and entries
// {tag, permissions, id}, little-endian (linux/posix_acl_xattr.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace daxcow {

inline constexpr std::string_view kAccessAcl = "system.posix_acl_access";
inline constexpr std::string_view kDefaultAcl = "system.posix_acl_default";

struct AclEntry {
  std::uint16_t tag = 0;          // kUserObject, ... of acl.cc
  std::uint16_t permissions = 0;  // rwx: 4, 2, 1
  std::uint32_t id = 0;           // of a named user or group
};

class Acl {
 public:
  // Nothing if the value is no valid list: tags in order, the three obligatory ones once each, a mask where names are.
  static std::optional<Acl> parse(std::span<const std::byte> value);
  std::string value() const;

  // Whether the mode bits say all that the list says.
  bool is_minimal() const;
  // The nine permission bits that go with the list: the group's are the mask's, if there is one.
  std::uint32_t mode_bits() const;
  // chmod: puts the nine permission bits into the list; the group's into the mask, if there is one.
  void set_mode_bits(std::uint32_t mode);
  // A new file's list from its directory's default list: what `mode` does not allow is taken away. mode_bits() is then
  // the new file's mode.
  void restrict_to(std::uint32_t mode);

 private:
  AclEntry* find(std::uint16_t tag);
  const AclEntry* find(std::uint16_t tag) const { return const_cast<Acl*>(this)->find(tag); }
  AclEntry& group_class();
  std::vector<AclEntry> entries_;
};

}  // namespace daxcow
