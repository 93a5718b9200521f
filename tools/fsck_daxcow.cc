// fsck.daxcow: checks a pool that is not mounted, and repairs it when told to.
//
// Exit codes are those of fsck(8): 0 nothing wrong, 1 errors corrected, 4 errors left, 8 could not check, 16 wrong
// usage, 32 interrupted.
#include <fmt/core.h>
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "engine/checker.h"
#include "engine/repair.h"
#include "tools/command_line.h"
#include "tools/pool_access.h"
#include "tools/progress.h"
#include "tools/text.h"

using namespace daxcow;
using namespace daxcow::tools;

namespace {

constexpr int kErrorsCorrected = 1;
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

nlohmann::json json_of(const std::vector<Finding>& findings) {
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& finding : findings)
    list.push_back({{"kind", daxcow::name_of(finding.kind)},
                    {"severity", name_of(finding.severity)},
                    {"block", finding.block.value},
                    {"where", finding.where},
                    {"what", finding.what},
                    {"remedy", daxcow::name_of(finding.remedy)},
                    {"safe", is_safe(finding.remedy)}});
  return list;
}

nlohmann::json json_of(const std::string& pool, const CheckReport& report) {
  return {{"pool", pool},
          {"clean", report.clean()},
          {"finding_count", report.finding_count},
          {"findings", json_of(report.findings)},
          {"volumes", report.volumes},
          {"inodes", report.inodes},
          {"directories", report.directories},
          {"metadata_blocks", report.metadata_blocks},
          {"data_blocks", report.data_blocks},
          {"shared_blocks", report.shared_blocks},
          {"free_blocks", report.free_blocks},
          {"records", report.records},
          {"ledger_blocks", report.ledger_blocks},
          {"journal_replayed", report.journal_replayed}};
}

// What is left, and as "found" and "actions" what there was and what was done about it.
nlohmann::json json_of(const std::string& pool, const RepairReport& report) {
  nlohmann::json result = json_of(pool, report.after);
  nlohmann::json actions = nlohmann::json::array();
  for (const RepairAction& action : report.actions)
    actions.push_back(
        {{"block", action.block.value}, {"where", action.where}, {"what", action.what}, {"loss", action.loss}});
  result["found"] = json_of(report.before.findings);
  result["found_count"] = report.before.finding_count;
  result["actions"] = actions;
  result["action_count"] = report.action_count;
  result["needs_yes"] = report.needs_all;
  return result;
}

void print_findings(const CheckReport& report, bool verbose, bool remedies) {
  for (const Finding& finding : report.findings) {
    if (finding.severity == Severity::kNote && !verbose) continue;
    const std::string remedy =
        remedies && finding.remedy != Remedy::kNone ? std::string(" (") + describe(finding.remedy) + ")" : "";
    std::cout << fmt::format("{}: {}: block {}: {}{}{}{}\n", name_of(finding.severity), daxcow::name_of(finding.kind),
                             finding.block.value, printable(finding.where), finding.where.empty() ? "" : ": ",
                             printable(finding.what), remedy);
  }
  if (report.finding_count > report.findings.size())
    std::cout << fmt::format("... and {} more\n", report.finding_count - report.findings.size());
}

void print_summary(const std::string& pool, const CheckReport& report, bool verbose) {
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

void print_repair(const RepairReport& report) {
  for (const RepairAction& action : report.actions)
    std::cout << fmt::format("{}: block {}: {}: {}\n", action.loss ? "repaired with loss" : "repaired",
                             action.block.value, printable(action.where), printable(action.what));
  if (report.action_count > report.actions.size())
    std::cout << fmt::format("... and {} more\n", report.action_count - report.actions.size());
}

// A bar for each thing that is going on.
class PhaseProgress {
 public:
  void update(std::string_view phase, std::uint64_t done, std::uint64_t total) {
    if (!progress_ || phase != phase_) progress_.emplace(std::string(phase_ = phase));
    progress_->update(done, total);
  }
  void finish() { progress_.reset(); }

 private:
  std::string phase_;
  std::optional<Progress> progress_;
};

int check_only(const CommandLine& line, const std::string& path) {
  auto medium = open_unmounted(path, {.read_only = true});
  if (!medium) return line.fail(medium.error());
  Progress progress("Checking");
  auto report = check(std::move(*medium),
                      {.progress = [&](std::uint64_t done, std::uint64_t total) { progress.update(done, total); }});
  progress.finish();
  if (!report) return line.fail(about_pool(path, report.error()));
  if (line.has("json")) {
    print_json(json_of(path, *report));
  } else {
    print_findings(*report, line.has("verbose"), true);
    print_summary(path, *report, line.has("verbose"));
    if (!report->clean()) std::cout << "to repair it: fsck.daxcow -y " << printable(path) << "\n";
  }
  return report->clean() ? kSuccess : kErrorsLeft;
}

int check_and_repair(const CommandLine& line, const std::string& path, RepairMode mode) {
  auto medium = open_unmounted(path, {});
  if (!medium) return line.fail(medium.error());
  PhaseProgress progress;
  RepairOptions options{.mode = mode, .progress = [&](std::string_view phase, std::uint64_t done, std::uint64_t total) {
                          progress.update(phase, done, total);
                        }};
  const auto report = repair(std::move(*medium), options);
  progress.finish();
  if (!report) {
    const int failed = line.fail(about_pool(path, report.error()));
    const bool unrepairable = report.error().code == ErrorCode::kDamaged || report.error().code == ErrorCode::kNoSpace;
    return unrepairable ? kErrorsLeft : failed;
  }
  if (line.has("json")) {
    print_json(json_of(path, *report));
  } else {
    const bool verbose = line.has("verbose");
    print_findings(report->before, verbose, report->needs_all);
    print_repair(*report);
    if (report->action_count != 0 && !report->clean()) print_findings(report->after, verbose, false);
    print_summary(path, report->after, verbose);
    if (report->needs_all)
      std::cout << "nothing was changed: not all of it can be repaired without losing something; run fsck.daxcow -y "
                << printable(path) << "\n";
  }
  if (!report->clean()) return kErrorsLeft;
  return report->action_count != 0 ? kErrorsCorrected : kSuccess;
}

int run(const Arguments& arguments) {
  CommandLine line(
      "fsck.daxcow", "[-n | -p | -y] [-fv] [--json] POOL",
      "Checks every checksum and structure of a pool that is not mounted, and that its reverse map is the set of all\n"
      "references. Writes nothing unless told to: -p repairs what loses nothing, -y everything.\n\n"
      "Exit code: 0 nothing wrong, 1 errors corrected, 4 errors left, 8 could not check, 16 wrong usage, 32 "
      "interrupted.");
  line.set_exit_codes(kOperationalError, kUsageError);
  line.flag("no,n", "only check (as without an option)");
  line.flag("preen,p", "repair if that loses nothing, else change nothing");
  line.flag("auto,a", "as -p");
  line.flag("yes,y", "repair everything; what cannot be kept is removed, what lost its name goes to lost+found");
  line.flag("force,f", "accepted for fsck(8); a check is always complete");
  line.flag("verbose,v", "print notes and more figures");
  line.flag("json", "print JSON");
  line.positional("pool");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  const bool preen = line.has("preen") || line.has("auto");
  if (line.has("no") && (preen || line.has("yes"))) return line.fail_usage("-n excludes -p, -a and -y");
  if (preen && line.has("yes")) return line.fail_usage("-y excludes -p and -a");

  // Every step of a repair is one that a crash may follow.
  std::signal(SIGINT, [](int) { ::_exit(kInterrupted); });
  auto path = resolve_pool(line.text("pool"));
  if (!path) return line.fail(path.error());
  if (line.has("yes")) return check_and_repair(line, *path, RepairMode::kAll);
  if (preen) return check_and_repair(line, *path, RepairMode::kSafe);
  return check_only(line, *path);
}

}  // namespace

int main(int argc, char** argv) { return run(arguments_of(argc, argv)); }
