#include "fuse/mount_options.h"

#include <sys/mount.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include <fmt/format.h>

#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif
#ifndef MS_LAZYTIME
#define MS_LAZYTIME (1 << 25)
#endif

namespace daxcow {

namespace {

struct KernelFlag {
  std::string_view name;
  unsigned long flag;
  bool set;
};
constexpr KernelFlag kKernelFlags[] = {
    {"ro", MS_RDONLY, true},
    {"rw", MS_RDONLY, false},
    {"nosuid", MS_NOSUID, true},
    {"suid", MS_NOSUID, false},
    {"nodev", MS_NODEV, true},
    {"dev", MS_NODEV, false},
    {"noexec", MS_NOEXEC, true},
    {"exec", MS_NOEXEC, false},
    {"sync", MS_SYNCHRONOUS, true},
    {"async", MS_SYNCHRONOUS, false},
    {"dirsync", MS_DIRSYNC, true},
    {"nosymfollow", MS_NOSYMFOLLOW, true},
    {"noatime", MS_NOATIME, true},
    {"atime", MS_NOATIME, false},
    {"nodiratime", MS_NODIRATIME, true},
    {"diratime", MS_NODIRATIME, false},
    {"relatime", MS_RELATIME, true},
    {"norelatime", MS_RELATIME, false},
    {"strictatime", MS_STRICTATIME, true},
    {"nostrictatime", MS_STRICTATIME, false},
    {"lazytime", MS_LAZYTIME, true},
    {"nolazytime", MS_LAZYTIME, false},
    {"silent", MS_SILENT, true},
    {"loud", MS_SILENT, false},
};

// For mount(8), the boot scripts or people; they mean nothing here. mount(8) repeats the kernel's own when it remounts.
constexpr std::string_view kIgnored[] = {"defaults", "auto",  "noauto", "user",    "nouser",             "users",
                                         "owner",    "group", "nofail", "_netdev", "default_permissions"};
constexpr std::string_view kIgnoredPrefixes[] = {
    "x-", "X-", "comment=", "uhelper=", "helper=", "user_id=", "group_id=", "max_read=", "blksize="};

std::unexpected<Error> bad_value(std::string_view name, std::string_view value, std::string_view wanted) {
  return fail(ErrorCode::kInvalid, fmt::format("option {}={}: {} is wanted", name, value, wanted));
}

template <class T>
std::optional<T> to_number(std::string_view text) {
  T number{};
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

Result<double> parse_seconds(std::string_view name, std::string_view value) {
  const auto seconds = to_number<double>(value);
  if (!seconds || !(*seconds >= 0) || *seconds > 1e9) return bad_value(name, value, "a number of seconds");
  return *seconds;
}

// True if the option was one of these.
Result<bool> take_daxcow_option(std::string_view name, std::optional<std::string_view> value, MountOptions& options) {
  auto& behaviour = options.behaviour;
  const auto is_switch = [&](std::string_view known) { return name == known && !value; };
  const auto has_value = [&](std::string_view known) { return name == known && value; };
  if (has_value("volume")) {
    if (value->empty()) return bad_value(name, *value, "the name of a volume");
    options.volume = *value;
  } else if (has_value("attr_timeout")) {
    behaviour.attribute_timeout_seconds = TRY(parse_seconds(name, *value));
  } else if (has_value("entry_timeout")) {
    behaviour.entry_timeout_seconds = TRY(parse_seconds(name, *value));
  } else if (has_value("threads")) {
    const auto threads = to_number<unsigned>(*value);
    if (!threads || *threads < 2 || *threads > 1024) return bad_value(name, *value, "a number from 2 to 1024");
    options.threads = *threads;
  } else if (is_switch("io_uring")) {
    options.io_uring = true;
  } else if (has_value("max_write")) {
    const auto bytes = parse_size(*value);
    if (!bytes || *bytes < kBlockBytes || *bytes > (1 << 20)) return bad_value(name, *value, "a size from 4K to 1M");
    behaviour.maximum_write_bytes = static_cast<std::uint32_t>(*bytes);
  } else if (has_value("read_ahead")) {
    const auto bytes = parse_size(*value);
    if (!bytes || *bytes > (64 << 20)) return bad_value(name, *value, "a size up to 64M");
    options.read_ahead_bytes = *bytes;
  } else if (has_value("cache")) {
    const auto bytes = parse_size(*value);
    if (!bytes || *bytes < (1 << 20)) return bad_value(name, *value, "a size of at least 1M");
    options.cache_bytes = *bytes;
  } else if (is_switch("writeback_cache")) {
    behaviour.writeback_cache = true;
  } else if (is_switch("no_keep_cache")) {
    behaviour.keep_cache = false;
  } else if (is_switch("rescue")) {
    behaviour.rescue = true;
  } else if (is_switch("no_rescue")) {
    behaviour.rescue = false;
  } else if (is_switch("acl")) {
    behaviour.access_lists = true;
  } else if (is_switch("noacl")) {
    behaviour.access_lists = false;
  } else if (is_switch("allow_other")) {
    options.allow_other = true;
  } else if (is_switch("noallow_other")) {
    options.allow_other = false;
  } else if (is_switch("relaxed")) {
    options.relaxed = true;
  } else if (has_value("scrub")) {
    const auto bytes = *value == "off" ? Result<std::uint64_t>(0) : parse_size(*value);
    if (!bytes || (*bytes == 0 && *value != "off")) return bad_value(name, *value, "a size (read in a second), or off");
    options.scrub_bytes_per_second = *bytes;
  } else if (has_value("hooks")) {
    if (!value->starts_with('/')) return bad_value(name, *value, "the absolute path of a directory");
    options.hooks_directory = *value;
  } else if (is_switch("remount")) {
    options.remount = true;
  } else {
    return false;
  }
  return true;
}

Result<> take_option(std::string_view option, MountOptions& options, bool sloppy) {
  if (std::ranges::find(kIgnored, option) != std::end(kIgnored)) return {};
  if (std::ranges::any_of(kIgnoredPrefixes, [&](std::string_view prefix) { return option.starts_with(prefix); }))
    return {};
  if (const auto known = std::ranges::find(kKernelFlags, option, &KernelFlag::name); known != std::end(kKernelFlags)) {
    options.kernel_flags = known->set ? options.kernel_flags | known->flag : options.kernel_flags & ~known->flag;
    options.read_only = (options.kernel_flags & MS_RDONLY) != 0;
    auto& files = options.behaviour.access_time;
    files = (options.kernel_flags & MS_STRICTATIME) != 0 ? AccessTime::kStrict  // the kernel's order
            : (options.kernel_flags & MS_NOATIME) != 0   ? AccessTime::kKeep
                                                         : AccessTime::kRelative;
    if ((known->flag & (MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME)) != 0) options.names_access_times = true;
    options.behaviour.directory_access_time = (options.kernel_flags & MS_NODIRATIME) != 0 ? AccessTime::kKeep : files;
    return {};
  }
  const auto equals = option.find('=');
  const auto name = option.substr(0, equals);
  std::optional<std::string_view> value;
  if (equals != std::string_view::npos) value = option.substr(equals + 1);
  if (!TRY(take_daxcow_option(name, value, options)) && !sloppy)
    return fail(ErrorCode::kInvalid, fmt::format("unknown option \"{}\" (see --help)", option));
  return {};
}

}  // namespace

Result<> parse_mount_options(std::string_view list, MountOptions& options, bool sloppy) {
  while (!list.empty()) {
    const auto comma = list.find(',');
    const auto option = list.substr(0, comma);
    if (!option.empty()) TRY(take_option(option, options, sloppy));
    if (comma == std::string_view::npos) break;
    list.remove_prefix(comma + 1);
  }
  return {};
}

Result<std::uint64_t> parse_size(std::string_view text) {
  constexpr std::string_view kUnits = "KMGT";
  std::string_view digits = text;
  unsigned shift = 0;
  if (!text.empty()) {
    const char last =
        text.back() >= 'a' && text.back() <= 'z' ? static_cast<char>(text.back() - 'a' + 'A') : text.back();
    if (const auto unit = kUnits.find(last); unit != std::string_view::npos) {
      shift = 10 * (static_cast<unsigned>(unit) + 1);
      digits.remove_suffix(1);
    }
  }
  const auto number = to_number<std::uint64_t>(digits);
  if (!number || *number > std::numeric_limits<std::uint64_t>::max() >> shift)
    return fail(ErrorCode::kInvalid, fmt::format("\"{}\" is not a size (a number of bytes, with K, M, G or T)", text));
  return *number << shift;
}

const char* mount_options_help() {
  return "  volume=NAME         the volume to mount (main)\n"
         "  ro                  read-only; nothing is written to a pool that has no other mounts\n"
         "  noallow_other       only root may use the mount (others may, by default)\n"
         "  attr_timeout=S      seconds for which the kernel may keep attributes (86400)\n"
         "  entry_timeout=S     seconds for which the kernel may keep names (86400)\n"
         "  no_keep_cache       drop a file's cached pages whenever it is opened\n"
         "  writeback_cache     let the kernel gather writes: faster for small ones, slower for large ones\n"
         "  no_rescue           do not look for lost data in what the kernel has cached of this mount\n"
         "  strictatime, noatime, nodiratime: which reads move access times (as relatime says)\n"
         "  noacl               no POSIX access control lists\n"
         "  threads=N           threads that serve the mount (4; at least 2)\n"
         "  io_uring            take requests from rings, one for each core, where libfuse and the kernel can\n"
         "  max_write=SIZE      largest write request (1M)\n"
         "  read_ahead=SIZE     how far the kernel reads ahead, and around faults of mappings (256K)\n"
         "  nosuid, nodev, noexec, sync, dirsync, nosymfollow: as for every mount\n"
         "  remount             change ro, nosuid, nodev, noexec, noatime and the like of a mount\n"
         "Options of the whole pool, of its first mount only:\n"
         "  cache=SIZE          memory for metadata (256M)\n"
         "  scrub=SIZE          read the pool through once a day, at most that much in a second (off)\n"
         "  hooks=DIRECTORY     run its programs when something happens to the pool (/etc/daxcow/events.d)\n"
         "  relaxed             a pool file on a disk: do not push each change to the disk; changes survive the end "
         "of\n"
         "                      the daemon, but not of the machine\n";
}

}  // namespace daxcow
