// daxcow volume create|list|delete|rollback, daxcow snapshot.
#include <fmt/core.h>

#include <iostream>

#include "tools/command_line.h"
#include "tools/mount_sync.h"
#include "tools/pool_access.h"
#include "tools/subcommand.h"
#include "tools/text.h"

namespace daxcow::tools {

using nlohmann::json;

namespace {

// A request without anything worth printing in its reply.
int do_quietly(const CommandLine& line, const std::string& pool, const json& request) {
  auto access = PoolAccess::open(pool, PoolAccess::Need::kWrite);
  if (!access) return line.fail(access.error());
  if (auto reply = access->call(request); !reply) return line.fail(reply.error());
  return kSuccess;
}

// Where each volume is mounted, for the people who ask; empty without a daemon.
json mounts_of(PoolAccess& access) {
  if (!access.has_daemon()) return json::array();
  auto reply = access.call({{"op", "mounts"}});
  return reply ? reply->value("mounts", json::array()) : json::array();
}

}  // namespace

int volume_create(const std::string& program, const Arguments& arguments) {
  CommandLine line(program, "POOL NAME", "Makes an empty volume in the pool; mount it with -o volume=NAME.");
  line.positional("pool");
  line.positional("name");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  return do_quietly(line, line.text("pool"), {{"op", "volume-create"}, {"name", line.text("name")}});
}

int volume_delete(const std::string& program, const Arguments& arguments) {
  CommandLine line(program, "POOL NAME...",
                   "Deletes volumes or snapshots that are not mounted. Their space comes back in the background.");
  line.positional("pool");
  line.positional("name");
  line.more_positionals("more");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  Arguments names{line.text("name")};
  for (const std::string& name : line.texts("more")) names.push_back(name);
  auto access = PoolAccess::open(line.text("pool"), PoolAccess::Need::kWrite);
  if (!access) return line.fail(access.error());
  int exit_code = kSuccess;
  for (const std::string& name : names)
    if (auto reply = access->call({{"op", "volume-delete"}, {"name", name}}); !reply)
      exit_code = line.fail(reply.error());
  return exit_code;
}

int volume_rollback(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "POOL VOLUME SNAPSHOT",
      "Makes VOLUME, which must not be mounted, what SNAPSHOT is. What was only in VOLUME is gone; SNAPSHOT stays.");
  line.positional("pool");
  line.positional("volume");
  line.positional("snapshot");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  return do_quietly(line, line.text("pool"),
                    {{"op", "volume-rollback"}, {"volume", line.text("volume")}, {"snapshot", line.text("snapshot")}});
}

int volume_list(const std::string& program, const Arguments& arguments) {
  CommandLine line(program, "POOL [--space] [--json]", "Lists the volumes and snapshots of a pool.");
  line.flag("space", "tell how much data each has, and how much of that is in no other: it comes free when the volume is\n"
                     "deleted. Reads the maps of all files");
  line.flag("json", "print JSON");
  line.positional("pool");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  auto access = PoolAccess::open(line.text("pool"), PoolAccess::Need::kRead);
  if (!access) return line.fail(access.error());
  auto reply = access->call({{"op", "volume-list"}, {"space", line.has("space")}});
  if (!reply) return line.fail(reply.error());
  json& volumes = reply->at("volumes");
  for (const json& mount : mounts_of(*access))
    for (json& volume : volumes)
      if (volume.value("name", "") == mount.value("volume", "")) volume["mount_point"] = mount.value("mount_point", "");
  if (line.has("json")) {
    print_json(*reply);
    return kSuccess;
  }
  std::vector<Table::Column> columns{{"NAME"}, {"KIND"}, {"ACCESS"}, {"CREATED"}, {"ORIGIN"}, {"MOUNTED AT"}};
  if (line.has("space"))
    for (const char* title : {"DATA", "EXCLUSIVE", "SHARED"}) columns.push_back({title, Table::Align::kRight});
  Table table(std::move(columns));
  for (const json& volume : volumes) {
    const std::string point = volume.value("mount_point", "");
    std::vector<std::string> row{volume.value("name", ""), volume.value("snapshot", false) ? "snapshot" : "volume",
               volume.value("read_only", false) ? "ro" : "rw",
               local_time(volume.at("created").value("seconds", std::int64_t{0})), volume.value("origin", ""),
               !point.empty()                   ? point
               : volume.value("mounted", false) ? "yes"
                                                : "-"};
    if (line.has("space"))
      for (const char* figure : {"data_bytes", "exclusive_bytes", "shared_bytes"})
        row.push_back(human_size(volume.at("space").value(figure, std::uint64_t{0})));
    table.add(std::move(row));
  }
  table.print();
  return kSuccess;
}

int snapshot(const std::string& program, const Arguments& arguments) {
  CommandLine line(program, "[--read-only] POOL VOLUME NAME",
                   "Makes NAME a snapshot of VOLUME, mounted or not: at once, whatever its size, sharing every block.");
  line.flag("read-only,r", "make a snapshot that cannot be written to");
  line.positional("pool");
  line.positional("volume");
  line.positional("name");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  auto access = PoolAccess::open(line.text("pool"), PoolAccess::Need::kWrite);
  if (!access) return line.fail(access.error());
  if (const auto written = sync_mount(*access, line.text("volume")); !written)
    std::cerr << line.program() << ": " << describe(written.error()) << "; the snapshot may miss changes of mapped files\n";
  auto reply = access->call({{"op", "snapshot"},
                             {"volume", line.text("volume")},
                             {"name", line.text("name")},
                             {"read_only", line.has("read-only")}});
  if (!reply) return line.fail(reply.error());
  return kSuccess;
}

}  // namespace daxcow::tools
