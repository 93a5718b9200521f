// Assertions that stay on in every build: a filesystem that has lost track of itself must stop before it writes more.
#pragma once

namespace daxcow {
[[noreturn]] void check_failed(const char* condition, const char* file, int line);
}

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) [[unlikely]] ::daxcow::check_failed(#condition, __FILE__, __LINE__); \
  } while (0)
