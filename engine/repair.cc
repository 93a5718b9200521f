#include "engine/repair.h"

#include <algorithm>

#include "engine/borrowed_medium.h"
#include "engine/repair_pool.h"

namespace daxcow {

using namespace repairer;  // NOLINT: this file is what that one is for

namespace {

// Enough for damage that hides other damage; each pass makes what it sees right.
constexpr int kMaximumPasses = 4;

Result<CheckReport> check_again(Medium& medium, const RepairOptions& options) {
  CheckOptions check_options;
  if (options.progress)
    check_options.progress = [&](std::uint64_t done, std::uint64_t total) {
      options.progress("Checking", done, total);
    };
  return check(std::make_unique<BorrowedMedium>(medium), check_options);
}

Result<> repair_once(Medium& medium, const RepairOptions& options, Actions& actions) {
  std::uint64_t step = 0;
  const auto begin = [&](const char* what) {
    constexpr std::uint64_t kSteps = 8;
    if (options.progress) options.progress(what, step++, kSteps);
  };
  begin("Superblock");
  const format::Superblock superblock = TRY(repair_superblock(medium, actions));
  {
    RepairPool pool(medium, superblock, actions);
    begin("Journal and chunks");
    TRY(recover_journal(pool));
    TRY(repair_chunks(pool));
    begin("Descriptions");
    TRY(repair_descriptors(pool));
    begin("Copies");
    TRY(repair_copies(pool));
    begin("Lost blocks");
    TRY(repair_blocks(pool));
    begin("Trees");
    TRY(repair_trees(pool));
    begin("Reverse map");
    TRY(repair_records(pool));
  }
  begin("Names");
  return repair_names(medium, actions);
}

bool needs_more_than_safe(const CheckReport& report) {
  return report.finding_count > report.findings.size() ||
         std::ranges::any_of(report.findings, [](const Finding& finding) { return !is_safe(finding.remedy); });
}

}  // namespace

Result<RepairReport> repair(std::unique_ptr<Medium> medium, const RepairOptions& options) {
  if (medium->info().read_only) return fail(ErrorCode::kReadOnly, "it cannot be written, so it cannot be repaired");
  RepairReport report;
  Actions actions(report);
  auto before = check_again(*medium, options);
  if (before) {
    report.before = *before;
    report.after = *before;
    if (report.before.clean()) return report;
    if (options.mode == RepairMode::kSafe && needs_more_than_safe(report.before)) {
      report.needs_all = true;
      return report;
    }
  } else if (before.error().code != ErrorCode::kNotAPool || options.mode == RepairMode::kSafe) {
    return std::unexpected(before.error());
  }
  for (int pass = 0; pass < kMaximumPasses; ++pass) {
    const std::uint64_t actions_before = actions.count();
    // What stopped a pass may be gone in the next: it begins with what this one has mended.
    const auto done = repair_once(*medium, options, actions);
    const bool last = actions.count() == actions_before || pass + 1 == kMaximumPasses;
    auto after = check_again(*medium, options);
    if (!after) return std::unexpected(done ? after.error() : done.error());
    report.after = *std::move(after);
    if (report.after.clean()) break;
    if (!last) continue;
    if (!done) return std::unexpected(done.error());
    break;
  }
  return report;
}

}  // namespace daxcow
