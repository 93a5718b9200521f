// One case of repair: damage is planted, named, mended and gone, and nothing else has changed.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "test/repair_image.h"

namespace daxcow::test {

// What may differ after the repair: entries of the contents whose keys begin so, or new ones.
using Allowed = std::vector<std::string>;

inline bool is_allowed(const std::string& line, const Allowed& allowed) {
  return std::ranges::any_of(allowed, [&](const std::string& prefix) {
    return line.starts_with("gone: " + prefix) || line.starts_with("changed: " + prefix) ||
           line.starts_with("new: " + prefix);
  });
}

// The lines of a difference that nobody expected.
inline std::string unexpected_part(const std::string& text, const Allowed& allowed) {
  std::string rest;
  bool skipping = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at) + 1;
    const std::string line = text.substr(at, end - at);
    if (!line.starts_with("  ")) skipping = is_allowed(line, allowed);
    if (!skipping) rest += line;
    at = end;
  }
  return rest;
}

inline const Contents& good_contents() {
  static const Contents contents = contents_of(repair_image().image);
  return contents;
}

// Checks, repairs, checks, compares. Returns the repaired image.
inline Image require_repair(const Image& damaged, FindingKind kind, const Allowed& allowed = {},
                            const std::function<void(DramMedium&)>& prepare = {}) {
  {
    const CheckReport found = check_image(damaged, prepare);
    INFO(listing(found));
    CHECK(count_of(found, kind) >= 1);
    CHECK_FALSE(found.clean());
  }
  const Repaired repaired = repair_of(damaged, RepairMode::kAll, prepare);
  if (!repaired.report) FAIL(describe(repaired.report.error()));
  INFO(listing(*repaired.report));
  CHECK(repaired.report->clean());
  CHECK(repaired.report->action_count > 0);
  const CheckReport again = check_image(repaired.image);
  INFO("again:\n" << listing(again));
  CHECK(again.finding_count == 0);
  const std::string rest = unexpected_part(difference(good_contents(), contents_of(repaired.image)), allowed);
  CHECK(rest == "");
  return repaired.image;
}

inline Image with_inode(std::string_view volume, InodeNumber inode,
                        const std::function<void(format::InodeRecord&)>& change) {
  Image image = repair_image().image;
  const InodeAt where = find_inode(image, volume, inode);
  change(inode_in(image, where, inode));
  seal(image, where.block);
  return image;
}

}  // namespace daxcow::test
