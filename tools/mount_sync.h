// Before a snapshot: what programs have stored to mappings is in the kernel, and the daemon cannot see it.
#pragma once

#include <string>

#include "engine/result.h"
#include "tools/pool_access.h"

namespace daxcow::tools {

// Has the kernel write what programs have changed of the volume's files, where it is mounted, and waits until that has arrived
// at the daemon: it would wait for its own replies if it did this. An error says what is, or may be, missing. Needs
// CAP_DAC_READ_SEARCH.
Result<> sync_mount(PoolAccess& access, const std::string& volume);

}  // namespace daxcow::tools
