// One exercising process: chooses what to do next, does it, and tells what went wrong.
#pragma once

#include <atomic>
#include <array>
#include <cstdint>
#include <string>

#include "test/exercise/features.h"
#include "test/exercise/operation.h"
#include "test/exercise/options.h"

namespace daxcow::exercise {

// In memory that the processes share: how far each is.
struct Progress {
  std::atomic<std::uint64_t> operations{0};
  std::array<std::atomic<std::uint64_t>, static_cast<std::size_t>(Kind::kCount)> of_kind{};
  std::atomic<unsigned> snapshot{0};  // that is worked on
};

inline constexpr const char* kSharedFile = "shared";
std::string directory_of(const Options& options, unsigned process);

// Until the operations or the seconds are over, or `stop` is set. Empty if all was well, or what was not.
std::string exercise(const Options& options, const Features& features, unsigned process, Progress& progress,
                     const std::atomic<bool>& stop);

}  // namespace daxcow::exercise
