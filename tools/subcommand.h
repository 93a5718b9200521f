// The subcommands of daxcow. Each gets its own name for messages ("daxcow map") and its arguments, prints, and returns
// the exit code of the program.
#pragma once

#include <string>

#include "tools/command_line.h"

namespace daxcow::tools {

// tools/subcommand_volume.cc
int volume_create(const std::string& program, const Arguments& arguments);
int volume_list(const std::string& program, const Arguments& arguments);
int volume_delete(const std::string& program, const Arguments& arguments);
int volume_rollback(const std::string& program, const Arguments& arguments);
int snapshot(const std::string& program, const Arguments& arguments);
// tools/subcommand_clone.cc
int clone(const std::string& program, const Arguments& arguments);
// tools/subcommand_dedupe.cc
int dedupe(const std::string& program, const Arguments& arguments);
// tools/subcommand_du.cc
int du(const std::string& program, const Arguments& arguments);
// tools/subcommand_file.cc
int map(const std::string& program, const Arguments& arguments);
// tools/subcommand_run.cc
int run(const std::string& program, const Arguments& arguments);
// tools/subcommand_poison.cc
int owners(const std::string& program, const Arguments& arguments);
int poison_list(const std::string& program, const Arguments& arguments);
int inject_error(const std::string& program, const Arguments& arguments);
// tools/subcommand_picture.cc: the part of map that draws a pool; `line` has been parsed.
int draw_map(const CommandLine& line, const std::string& pool);
// tools/subcommand_rescue.cc
int rescue(const std::string& program, const Arguments& arguments);
// tools/subcommand_scrub.cc
int scrub(const std::string& program, const Arguments& arguments);
// tools/subcommand_metrics.cc
int metrics(const std::string& program, const Arguments& arguments);
// tools/subcommand_status.cc
int events(const std::string& program, const Arguments& arguments);
int stat(const std::string& program, const Arguments& arguments);
int settle(const std::string& program, const Arguments& arguments);

}  // namespace daxcow::tools
