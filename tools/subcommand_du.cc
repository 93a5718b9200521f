// daxcow du.
#include <map>
#include <utility>
#include <vector>

#include "fuse/control_client.h"
#include "tools/pool_access.h"
#include "tools/subcommand.h"
#include "tools/text.h"

namespace daxcow::tools {

using nlohmann::json;

int du(const std::string& program, const Arguments& arguments) {
  CommandLine line(program, "PATH... [--json]",
                   "Tells how much data files and trees have, each block counted once: EXCLUSIVE is what nothing outside of\n"
                   "PATH shares, and comes free when PATH is deleted; SHARED stays. A file with a further name outside of\n"
                   "PATH has nothing exclusive, and what a snapshot has too is shared. METADATA is maps, directories and\n"
                   "attributes. Several paths in one volume have a total, with what they share only with each other.");
  line.flag("json", "print JSON");
  line.positional("path");
  line.more_positionals("more");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  std::vector<std::string> paths{line.text("path")};
  for (const std::string& more : line.texts("more")) paths.push_back(more);

  std::map<std::pair<std::string, std::string>, std::vector<std::pair<std::string, InodeNumber>>> volumes;  // by pool and name
  for (const std::string& path : paths) {
    auto file = find_mounted_file(path);
    if (!file) return line.fail(file.error());
    volumes[{file->pool_path, file->volume}].emplace_back(path, file->inode);
  }
  using enum Table::Align;
  Table table({{"DATA", kRight}, {"EXCLUSIVE", kRight}, {"SHARED", kRight}, {"METADATA", kRight}, {"FILES", kRight}, {"PATH"}});
  const auto add = [&](const json& usage, const std::string& name) {
    const auto figure = [&](const char* field) { return human_size(usage.value(field, std::uint64_t{0})); };
    table.add({figure("data_bytes"), figure("exclusive_bytes"), figure("shared_bytes"), figure("metadata_bytes"),
               std::to_string(usage.value("files", std::uint64_t{0})), printable(name)});
  };
  json whole = json::array();
  for (const auto& [volume, files] : volumes) {
    auto access = PoolAccess::open(volume.first, PoolAccess::Need::kDaemon);
    if (!access) return line.fail(access.error());
    json inodes = json::array();
    for (const auto& [path, inode] : files) inodes.push_back(inode.value);
    auto reply = access->call({{"op", "du"}, {"volume", volume.second}, {"inodes", std::move(inodes)}});
    if (!reply) return line.fail(reply.error());
    for (std::size_t i = 0; i < files.size(); ++i) {
      json& usage = reply->at("trees").at(i);
      add(usage, files[i].first);
      usage["path"] = files[i].first;
    }
    if (files.size() > 1) add(reply->at("total"), "total of volume " + volume.second);
    (*reply)["volume"] = volume.second;
    (*reply)["pool"] = volume.first;
    whole.push_back(std::move(*reply));
  }
  if (line.has("json"))
    print_json({{"volumes", std::move(whole)}});
  else
    table.print();
  return kSuccess;
}

}  // namespace daxcow::tools
