// One operation, begun at each point of another one in turn.
#include <sys/stat.h>

#include <chrono>
#include <functional>
#include <future>

#include "engine/format.h"
#include "engine/medium_dram.h"
#include "engine/pool.h"
#include "engine/schedule.h"
#include "test/catch.h"

namespace daxcow {
namespace {

using namespace std::chrono_literals;

// Lets another thread go at the n-th point of this one: to its end, or as far as it gets in a moment.
class Interruption final : public Scheduler {
 public:
  Interruption(std::uint64_t point, std::function<void()> other) : point_(point), other_(std::move(other)) {
    internal::scheduler_of_thread = this;
  }
  ~Interruption() override { internal::scheduler_of_thread = nullptr; }
  bool happened() const { return begun_.valid(); }
  void yield() override {
    if (++points_ != point_) return;
    begun_ = std::async(std::launch::async, other_);
    begun_.wait_for(10ms);
  }
  void pause() override { std::this_thread::yield(); }
  void block(const void*) override { std::this_thread::yield(); }
  void wake(const void*) override {}

 private:
  const std::uint64_t point_;
  std::uint64_t points_ = 0;
  std::function<void()> other_;
  std::future<void> begun_;  // waited for by its destructor
};

}  // namespace

// Removing a file frees its number and then forgets what is known of it. In between, another file may get the number: if
// it got the old file's lock too, later users would get another one.
TEST_CASE("a number that is given out again has one lock") {
  auto medium = DramMedium::create(format::kMinimumPoolBytes);
  REQUIRE(medium.has_value());
  REQUIRE(Pool::format(**medium, {.label = {}, .progress = {}}).has_value());
  auto pool = Pool::open(std::move(*medium), {.background = false, .log = {}});
  REQUIRE(pool.has_value());
  const auto volume = *(*pool)->mount("main", false);
  const std::string data(5'000, 'x');
  const auto bytes = std::as_bytes(std::span(data));
  unsigned reused = 0;
  for (std::uint64_t point = 1;; ++point) {
    const auto old = volume->create(format::kRootInode, "old", {.mode = S_IFREG | 0644, .symlink_target = {}});
    REQUIRE(old.has_value());
    REQUIRE(volume->write(old->inode, 0, bytes).has_value());
    Result<Attributes> made;
    Result<ReadLease> lease;
    bool happened = false;
    {
      Interruption interruption(point, [&] {
        made = volume->create(format::kRootInode, "new", {.mode = S_IFREG | 0644, .symlink_target = {}});
        if (!made) return;
        (void)volume->write(made->inode, 0, bytes);
        lease = volume->read(made->inode, 0, bytes.size());
      });
      REQUIRE(volume->unlink(format::kRootInode, "old").has_value());
      happened = interruption.happened();
    }
    if (!happened) break;
    REQUIRE(made.has_value());
    REQUIRE(lease.has_value());
    if (made->inode == old->inode) {
      ++reused;
      INFO("point " << point);
      auto writer = std::async(std::launch::async, [&] { return volume->write(made->inode, 0, bytes).has_value(); });
      CHECK(writer.wait_for(20ms) == std::future_status::timeout);  // until the read has been answered
      lease = ReadLease();
      CHECK(writer.get());
    }
    lease = ReadLease();
    REQUIRE(volume->unlink(format::kRootInode, "new").has_value());
  }
  CHECK(reused > 0u);
}

}  // namespace daxcow
