// daxcow run.
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "tools/reflink_filter.h"
#include "tools/subcommand.h"
#include "tools/supervised_command.h"

namespace daxcow::tools {

namespace {

std::string users_shell() {
  if (const char* shell = std::getenv("SHELL"); shell != nullptr && *shell != '\0') return shell;
  const passwd* const user = ::getpwuid(::getuid());
  return user != nullptr && *user->pw_shell != '\0' ? user->pw_shell : "/bin/sh";
}

}  // namespace

int run(const std::string& program, const Arguments& arguments) {
  CommandLine line(program, "[--] COMMAND [ARGUMENT...]\n       daxcow run --shell | --check",
                   "Runs COMMAND, in which cp --reflink=always and every other program can clone and deduplicate files on\n"
                   "daxcow mounts: the ioctls FICLONE, FICLONERANGE and FIDEDUPERANGE of all its processes are answered here,\n"
                   "since Linux does not pass them to FUSE filesystems. Everything else is as without it: signals, terminal,\n"
                   "exit code. What COMMAND leaves running in the background is served on. No need to be root; but who is not\n"
                   "cannot gain privileges inside (sudo, su). Exit codes of its own: 125 (cannot supervise), 126 (COMMAND cannot\n"
                   "be run), 127 (no such COMMAND).");
  line.flag("shell", "run your shell ($SHELL)");
  line.flag("check", "exit with 0 if this is run under daxcow run, else with 1");
  line.set_exit_codes(kCannotSupervise, kCannotSupervise);
  // Options of the command are its own.
  auto first = std::ranges::find_if(arguments, [](const std::string& argument) { return !argument.starts_with("-") || argument == "--"; });
  if (auto exit_code = line.parse(Arguments(arguments.begin(), first))) return *exit_code;
  if (first != arguments.end() && *first == "--") ++first;
  Arguments command(first, arguments.end());
  if (line.has("check")) {
    if (!command.empty() || line.has("shell")) return line.fail_usage("--check goes without a command");
    return is_supervised() ? kSuccess : kFailure;
  }
  if (line.has("shell")) {
    if (!command.empty()) return line.fail_usage("--shell goes without a command");
    command = {users_shell()};
  }
  if (command.empty()) return line.fail_usage("COMMAND is missing");
  if (is_supervised()) {
    std::cerr << program << ": is running already, around this: " << command[0] << " is run as it is\n";
    return replace_by(program, command);
  }
  return run_supervised(program, command);
}

}  // namespace daxcow::tools
