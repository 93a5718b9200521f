// daxcow map --svg.
#include <fmt/core.h>

#include <fstream>
#include <iostream>
#include <map>

#include "tools/picture.h"
#include "tools/pool_access.h"
#include "tools/subcommand.h"

namespace daxcow::tools {

using nlohmann::json;

int draw_map(const CommandLine& line, const std::string& pool) {
  auto access = PoolAccess::open(pool, PoolAccess::Need::kRead);
  if (!access) return line.fail(access.error());
  auto survey = access->call({{"op", "survey"}});
  if (!survey) return line.fail(survey.error());
  auto statistics = access->call({{"op", "stat"}});
  if (!statistics) return line.fail(statistics.error());
  PictureSource source{access->path(), *std::move(survey), *std::move(statistics), {}};
  // Whose the bad blocks are: of those that will be named.
  std::map<std::uint64_t, std::size_t> windows;
  for (const json& bad : source.survey.at("bad")) {
    const auto offset = bad.at("offset_bytes").get<std::uint64_t>();
    const auto window = bad.at("block").get<std::uint64_t>() / 64;
    if (!windows.contains(window) && windows.size() == kPictureSurroundings) break;
    if (windows[window]++ >= kPictureBlocks) continue;
    auto block = access->call({{"op", "owners"}, {"offset_bytes", offset}, {"limit", 1000}});
    if (!block) return line.fail(block.error());
    source.blocks.push_back(*std::move(block));
  }
  const std::string svg = draw_pool(source);
  if (!line.has("output")) {
    std::cout << svg;
    return kSuccess;
  }
  std::ofstream file(line.text("output"));
  file << svg << std::flush;
  if (!file) return line.fail(path_error(errno, line.text("output")));
  return kSuccess;
}

}  // namespace daxcow::tools
