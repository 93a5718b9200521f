#include "engine/patrol.h"

#include <algorithm>
#include <ctime>
#include <string>

#include "engine/check.h"
#include "engine/poison_scrub.h"

namespace daxcow {

using namespace std::chrono_literals;

namespace {

constexpr auto kSaveInterval = 30s;
constexpr auto kLongest = 1h;  // sleep: the clock may be set meanwhile

constexpr std::uint64_t number(ScrubState state) { return static_cast<std::uint64_t>(state); }

std::int64_t now_seconds() { return std::time(nullptr); }

}  // namespace

const char* name_of(ScrubState state) {
  switch (state) {
    case ScrubState::kIdle:
      return "idle";
    case ScrubState::kRunning:
      return "running";
    case ScrubState::kPaused:
      return "paused";
  }
  return "unknown";
}

// --- what is remembered ----------------------------------------------------------------------------------------------

// The record is a hint from the medium: whatever it says is made something that can be.
Result<> Patrol::load_locked() {
  if (loaded_) return {};
  const BlockPtr roots = TRY(store_.read_consistent(
      [](BlockReader& reader) { return reader.read(format::kRootsBlock, format::BlockType::kRoots); }));
  record_ = roots->as<format::Roots>().scrub;
  record_.position = std::min(record_.position, 2 * store_.pool_blocks());
  if (record_.state > number(ScrubState::kPaused)) record_.state = number(ScrubState::kIdle);
  record_.started_seconds = std::clamp<std::int64_t>(record_.started_seconds, 0, now_seconds());
  loaded_ = true;
  return {};
}

void Patrol::save_locked() {
  if (store_.read_only()) return;
  const auto saved = store_.run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
    mutex_.assert_held();
    Block* roots = TRY(transaction.edit(format::kRootsBlock, format::BlockType::kRoots));
    roots->as<format::Roots>().scrub = record_;
    return Step::kDone;
  });
  if (!saved && !std::exchange(save_failed_, true))
    store_.log("the scrub's position cannot be kept: " + describe(saved.error()));
}

// --- orders ----------------------------------------------------------------------------------------------------------

bool Patrol::is_running_locked() const { return record_.state == number(ScrubState::kRunning); }

bool Patrol::is_due_locked() const {
  return own_rate_ != 0 && record_.state == number(ScrubState::kIdle) &&
         now_seconds() - record_.started_seconds >= kInterval;
}

void Patrol::changed_locked() {
  ++orders_;
  changed_.notify_all();
}

void Patrol::begin_locked(std::uint64_t bytes_per_second) {
  record_.state = number(ScrubState::kRunning);
  record_.position = record_.blocks_read = record_.blocks_found = 0;
  record_.started_seconds = now_seconds();
  record_.bytes_per_second = bytes_per_second;
  changed_locked();
}

Result<> Patrol::need_thread_locked() const {
  if (serving_) return {};
  return fail(ErrorCode::kUnsupported,
              "a scrub in the background needs a daemon, and the pool open for writing: mount it");
}

Result<> Patrol::begin(std::uint64_t bytes_per_second) {
  const LockGuard guard(mutex_);
  TRY(load_locked());
  TRY(need_thread_locked());
  if (is_running_locked()) return fail(ErrorCode::kBusy, "a scrub is running already");
  if (record_.state == number(ScrubState::kPaused)) {
    record_.state = number(ScrubState::kRunning);
    record_.bytes_per_second = bytes_per_second;
    changed_locked();
  } else {
    begin_locked(bytes_per_second);
  }
  save_locked();
  return {};
}

Result<> Patrol::pause() {
  const LockGuard guard(mutex_);
  TRY(load_locked());
  if (!is_running_locked()) return fail(ErrorCode::kInvalid, "no scrub is running");
  record_.state = number(ScrubState::kPaused);
  changed_locked();
  save_locked();
  return {};
}

Result<> Patrol::resume(std::optional<std::uint64_t> bytes_per_second) {
  const LockGuard guard(mutex_);
  TRY(load_locked());
  if (record_.state == number(ScrubState::kIdle)) return fail(ErrorCode::kInvalid, "no scrub is under way");
  TRY(need_thread_locked());
  if (is_running_locked() && !bytes_per_second) return fail(ErrorCode::kInvalid, "the scrub is running already");
  record_.state = number(ScrubState::kRunning);
  if (bytes_per_second) record_.bytes_per_second = *bytes_per_second;
  changed_locked();
  save_locked();
  return {};
}

Result<> Patrol::stop() {
  const LockGuard guard(mutex_);
  TRY(load_locked());
  if (record_.state == number(ScrubState::kIdle)) return fail(ErrorCode::kInvalid, "no scrub is under way");
  record_.state = number(ScrubState::kIdle);
  record_.position = record_.blocks_read = 0;
  changed_locked();
  save_locked();
  return {};
}

ScrubStatus Patrol::status() {
  const LockGuard guard(mutex_);
  ScrubStatus status;
  if (!load_locked()) return status;
  status.state = static_cast<ScrubState>(record_.state);
  status.bytes_per_second = record_.bytes_per_second;
  status.total_bytes = blocks_to_scrub(store_) * kBlockBytes;
  if (status.state != ScrubState::kIdle) {
    status.place = record_.position;
    status.done_bytes = std::min(record_.blocks_read * kBlockBytes, status.total_bytes);
  }
  status.found_blocks = record_.blocks_found;
  status.started_seconds = record_.started_seconds;
  status.finished_seconds = record_.finished_seconds;
  status.passes = record_.passes;
  double rate = measured_rate_;
  const auto bound = static_cast<double>(record_.bytes_per_second);
  if (bound != 0 && (rate == 0 || rate > bound)) rate = bound;
  if (status.state == ScrubState::kRunning && rate > 0)
    status.rest_seconds =
        static_cast<std::uint64_t>(static_cast<double>(status.total_bytes - status.done_bytes) / rate + 0.5);
  if (status.state == ScrubState::kIdle && own_rate_ != 0) status.next_seconds = record_.started_seconds + kInterval;
  return status;
}

// --- work ------------------------------------------------------------------------------------------------------------

// Reads on until the pass has ended (true), or was told not to.
Result<bool> Patrol::execute(std::unique_lock<Mutex>& lock, const Progress& progress) {
  ScrubPass pass(store_, record_.position);
  const std::uint64_t found_before = record_.blocks_found;
  const auto begun = Clock::now();
  auto saved = begun, due = begun;
  std::uint64_t orders = orders_, bytes_read = 0;
  Result<bool> ended = false;
  executing_ = true;
  const auto is_over = [&] {  // for this pass: it was stopped, paused, or another was begun
    mutex_.assert_held();
    return !is_running_locked() || record_.position == 0;
  };
  while (!stopping_) {
    lock.unlock();
    const auto blocks = pass.step();
    lock.lock();
    const bool told = orders_ != orders;
    if (told && is_over()) break;
    orders = orders_;
    if (!blocks) {
      ended = std::unexpected(blocks.error());
      record_.state = number(ScrubState::kPaused);
      break;
    }
    record_.position = pass.place();
    record_.blocks_read += *blocks;
    record_.blocks_found = found_before + pass.found();
    if (*blocks == 0) {
      record_.state = number(ScrubState::kIdle);
      record_.finished_seconds = now_seconds();
      record_.position = 0;
      ++record_.passes;
      ended = true;
      break;
    }
    bytes_read += *blocks * kBlockBytes;
    const auto now = Clock::now();
    measured_rate_ =
        static_cast<double>(bytes_read) / std::max(1e-3, std::chrono::duration<double>(now - begun).count());
    if (now - saved > kSaveInterval && !by_caller_) {
      saved = now;
      save_locked();
    }
    if (progress) {
      const auto done = record_.blocks_read;
      lock.unlock();
      const auto total = blocks_to_scrub(store_);
      progress(std::min(done, total), total);
      lock.lock();
    }
    if (record_.bytes_per_second == 0) continue;
    const double seconds = static_cast<double>(*blocks * kBlockBytes) / static_cast<double>(record_.bytes_per_second);
    due = std::max(due, now - 100ms) +
          std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    if (due <= now) continue;
    const auto told_to = [&] {
      mutex_.assert_held();
      return stopping_ || orders_ != orders;
    };
    changed_.wait_for(lock, std::chrono::ceil<std::chrono::milliseconds>(due - now), told_to);
    if (orders_ != orders) {
      if (is_over()) break;
      due = Clock::now();  // another rate
      orders = orders_;
    }
  }
  executing_ = false;
  measured_rate_ = 0;
  if (!by_caller_ || (ended && *ended)) save_locked();
  changed_.notify_all();
  return ended;
}

void Patrol::serve() {
  std::unique_lock lock(mutex_);
  mutex_.assert_held();
  while (!stopping_) {
    if (!executing_ && is_due_locked()) begin_locked(own_rate_);
    if (!executing_ && is_running_locked()) {
      const auto ended = execute(lock, {});
      if (!ended) store_.log("the scrub is paused: it failed: " + describe(ended.error()));
      if (ended && *ended && record_.blocks_found != 0)
        store_.log("the scrub has found " + std::to_string(record_.blocks_found) +
                   " bad blocks; see daxcow poison list");
      continue;
    }
    std::chrono::milliseconds time = kLongest;
    if (own_rate_ != 0 && record_.state == number(ScrubState::kIdle))
      time = std::clamp<std::chrono::milliseconds>(
          std::chrono::seconds(record_.started_seconds + kInterval - now_seconds()), 1ms, kLongest);
    const std::uint64_t orders = orders_;
    changed_.wait_for(lock, time, [&] {
      mutex_.assert_held();
      return stopping_ || orders_ != orders;
    });
  }
  serving_ = false;
  changed_.notify_all();
}

Result<> Patrol::prepare(std::uint64_t bytes_per_second) {
  const LockGuard guard(mutex_);
  loaded_ = false;  // recovery may have brought another record
  TRY(load_locked());
  own_rate_ = bytes_per_second;
  serving_ = true;
  return {};
}

Result<> Patrol::start_thread(std::uint64_t bytes_per_second) {
  TRY(prepare(bytes_per_second));
  if (!thread_.joinable()) thread_ = std::thread([this] { serve(); });
  return {};
}

void Patrol::stop_thread() {
  {
    std::unique_lock lock(mutex_);
    mutex_.assert_held();
    stopping_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] {
      mutex_.assert_held();
      return !serving_ && !executing_;  // also a pass that somebody waits for
    });
    stopping_ = false;
  }
  if (thread_.joinable()) thread_.join();
}

Result<std::uint64_t> Patrol::run(std::uint64_t bytes_per_second, const Progress& progress) {
  std::unique_lock lock(mutex_);
  mutex_.assert_held();
  TRY(load_locked());
  changed_.wait(lock, [&] {
    mutex_.assert_held();
    return !executing_ || stopping_ || (is_running_locked() && !by_caller_);
  });
  if (is_running_locked() && serving_)
    return fail(ErrorCode::kBusy,
                "a scrub is running in the background; see daxcow scrub --status, or end it with --stop");
  if (stopping_) return fail(ErrorCode::kBusy, "the scrub was told to stop");
  CHECK(!executing_);  // two that move one place would each leave out what the other reads
  by_caller_ = true;
  executing_ = true;  // the thread leaves it alone
  begin_locked(bytes_per_second);
  const auto ended = execute(lock, progress);
  by_caller_ = false;
  if (!ended) return std::unexpected(ended.error());
  if (!*ended) return fail(ErrorCode::kBusy, "the scrub was told to stop");
  const std::uint64_t found = record_.blocks_found;
  lock.unlock();
  if (progress) {
    const std::uint64_t total = blocks_to_scrub(store_);
    progress(total, total);
  }
  return found;
}

}  // namespace daxcow
