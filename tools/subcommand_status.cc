// daxcow events, stat, settle.
#include <fmt/core.h>

#include <iostream>

#include "tools/pool_access.h"
#include "tools/subcommand.h"
#include "tools/text.h"

namespace daxcow::tools {

using nlohmann::json;

namespace {

std::uint64_t number_in(const json& object, const char* field) { return object.value(field, std::uint64_t{0}); }

// "2024-05-01 12:00:00.123 data lost: volume main, /file, bytes 4096-8191; ..."
void print_event(const json& event) {
  const json time = event.value("time", json::object());
  const std::string text = event.value("text", "");
  std::cout << fmt::format("{}.{:03} {}\n", local_time(time.value("seconds", std::int64_t{0})),
                           number_in(time, "nanoseconds") / 1'000'000,
                           printable(text.empty() ? event.value("kind", "") : text))
            << std::flush;
}

// How the pool was left by the opening before this one; nothing if it was closed.
std::string before_this(const json& shutdown) {
  const std::string last = shutdown.value("last", "");
  std::string text;
  if (last == "unclean") text = "not closed cleanly; recovered";
  if (last == "power-lost")
    text = "power lost without flushing while in use: data acknowledged shortly before may be missing; run fsck.daxcow and daxcow scrub";
  if (shutdown.value("device_changed", false)) text += std::string(text.empty() ? "" : "; ") + "on another device";
  return text;
}

// "data-lost: 512 B in 1 block; ...": the word that scripts look for, and what it means.
std::string describe_health(const json& health, const std::string& pool) {
  const auto count = [&](const char* field, const char* noun) { return counted(number_in(health, field), noun); };
  const std::string state = health.value("state", "");
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? ": " : "; ") + part; };
  if (number_in(health, "metadata_lost") != 0)
    add(count("metadata_lost", "block") + " of metadata lost in both copies: unmount and run fsck.daxcow");
  if (number_in(health, "lost_blocks") != 0)
    add(fmt::format("{} in {} cannot be read: see daxcow poison list {}", human_size(number_in(health, "lost_bytes")),
                    count("lost_blocks", "block"), pool));
  if (number_in(health, "quarantined_blocks") != 0) add(count("quarantined_blocks", "bad block") + " out of use");
  if (number_in(health, "bad_copies") != 0) add(count("bad_copies", "bad block") + " of metadata with a good copy");
  return state + text;
}

}  // namespace

int events(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "POOL [--follow] [--after N] [--json]",
      "Lists what happened to the pool since it was mounted: poison found, data lost and healed, blocks cleared,\n"
      "metadata repaired, processes signalled. With --json one object a line.");
  line.flag("follow,f", "go on with what happens until the pool is unmounted");
  line.option("after", "N", "only events after this sequence number");
  line.flag("json", "print JSON");
  line.positional("pool");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  auto after = parse_number(line.text("after", "0"));
  if (!after) return line.fail_usage("--after: " + describe(after.error()));
  auto access = PoolAccess::open(line.text("pool"), PoolAccess::Need::kDaemon);
  if (!access) return line.fail(access.error());
  for (;;) {
    auto reply =
        access->call({{"op", "events"}, {"after", *after}, {"wait_milliseconds", line.has("follow") ? 1000 : 0}});
    if (!reply) {
      // The last unmount ends the daemon, and with it the events: not a failure of this command.
      if (line.has("follow") && access->daemon_gone()) return kSuccess;
      return line.fail(reply.error());
    }
    const json& list = reply->at("events");
    for (const json& event : list) {
      if (line.has("json")) {
        print_json(event, -1);
      } else {
        print_event(event);
      }
      after = number_in(event, "sequence");
    }
    if (list.empty() && !line.has("follow")) return kSuccess;
  }
}

int stat(const std::string& program, const Arguments& arguments) {
  CommandLine line(program, "POOL [--json]", "Prints space, counters and the medium of a pool.");
  line.flag("json", "print JSON");
  line.positional("pool");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  auto access = PoolAccess::open(line.text("pool"), PoolAccess::Need::kRead);
  if (!access) return line.fail(access.error());
  auto reply = access->call({{"op", "stat"}});
  if (!reply) return line.fail(reply.error());
  if (line.has("json")) {
    print_json(*reply);
    return kSuccess;
  }
  const auto row = [](const char* name, const std::string& value) {
    if (!value.empty()) std::cout << fmt::format("{:<18} {}\n", name, printable(value));
  };
  const auto size_of = [&](const char* field) { return human_size(number_in(*reply, field) * kBlockBytes); };
  const auto count_of = [&](const char* field) { return std::to_string(number_in(*reply, field)); };
  const json medium = reply->value("medium", json::object());
  row("pool", reply->value("path", access->path()));
  row("uuid", reply->value("uuid", ""));
  row("label", reply->value("label", ""));
  row("size", human_size(number_in(*reply, "size_bytes")));
  row("free for data", size_of("data_free_blocks"));
  row("metadata", fmt::format("{} in {}, {} of it free", size_of("metadata_blocks"),
                              counted(number_in(*reply, "chunks"), "chunk"), size_of("metadata_free_blocks")));
  row("volumes", count_of("volumes"));
  row("reverse map", fmt::format("{} in {}", counted(number_in(*reply, "reverse_records"), "record"),
                                 number_in(*reply, "reverse_leaves") == 1
                                     ? std::string("1 leaf")
                                     : fmt::format("{} leaves", number_in(*reply, "reverse_leaves"))));
  row("bad blocks", count_of("ledger_blocks"));
  row("health", describe_health(reply->value("health", json::object()), access->path()));
  row("medium",
      fmt::format("{}, granularity {}, durability {}{}", medium.value("kind", "?"), medium.value("granularity", "?"),
                  medium.value("durability", "?"), medium.value("read_only", false) ? ", read-only" : ""));
  row("before this", before_this(reply->value("shutdown", json::object())));
  row("bad blocks from", medium.value("badblocks_source", ""));
  row("blocks, ever",
      fmt::format("{} lost, {} healed, {} cleared, {} of metadata repaired", count_of("blocks_lost"),
                  count_of("blocks_healed"), count_of("blocks_cleared"), count_of("metadata_repaired")));
  if (!access->has_daemon()) return kSuccess;
  const json daemon = reply->value("daemon", json::object());
  if (daemon.contains("process")) row("daemon", fmt::format("process {}", number_in(daemon, "process")));
  row("since it started", fmt::format("{}, {} journalled", counted(number_in(*reply, "transactions"), "transaction"),
                                      human_size(number_in(*reply, "journal_bytes"))));
  row("metadata cache", human_size(number_in(*reply, "cache_bytes")));
  return kSuccess;
}

int settle(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "POOL",
      "Waits until everything that is known of bad blocks has been handled and freed space has been reclaimed.");
  line.positional("pool");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  auto access = PoolAccess::open(line.text("pool"), PoolAccess::Need::kWrite);
  if (!access) return line.fail(access.error());
  if (auto reply = access->call({{"op", "settle"}}); !reply) return line.fail(reply.error());
  return kSuccess;
}

}  // namespace daxcow::tools
