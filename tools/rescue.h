// Copies a file of which parts cannot be read, as much of it as can be.
//
// Reads are O_DIRECT where the file has that: no page of the kernel's cache stands between, so that a lost sector costs
// its 512 bytes and not the page around it, nor what the kernel reads ahead. What fails is halved until it is a sector.
// Holes are not read, and stay holes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/result.h"
#include "tools/rescue_map.h"

namespace daxcow::tools {

struct RescueOptions {
  std::string source, target, map_path;
  std::string comments;  // of the map file
  unsigned retries = 1;  // of each lost sector, after everything else
  bool force = false;    // also into a file that is there already, without a map
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
  std::function<bool()> interrupted;  // asked now and then: then the map is saved, and the rescue returns
};

struct RescueReport {
  RescueMap map{0};
  bool resumed = false;  // there was a map to go on with
  bool interrupted = false;
};

// The map is written every few seconds, always after the data that it tells of, and at the end. kExists if the target
// is there and its map is not; kInvalid for a map that is none, or not of this file; else what the system says, of any
// file.
Result<RescueReport> rescue(const RescueOptions& options);

}  // namespace daxcow::tools
