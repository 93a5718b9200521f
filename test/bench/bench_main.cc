// daxcow_bench: runs cases on directories of several filesystems in turns (first peer, second, ..., first again), and
// prints a line of JSON for each measurement. test/bench/run makes the filesystems and the tables.
#include <algorithm>
#include <iostream>

#include <fmt/format.h>
#include <boost/program_options.hpp>

#include "test/bench/bench_peer.h"

namespace daxcow::bench {
namespace {

namespace options = boost::program_options;

std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (const auto* group : {&kCloneCases, &kDataCases, &kNameCases})
    all.insert(all.end(), group->begin(), group->end());
  return all;
}

// "name=directory", or "name+copy=directory" where copy_file_range clones.
Peer parse_peer(const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw options::error(fmt::format("\"{}\" is not NAME[+copy]=DIRECTORY", text));
  Peer peer{text.substr(0, equals), text.substr(equals + 1)};
  constexpr std::string_view kCopy = "+copy";
  if (peer.name.ends_with(kCopy)) {
    peer.name.resize(peer.name.size() - kCopy.size());
    peer.clone_call = CloneCall::kCopyFileRange;
  }
  return peer;
}

void run_case(const Case& chosen, const std::vector<Peer>& peers, const Parameters& parameters, unsigned rounds) {
  std::vector<const Peer*> able;
  for (const auto& peer : peers)
    if (chosen.prepare(peer, parameters)) able.push_back(&peer);
  for (unsigned round = 0; round < rounds; ++round)
    for (const auto* peer : able) chosen.round(*peer, parameters, {.case_name = chosen.name, .round = round});
  for (const auto& peer : peers) chosen.finish(peer, parameters);
}

int run(int argc, char** argv) {
  Parameters parameters{};
  unsigned rounds = 0;
  std::vector<std::string> cases, peers;
  options::options_description described("daxcow_bench [OPTIONS] NAME[+copy]=DIRECTORY...");
  auto add = described.add_options();
  add("help,h", "this text");
  add("case", options::value(&cases)->composing(), "a case to run (may be repeated; all)");
  add("rounds", options::value(&rounds)->default_value(5), "how often");
  add("file-bytes", options::value(&parameters.file_bytes)->default_value(1 << 30), "size of the file that is cloned");
  add("extents", options::value(&parameters.extents)->default_value(200'000), "extents of the fragmented one");
  add("random-file-bytes", options::value(&parameters.random_file_bytes)->default_value(128 << 20),
      "size of the file that is read and written");
  add("random-operations", options::value(&parameters.random_operations)->default_value(4096),
      "reads or writes of a round");
  add("names", options::value(&parameters.names)->default_value(4000), "files made in a round");
  add("depth", options::value(&parameters.depth)->default_value(1000), "length of the chain of clones");
  add("archive", options::value(&parameters.archive), "tar file of a source tree");
  options::options_description hidden;
  hidden.add_options()("peer", options::value(&peers)->composing());
  hidden.add(described);
  options::positional_options_description positional;
  positional.add("peer", -1);
  options::variables_map values;
  std::vector<Peer> parsed;
  std::vector<Case> chosen;
  try {
    options::store(options::command_line_parser(argc, argv).options(hidden).positional(positional).run(), values);
    options::notify(values);
    for (const auto& text : peers) parsed.push_back(parse_peer(text));
    for (const auto& known : all_cases())
      if (cases.empty() || std::ranges::find(cases, known.name) != cases.end()) chosen.push_back(known);
    if (!cases.empty() && chosen.size() != cases.size())
      throw options::error("unknown case; there are: " + [] {
        std::string names;
        for (const auto& known : all_cases()) names += std::string(names.empty() ? "" : ", ") + known.name;
        return names;
      }());
  } catch (const options::error& problem) {
    fmt::print(stderr, "daxcow_bench: {} (see --help)\n", problem.what());
    return 2;
  }
  if (values.count("help") != 0 || parsed.empty()) {
    std::cout << described;
    return values.count("help") != 0 ? 0 : 2;
  }
  for (const auto& item : chosen) run_case(item, parsed, parameters, rounds);
  return 0;
}

}  // namespace
}  // namespace daxcow::bench

int main(int argc, char** argv) { return daxcow::bench::run(argc, argv); }
