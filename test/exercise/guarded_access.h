// Access to mapped files, where the filesystem decides whether there is memory.
#pragma once

#include <cstddef>

namespace daxcow::exercise {

// Once in each process, before the first access.
void catch_bus_errors();

// False if an access met SIGBUS; what is in `to` is then of no use.
[[nodiscard]] bool copy_guarded(void* to, const void* from, std::size_t length);

}  // namespace daxcow::exercise
