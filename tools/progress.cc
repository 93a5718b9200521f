#include "tools/progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>

namespace daxcow::tools {

namespace {
std::int64_t now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}
}  // namespace

Progress::Progress(std::string what)
    : what_(std::move(what)), terminal_(isatty(STDERR_FILENO) != 0), started_ms_(now_ms()) {}

void Progress::update(std::uint64_t done, std::uint64_t total) {
  if (!terminal_ || total == 0) return;
  const std::int64_t now = now_ms();
  if (drawn_ms_ != 0 && now - drawn_ms_ < 100) return;
  // What is over at once needs no bar.
  if (!drawn_ && now - started_ms_ < 300) return;
  drawn_ms_ = now;
  drawn_ = true;
  const double part = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
  winsize size{};
  const std::size_t columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
  std::string left;
  if (part > 0.02) {
    const auto seconds =
        static_cast<std::int64_t>(static_cast<double>(now - started_ms_) / 1000 * (1 / part - 1) + 0.5);
    left = fmt::format("{}:{:02} left", seconds / 60, seconds % 60);
  }
  const std::string tail = fmt::format(" {:3.0f} % {:>12}", part * 100, left);
  const std::size_t used = what_.size() + tail.size() + 4;
  const std::size_t width = columns > used + 10 ? std::min<std::size_t>(columns - used, 50) : 10;
  const auto filled = static_cast<std::size_t>(part * static_cast<double>(width));
  std::cerr << fmt::format("\r{} [{}{}]{}", what_, std::string(filled, '#'), std::string(width - filled, '.'), tail)
            << std::flush;
}

void Progress::finish() {
  if (drawn_) std::cerr << "\r\033[K" << std::flush;
  drawn_ = false;
}

}  // namespace daxcow::tools
