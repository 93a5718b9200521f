// One command line: options, arguments, --help, --version, error lines and exit codes.
//
// An error is one line on standard error, "PROGRAM: what: where: what to do".
#pragma once

#include <boost/program_options.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/result.h"

namespace daxcow::tools {

// Exit codes of mkfs.daxcow and daxcow.
inline constexpr int kSuccess = 0;
inline constexpr int kFailure = 1;
inline constexpr int kUsage = 2;

using Arguments = std::vector<std::string>;

// One command line, described by what --help prints of it.
//
//   CommandLine line("daxcow map", "FILE", "Lists the runs of a file.");
//   line.flag("json", "print JSON");
//   line.positional("file");
//   if (auto exit_code = line.parse(arguments)) return *exit_code;  // --help, --version, or an error that was printed
class CommandLine {
 public:
  // `synopsis` is what follows the program's name in the usage line; `about` a paragraph.
  CommandLine(std::string program, std::string synopsis, std::string about);

  const std::string& program() const { return program_; }
  // `names` is "long" or "long,s"; `about` what --help says. An option takes a value, called `argument` there.
  void flag(const std::string& names, const std::string& about);
  void option(const std::string& names, const std::string& argument, const std::string& about);
  // The next positional argument, which must be there.
  void positional(const std::string& name);
  // Any number of further arguments, after all others.
  void more_positionals(const std::string& name);
  // For programs with exit codes of their own, such as those of fsck(8).
  void set_exit_codes(int failure, int usage) {
    failure_exit_code_ = failure;
    usage_exit_code_ = usage;
  }

  // Returns an exit code when there is nothing left to do.
  std::optional<int> parse(const Arguments& arguments);

  bool has(const std::string& name) const { return values_.count(name) != 0; }
  std::string text(const std::string& name, const std::string& otherwise = {}) const;
  std::vector<std::string> texts(const std::string& name) const;

  // Prints "PROGRAM: message" and returns the exit code for a failure, or for wrong usage with a hint at --help.
  int fail(const Error& error) const;
  int fail(const std::string& message) const;
  int fail_usage(const std::string& message) const;

 private:
  void print_help() const;

  std::string program_, synopsis_, about_;
  boost::program_options::options_description visible_{"Options"}, hidden_;
  std::vector<std::string> positional_;
  std::string more_positionals_;
  int failure_exit_code_ = kFailure, usage_exit_code_ = kUsage;
  boost::program_options::variables_map values_;
};

Arguments arguments_of(int argc, char** argv);

}  // namespace daxcow::tools
