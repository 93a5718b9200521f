#include "fuse/mount_table.h"

#include <sys/sysmacros.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace daxcow {

namespace {

// Undoes the kernel's escapes of blanks and backslashes: \040 and so on.
std::string unescape(const std::string& text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

// "36 35 98:0 /root /mount/point options [optional fields] - type source super-options", see proc_pid_mountinfo(5).
std::optional<MountEntry> parse(const std::string& line) {
  std::istringstream fields(line);
  std::string id, parent, device, root, mount_point, field, type, source;
  if (!(fields >> id >> parent >> device >> root >> mount_point)) return std::nullopt;
  while (fields >> field && field != "-") {
  }
  if (!(fields >> type >> source) || type != kFilesystemType) return std::nullopt;
  unsigned major_number, minor_number;
  if (std::sscanf(device.c_str(), "%u:%u", &major_number, &minor_number) != 2) return std::nullopt;
  return MountEntry{makedev(major_number, minor_number), unescape(source), unescape(mount_point)};
}

template <class Predicate>
Result<std::vector<MountEntry>> find_all(Predicate matches) {
  std::ifstream table("/proc/self/mountinfo");
  if (!table) return std::unexpected(Error::from_errno(errno, "/proc/self/mountinfo"));
  std::vector<MountEntry> found;
  for (std::string line; std::getline(table, line);)
    if (auto entry = parse(line); entry && matches(*entry)) found.push_back(*std::move(entry));
  return found;
}

template <class Predicate>
Result<std::optional<MountEntry>> find_last(Predicate matches) {
  auto found = TRY(find_all(matches));
  return found.empty() ? std::nullopt : std::optional(std::move(found.back()));
}

}  // namespace

Result<std::vector<MountEntry>> find_mounts(dev_t device) {
  return find_all([&](const MountEntry& entry) { return entry.device == device; });
}

Result<std::optional<MountEntry>> find_mount(dev_t device) {
  return find_last([&](const MountEntry& entry) { return entry.device == device; });
}

Result<std::optional<MountEntry>> find_mount(const std::string& mount_point) {
  return find_last([&](const MountEntry& entry) { return entry.mount_point == mount_point; });
}

Result<std::optional<MountEntry>> find_mount_above(const std::string& path) {
  std::error_code problem;
  const auto whole = std::filesystem::absolute(path, problem).lexically_normal() / "";
  if (problem) return std::optional<MountEntry>();
  return find_last([&](const MountEntry& entry) { return whole.native().starts_with(entry.mount_point + "/"); });
}

}  // namespace daxcow
