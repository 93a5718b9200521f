// How the pool was left: what the roots block noted at the last opening for writing, against what the device says now.
//
// A drain makes data durable by handing it to the memory controller, and the platform must flush that when power fails. Where
// it could not (a supercapacitor or battery that was empty, a removed module), the device counts an unsafe shutdown, and
// what was acknowledged shortly before may be missing although every rule was kept. Nothing in the pool shows that for data,
// which has no checksums, so the user is told.
//
// Example. The pool is opened; the roots block gets in_use = 1 and the device's count, 3. Power fails, with its flush. At the
// next opening in_use is still 1 and the count 3: the journal has brought everything back. Had the flush failed, the count
// would be 4.
#pragma once

#include <cstdint>
#include <string>

#include "engine/format.h"
#include "engine/medium.h"
#include "engine/result.h"

namespace daxcow {

enum class LastShutdown {
  kClean,      // the pool was closed
  kUnclean,    // it was not; recovered, and nothing that was acknowledged can be missing
  kPowerLost,  // nor was it, and the device lost power without flushing: what was acknowledged last may be missing
};
const char* name_of(LastShutdown shutdown);  // "clean", "unclean", "power-lost"

struct ShutdownReport {
  LastShutdown last = LastShutdown::kClean;
  bool device_changed = false;             // the pool is on another device than at its last opening
  bool unsafe_shutdowns_known = false;     // the device counts them
  std::uint64_t unsafe_shutdowns = 0;      // now
  std::uint64_t unsafe_shutdowns_new = 0;  // since the last opening for writing, on the same device; known on both sides
};

// `before`: the roots block as the last writable opening left it. An error of `identity` means that the medium has none.
ShutdownReport judge_shutdown(const format::Roots& before, const Result<Medium::Identity>& identity);
// Takes note of the device for the next opening. What is known of it stays if `identity` is an error.
void note_device(format::Roots& roots, const Result<Medium::Identity>& identity);
// One line for people; empty if there is nothing to say. `opened_seconds`: since 1970, when the pool was opened the last
// time, 0 if that is not known.
std::string describe(const ShutdownReport& report, std::int64_t opened_seconds);

}  // namespace daxcow
