// A pool as a picture: an SVG without scripts, readable for a pool of any size.
//
// Every block is in it: in cells of equal size, filled by the shares of what is in them. Bad blocks are marked however
// large a cell is, with numbers that lead to their surroundings below, block by block and sector by sector, and to
// their owners.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace daxcow::tools {

struct PictureSource {
  std::string path;
  nlohmann::json survey;  // replies of the requests "survey" and "stat"
  nlohmann::json statistics;
  std::vector<nlohmann::json> blocks;  // of "owners", for bad blocks
};

// Surroundings that are shown, and bad blocks that are named in each.
inline constexpr std::size_t kPictureSurroundings = 12;
inline constexpr std::size_t kPictureBlocks = 4;

std::string draw_pool(const PictureSource& source);

}  // namespace daxcow::tools
