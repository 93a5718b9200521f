// The map of a rescue: against a model, and as text that others write too.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "test/catch.h"
#include "test/seed.h"
#include "tools/rescue_map.h"

namespace daxcow::tools {
namespace {

constexpr RescueState kStates[] = {RescueState::kNotTried, RescueState::kFailed, RescueState::kLost,
                                   RescueState::kCopied};

std::string letters(const RescueMap& map) {
  std::string all;
  char last = 0;
  map.for_each([&](const RescueMap::Run& run) {
    CHECK(run.offset == all.size());
    CHECK(run.length != 0);
    CHECK(static_cast<char>(run.state) != last);  // maximal
    last = static_cast<char>(run.state);
    all.append(run.length, last);
  });
  return all;
}

TEST_CASE("rescue map: ranges agree with a string of states", "[rescue]") {
  const auto seed = test::random_seed();
  INFO(test::describe_seed(seed));
  std::mt19937_64 random(seed);
  RescueMap map(1000);
  std::string model(1000, '?');
  for (int i = 0; i < 2000; ++i) {
    if (random() % 20 == 0) {
      const std::uint64_t size = random() % 2000;
      map.resize(size);
      model.resize(size, '?');
    } else if (!model.empty()) {
      const std::uint64_t offset = random() % model.size(), length = random() % (model.size() - offset + 1);
      const auto state = kStates[random() % 4];
      map.set(offset, length, state);
      model.replace(offset, length, length, static_cast<char>(state));
    }
    REQUIRE(letters(map) == model);
    for (const auto state : kStates) {
      const char letter = static_cast<char>(state);
      REQUIRE(map.bytes_in(state) == static_cast<std::uint64_t>(std::ranges::count(model, letter)));
      const std::uint64_t from = random() % 2000;
      const auto run = map.next(from, state);
      const auto first = from < model.size() ? model.find(letter, from) : std::string::npos;
      REQUIRE((run.length == 0) == (first == std::string::npos));
      if (run.length == 0) continue;
      REQUIRE(run.offset == first);
      REQUIRE(model.find_first_not_of(letter, first) == (run.end() == model.size() ? std::string::npos : run.end()));
    }
    const auto again = RescueMap::parse(map.text("a comment\nanother", 17));
    REQUIRE(again.has_value());
    REQUIRE(letters(*again) == model);
  }
}

TEST_CASE("rescue map: maps of ddrescue are understood, and other files are not", "[rescue]") {
  const auto map = RescueMap::parse(
      "# Mapfile. Created by GNU ddrescue version 1.27\n"
      "# Command line: ddrescue -d in out map\n"
      "# current_pos  current_status  current_pass\n"
      "0x00120000     *               1\n"
      "#      pos        size  status\n"
      "0x00000000  0x00117000  +\n"
      "0x00117000  0x00000200  -  # here\n"
      "0x00117200  0x00001000  /\n"
      "0x00118200  0x00007E00  *\n"
      "1179648     294912      ?\n");
  REQUIRE(map.has_value());
  CHECK(map->size_bytes() == 0x168000);
  CHECK(map->bytes_in(RescueState::kLost) == 0x200);
  CHECK(map->bytes_in(RescueState::kFailed) == 0x8E00);
  CHECK(map->bytes_in(RescueState::kNotTried) == 0x48000);
  CHECK(RescueMap::parse("0 +\n0 010 +\n")->size_bytes() == 8);  // older ones have no pass
  for (const char* wrong : {"", "# nothing\n", "x\n", "0 + 1\n0 5\n", "0 + 1\n0 0 +\n", "0 + 1\n1 5 +\n",
                            "0 + 1\n0 5 +\n4 5 +\n", "0 + 1\n0 5 x\n", "0 + 1\n0 5 ++\n", "0 + 1\n0 -5 +\n",
                            "0 + 1\n0 0xfffffffffffffff0 +\n", "0 + 1\n0 5 + 7\n", "0\n", "0 + 1 1\n"}) {
    INFO(wrong);
    CHECK_FALSE(RescueMap::parse(wrong).has_value());
  }
}

}  // namespace
}  // namespace daxcow::tools
