// Runs a command so that it cannot be told from one that was started directly, except that a supervisor answers its ioctls.
//
// Three processes, in this order of parents:
//
//   front       what was started as daxcow run: passes signals on, stops and goes on with the command, and ends as it ended
//   supervisor  parent of the command and of what the command leaves behind, for some systems let only ancestors look into a
//               process (ptrace_scope of Yama). Serves until nobody is left to serve, also after the front has ended
//   command     in the front's process group, with its terminal
//
// A signal that reaches the process group (from the terminal, from a shell's kill %1) reaches all three, one for the front alone
// does not. The supervisor, which has all signals blocked, is the witness: when the front tells it of a signal, and it has not
// got the same one itself, it sends it on.
#pragma once

#include <string>
#include <vector>

namespace daxcow::tools {

// Exit codes as those of env(1).
inline constexpr int kCannotSupervise = 125, kCannotRun = 126, kNoSuchCommand = 127;

// Ends the process with the command's exit code, or by its signal. Returns only kCannotSupervise, after saying why as `program`.
int run_supervised(const std::string& program, const std::vector<std::string>& command);

// Replaces this process by the command. Returns kCannotRun or kNoSuchCommand, after saying why.
int replace_by(const std::string& program, const std::vector<std::string>& command);

}  // namespace daxcow::tools
