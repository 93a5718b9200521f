// daxcow scrub.
#include <fmt/core.h>

#include <iostream>

#include "tools/pool_access.h"
#include "tools/progress.h"
#include "tools/subcommand.h"
#include "tools/text.h"

namespace daxcow::tools {

using nlohmann::json;

namespace {

constexpr int kTryLater = 75;  // as EX_TEMPFAIL of sysexits(3): another scrub is at it

std::uint64_t number_in(const json& object, const char* field) { return object.value(field, std::uint64_t{0}); }

std::string describe_rate(std::uint64_t bytes_per_second) {
  return bytes_per_second == 0 ? "as fast as it can" : "at most " + human_size(bytes_per_second) + "/s";
}

// "2 d 3 h", "4 min": two digits are enough for an estimate.
std::string describe_time(std::uint64_t seconds) {
  if (seconds < 90) return fmt::format("{} s", seconds);
  if (seconds < 5400) return fmt::format("{} min", (seconds + 30) / 60);
  if (seconds < 36 * 3600) return fmt::format("{} h {} min", seconds / 3600, seconds % 3600 / 60);
  return fmt::format("{} d {} h", seconds / 86400, seconds % 86400 / 3600);
}

void print_status(const std::string& path, const json& status) {
  const std::string state = status.value("state", "");
  const auto done = number_in(status, "done_bytes"), total = number_in(status, "total_bytes");
  const auto started = status.value("started_seconds", std::int64_t{0});
  const auto finished = status.value("finished_seconds", std::int64_t{0});
  const auto found = counted(number_in(status, "found_blocks"), "new bad block");
  std::string line = printable(path) + ": ";
  if (state == "idle") {
    line += finished == 0 ? "no scrub was ever finished"
                          : fmt::format("no scrub is under way; the last was finished {}, {} found, {} in all",
                                        local_time(finished), found, counted(number_in(status, "passes"), "pass"));
    if (!status.at("next_seconds").is_null())
      line += fmt::format("; the next begins {}", local_time(status.at("next_seconds").get<std::int64_t>()));
  } else {
    line += fmt::format("scrub {} since {}: {} of {} ({:.1f} %), {} found, {}", state, local_time(started),
                        human_size(done), human_size(total),
                        total == 0 ? 100.0 : 100.0 * static_cast<double>(done) / static_cast<double>(total), found,
                        describe_rate(number_in(status, "bytes_per_second")));
    if (!status.at("rest_seconds").is_null())
      line += fmt::format(", about {} to go", describe_time(number_in(status, "rest_seconds")));
  }
  std::cout << line << '\n';
}

// A whole pass, waited for.
int scrub_now(const CommandLine& line, PoolAccess& access, json request) {
  request["op"] = "scrub";
  Progress progress("Scrubbing");
  auto reply = access.call(request, [&](std::uint64_t done, std::uint64_t total) { progress.update(done, total); });
  progress.finish();
  if (!reply) {
    (void)line.fail(access.path() + ": " + describe(reply.error()));
    return reply.error().code == ErrorCode::kBusy ? kTryLater : kFailure;
  }
  if (line.has("json")) {
    print_json(*reply);
  } else {
    std::cout << fmt::format("{}: {} found\n", printable(access.path()),
                             counted(number_in(*reply, "found"), "new bad block"));
  }
  return kSuccess;
}

}  // namespace

int scrub(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "POOL [--rate SIZE] [--background | --status | --pause | --resume | --stop] [--json]",
      "Reads every copy of all metadata and every data block in use once, mounted or not. Bad blocks that nobody\n"
      "knew of are handled as when the device reports them. Without a word on the background it waits for the end.");
  line.option("rate", "SIZE", "read at most that much in a second (--background: 32M, else no bound); 0: no bound");
  line.flag("background", "leave it to the daemon, which goes on over restarts; also goes on with one that is paused");
  line.flag("status", "how far the daemon is, and how long it will take");
  line.flag("pause", "interrupt it, also over restarts");
  line.flag("resume", "go on with it; with --rate also one that is running");
  line.flag("stop", "end it");
  line.flag("json", "print JSON");
  line.positional("pool");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  std::string action;
  for (const auto& [option, name] : {std::pair("background", "begin"),
                                     {"status", "status"},
                                     {"pause", "pause"},
                                     {"resume", "resume"},
                                     {"stop", "stop"}}) {
    if (!line.has(option)) continue;
    if (!action.empty())
      return line.fail_usage("--background, --status, --pause, --resume and --stop exclude each other");
    action = name;
  }
  json request = json::object();
  if (line.has("rate")) {
    if (action == "status" || action == "pause" || action == "stop")
      return line.fail_usage("--rate goes with --background or --resume, or with neither");
    auto rate = parse_size(line.text("rate"));
    if (!rate) return line.fail_usage("--rate: " + describe(rate.error()));
    request["bytes_per_second"] = *rate;
  }
  const bool asks = action == "status";
  auto access = PoolAccess::open(line.text("pool"), asks ? PoolAccess::Need::kRead : PoolAccess::Need::kWrite);
  if (!access) return line.fail(access.error());
  if (action.empty()) return scrub_now(line, *access, std::move(request));
  request["op"] = "patrol";
  request["action"] = action;
  auto reply = access->call(request);
  if (!reply) return line.fail(access->path() + ": " + describe(reply.error()));
  if (line.has("json"))
    print_json(*reply);
  else
    print_status(access->path(), *reply);
  return kSuccess;
}

}  // namespace daxcow::tools
