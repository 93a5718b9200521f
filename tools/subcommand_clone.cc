// daxcow clone.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <iostream>
#include <limits>

#include "engine/file_descriptor.h"
#include "fuse/control_client.h"
#include "fuse/reflink_client.h"
#include "tools/subcommand.h"
#include "tools/text.h"
#include "tools/tree_clone.h"

namespace daxcow::tools {

namespace {

struct OpenFile {
  std::string path;
  FileDescriptor descriptor;
  struct stat status {};
  bool made = false;  // by this command
};

// Opens a regular file on a daxcow mount.
Result<OpenFile> open_file(const std::string& path, int flags, mode_t mode) {
  OpenFile file{.path = path, .descriptor = {}, .status = {}, .made = false};
  flags |= O_CLOEXEC | O_NONBLOCK;  // do not wait for the other end of a pipe
  if (flags & O_CREAT) {
    file.descriptor = FileDescriptor(::open(path.c_str(), flags | O_EXCL, mode));
    file.made = static_cast<bool>(file.descriptor);
    if (!file.made && errno != EEXIST) return std::unexpected(path_error(errno, path));
  }
  if (!file.made) file.descriptor = FileDescriptor(::open(path.c_str(), flags & ~O_CREAT));
  if (!file.descriptor || ::fstat(file.descriptor.get(), &file.status) != 0) return std::unexpected(path_error(errno, path));
  if (S_ISDIR(file.status.st_mode)) return fail(ErrorCode::kIsDirectory, path + ": is a directory; -r clones those");
  if (!S_ISREG(file.status.st_mode)) return fail(ErrorCode::kInvalid, path + ": not a regular file");
  if (is_on_daxcow(file.descriptor.get())) return file;
  if (file.made) ::unlink(path.c_str());
  return fail(ErrorCode::kUnsupported, path + ": not on a daxcow mount");
}

Result<> clone_open(const OpenFile& from, const OpenFile& to, ReflinkMode mode, ReflinkRange range) {
  const bool one_file = from.status.st_dev == to.status.st_dev && from.status.st_ino == to.status.st_ino;
  if (one_file && mode == ReflinkMode::kReplace) return fail(ErrorCode::kInvalid, to.path + ": is the same file");
  for (;;) {
    const auto done = reflink_files(from.descriptor.get(), to.descriptor.get(), mode, range);
    if (!done) {
      if (done.error() == EXDEV)
        return fail(ErrorCode::kCrossVolume, fmt::format("{} and {} are in different pools; use cp", from.path, to.path));
      if (done.error() == EINVAL && one_file) return fail(ErrorCode::kInvalid, to.path + ": the ranges overlap");
      return std::unexpected(path_error(done.error(), to.path));
    }
    if (mode == ReflinkMode::kReplace || *done == 0 || *done == range.length) return {};
    range.from_offset += *done;
    range.to_offset += *done;
    range.length -= *done;
  }
}

int clone_trees(const CommandLine& line, const std::string& source, const std::string& target) {
  struct stat status {};
  if (::lstat(source.c_str(), &status) != 0) return line.fail(path_error(errno, source));
  if (::lstat(target.c_str(), &status) == 0) return line.fail(target + ": exists already");
  const auto report = clone_tree(source, target, [&](const Error& error) { line.fail(error); });
  if (report.not_kept != 0)
    std::cerr << line.program() << ": " << printable(target) << ": "
              << counted(report.not_kept, "attribute") << " (owners among them) that only root can set\n";
  return report.failed == 0 ? kSuccess : kFailure;
}

}  // namespace

int clone(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "[OPTION...] SRC DST",
      "Makes the file DST share the blocks of SRC, at a cost that does not depend on their number. Both are on\n"
      "mounts of one pool, of one volume or of two. DST is made if missing, and replaced if there; with --offset,\n"
      "--length or --dst-offset only the range is replaced, and the rest of DST stays.\n\n"
      "With -r, SRC is a tree, which is made again as DST with everything that belongs to it. Who may read the one\n"
      "and write to the other can clone; only root can give files to others.");
  line.flag("recursive,r", "clone a directory and all that is in it, or whatever SRC is");
  line.option("offset", "SIZE", "start of the range in SRC (default: 0)");
  line.option("length", "SIZE", "its length (default: to the end of SRC)");
  line.option("dst-offset", "SIZE", "where it goes in DST (default: 0)");
  line.positional("src");
  line.positional("dst");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  ReflinkRange range{.from_offset = 0, .to_offset = 0, .length = std::numeric_limits<std::int64_t>::max()};
  ReflinkMode mode = ReflinkMode::kReplace;
  for (auto [option, field] : {std::pair("offset", &range.from_offset), {"length", &range.length}, {"dst-offset", &range.to_offset}}) {
    if (!line.has(option)) continue;
    auto bytes = parse_size(line.text(option));
    if (!bytes) return line.fail_usage(std::string("--") + option + ": " + describe(bytes.error()));
    *field = *bytes;
    mode = ReflinkMode::kCopy;
  }
  if (mode == ReflinkMode::kCopy && line.has("recursive")) return line.fail_usage("--recursive goes without a range");

  // A name behind a slash, or in a directory that is there.
  const std::filesystem::path source = line.text("src");
  std::filesystem::path target = line.text("dst");
  if (std::error_code ignored; std::filesystem::is_directory(target, ignored)) {
    const auto name = (source / "").lexically_normal().parent_path().filename();
    if (name.empty() || name == "." || name == "..") return line.fail(target.native() + ": exists already");
    target /= name;
  }
  if (line.has("recursive")) return clone_trees(line, source.native(), target.native());

  auto from = open_file(source.native(), O_RDONLY, 0);
  if (!from) return line.fail(from.error());
  auto to = open_file(target.native(), O_WRONLY | O_CREAT, from->status.st_mode & 0777);
  if (!to) return line.fail(to.error());
  if (auto done = clone_open(*from, *to, mode, range); !done) {
    if (to->made) ::unlink(target.c_str());
    return line.fail(done.error());
  }
  return kSuccess;
}

}  // namespace daxcow::tools
