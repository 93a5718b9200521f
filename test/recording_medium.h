// A medium that remembers every store and every drain, so that each state in which a power failure could have left the
// pool can be made afterwards.
//
// A Recording works on the caller's memory. While it is armed it keeps, for each line stored to, the line's content
// before and after, and for each drain the thread that made it. It outlives the RecordingMedium, which belongs to the
// pool. A log can be undone, so one buffer serves many experiments.
//
// The fault model (docs/RELIABILITY.md): a store is durable once the same thread has drained after it. Until then each
// line that was stored to holds, after a crash, what it held before, or what any of the stores left in it; or, torn, each
// of its eight words any of these.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/bad_range.h"
#include "engine/medium.h"
#include "engine/types.h"

namespace daxcow::test {

using Line = std::array<std::byte, kLineBytes>;

// What happened to the medium, in order.
struct Log {
  struct Event {
    enum class Kind : std::uint8_t {
      kStore,
      kDrain,
      kMadeGood,  // the device zeroed a line of a bad block and gave it back: durable at once
      kWentBad,   // the block that begins with `line` went bad
    } kind;
    std::uint32_t thread;
    std::uint64_t line;  // number of the line in the pool
    std::size_t data;    // its content before is lines[data], after it lines[data + 1]
  };
  std::vector<Event> events;
  std::vector<Line> lines;
  BadRanges bad_before;  // the device's list when the log was begun

  // Restores what was in memory before the first event.
  void undo(std::span<std::byte> memory) const;
  std::size_t drain_count() const;
};

class Recording {
 public:

  // `memory` is the pool's content, block-aligned in size; the caller keeps it alive.
  explicit Recording(std::span<std::byte> memory) : memory_(memory) {}

  std::span<std::byte> memory() const { return memory_; }

  // Starts a new log; what is in memory counts as durable.
  void arm();
  // Ends the recording and hands it over.
  Log take_log();
  std::size_t event_count();  // of the log so far
  // The machine stops: media made before do nothing from now on, so that a pool can be dropped without being closed.
  void cut_power() { power_.fetch_add(1); }

  // Bad blocks, known to the device or not until touched.
  void inject(BlockNumber block, bool latent = false);
  void set_listed(BadRanges bad);  // exactly these
  BadRanges listed();
  // Whether the device can clear bad blocks; it can if nothing is said.
  void set_can_clear(bool can) { can_clear_ = can; }
  // Makes this block bad when the log has grown to `event_count` events.
  void inject_at(std::size_t event_count, BlockNumber block);

  // Called before each access of the medium by any thread, with nothing held: where threads may be interleaved.
  std::function<void()> on_access;

 private:
  friend class RecordingMedium;
  Result<> check_access(std::uint64_t offset, std::uint64_t length);
  Result<> store(std::uint64_t offset, const std::byte* from, std::uint64_t length);  // null: zeros
  Result<> drain();
  Result<> clear_bad(BlockRun run);
  void store_line(std::uint64_t line, std::uint64_t begin, std::uint64_t end, const std::byte* from,
                  Log::Event::Kind kind);
  void inject_locked(BlockNumber block, bool latent);
  std::uint32_t thread_index();

  std::span<std::byte> memory_;
  std::mutex mutex_;
  bool armed_ = false;
  std::atomic<bool> can_clear_{true};
  std::atomic<std::uint64_t> power_{0};
  Log log_;
  BadRanges listed_, latent_, bad_;  // bad_: both, in whole blocks
  std::optional<std::pair<std::size_t, BlockNumber>> pending_injection_;
  std::unordered_map<std::uint64_t, std::uint32_t> threads_;
};

class RecordingMedium final : public Medium {
 public:
  explicit RecordingMedium(Recording& recording);

  Result<> read(std::uint64_t offset, std::span<std::byte> to) override;
  Result<> store(std::uint64_t offset, std::span<const std::byte> from) override;
  Result<> store_zeros(std::uint64_t offset, std::uint64_t length_bytes) override;
  Result<> drain() override;
  Result<std::vector<BadRange>> bad_ranges() override;
  Result<> clear_bad(BlockRun run) override;
  Result<bool> wait_bad_change(int stop_fd) override;
  void note_fault(BlockNumber block) override;
  Result<Identity> identity() override;

 private:
  Result<> check_power() const;
  Recording& recording_;
  const std::uint64_t power_;
};

}  // namespace daxcow::test
