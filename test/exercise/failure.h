// What the filesystem did wrong. Thrown by the checks, and told with the last operations by the process that met it.
#pragma once

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace daxcow::exercise {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Arguments>
[[noreturn]] void fail(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  throw Failure(fmt::format(text, std::forward<Arguments>(arguments)...));
}

// For a system call that should have worked.
[[noreturn]] inline void fail_call(const std::string& call) {
  const int error = errno;
  throw Failure(fmt::format("{} fails: {} (errno {})", call, std::strerror(error), error));
}

}  // namespace daxcow::exercise
