#include "test/fuzz/fuzz_image.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "engine/checker.h"
#include "engine/pool.h"
#include "engine/repair.h"
#include "test/fuzz/base_images.h"
#include "test/fuzz/exercise.h"
#include "test/fuzz/image_edit.h"
#include "test/fuzz/input.h"

namespace daxcow::fuzz {

namespace {

constexpr std::uint64_t kCacheBytes = 4 << 20, kSmallCacheBytes = 128 << 10;

void print(const char* what, const Result<CheckReport>& checked) {
  std::fprintf(stderr, "%s\n", what);
  if (!checked) return (void)std::fprintf(stderr, "  %s\n", describe(checked.error()).c_str());
  const CheckReport& report = *checked;
  for (std::size_t i = 0; i < std::min<std::size_t>(report.findings.size(), 20); ++i) {
    const Finding& finding = report.findings[i];
    std::fprintf(stderr, "  %s, severity %d, block %lu, %s: %s\n", name_of(finding.kind), static_cast<int>(finding.severity),
                 static_cast<unsigned long>(finding.block.value), finding.where.c_str(), finding.what.c_str());
  }
}

[[noreturn]] void complain(const char* what, const Result<CheckReport>& report) {
  print(what, report);
  std::abort();
}

// Set in the environment: what the checker says of the image, and why it does not open.
const bool kVerbose = std::getenv("DAXCOW_FUZZ_VERBOSE") != nullptr;

bool has(const Input& input, InputFlag flag) { return (input.flags & flag) != 0; }

// Fails if the pool does not open.
Result<> use(BaseImage& base, const Input& input) {
  WorkingImage& image = *base.work;
  const bool read_only = has(input, kOpenReadOnly);
  const auto pool =
      Pool::open(image.medium(read_only), {.read_only = read_only,
                                           .cache_bytes = has(input, kSmallCache) ? kSmallCacheBytes : kCacheBytes,
                                           .directory_bytes = kCacheBytes,
                                           .background = false,
                                           .log = {}});
  if (!pool) return std::unexpected(pool.error());
  Exercise exercise(**pool, base);
  exercise.mount(read_only || has(input, kMountReadOnly));
  if (!has(input, kSkipWalk)) exercise.walk();
  bool operations = false;
  for (const Record& record : input.records) {
    if (record.is_edit()) continue;
    operations = true;
    exercise.operate(record);
  }
  if (!operations) exercise.operate_a_little();
  (*pool)->settle();
  return {};
}

// What a repair says is clean must be clean. Media with blocks that come and go are left to the repair's own tests.
void repair_image(WorkingImage& image, bool poison) {
  const auto repaired = repair(image.medium(), {.mode = RepairMode::kAll, .progress = {}});
  if (kVerbose && !repaired) std::fprintf(stderr, "not repaired: %s\n", describe(repaired.error()).c_str());
  if (!repaired || poison) return;
  if (kVerbose) print("repaired:", repaired->after);
  if (!repaired->clean()) return;
  const auto checked = check(image.medium(true), {});
  if (!checked || !checked->clean()) complain("a repaired pool is not as clean as the repair says", checked);
}

}  // namespace

void fuzz_image(std::span<const std::uint8_t> bytes) {
  const Input input = decode(bytes);
  BaseImage& base = base_image(static_cast<BaseKind>(input.base % kBaseKinds));
  WorkingImage& image = *base.work;
  image.reset();
  apply_edits(base, input);
  if (has(input, kRebuildReverseMap)) rebuild_reverse_map(base);

  const bool poison = std::ranges::any_of(input.records, [](const Record& r) { return r.makes_bad(); });
  if (has(input, kRepairFirst)) repair_image(image, poison);
  if (has(input, kSkipChecks)) return (void)use(base, input);
  const auto before = check(image.medium(true), {});
  if (kVerbose) print("before:", before);
  const auto used = use(base, input);
  if (kVerbose && !used) std::fprintf(stderr, "does not open: %s\n", describe(used.error()).c_str());
  if (before && before->clean() && !poison) {
    if (!used && used.error().code != ErrorCode::kVersion)
      complain("the checker finds nothing wrong with a pool that does not open", before);
    const auto after = check(image.medium(true), {});
    if (used && (!after || !after->clean())) complain("a clean pool is not clean after it was used", after);
  }
  if (has(input, kRepairLast)) repair_image(image, poison);
}

}  // namespace daxcow::fuzz
