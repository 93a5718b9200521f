// The search for latent poison: reads everything that is in use once.
#pragma once

#include <cstdint>
#include <functional>

#include "engine/result.h"
#include "engine/store.h"

namespace daxcow {

// Reads superblocks, journal, both copies of every metadata block and every data block in use that is not in the
// ledger, by guarded reads and without holding the mutex while it reads. What fails goes to Store::suspect() and
// bad_copy(). Returns how much that was. May run beside everything else.
Result<std::uint64_t> scrub_store(Store& store,
                                  const std::function<void(std::uint64_t done, std::uint64_t total)>& progress)
    EXCLUDES(store.mutex);

}  // namespace daxcow
