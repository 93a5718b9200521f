// A progress bar for what can take seconds.
#pragma once

#include <cstdint>
#include <string>

namespace daxcow::tools {

// A progress bar on standard error while that is a terminal, else nothing. Redrawn at most ten times a second; erased
// by finish() or the destructor. For one thread at a time.
class Progress {
 public:
  explicit Progress(std::string what);
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void update(std::uint64_t done, std::uint64_t total);
  void finish();

 private:
  std::string what_;
  bool terminal_ = false;
  bool drawn_ = false;
  std::int64_t started_ms_ = 0;
  std::int64_t drawn_ms_ = 0;
};

}  // namespace daxcow::tools
