// daxcow dedupe.
#include <fmt/core.h>
#include <fts.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <system_error>

#include "fuse/control_client.h"
#include "tools/deduplicator.h"
#include "tools/progress.h"
#include "tools/subcommand.h"
#include "tools/text.h"

namespace daxcow::tools {

namespace {

// Every regular file of the trees, once for each of its names; symbolic links are not followed.
void for_each_file(const std::vector<std::string>& paths, const std::function<void(const std::string&, const struct stat&)>& visit,
                   const std::function<void(const Error&)>& complain) {
  std::vector<char*> arguments;
  for (const std::string& path : paths) arguments.push_back(const_cast<char*>(path.c_str()));
  arguments.push_back(nullptr);
  const std::unique_ptr<FTS, int (*)(FTS*)> walk(::fts_open(arguments.data(), FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, nullptr), ::fts_close);
  if (!walk) return complain(Error::from_errno(errno, "reading directories"));
  while (const FTSENT* const entry = ::fts_read(walk.get())) {
    if (entry->fts_info == FTS_F) visit(entry->fts_path, *entry->fts_statp);
    if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR || entry->fts_info == FTS_NS)
      complain(path_error(entry->fts_errno, entry->fts_path));
  }
}

}  // namespace

int dedupe(const std::string& program, const Arguments& arguments) {
  CommandLine line(program, "[OPTION...] PATH...",
                   "Finds blocks of 4 KiB that are equal in the files, and in all files of the directories, and makes\n"
                   "those files share one copy. Nothing can be lost, also while files are written to: the daemon shares what\n"
                   "is equal while it holds both files. Files may lie in several mounted volumes of a pool. You need to be\n"
                   "able to read the files, and to own them or be able to write to them. Directories of other filesystems\n"
                   "below PATH are left out.");
  line.flag("dry-run,n", "share nothing, only tell");
  line.option("memory", "SIZE", "for what is known of blocks (default: 256M, enough for 30 GiB of different blocks; of\n"
                                "larger amounts only runs of equal blocks are found, the longer the surer)");
  line.flag("json", "print JSON");
  line.positional("path");
  line.more_positionals("more");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  DeduplicationOptions options;
  options.dry_run = line.has("dry-run");
  if (line.has("memory")) {
    auto bytes = parse_size(line.text("memory"));
    if (!bytes) return line.fail_usage("--memory: " + describe(bytes.error()));
    if (*bytes < (1 << 20)) return line.fail_usage("--memory: at least 1M");
    options.memory_bytes = *bytes;
  }
  std::vector<std::string> paths{line.text("path")};
  for (const std::string& more : line.texts("more")) paths.push_back(more);
  for (std::string& path : paths) {  // a symbolic link that is named is followed, as du(1) does with -D
    std::error_code problem;
    if (!std::filesystem::is_symlink(path, problem)) continue;
    const auto target = std::filesystem::canonical(path, problem);
    if (problem) return line.fail(path_error(problem.value(), path));
    path = target.string();
  }

  bool failed = false;
  const auto complain = [&](const Error& error) {
    line.fail(error);
    failed = true;
  };
  std::uint64_t total = 0;
  for_each_file(paths, [&](const std::string&, const struct stat& status) {
    total += std::min<std::uint64_t>(static_cast<std::uint64_t>(status.st_blocks) * 512, static_cast<std::uint64_t>(status.st_size));
  }, [](const Error&) {});
  Progress progress("comparing");
  options.progress = [&](std::uint64_t done) { progress.update(std::min(done, total), total); };
  options.complain = complain;
  Deduplicator deduplicator(options);
  for_each_file(paths, [&](const std::string& path, const struct stat&) { deduplicator.add(path); }, complain);
  progress.finish();

  const DeduplicationReport& report = deduplicator.report();
  if (line.has("json")) {
    print_json({{"files", report.files},
                {"read_bytes", report.read_bytes},
                {"equal_bytes", report.equal_bytes},
                {"shared_bytes", report.shared_bytes},
                {"dry_run", options.dry_run},
                {"one_block_in", deduplicator.interval()}});
  } else {
    std::cout << fmt::format("{} read in {}; {} equal to something else, {} of that {}\n", human_size(report.read_bytes),
                             counted(report.files, "file"), human_size(report.equal_bytes), human_size(report.shared_bytes),
                             options.dry_run ? "not yet shared" : "newly shared");
    if (deduplicator.interval() > 1)
      std::cout << fmt::format("Memory was enough for one block in {}: --memory finds more short runs.\n", deduplicator.interval());
  }
  return failed ? kFailure : kSuccess;
}

}  // namespace daxcow::tools
