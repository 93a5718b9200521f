// daxcow: the command for everything that is done to a pool after mkfs.daxcow and beside mount(8).
#include <algorithm>
#include <iostream>
#include <string>

#include "tools/command_line.h"
#include "tools/subcommand.h"
#include "version.h"

using namespace daxcow;
using namespace daxcow::tools;

namespace {

struct Subcommand {
  const char* name;
  const char* synopsis;  // for the overview; null: not listed
  const char* about;
  int (*run)(const std::string& program, const Arguments& arguments);
};

constexpr Subcommand kSubcommands[] = {
    {"volume list", "POOL", "list the volumes and snapshots", volume_list},
    {"volume create", "POOL NAME", "make an empty volume", volume_create},
    {"volume delete", "POOL NAME...", "delete volumes or snapshots", volume_delete},
    {"volume rollback", "POOL VOLUME SNAPSHOT", "make a volume what a snapshot of it is", volume_rollback},
    {"snapshot", "POOL VOLUME NAME", "snapshot a volume", snapshot},
    {"clone", "SRC DST", "make DST share the blocks of SRC", clone},
    {"map", "FILE | --svg POOL", "list the runs of a file, or draw a pool: where, shared, bad", map},
    {"run", "COMMAND...", "run a command in which every program can clone", tools::run},
    {"dedupe", "PATH...", "find equal blocks of files and share them", dedupe},
    {"du", "PATH...", "space of files and trees: exclusive, shared", du},
    {"owners", "POOL OFFSET", "list every file range that a block belongs to", owners},
    {"poison list", "POOL", "list the bad blocks and whose they are", poison_list},
    {"rescue", "FILE DEST", "copy what can be read of a file, with a map of what is lost", rescue},
    {"scrub", "POOL", "read everything in use once, to find bad blocks", scrub},
    {"inject-error", "POOL", "make sectors of an emulated pool bad", inject_error},
    {"events", "POOL", "list what happened since the pool was mounted", events},
    {"stat", "POOL", "space, counters and the medium of a pool", stat},
    {"metrics", "POOL", "the same for Prometheus", metrics},
    {"settle", nullptr, "wait until the daemon has nothing left to do", settle},
};

void print_overview(std::ostream& out) {
  out << "Usage: daxcow COMMAND ...\n\n"
         "POOL is a file or device made by mkfs.daxcow, or a path on a mount of it.\n\nCommands:\n";
  for (const Subcommand& subcommand : kSubcommands) {
    if (!subcommand.synopsis) continue;
    std::string left = std::string(subcommand.name) + ' ' + subcommand.synopsis;
    left.resize(std::max<std::size_t>(left.size(), 38), ' ');
    out << "  " << left << ' ' << subcommand.about << '\n';
  }
  out << "\ndaxcow COMMAND --help tells more. See also mkfs.daxcow, mount.daxcow and fsck.daxcow.\n";
}

int usage_error(const std::string& message) {
  std::cerr << "daxcow: " << message << "; daxcow --help lists the commands\n";
  return kUsage;
}

int run_subcommand(const Arguments& arguments) {
  if (arguments.empty()) {
    print_overview(std::cerr);
    return kUsage;
  }
  const std::string& first = arguments[0];
  if (first == "--help" || first == "-h" || first == "help") {
    print_overview(std::cout);
    return kSuccess;
  }
  if (first == "--version") {
    std::cout << "daxcow " << kVersion << '\n';
    return kSuccess;
  }
  bool is_group = false;  // "volume" of "volume create"
  for (const Subcommand& subcommand : kSubcommands) {
    const std::string name = subcommand.name;
    const auto blank = name.find(' ');
    std::size_t words = 1;
    if (blank != std::string::npos) {
      if (first != name.substr(0, blank)) continue;
      is_group = true;
      if (arguments.size() < 2 || arguments[1] != name.substr(blank + 1)) continue;
      words = 2;
    } else if (first != name) {
      continue;
    }
    return subcommand.run("daxcow " + name,
                          Arguments(arguments.begin() + static_cast<std::ptrdiff_t>(words), arguments.end()));
  }
  if (!is_group) return usage_error("unknown command '" + first + "'");
  std::string verbs;
  for (const Subcommand& subcommand : kSubcommands)
    if (const std::string name = subcommand.name; name.starts_with(first + ' '))
      verbs += (verbs.empty() ? "" : ", ") + name.substr(first.size() + 1);
  if (arguments.size() > 1 && (arguments[1] == "--help" || arguments[1] == "-h")) {
    print_overview(std::cout);
    return kSuccess;
  }
  return usage_error("'" + first + "' needs one of: " + verbs);
}

}  // namespace

int main(int argc, char** argv) { return run_subcommand(arguments_of(argc, argv)); }
