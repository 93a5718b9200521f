// daxcow rescue.
#include <fmt/core.h>

#include <csignal>
#include <iostream>

#include "tools/progress.h"
#include "tools/rescue.h"
#include "tools/subcommand.h"
#include "tools/text.h"
#include "version.h"

namespace daxcow::tools {

using nlohmann::json;

namespace {

constexpr int kLossExit = 3;
constexpr int kInterruptedExit = 130;
constexpr std::size_t kListedLosses = 20;

volatile std::sig_atomic_t interrupted = 0;

json to_json(const RescueReport& report, const RescueOptions& options) {
  json lost = json::array();
  report.map.for_each([&](const RescueMap::Run& run) {
    if (run.state == RescueState::kLost) lost.push_back({{"offset_bytes", run.offset}, {"length_bytes", run.length}});
  });
  return {{"size_bytes", report.map.size_bytes()},
          {"copied_bytes", report.map.bytes_in(RescueState::kCopied)},
          {"lost_bytes", report.map.bytes_in(RescueState::kLost)},
          {"lost", std::move(lost)},
          {"map", options.map_path},
          {"resumed", report.resumed},
          {"interrupted", report.interrupted}};
}

void print(const RescueReport& report, const RescueOptions& options) {
  const auto lost = report.map.bytes_in(RescueState::kLost);
  std::cout << fmt::format("{}: {} of {} copied to {}, {} lost\n", printable(options.source),
                           human_size(report.map.bytes_in(RescueState::kCopied)), human_size(report.map.size_bytes()),
                           printable(options.target), lost == 0 ? "nothing" : human_size(lost));
  std::size_t listed = 0;
  report.map.for_each([&](const RescueMap::Run& run) {
    if (run.state != RescueState::kLost || ++listed > kListedLosses) return;
    std::cout << fmt::format("lost: bytes {}-{}\n", run.offset, run.end() - 1);
  });
  if (listed > kListedLosses)
    std::cout << fmt::format("... and {} more; see {}\n", listed - kListedLosses, printable(options.map_path));
}

}  // namespace

int rescue(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "FILE DEST [--map MAPFILE] [--retries N] [--force] [--json]",
      "Copies FILE as far as it can be read, to the sector of 512 bytes, with a map of what was lost in the format\n"
      "of GNU ddrescue. Holes stay holes, and what is lost becomes one. The same command goes on after an\n"
      "interruption, and tries again what was lost.\n"
      "Exit codes: 0 all of it was copied, 1 failure, 2 wrong usage, 3 copied but for what is lost.");
  line.option("map", "MAPFILE", "the map (default: DEST.map)");
  line.option("retries", "N", "how often to try again what was lost (default: 1)");
  line.flag("force", "write into DEST although it is there and has no map");
  line.flag("json", "print JSON");
  line.positional("file");
  line.positional("dest");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  auto retries = parse_number(line.text("retries", "1"));
  if (!retries || *retries > 1000) return line.fail_usage("--retries: a number up to 1000 is wanted");
  RescueOptions options{
      .source = line.text("file"),
      .target = line.text("dest"),
      .map_path = line.text("map", line.text("dest") + ".map"),
      .comments = fmt::format("Mapfile. Created by daxcow {}\nFile: {}", kVersion, printable(line.text("file"))),
      .retries = static_cast<unsigned>(*retries),
      .force = line.has("force"),
      .progress = {},
      .interrupted = [] { return interrupted != 0; }};
  Progress progress("Rescuing");
  options.progress = [&](std::uint64_t done, std::uint64_t total) { progress.update(done, total); };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, [](int) { interrupted = 1; });
  const auto report = rescue(options);
  progress.finish();
  if (!report) return line.fail(report.error());
  if (line.has("json"))
    print_json(to_json(*report, options));
  else
    print(*report, options);
  if (report->interrupted) {
    line.fail(fmt::format("interrupted; the same command goes on, by {}", options.map_path));
    return kInterruptedExit;
  }
  return report->map.bytes_in(RescueState::kCopied) == report->map.size_bytes() ? kSuccess : kLossExit;
}

}  // namespace daxcow::tools
