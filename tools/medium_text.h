// What a medium is and promises, in words for people.
#pragma once

#include <string>

#include "engine/medium.h"

namespace daxcow::tools {

std::string describe_kind(MediumKind kind);
// What it takes for a store to survive: "CPU cache flush", "msync ...", "nothing to lose ...".
std::string describe_durability(const MediumInfo& info);

}  // namespace daxcow::tools
