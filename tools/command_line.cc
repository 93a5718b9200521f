#include "tools/command_line.h"

#include <algorithm>
#include <cctype>
#include <iostream>

#include "tools/text.h"
#include "version.h"

namespace po = boost::program_options;

namespace daxcow::tools {

CommandLine::CommandLine(std::string program, std::string synopsis, std::string about)
    : program_(std::move(program)), synopsis_(std::move(synopsis)), about_(std::move(about)) {}

void CommandLine::flag(const std::string& names, const std::string& about) {
  visible_.add_options()(names.c_str(), about.c_str());
}

void CommandLine::option(const std::string& names, const std::string& argument, const std::string& about) {
  visible_.add_options()(names.c_str(), po::value<std::string>()->value_name(argument), about.c_str());
}

void CommandLine::positional(const std::string& name) {
  positional_.push_back(name);
  hidden_.add_options()(name.c_str(), po::value<std::string>());
}

void CommandLine::more_positionals(const std::string& name) {
  more_positionals_ = name;
  hidden_.add_options()(name.c_str(), po::value<std::vector<std::string>>());
}

std::optional<int> CommandLine::parse(const Arguments& arguments) {
  flag("help,h", "print this help and exit");
  flag("version", "print the version and exit");
  po::options_description all;
  all.add(visible_).add(hidden_);
  po::positional_options_description places;
  for (const std::string& name : positional_) places.add(name.c_str(), 1);
  if (!more_positionals_.empty()) places.add(more_positionals_.c_str(), -1);
  try {
    // No guessing: a script that abbreviates an option would break when another option with that prefix is added.
    const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    auto parsed = po::command_line_parser(arguments).options(all).positional(places).style(style).run();
    po::store(parsed, values_);
    if (has("help")) {
      print_help();
      return kSuccess;
    }
    if (has("version")) {
      std::cout << program_ << " (daxcow) " << kVersion << '\n';
      return kSuccess;
    }
    po::notify(values_);
  } catch (const po::too_many_positional_options_error&) {
    return fail_usage("too many arguments");
  } catch (const po::error& error) {
    return fail_usage(error.what());
  }
  for (std::string name : positional_)
    if (!has(name)) {
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::toupper(c); });
      return fail_usage(name + " is missing");
    }
  return std::nullopt;
}

std::string CommandLine::text(const std::string& name, const std::string& otherwise) const {
  return has(name) ? values_[name].as<std::string>() : otherwise;
}

std::vector<std::string> CommandLine::texts(const std::string& name) const {
  return has(name) ? values_[name].as<std::vector<std::string>>() : std::vector<std::string>();
}

int CommandLine::fail(const Error& error) const { return fail(describe(error)); }

int CommandLine::fail(const std::string& message) const {
  std::cout.flush();
  std::cerr << program_ << ": " << printable(message) << '\n';
  return failure_exit_code_;
}

int CommandLine::fail_usage(const std::string& message) const {
  std::cerr << program_ << ": " << printable(message) << "; see " << program_ << " --help\n";
  return usage_exit_code_;
}

void CommandLine::print_help() const {
  std::cout << "Usage: " << program_ << ' ' << synopsis_ << "\n\n" << about_ << "\n\n" << visible_;
}

Arguments arguments_of(int argc, char** argv) { return argc > 0 ? Arguments(argv + 1, argv + argc) : Arguments(); }

}  // namespace daxcow::tools
