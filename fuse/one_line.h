// Text from a pool (names, paths) for logs and terminals.
#pragma once

#include <string>
#include <string_view>

namespace daxcow {

// Control characters and backslashes as \n, \t, \\, \xHH: a name cannot forge a line, nor command a terminal.
std::string one_line(std::string_view text);

}  // namespace daxcow
