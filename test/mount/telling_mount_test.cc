// What people and programs are told of a pool: hooks, health, metrics, the list of what is lost; and that asking
// touches nothing.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <regex>
#include <sstream>

#include <fmt/format.h>

#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kBadOffset = 5 * 4096;

// A hook that appends its input and its environment to files beside the pool.
std::string write_hook(const MountedPool& pool, const std::string& name, const std::string& script,
                       mode_t mode = 0755) {
  const std::string directory = pool.path("hooks");
  fs::create_directories(directory);
  REQUIRE(::chmod(directory.c_str(), 0755) == 0);
  const std::string path = directory + "/" + name;
  write_text(path, "#!/bin/sh\n" + script);
  REQUIRE(::chmod(path.c_str(), mode) == 0);
  return directory;
}

std::vector<json> json_lines(const std::string& path) {
  std::vector<json> list;
  std::istringstream lines(read_text(path));
  for (std::string line; std::getline(lines, line);) list.push_back(json::parse(line));
  return list;
}

std::string state_of(const MountedPool& pool) {
  return pool.need_json("daxcow stat --json $POOL").at("health").at("state");
}

// name{labels} -> value; every line must be one of the format's.
std::map<std::string, double> parse_metrics(const std::string& text) {
  static const std::regex comment("# (HELP [a-z_:]+ [^\\n]*|TYPE [a-z_:]+ (gauge|counter))");
  static const std::regex sample(R"re(([a-z_]+\{([a-z_]+="([^"\\]|\\.)*",?)*\}) ([0-9.e+-]+))re");
  std::map<std::string, double> samples;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    INFO(line);
    std::smatch match;
    if (std::regex_match(line, comment)) continue;
    REQUIRE(std::regex_match(line, match, sample));
    CHECK(samples.emplace(match[1], std::stod(match[4])).second);
  }
  return samples;
}

TEST_CASE("Hooks are told of what happens, as data and never as commands") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string record = "{ cat; } >>" + pool.path("input") + "; env >" + pool.path("environment") +
                             "; echo \"$#\" >" + pool.path("arguments") + "; echo run >>" + pool.path("runs") + "\n";
  const std::string hooks = write_hook(pool, "10-record", record);
  write_hook(pool, "20-open-to-all", "echo >" + pool.path("open-to-all"), 0777);
  write_hook(pool, "30-backup.bak", "echo >" + pool.path("backup"));
  write_hook(pool, "40-not-a-program", "echo >" + pool.path("not-a-program"), 0644);
  const std::string main = pool.mount("main", "no_rescue,hooks=" + hooks);
  const std::string name = "a $(touch pwned) `touch pwned`; touch pwned\n\"b\"";
  write_file(main + "/" + name, pattern(1, 16));
  pool.poison(pool.ask({{"op", "map"}, {"volume", "main"}, {"path", "/" + name}})
                  .at("extents")
                  .at(0)
                  .at("pool_offset_bytes")
                  .get<std::uint64_t>() +
              kBadOffset);
  const auto told = [&](const std::string& kind) {
    const auto lines = json_lines(pool.path("input"));
    return std::ranges::count(lines, kind, [](const json& line) { return line.at("kind").get<std::string>(); });
  };
  REQUIRE(wait_until([&] { return told("data-lost") == 1; }));
  for (const auto& line : json_lines(pool.path("input"))) {
    if (line.at("kind") != "data-lost") continue;
    CHECK(line.at("path") == "/" + name);
    CHECK(line.at("offset_bytes") == kBadOffset);
    CHECK(line.at("mount_point") == main);
  }
  REQUIRE(wait_until([&] { return fs::exists(pool.path("runs")); }));
  const std::string environment = read_text(pool.path("environment"));
  INFO(environment);
  CHECK(environment.find("DAXCOW_POOL=" + pool.pool() + "\n") != std::string::npos);
  CHECK(environment.find("data-lost") != std::string::npos);
  CHECK(environment.find("touch pwned\\n\"b\" of volume main, bytes 20480-24575") != std::string::npos);
  CHECK(environment.find("HOME=") == std::string::npos);
  CHECK(read_text(pool.path("arguments")) == "0\n");
  for (const char* none : {"open-to-all", "backup", "not-a-program", "pwned", "main/pwned"})
    CHECK_FALSE(fs::exists(pool.path(none)));
  CHECK_FALSE(fs::exists("/pwned"));

  // Two hundred owners lose a block: few runs, and everything is told.
  write_file(main + "/popular", pattern(2, 16));
  pool.need_run("for i in $(seq 199); do daxcow clone main/popular main/copy$i || exit 1; done");
  const auto before = told("data-lost");
  pool.poison(pool.pool_offset(main + "/popular", 0));
  REQUIRE(wait_until([&] { return told("data-lost") == before + 200; }));
  CHECK(std::ranges::count(read_text(pool.path("runs")), '\n') < 20);

  // What comes last is told before the daemon has ended.
  overwrite(main + "/popular", 0, pattern(3, 1));
  pool.settle();
  pool.unmount_all();
  CHECK(told("data-healed") == 1);
}

TEST_CASE("A hook that hangs holds up nobody") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string hooks =
      write_hook(pool, "hang", "echo $$ >>" + pool.path("process") + "\nexec sleep 1000 >/dev/null 2>&1\n");
  const std::string main = pool.mount("main", "no_rescue,hooks=" + hooks);
  write_file(main + "/file", pattern(1, 16));
  pool.poison(pool.pool_offset(main + "/file", kBadOffset));
  REQUIRE(wait_until([&] { return !read_text(pool.path("process")).empty(); }));
  const auto begun = Clock::now();
  CHECK(unreadable_blocks(main + "/file") == std::set<std::uint64_t>{5});
  overwrite(main + "/file", kBadOffset, pattern(2, 1));
  pool.settle();
  CHECK(pool.events_of("data-healed").size() == 1);
  CHECK(Clock::now() - begun < std::chrono::seconds(3));
  // The pool is free at once; the process stays a little longer, for the hooks.
  pool.need_run("umount main");
  const bool is_free = wait_until([&] { return pool.run("fsck.daxcow $POOL").exit_code == 0; });
  CHECK(is_free);
  CHECK(Clock::now() - begun < std::chrono::seconds(8));
  pool.run("rm " + hooks + "/hang");  // or the next event would start it again
  CHECK(wait_until([&] { return pool.run("! kill $(cat process) 2>/dev/null").exit_code == 0; }));
}

TEST_CASE("Health and metrics follow what happens to the pool") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  CHECK(state_of(pool) == "good");
  const std::string main = pool.mount("main", "no_rescue");
  write_file(main + "/file", pattern(1, 16));
  const auto value = [&](const std::string& name, const std::string& label = {}) {
    const auto samples = parse_metrics(pool.need_run("daxcow metrics $POOL"));
    const auto found = samples.find(fmt::format("daxcow_{}{{pool=\"{}\"{}}}", name, pool.pool(), label));
    INFO(name << label);
    REQUIRE(found != samples.end());
    return found->second;
  };
  CHECK(value("health", ",state=\"good\"") == 1);
  CHECK(value("lost_bytes") == 0);
  CHECK(value("events_total", ",kind=\"data-lost\"") == 0);
  CHECK(value("size_bytes") == 128 << 20);

  const auto offset = pool.pool_offset(main + "/file", kBadOffset);
  pool.need_run(fmt::format("daxcow inject-error $POOL --block {} --count 3", offset / 512 + 2));
  REQUIRE(wait_until([&] { return !pool.events_of("data-lost").empty(); }));
  CHECK(state_of(pool) == "data-lost");
  CHECK(pool.need_run("daxcow stat $POOL").find("data-lost: 1.5 KiB in 1 block cannot be read") != std::string::npos);
  CHECK(value("health", ",state=\"good\"") == 0);
  CHECK(value("health", ",state=\"data-lost\"") == 1);
  CHECK(value("lost_bytes") == 1536);
  CHECK(value("events_total", ",kind=\"data-lost\"") == 1);
  pool.need_run("daxcow metrics $POOL --output textfile.prom");
  CHECK(parse_metrics(read_text(pool.path("textfile.prom"))).size() > 20);
  CHECK(pool.run("ls -A | grep -c textfile").out == "1\n");
  CHECK(pool.run("daxcow metrics $POOL --output none/textfile.prom").exit_code == 1);

  overwrite(main + "/file", kBadOffset, pattern(2, 1));
  pool.settle();
  REQUIRE(wait_until([&] { return state_of(pool) == "good"; }));

  // What is only reserved is nobody's loss.
  pool.need_run("fallocate -l 1M main/reserved");
  const auto reserved = pool.pool_offset(main + "/reserved", 8192);
  pool.poison(reserved);
  REQUIRE(wait_until([&] { return pool.block_at(reserved).at("in_ledger") == true; }));
  pool.settle();
  CHECK(state_of(pool) == "degraded");
  CHECK(value("lost_bytes") == 0);
  CHECK(value("reserved_bad_blocks") == 1);
  const auto owner = pool.block_at(reserved).at("owners").at(0);
  CHECK(owner.at("role") == "reserved");
  CHECK_FALSE(owner.contains("lost"));
  CHECK(read_error(main + "/reserved", 8192) == 0);
  REQUIRE(::unlink((main + "/reserved").c_str()) == 0);
  pool.settle();
  REQUIRE(wait_until([&] { return state_of(pool) == "good"; }));
  CHECK(value("blocks_lost_total") == 1);
  CHECK(value("blocks_cleared_total") == 2);
  pool.check_clean();
}

TEST_CASE("Questions touch no block: latent poison stays unknown, and nothing changes") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", "no_rescue");
  write_file(main + "/file", pattern(1, 16));
  pool.need_run("cp --reflink=auto main/file main/clone");
  drop_pages(main + "/file");
  const auto offset = pool.pool_offset(main + "/file", kBadOffset);
  pool.poison(offset, true);
  const auto ledger = [&] { return pool.need_json("daxcow poison list --json $POOL").at("blocks"); };
  for (int i = 0; i < 3; ++i) {
    CHECK(pool.need_json(fmt::format("daxcow owners --json $POOL {}", offset)).at("owners").size() == 2);
    pool.need_run(fmt::format("daxcow owners $POOL {}", offset + 4095));
    pool.need_run(
        "daxcow map main/file; daxcow stat $POOL; daxcow metrics $POOL; daxcow poison list $POOL; ls -l main");
    pool.settle();
  }
  CHECK(ledger().empty());
  CHECK(pool.events().empty());
  CHECK(read_text(pool.pool() + ".badblocks").empty());
  // It was there all the time.
  CHECK(read_error(main + "/file", kBadOffset) == EIO);
  REQUIRE(wait_until([&] { return pool.events_of("data-lost").size() == 2; }));
  // The same of what is known: asking does not change it.
  pool.settle();
  const auto known = ledger();
  const auto last = pool.last_event();
  CHECK(pool.need_json(fmt::format("daxcow owners --json $POOL {}", offset)).at("in_ledger") == true);
  pool.settle();
  CHECK(ledger() == known);
  CHECK(pool.last_event() == last);
}

TEST_CASE("What is lost is listed by path and range over restarts, until it is healed or removed") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", "no_rescue");
  pool.need_run("mkdir -p main/deep/er");
  write_file(main + "/deep/er/file", pattern(1, 16));
  write_file(main + "/gone", pattern(2, 16));
  pool.need_run("cp --reflink=auto main/deep/er/file main/clone && daxcow snapshot $POOL main kept");
  const auto offset = pool.pool_offset(main + "/deep/er/file", kBadOffset);
  const auto other = pool.pool_offset(main + "/gone", 0);
  pool.check_clean();

  // Nobody has anything open, and nothing is mounted, when it happens.
  pool.need_run(fmt::format("daxcow inject-error $POOL --block {} --count 2", offset / 512 + 3));
  pool.need_run(fmt::format("daxcow inject-error $POOL --block {} --count 1", other / 512));
  const auto losses = [&] {
    std::multiset<std::string> list;
    const auto reply = pool.need_json("daxcow poison list --json $POOL");
    for (const auto& block : reply.at("blocks"))
      for (const auto& owner : block.at("owners"))
        for (const auto& range : owner.at("lost"))
          list.insert(fmt::format("{}:{}@{}+{}", owner.at("volume").get<std::string>(),
                                  owner.at("path").get<std::string>(), range.at("offset_bytes").get<std::uint64_t>(),
                                  range.at("length_bytes").get<std::uint64_t>()));
    return list;
  };
  pool.mount("main", "no_rescue");
  pool.settle();
  std::multiset<std::string> expected;
  const auto lost = kBadOffset + 3 * 512;
  for (const char* file : {"main:/deep/er/file", "main:/clone", "kept:/deep/er/file", "kept:/clone"})
    expected.insert(fmt::format("{}@{}+1024", file, lost));
  for (const char* file : {"main:/gone", "kept:/gone"}) expected.insert(fmt::format("{}@0+512", file));
  CHECK(losses() == expected);
  const std::regex row(fmt::format("main +/deep/er/file +{} +1024 +data", lost));
  CHECK(std::regex_search(pool.need_run("daxcow poison list $POOL"), row));

  pool.unmount_all();
  CHECK(losses() == expected);  // without a daemon
  pool.mount("main", "no_rescue");
  pool.kill_daemon();
  pool.mount("main", "no_rescue");
  CHECK(losses() == expected);

  overwrite(main + "/clone", lost, std::string(1024, 'x'));  // just these sectors
  expected.erase(fmt::format("main:/clone@{}+1024", lost));
  REQUIRE(::unlink((main + "/gone").c_str()) == 0);
  expected.erase("main:/gone@0+512");
  pool.settle();
  CHECK(losses() == expected);
  const std::string healed = pattern(1, 16).replace(lost, 1024, std::string(1024, 'x'));
  CHECK(read_range(main + "/clone", 0, 1 << 20) == healed);
  pool.unmount_all();
  pool.need_run("daxcow volume delete $POOL kept");
  expected = {fmt::format("main:/deep/er/file@{}+1024", lost)};
  pool.mount("main", "no_rescue");
  pool.settle();
  CHECK(losses() == expected);
  pool.need_run("rm -r main/deep");
  pool.settle();
  CHECK(wait_until([&] { return pool.nothing_is_bad(); }));
  pool.check_clean();
}

}  // namespace
}  // namespace daxcow::test
