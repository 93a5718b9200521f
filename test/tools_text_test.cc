#include "tools/text.h"

#include "test/catch.h"
#include "tools/command_line.h"

namespace daxcow::tools {
namespace {

TEST_CASE("Sizes are read with binary and decimal suffixes") {
  CHECK(parse_size("0") == 0);
  CHECK(parse_size("4096") == 4096);
  CHECK(parse_size("4096B") == 4096);
  CHECK(parse_size("64K") == 65536);
  CHECK(parse_size("64k") == 65536);
  CHECK(parse_size("64KiB") == 65536);
  CHECK(parse_size("64kB") == 64000);
  CHECK(parse_size("1.5G") == 1610612736);
  CHECK(parse_size("2TiB") == 2ull << 40);
  CHECK(parse_size("15E") == 15ull << 60);
  CHECK(parse_size("18446744073709551615") == ~0ull);
}

TEST_CASE("What is not a size is refused with a line for people") {
  const auto text = GENERATE(as<std::string>{}, "", "K", "-1", "1.2.3K", "12Q", "1 G", "1Gi", "16E",
                             "18446744073709551616", "999.9E", ".", "1e9", "0x10", "12KiBB");
  const auto size = parse_size(text);
  INFO(text);
  REQUIRE_FALSE(size);
  CHECK(size.error().code == ErrorCode::kInvalid);
  CHECK(size.error().message.find('\'' + text + '\'') == 0);
}

TEST_CASE("Numbers are decimal or hexadecimal") {
  CHECK(parse_number("4096") == 4096);
  CHECK(parse_number("0x1000") == 4096);
  for (const char* text : {"", "0x", "1G", "-1", "18446744073709551616", "12x"}) {
    INFO(text);
    CHECK_FALSE(parse_number(text));
  }
}

TEST_CASE("Sizes are printed short") {
  CHECK(human_size(0) == "0 B");
  CHECK(human_size(4096) == "4 KiB");
  CHECK(human_size(1536) == "1.5 KiB");
  CHECK(human_size(1ull << 30) == "1 GiB");
  CHECK(human_size(~0ull) == "16 EiB");
}

TEST_CASE("Names cannot reach the terminal as control sequences") {
  CHECK(printable("plain, and ünïcode") == "plain, and ünïcode");
  CHECK(printable("a\nb\tc\x1b[2J\x7f\\") == "a\\nb\\tc\\x1b[2J\\x7f\\\\");
}

TEST_CASE("A command line gives options and arguments, or an exit code") {
  const auto line_for = [] {
    CommandLine line("program", "[--size SIZE] FILE [MORE...]", "Does nothing.");
    line.option("size", "SIZE", "a size");
    line.flag("json", "JSON");
    line.positional("file");
    line.more_positionals("more");
    return line;
  };
  SECTION("good") {
    CommandLine line = line_for();
    REQUIRE(line.parse({"--size", "1M", "a", "b", "c"}) == std::nullopt);
    CHECK(line.text("size") == "1M");
    CHECK(line.text("file") == "a");
    CHECK(line.texts("more") == Arguments{"b", "c"});
    CHECK_FALSE(line.has("json"));
  }
  SECTION("arguments after --") {
    CommandLine line = line_for();
    REQUIRE(line.parse({"--", "--size"}) == std::nullopt);
    CHECK(line.text("file") == "--size");
  }
  SECTION("bad") {
    const auto arguments =
        GENERATE(Arguments{}, Arguments{"--siz", "1M", "a"}, Arguments{"--size"}, Arguments{"a", "--unknown"},
                 Arguments{"--json=1", "a"}, Arguments{"--size", "1", "--size", "2", "a"});
    CommandLine line = line_for();
    CHECK(line.parse(arguments) == kUsage);
  }
  SECTION("exit codes of their own") {
    CommandLine line = line_for();
    line.set_exit_codes(8, 16);
    CHECK(line.parse({}) == 16);
    CHECK(line.fail("something") == 8);
  }
  SECTION("help and version") {
    CHECK(line_for().parse({"--help"}) == kSuccess);
    CHECK(line_for().parse({"--version"}) == kSuccess);
  }
}

}  // namespace
}  // namespace daxcow::tools
