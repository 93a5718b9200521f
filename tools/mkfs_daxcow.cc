// mkfs.daxcow: makes a pool.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "engine/file_descriptor.h"
#include "engine/medium_pmem2.h"
#include "engine/pool.h"
#include "tools/command_line.h"
#include "tools/medium_text.h"
#include "tools/pool_access.h"
#include "tools/progress.h"
#include "tools/text.h"

using namespace daxcow;
using namespace daxcow::tools;

namespace {

struct Request {
  std::string path;
  std::optional<std::uint64_t> size_bytes;
  FormatOptions format;
};

// Sees to it that there is a file or device to format; true when it made the file.
Result<bool> prepare(const Request& request) {
  struct stat status {};
  if (::stat(request.path.c_str(), &status) != 0) {
    if (errno != ENOENT) return std::unexpected(Error::from_errno(errno, request.path));
    if (!request.size_bytes)
      return fail(ErrorCode::kNotFound, fmt::format("{}: no such file; --size SIZE makes one", request.path));
    TRY(create_pool_file(request.path, *request.size_bytes));
    return true;
  }
  if (S_ISDIR(status.st_mode))
    return fail(ErrorCode::kIsDirectory,
                fmt::format("{}: is a directory; name a file or a devdax device", request.path));
  if (!request.size_bytes) return false;
  if (!S_ISREG(status.st_mode))
    return fail(ErrorCode::kInvalid, fmt::format("{}: a device has its own size; leave --size out", request.path));
  const auto size_bytes = static_cast<std::uint64_t>(status.st_size);
  if (*request.size_bytes == size_bytes) return false;
  if (!request.format.force)
    return fail(ErrorCode::kExists, fmt::format("{}: exists with {}; leave --size out, or --force to make it anew",
                                                request.path, human_size(size_bytes)));
  TRY(create_pool_file(request.path, *request.size_bytes, {.overwrite = true}));
  return false;
}

// Refuses to destroy what is there. Only the start is looked at, where filesystems and archives have their signatures;
// what cannot be read does not count.
Result<> refuse_data(const std::string& path) {
  auto medium = TRY(open_unmounted(path, {.read_only = true}));
  std::vector<std::byte> start(std::min<std::uint64_t>(medium->size_bytes(), 128 << 10));
  if (!medium->read(0, start)) return {};
  if (std::all_of(start.begin(), start.end(), [](std::byte b) { return b == std::byte{}; })) return {};
  auto pool = Pool::open(std::move(medium), {.read_only = true, .background = false, .log = {}});
  if (pool || pool.error().code != ErrorCode::kNotAPool)
    return fail(ErrorCode::kExists,
                fmt::format("{}: is a pool already; --force destroys it and makes a new one", path));
  return fail(ErrorCode::kExists, fmt::format("{}: holds data that is not a pool; --force overwrites it", path));
}

// Stores into the mapping of a file with holes would fail when its disk is full.
Result<> allocate_file(const std::string& path, std::uint64_t size_bytes) {
  const FileDescriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!file) return std::unexpected(Error::from_errno(errno, path));
  if (int error = ::posix_fallocate(file.get(), 0, static_cast<off_t>(size_bytes)); error != 0)
    return std::unexpected(Error::from_errno(error, fmt::format("{}: allocating {}", path, human_size(size_bytes))));
  return {};
}

Result<PoolStatistics> make_pool(const Request& request, bool new_file) {
  if (!new_file && !request.format.force) TRY(refuse_data(request.path));
  auto medium = TRY(open_unmounted(request.path, {}));
  const MediumKind kind = medium->info().kind;
  if (!new_file && (kind == MediumKind::kEmulatedFile || kind == MediumKind::kFsdaxFile))
    TRY(allocate_file(request.path, medium->size_bytes()));
  {
    Progress progress("Formatting");
    FormatOptions options = request.format;
    options.progress = [&](std::uint64_t done, std::uint64_t total) { progress.update(done, total); };
    if (auto done = Pool::format(*medium, options); !done)
      return std::unexpected(about_pool(request.path, done.error()));
  }
  // What is reported is what the next program will find.
  auto pool = TRY(Pool::open(std::move(medium), {.read_only = true, .background = false, .log = {}}));
  return pool->statistics();
}

void print_summary(const PoolStatistics& pool, const std::string& volume) {
  const std::string path = printable(pool.medium.path);
  std::cout << fmt::format("{}: made a pool of {}, {} free\n", path, human_size(pool.size_bytes),
                           human_size(pool.data_free_blocks * kBlockBytes));
  std::cout << "  uuid        " << pool.uuid << '\n';
  if (!pool.label.empty()) std::cout << "  label       " << printable(pool.label) << '\n';
  std::cout << "  medium      " << describe_kind(pool.medium.kind) << '\n';
  std::cout << "  durability  " << describe_durability(pool.medium) << '\n';
  if (!pool.medium.badblocks_source.empty())
    std::cout << "  bad blocks  " << printable(pool.medium.badblocks_source) << '\n';
  if (volume.empty()) {
    std::cout << "  volume      none; make one with: daxcow volume create " << path << " NAME\n";
  } else {
    std::cout << "  volume      " << printable(volume)
              << "; mount it with: mount -t fuse.daxcow -o volume=" << printable(volume) << ' ' << path
              << " DIRECTORY\n";
  }
}

int run(const Arguments& arguments) {
  CommandLine line(
      "mkfs.daxcow", "[OPTION...] POOL",
      "Makes a pool on POOL: a devdax device, a file on a filesystem mounted with -o dax=always, or any other\n"
      "regular file, which then emulates persistent memory.");
  line.option("size,s", "SIZE", "make the file, fully allocated, with this size (64M, 2GiB); at least 16M");
  line.option("label,L", "TEXT", "label of the pool, at most 63 bytes");
  line.option("volume", "NAME", "name of the first volume (default: main)");
  line.flag("no-volume", "make no volume");
  line.flag("force,f", "overwrite whatever POOL holds");
  line.flag("quiet,q", "print nothing but errors");
  line.flag("json", "print JSON");
  line.positional("pool");
  if (auto exit_code = line.parse(arguments)) return *exit_code;

  Request request{.path = line.text("pool"), .size_bytes = std::nullopt, .format = {}};
  request.format.force = line.has("force");
  request.format.label = line.text("label");
  if (line.has("no-volume") && line.has("volume"))
    return line.fail_usage("--volume and --no-volume exclude each other");
  request.format.first_volume = line.has("no-volume") ? "" : line.text("volume", request.format.first_volume);
  if (line.has("volume") && request.format.first_volume.empty()) return line.fail_usage("--volume needs a name");
  if (line.has("size")) {
    auto size = parse_size(line.text("size"));
    if (!size) return line.fail_usage("--size: " + describe(size.error()));
    request.size_bytes = *size / kBlockBytes * kBlockBytes;
  }

  auto new_file = prepare(request);
  if (!new_file) return line.fail(new_file.error());
  auto made = make_pool(request, *new_file);
  if (!made) {
    if (*new_file) ::unlink(request.path.c_str());
    return line.fail(made.error());
  }
  if (line.has("json")) {
    print_json({{"pool", made->medium.path},
                {"uuid", made->uuid},
                {"label", made->label},
                {"size_bytes", made->size_bytes},
                {"free_bytes", made->data_free_blocks * kBlockBytes},
                {"volume", request.format.first_volume},
                {"medium", describe_kind(made->medium.kind)},
                {"durability", describe_durability(made->medium)},
                {"badblocks_source", made->medium.badblocks_source}});
  } else if (!line.has("quiet")) {
    print_summary(*made, request.format.first_volume);
  }
  return kSuccess;
}

}  // namespace

int main(int argc, char** argv) { return run(arguments_of(argc, argv)); }
