// How many files a program may have open.
#pragma once

#include <sys/resource.h>

namespace daxcow::tools {

// Raises the limit as far as one may. Returns what it is; 0 if that cannot be found out.
inline rlim_t raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  const rlimit raised{limit.rlim_max, limit.rlim_max};
  return ::setrlimit(RLIMIT_NOFILE, &raised) == 0 ? raised.rlim_cur : limit.rlim_cur;
}

}  // namespace daxcow::tools
