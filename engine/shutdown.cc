#include "engine/shutdown.h"

#include <algorithm>
#include <array>
#include <ctime>

namespace daxcow {

namespace {

using DeviceId = decltype(format::Roots::device_id);

DeviceId device_id(const Medium::Identity& identity) {
  DeviceId id{};
  std::copy_n(identity.device_id.begin(), std::min(identity.device_id.size(), id.size()), id.begin());
  return id;
}

std::string local_time(std::int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  char text[64];
  if (localtime_r(&time, &parts) == nullptr) return {};
  return {text, std::strftime(text, sizeof text, "%F %T", &parts)};
}

}  // namespace

const char* name_of(LastShutdown shutdown) {
  switch (shutdown) {
    case LastShutdown::kClean: return "clean";
    case LastShutdown::kUnclean: return "unclean";
    case LastShutdown::kPowerLost: return "power-lost";
  }
  return "unknown";
}

ShutdownReport judge_shutdown(const format::Roots& before, const Result<Medium::Identity>& identity) {
  ShutdownReport report;
  if (before.in_use != 0) report.last = LastShutdown::kUnclean;
  if (!identity) return report;
  report.unsafe_shutdowns_known = true;
  report.unsafe_shutdowns = identity->unsafe_shutdowns;
  if (before.unsafe_shutdowns_known == 0) return report;
  // The counts of two devices have nothing to do with each other.
  report.device_changed = before.device_id != device_id(*identity);
  if (report.device_changed || identity->unsafe_shutdowns <= before.unsafe_shutdowns) return report;
  report.unsafe_shutdowns_new = identity->unsafe_shutdowns - before.unsafe_shutdowns;
  if (before.in_use != 0) report.last = LastShutdown::kPowerLost;
  return report;
}

void note_device(format::Roots& roots, const Result<Medium::Identity>& identity) {
  if (!identity) return;
  roots.unsafe_shutdowns = identity->unsafe_shutdowns;
  roots.unsafe_shutdowns_known = 1;
  roots.device_id = device_id(*identity);
}

std::string describe(const ShutdownReport& report, std::int64_t opened_seconds) {
  std::string line;
  const auto add = [&line](const std::string& text) { line += (line.empty() ? "" : "; ") + text; };
  const std::string opened = opened_seconds == 0 ? "" : " (last opened " + local_time(opened_seconds) + ")";
  const std::string count = std::to_string(report.unsafe_shutdowns_new) +
                            (report.unsafe_shutdowns_new == 1 ? " unsafe shutdown" : " unsafe shutdowns");
  switch (report.last) {
    case LastShutdown::kPowerLost:
      add("the device lost power without flushing its buffers while the pool was in use" + opened + ", " + count +
          ": data acknowledged shortly before may be missing. Unmount and run fsck.daxcow, then daxcow scrub, and look at what "
          "was written last");
      break;
    case LastShutdown::kUnclean: add("the pool was not closed cleanly" + opened + "; recovered"); break;
    case LastShutdown::kClean:
      if (report.unsafe_shutdowns_new != 0) add("the device counts " + count + " since, while the pool was not in use: no harm done");
      break;
  }
  if (report.device_changed) add("the pool is on another device than before; noted");
  return line;
}

}  // namespace daxcow
