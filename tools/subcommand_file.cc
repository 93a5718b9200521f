// daxcow map.
#include <fmt/core.h>

#include <iostream>

#include "tools/pool_access.h"
#include "tools/subcommand.h"
#include "tools/text.h"

namespace daxcow::tools {

using nlohmann::json;

namespace {

json file_of(const MountedFile& file) { return {{"volume", file.volume}, {"inode", file.inode.value}}; }

}  // namespace

int map(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "FILE [--json] | --svg POOL [--output IMAGE]",
      "Lists the runs of a file on a daxcow mount: where they are in the pool, how many references share them, and\n"
      "which are bad. Offsets and lengths are bytes. With --svg draws the whole pool: what lies where, shared by how\n"
      "many, where damage is, and what it hits.");
  line.flag("svg", "draw the pool, as an image that needs no scripts");
  line.option("output,o", "IMAGE", "write the drawing to this file instead of standard output");
  line.flag("json", "print JSON");
  line.positional("file");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  if (line.has("svg")) return draw_map(line, line.text("file"));
  auto file = find_mounted_file(line.text("file"));
  if (!file) return line.fail(file.error());
  if (!file->regular) return line.fail(line.text("file") + ": not a regular file");
  auto access = PoolAccess::open(file->pool_path, PoolAccess::Need::kDaemon);
  if (!access) return line.fail(access.error());
  json request = file_of(*file);
  request["op"] = "map";
  json whole;
  for (;;) {
    auto reply = access->call(request);
    if (!reply) return line.fail(reply.error());
    const json next = reply->value("next_bytes", json());
    if (whole.is_null()) {
      whole = std::move(*reply);
      whole.erase("next_bytes");
    } else {
      for (json& extent : reply->at("extents")) whole["extents"].push_back(std::move(extent));
    }
    if (next.is_null()) break;
    request["from_bytes"] = next;
  }
  if (line.has("json")) {
    print_json(whole);
    return kSuccess;
  }
  using enum Table::Align;
  Table table(
      {{"OFFSET", kRight}, {"LENGTH", kRight}, {"STATE"}, {"POOL OFFSET", kRight}, {"OWNERS", kRight}, {"NOTE"}});
  std::uint64_t shared_bytes = 0, bad_bytes = 0;
  for (const json& extent : whole.at("extents")) {
    const auto length = extent.value("length_bytes", std::uint64_t{0});
    const bool hole = !extent.contains("pool_offset_bytes"), shared = extent.value("shared", false),
               bad = extent.value("bad", false);
    if (shared) shared_bytes += length;
    if (bad) bad_bytes += length;
    table.add({std::to_string(extent.value("offset_bytes", std::uint64_t{0})), std::to_string(length),
               extent.value("state", ""),
               hole ? "-" : std::to_string(extent.value("pool_offset_bytes", std::uint64_t{0})),
               hole ? "-" : std::to_string(extent.value("owners", 0u)),
               bad ? (shared ? "shared, BAD" : "BAD") : (shared ? "shared" : "")});
  }
  table.print();
  std::cout << fmt::format("{}: {} in {}, {} shared, {} bad\n", printable(line.text("file")),
                           human_size(whole.value("size_bytes", std::uint64_t{0})),
                           counted(whole.at("extents").size(), "run"), human_size(shared_bytes), human_size(bad_bytes));
  return kSuccess;
}

}  // namespace daxcow::tools
