// daxcow clone, daxcow map.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <iostream>

#include "engine/file_descriptor.h"
#include "tools/pool_access.h"
#include "tools/subcommand.h"
#include "tools/text.h"

namespace daxcow::tools {

using nlohmann::json;

namespace {

json file_of(const MountedFile& file) { return {{"volume", file.volume}, {"inode", file.inode.value}}; }

struct OpenFile {
  FileDescriptor descriptor;
  MountedFile mounted;
  mode_t mode = 0;
  bool made = false;  // by this command
};

// Opens a regular file on a daxcow mount, and has the kernel write the pages that programs changed through mappings.
Result<OpenFile> open_file(const std::string& path, int flags, mode_t mode) {
  OpenFile file;
  flags |= O_CLOEXEC | O_NONBLOCK;  // do not wait for the other end of a pipe
  if (flags & O_CREAT) {
    file.descriptor = FileDescriptor(::open(path.c_str(), flags | O_EXCL, mode));
    file.made = static_cast<bool>(file.descriptor);
    if (!file.made && errno != EEXIST) return std::unexpected(path_error(errno, path));
  }
  if (!file.made) file.descriptor = FileDescriptor(::open(path.c_str(), flags & ~O_CREAT));
  if (!file.descriptor) return std::unexpected(path_error(errno, path));
  const auto fill = [&]() -> Result<> {
    struct stat status {};
    if (::fstat(file.descriptor.get(), &status) != 0) return std::unexpected(path_error(errno, path));
    if (S_ISDIR(status.st_mode)) return fail(ErrorCode::kIsDirectory, fmt::format("{}: is a directory", path));
    if (!S_ISREG(status.st_mode)) return fail(ErrorCode::kInvalid, fmt::format("{}: not a regular file", path));
    file.mode = status.st_mode & 0777;
    auto mounted = find_mounted_file(file.descriptor.get());
    if (!mounted && mounted.error().code == ErrorCode::kUnsupported)
      return fail(ErrorCode::kUnsupported, fmt::format("{}: not on a daxcow mount", path));
    file.mounted = TRY(std::move(mounted));
    if (::fsync(file.descriptor.get()) != 0) return std::unexpected(path_error(errno, path));
    return {};
  };
  if (auto filled = fill(); !filled) {
    if (file.made) ::unlink(path.c_str());
    return std::unexpected(std::move(filled).error());
  }
  return file;
}

// Clones; the caller removes a target that this made when it fails.
Result<> clone_open(const OpenFile& from, const OpenFile& to, json request) {
  if (from.mounted.pool_path != to.mounted.pool_path)
    return fail(ErrorCode::kCrossVolume, fmt::format("the files are in different pools, {} and {}; use cp",
                                                     from.mounted.pool_path, to.mounted.pool_path));
  const bool one_file = from.mounted.volume == to.mounted.volume && from.mounted.inode == to.mounted.inode;
  if (one_file && request.contains("truncate")) return fail(ErrorCode::kInvalid, "is the same file");
  auto access = TRY(PoolAccess::open(from.mounted.pool_path, PoolAccess::Need::kDaemon));
  request["op"] = "clone";
  request["from"] = file_of(from.mounted);
  request["to"] = file_of(to.mounted);
  auto reply = access.call(request);
  if (!reply && reply.error().code == ErrorCode::kInvalid && one_file)
    return fail(ErrorCode::kInvalid, "the ranges overlap");
  TRY(std::move(reply));
  // The kernel goes by the size that it knows, also for appends and faults of mappings, until somebody asks for another.
  struct stat status {};
  if (::fstat(to.descriptor.get(), &status) != 0) return std::unexpected(Error::from_errno(errno, "looking at the size"));
  return {};
}

}  // namespace

int clone(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "[OPTION...] SRC DST",
      "Makes the file DST share the blocks of SRC, at a cost that does not depend on their number. Both are on\n"
      "mounts of one pool, of one volume or of two. DST is made if missing, and replaced if there; with --offset,\n"
      "--length or --dst-offset only the range is replaced, and the rest of DST stays.");
  line.option("offset", "SIZE", "start of the range in SRC (default: 0)");
  line.option("length", "SIZE", "its length (default: to the end of SRC)");
  line.option("dst-offset", "SIZE", "where it goes in DST (default: 0)");
  line.positional("src");
  line.positional("dst");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  json request = json::object();
  for (auto [option, field] :
       {std::pair("offset", "from_bytes"), {"length", "length_bytes"}, {"dst-offset", "to_bytes"}}) {
    if (!line.has(option)) continue;
    auto bytes = parse_size(line.text(option));
    if (!bytes) return line.fail_usage(std::string("--") + option + ": " + describe(bytes.error()));
    request[field] = *bytes;
  }
  if (request.empty()) request["truncate"] = true;

  auto from = open_file(line.text("src"), O_RDONLY, 0);
  if (!from) return line.fail(from.error());
  std::filesystem::path target = line.text("dst");
  if (std::error_code ignored; std::filesystem::is_directory(target, ignored))
    target /= std::filesystem::path(line.text("src")).filename();
  auto to = open_file(target, O_WRONLY | O_CREAT, from->mode);
  if (!to) return line.fail(to.error());
  if (auto done = clone_open(*from, *to, request); !done) {
    if (to->made) ::unlink(target.c_str());
    return line.fail(fmt::format("{}: {}", target.native(), describe(done.error())));
  }
  return kSuccess;
}

int map(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "FILE [--json] | --svg POOL [--output IMAGE]",
      "Lists the runs of a file on a daxcow mount: where they are in the pool, how many references share them, and\n"
      "which are bad. Offsets and lengths are bytes. With --svg draws the whole pool: what lies where, shared by how\n"
      "many, where damage is, and what it hits.");
  line.flag("svg", "draw the pool, as an image that needs no scripts");
  line.option("output,o", "IMAGE", "write the drawing to this file instead of standard output");
  line.flag("json", "print JSON");
  line.positional("file");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  if (line.has("svg")) return draw_map(line, line.text("file"));
  auto file = find_mounted_file(line.text("file"));
  if (!file) return line.fail(file.error());
  if (!file->regular) return line.fail(line.text("file") + ": not a regular file");
  auto access = PoolAccess::open(file->pool_path, PoolAccess::Need::kDaemon);
  if (!access) return line.fail(access.error());
  json request = file_of(*file);
  request["op"] = "map";
  json whole;
  for (;;) {
    auto reply = access->call(request);
    if (!reply) return line.fail(reply.error());
    const json next = reply->value("next_bytes", json());
    if (whole.is_null()) {
      whole = std::move(*reply);
      whole.erase("next_bytes");
    } else {
      for (json& extent : reply->at("extents")) whole["extents"].push_back(std::move(extent));
    }
    if (next.is_null()) break;
    request["from_bytes"] = next;
  }
  if (line.has("json")) {
    print_json(whole);
    return kSuccess;
  }
  using enum Table::Align;
  Table table(
      {{"OFFSET", kRight}, {"LENGTH", kRight}, {"STATE"}, {"POOL OFFSET", kRight}, {"OWNERS", kRight}, {"NOTE"}});
  std::uint64_t shared_bytes = 0, bad_bytes = 0;
  for (const json& extent : whole.at("extents")) {
    const auto length = extent.value("length_bytes", std::uint64_t{0});
    const bool hole = !extent.contains("pool_offset_bytes"), shared = extent.value("shared", false),
               bad = extent.value("bad", false);
    if (shared) shared_bytes += length;
    if (bad) bad_bytes += length;
    table.add({std::to_string(extent.value("offset_bytes", std::uint64_t{0})), std::to_string(length),
               extent.value("state", ""),
               hole ? "-" : std::to_string(extent.value("pool_offset_bytes", std::uint64_t{0})),
               hole ? "-" : std::to_string(extent.value("owners", 0u)),
               bad ? (shared ? "shared, BAD" : "BAD") : (shared ? "shared" : "")});
  }
  table.print();
  std::cout << fmt::format("{}: {} in {}, {} shared, {} bad\n", printable(line.text("file")),
                           human_size(whole.value("size_bytes", std::uint64_t{0})),
                           counted(whole.at("extents").size(), "run"), human_size(shared_bytes), human_size(bad_bytes));
  return kSuccess;
}

}  // namespace daxcow::tools
