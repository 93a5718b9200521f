#include "test/exercise/guarded_access.h"

#include <setjmp.h>
#include <signal.h>

#include <cstring>

namespace daxcow::exercise {

namespace {

sigjmp_buf after_fault;
volatile sig_atomic_t guarded = 0;

void on_bus_error(int signal) {
  if (!guarded) {
    ::signal(signal, SIG_DFL);  // a fault of this program: let it come again
    return;
  }
  siglongjmp(after_fault, 1);
}

}  // namespace

void catch_bus_errors() {
  struct sigaction action {};
  action.sa_handler = on_bus_error;
  action.sa_flags = SA_NODEFER;  // the jump leaves the handler without restoring the signal mask
  sigaction(SIGBUS, &action, nullptr);
}

bool copy_guarded(void* to, const void* from, std::size_t length) {
  if (sigsetjmp(after_fault, 0) != 0) {
    guarded = 0;
    return false;
  }
  guarded = 1;
  std::memcpy(to, from, length);
  guarded = 0;
  return true;
}

}  // namespace daxcow::exercise
