// The scrub in the background, on real mounts: bounded, paused, resumed over restarts, and in nobody's way.
#include <chrono>
#include <thread>

#include <fmt/format.h>

#include "test/mount/mount_fixture.h"

namespace daxcow::test {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

json status_of(const MountedPool& pool, const std::string& action = "--status") {
  return pool.need_json("daxcow scrub --json $POOL " + action);
}

std::uint64_t number_of(const json& status, const char* field) { return status.at(field).get<std::uint64_t>(); }

TEST_CASE("A scrub in the background keeps to its rate, finds latent poison, and can be paused and stopped") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  const std::string main = pool.mount("main", "no_rescue");
  pool.need_run("head -c 24M /dev/urandom >main/file");
  CHECK(status_of(pool).at("state") == "idle");
  CHECK(status_of(pool).at("passes") == 0);
  pool.poison(pool.pool_offset(main + "/file", (23 << 20)), true);

  const auto begun = Clock::now();
  const auto first = status_of(pool, "--background --rate 4M");
  CHECK(first.at("state") == "running");
  CHECK(first.at("bytes_per_second") == 4 << 20);
  CHECK(pool.run("daxcow scrub --background $POOL").exit_code == 1);
  const auto refused = pool.run("daxcow scrub $POOL");
  CHECK(refused.err.find("background") != std::string::npos);
  CHECK(refused.exit_code == 75);
  std::this_thread::sleep_for(2s);
  auto status = status_of(pool);
  const auto seconds = std::chrono::duration<double>(Clock::now() - begun).count();
  INFO(status << " after " << seconds << " s");
  CHECK(static_cast<double>(number_of(status, "done_bytes")) < seconds * (4 << 20) + (4 << 20));
  CHECK(number_of(status, "done_bytes") > 2 << 20);
  CHECK(number_of(status, "total_bytes") > 24 << 20);
  CHECK(number_of(status, "rest_seconds") >= 2);
  CHECK(number_of(status, "rest_seconds") <= 15);

  status = status_of(pool, "--pause");
  CHECK(status.at("state") == "paused");
  std::this_thread::sleep_for(300ms);
  const auto paused = status_of(pool);
  std::this_thread::sleep_for(500ms);
  CHECK(number_of(status_of(pool), "done_bytes") == number_of(paused, "done_bytes"));
  CHECK(pool.run("daxcow scrub --pause $POOL").exit_code == 1);
  CHECK(status_of(pool, "--resume --rate 1G").at("state") == "running");
  REQUIRE(wait_until([&] { return status_of(pool).at("state") == "idle"; }));
  status = status_of(pool);
  CHECK(status.at("passes") == 1);
  CHECK(status.at("found_blocks") == 1);
  REQUIRE(wait_until([&] { return pool.events_of("data-lost").size() == 1; }));

  status_of(pool, "--background --rate 64K");
  CHECK(status_of(pool, "--stop").at("state") == "idle");
  CHECK(pool.run("daxcow scrub --stop $POOL").exit_code == 1);
  CHECK(pool.run("daxcow scrub --resume $POOL").exit_code == 1);
  CHECK(status_of(pool).at("passes") == 1);
  pool.need_run("daxcow scrub $POOL");
  CHECK(status_of(pool).at("passes") == 2);
  for (const char* wrong : {"--pause --stop", "--status --rate 1M", "--rate fast"})
    CHECK(pool.run(fmt::format("daxcow scrub {} $POOL", wrong)).exit_code == 2);
  pool.check_clean();
}

TEST_CASE("A scrub goes on where it was over restarts, kills and read-only mounts") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  pool.mount("main", "no_rescue");
  pool.need_run("head -c 40M /dev/urandom >main/file");
  status_of(pool, "--background --rate 8M");
  REQUIRE(wait_until([&] { return number_of(status_of(pool), "done_bytes") > 12 << 20; }));
  const auto before = Clock::now();
  pool.unmount_all();  // does not wait for it
  CHECK(Clock::now() - before < 3s);
  CHECK(pool.run("daxcow scrub --background $POOL").err.find("daemon") != std::string::npos);
  auto status = status_of(pool);  // of the pool alone
  CHECK(status.at("state") == "running");
  const auto reached = number_of(status, "place");
  CHECK(number_of(status, "done_bytes") > 12 << 20);
  pool.mount("main", "ro,no_rescue");
  CHECK(number_of(status_of(pool), "place") == reached);
  pool.unmount_all();

  pool.mount("main", "no_rescue");
  REQUIRE(wait_until([&] { return number_of(status_of(pool), "place") > reached; }));
  CHECK(number_of(status_of(pool), "done_bytes") < 40 << 20);
  const auto paused = number_of(status_of(pool, "--pause"), "place");
  pool.kill_daemon();
  pool.mount("main", "no_rescue");
  status = status_of(pool);
  CHECK(status.at("state") == "paused");
  CHECK(number_of(status, "place") >= paused);
  status_of(pool, "--resume --rate 0");
  REQUIRE(wait_until([&] { return status_of(pool).at("state") == "idle"; }));
  CHECK(status_of(pool).at("passes") == 1);

  // At a rate that makes it sleep for half a minute after each read.
  status_of(pool, "--background --rate 64K");
  std::this_thread::sleep_for(300ms);
  const auto again = Clock::now();
  pool.unmount_all();
  CHECK(Clock::now() - again < 3s);
  const auto report = pool.check_clean();
}

TEST_CASE("With scrub= a pass begins by itself when one is due, and only then") {
  if (skipped_without_mounts()) return;
  MountedPool pool;
  CHECK(pool.run("mkdir main && mount.daxcow $POOL main -o scrub=fast").exit_code == 1);
  pool.mount("main", "scrub=500M");
  REQUIRE(wait_until([&] { return status_of(pool).at("passes") == 1; }));
  const auto status = status_of(pool);
  CHECK(status.at("bytes_per_second") == 500 << 20);
  CHECK(status.at("next_seconds").get<std::int64_t>() == status.at("started_seconds").get<std::int64_t>() + 24 * 3600);
  pool.unmount_all();
  pool.mount("main", "scrub=500M");
  std::this_thread::sleep_for(500ms);
  CHECK(status_of(pool).at("passes") == 1);
  pool.check_clean();
}

}  // namespace
}  // namespace daxcow::test
