// Access to memory that can fault: a SIGBUS raised inside a guard ends the guarded body, not the process.
//
// There is one handler for the whole process, installed at the first use and never swapped, so that threads cannot take
// each other's faults (libpmem2's pmem2_source_pread_mcsafe swaps it at each call). Outside a guard a SIGBUS goes where
// it went before, by default to the end of the process: a real bug still crashes at the instruction that made it.
//
// A machine check that concerns nobody at this moment (BUS_MCEERR_AO, sent to every process that maps the page when
// vm.memory_failure_early_kill is set) is ignored: the kernel lists the block as bad, and a later access faults by
// itself.
//
// Example. A read copies block 7 and its third line is poisoned: the CPU raises a machine check, the kernel sends
// SIGBUS with BUS_MCEERR_AR and the line's address, the handler jumps back into guarded_copy, which returns false. The
// target holds two good lines and rubbish; the caller reports block 7 as poisoned.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

namespace daxcow {

// Why a guarded body did not finish.
struct MemoryFault {
  const void* address = nullptr;  // at least page-accurate
  bool machine_check = false;     // the hardware reported poison; otherwise nothing backs the page
};

// Runs body(context). Returns false, and fills *fault if given, when it raised SIGBUS; whatever it had done stays done.
// The jump runs no destructors: the body must not own anything nor hold locks. Guards nest. Costs a few nanoseconds.
bool guarded_call(void (*body)(void*), void* context, MemoryFault* fault = nullptr);

// The same for a lambda.
template <class Body>
bool guarded_run(Body&& body, MemoryFault* fault = nullptr) {
  using Plain = std::remove_reference_t<Body>;
  return guarded_call([](void* context) { (*static_cast<Plain*>(context))(); },
                      const_cast<void*>(static_cast<const void*>(std::addressof(body))), fault);
}

// memcpy that returns false if a page of either side could not be accessed; `to` is then undefined.
bool guarded_copy(void* to, const void* from, std::size_t length_bytes, MemoryFault* fault = nullptr);

}  // namespace daxcow
