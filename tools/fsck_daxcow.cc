// fsck.daxcow: checks a pool that is not mounted. Reads only: repair is not in this version.
//
// Exit codes are those of fsck(8): 0 nothing wrong, 4 errors left, 8 could not check, 16 wrong usage, 32 interrupted.
#include <fmt/core.h>
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <memory>

#include "engine/checker.h"
#include "tools/command_line.h"
#include "tools/pool_access.h"
#include "tools/progress.h"
#include "tools/text.h"

using namespace daxcow;
using namespace daxcow::tools;

namespace {

constexpr int kErrorsLeft = 4;
constexpr int kOperationalError = 8;
constexpr int kUsageError = 16;
constexpr int kInterrupted = 32;

const char* name_of(Severity severity) {
  switch (severity) {
    case Severity::kNote:
      return "note";
    case Severity::kRepairable:
      return "error";
    case Severity::kLoss:
      return "loss";
  }
  return "unknown";
}

void print_json_report(const std::string& pool, const CheckReport& report) {
  nlohmann::json findings = nlohmann::json::array();
  for (const Finding& finding : report.findings)
    findings.push_back({{"kind", daxcow::name_of(finding.kind)},
                        {"severity", name_of(finding.severity)},
                        {"block", finding.block.value},
                        {"where", finding.where},
                        {"what", finding.what}});
  print_json({{"pool", pool},
              {"clean", report.clean()},
              {"finding_count", report.finding_count},
              {"findings", findings},
              {"volumes", report.volumes},
              {"inodes", report.inodes},
              {"directories", report.directories},
              {"metadata_blocks", report.metadata_blocks},
              {"data_blocks", report.data_blocks},
              {"shared_blocks", report.shared_blocks},
              {"free_blocks", report.free_blocks},
              {"records", report.records},
              {"ledger_blocks", report.ledger_blocks},
              {"journal_replayed", report.journal_replayed}});
}

void print_report(const std::string& pool, const CheckReport& report, bool verbose) {
  for (const Finding& finding : report.findings) {
    if (finding.severity == Severity::kNote && !verbose) continue;
    std::cout << fmt::format("{}: {}: block {}: {}{}{}\n", name_of(finding.severity), daxcow::name_of(finding.kind),
                             finding.block.value, printable(finding.where), finding.where.empty() ? "" : ": ",
                             printable(finding.what));
  }
  if (report.finding_count > report.findings.size())
    std::cout << fmt::format("... and {} more\n", report.finding_count - report.findings.size());
  const auto size = [](std::uint64_t blocks) { return human_size(blocks * kBlockBytes); };
  std::cout << fmt::format(
      "{}: {}: {}, {}, {} of data ({} shared), {} of metadata, {} free{}\n", printable(pool),
      report.clean() ? "clean" : "NOT CLEAN", counted(report.volumes, "volume"), counted(report.inodes, "inode"),
      size(report.data_blocks), size(report.shared_blocks), size(report.metadata_blocks), size(report.free_blocks),
      report.ledger_blocks ? ", " + counted(report.ledger_blocks, "bad block") + " in the ledger" : "");
  if (!verbose) return;
  std::cout << fmt::format("  directories: {}, records of the reverse map: {}\n", report.directories, report.records);
  if (report.journal_replayed)
    std::cout << "  checked as the next mount will see it: the journal holds a change that is not home yet\n";
}

int run(const Arguments& arguments) {
  CommandLine line(
      "fsck.daxcow", "[-n | -p | -y] [-fv] [--json] POOL",
      "Checks every checksum and structure of a pool that is not mounted, and that its reverse map is the set of all\n"
      "references. Writes nothing: this version does not repair.\n\n"
      "Exit code: 0 nothing wrong, 4 errors found, 8 could not check, 16 wrong usage, 32 interrupted.");
  line.set_exit_codes(kOperationalError, kUsageError);
  line.flag("no,n", "only check (always so in this version)");
  line.flag("preen,p", "as -n; repair is not in this version");
  line.flag("auto,a", "as -p");
  line.flag("yes,y", "as -n; repair is not in this version");
  line.flag("force,f", "accepted for fsck(8); a check is always complete");
  line.flag("verbose,v", "print notes and more figures");
  line.flag("json", "print JSON");
  line.positional("pool");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  const bool repair = line.has("yes") || line.has("preen") || line.has("auto");
  if (line.has("no") && repair) return line.fail_usage("-n excludes -p, -a and -y");
  if (repair) std::cerr << "fsck.daxcow: repair is not in this version; checking only\n";

  std::signal(SIGINT, [](int) { ::_exit(kInterrupted); });
  auto path = resolve_pool(line.text("pool"));
  if (!path) return line.fail(path.error());
  auto medium = open_unmounted(*path, {.read_only = true});
  if (!medium) return line.fail(medium.error());
  Progress progress("Checking");
  auto report = check(std::move(*medium),
                      {.progress = [&](std::uint64_t done, std::uint64_t total) { progress.update(done, total); }});
  progress.finish();
  if (!report) return line.fail(about_pool(*path, report.error()));
  if (line.has("json")) {
    print_json_report(*path, *report);
  } else {
    print_report(*path, *report, line.has("verbose"));
  }
  return report->clean() ? kSuccess : kErrorsLeft;
}

}  // namespace

int main(int argc, char** argv) { return run(arguments_of(argc, argv)); }
