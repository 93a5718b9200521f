// What the user is told of how a pool was left, with devices that count their unsafe shutdowns.
#include "engine/shutdown.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/medium_dram.h"
#include "engine/pool.h"
#include "test/catch.h"

namespace daxcow {
namespace {

using Identity = Medium::Identity;

struct Opened {
  std::unique_ptr<Pool> pool;
  ShutdownReport report;
  std::vector<std::string> lines;
  std::vector<Event> events;
};

class Device {
 public:
  Device() {
    auto medium = DramMedium::create(16 << 20);
    REQUIRE(medium);
    REQUIRE(Pool::format(**medium, {.label = {}, .progress = {}}));
    image_ = (*medium)->snapshot();
  }

  // Opens what is on the device.
  Opened open(std::optional<Identity> identity, bool read_only = false) {
    auto medium = DramMedium::from_image(image_);
    REQUIRE(medium);
    if (identity) (*medium)->set_identity(*identity);
    medium_ = medium->get();
    Opened opened;
    auto pool = Pool::open(std::move(*medium), {.read_only = read_only, .background = false, .log = [&](const std::string& line) {
                                                  opened.lines.push_back(line);
                                                }});
    REQUIRE(pool);
    const auto statistics = (*pool)->statistics();
    REQUIRE(statistics);
    opened.report = statistics->shutdown;
    opened.events = (*pool)->events().after(0, 10, 0);
    opened.pool = std::move(*pool);
    return opened;
  }
  // What a crash at this moment leaves.
  void crash() { image_ = medium_->snapshot(); }

  Opened open_after_crash(std::optional<Identity> before, std::optional<Identity> now, bool read_only = false) {
    {
      const Opened crashed = open(std::move(before));
      crash();
    }
    return open(std::move(now), read_only);
  }

 private:
  std::vector<std::byte> image_;
  DramMedium* medium_ = nullptr;
};

Identity device(std::uint64_t unsafe_shutdowns, std::uint8_t id = 1) { return {unsafe_shutdowns, {id, 2, 3}}; }

bool says(const Opened& opened, const std::string& text) {
  return opened.lines.size() == 1 && opened.lines[0].find(text) != std::string::npos && opened.lines[0].find('\n') == std::string::npos;
}

TEST_CASE("A pool that was closed gives no reason to say anything") {
  Device pool;
  CHECK(pool.open(std::nullopt).lines.empty());
  CHECK(pool.open(device(7)).lines.empty());
  CHECK(pool.open(device(7)).report.last == LastShutdown::kClean);
}

TEST_CASE("A kill without a power failure is recovered from, and said quietly") {
  Device pool;
  for (const auto& identity : {std::optional<Identity>(), std::optional<Identity>(device(7))}) {
    const Opened opened = pool.open_after_crash(identity, identity);
    CHECK(opened.report.last == LastShutdown::kUnclean);
    CHECK(says(opened, "not closed cleanly"));
    CHECK(says(opened, "last opened 20"));
    CHECK(opened.events.empty());
  }
}

TEST_CASE("Power lost without a flush while the pool was in use is told as a loss") {
  Device pool;
  const Opened opened = pool.open_after_crash(device(7), device(9));
  CHECK(opened.report.last == LastShutdown::kPowerLost);
  CHECK(opened.report.unsafe_shutdowns_new == 2);
  CHECK(says(opened, "data acknowledged shortly before may be missing"));
  CHECK(says(opened, "2 unsafe shutdowns"));
  CHECK(says(opened, "daxcow scrub"));
  REQUIRE(opened.events.size() == 1);
  CHECK(opened.events[0].kind == EventKind::kPowerLost);
  CHECK(opened.events[0].text == opened.lines[0]);
  // Who only looks is told too, and leaves the note for the opening that ends it.
  {
    const Opened again = pool.open_after_crash(device(9), device(10), true);
    CHECK(again.report.last == LastShutdown::kPowerLost);
    CHECK(says(again, "may be missing"));
  }
  CHECK(pool.open(device(10)).report.last == LastShutdown::kPowerLost);
}

TEST_CASE("Unsafe shutdowns of a device whose pool was closed do no harm") {
  format::Roots roots{};
  roots.unsafe_shutdowns_known = 1;
  roots.unsafe_shutdowns = 3;
  roots.device_id[0] = 5;
  const ShutdownReport report = judge_shutdown(roots, Identity{4, {5}});
  CHECK(report.last == LastShutdown::kClean);
  CHECK(report.unsafe_shutdowns_new == 1);
  CHECK(describe(report, 0).find("no harm") != std::string::npos);
}

TEST_CASE("A pool on another device is not judged by that device's count") {
  Device pool;
  const Opened opened = pool.open_after_crash(device(7), device(100, 9));
  CHECK(opened.report.device_changed);
  CHECK(opened.report.last == LastShutdown::kUnclean);
  CHECK(says(opened, "another device"));
  CHECK(opened.events.empty());
  // From then on it is this device's.
  pool.crash();
  CHECK(pool.open(device(101, 9)).report.last == LastShutdown::kPowerLost);
}

TEST_CASE("A device that begins or ceases to count says nothing") {
  Device pool;
  CHECK(pool.open_after_crash(std::nullopt, device(3)).report.last == LastShutdown::kUnclean);
  const Opened opened = pool.open_after_crash(device(3), std::nullopt);
  CHECK(opened.report.last == LastShutdown::kUnclean);
  CHECK_FALSE(opened.report.unsafe_shutdowns_known);
  // What was known of it is kept: the next opening that can ask finds the loss.
  CHECK(pool.open(device(4)).report.last == LastShutdown::kPowerLost);
}

}  // namespace
}  // namespace daxcow
