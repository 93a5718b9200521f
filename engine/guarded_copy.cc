#include "engine/guarded_copy.h"

#include <ucontext.h>

#include <atomic>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <mutex>

#include "engine/check.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DAXCOW_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define DAXCOW_SANITIZED 1
#endif
#endif

// The guarded bodies may be left by a jump in the middle of a copy, which the sanitizers' bookkeeping cannot follow.
#define DAXCOW_GUARD __attribute__((noinline, no_sanitize_address, no_sanitize_thread))

namespace daxcow {

namespace {

struct JumpTarget {
  sigjmp_buf buffer;
  JumpTarget* outer;
  const void* address;
  int code;
};

// Read by the signal handler, hence initial-exec: a lazily allocated thread-local is not safe to touch there.
constinit thread_local JumpTarget* current_target __attribute__((tls_model("initial-exec"))) = nullptr;

struct sigaction previous_action;
std::atomic<bool> installed{false};

// Does what would have happened without this handler.
void pass_on(int signal_number, siginfo_t* info, void* context) {
  if ((previous_action.sa_flags & SA_SIGINFO) != 0) {
    previous_action.sa_sigaction(signal_number, info, context);
  } else if (previous_action.sa_handler == SIG_IGN && info->si_code <= 0) {
    // Sent by a process, and ignored before.
  } else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(signal_number);
  } else {
    struct sigaction default_action = {};
    default_action.sa_handler = SIG_DFL;
    sigaction(signal_number, &default_action, nullptr);
    // A fault repeats when the handler returns, so that the core shows the guilty instruction; a sent signal does not.
    if (info->si_code <= 0) std::raise(signal_number);
  }
}

__attribute__((no_sanitize_address, no_sanitize_thread)) void handle_sigbus(int signal_number, siginfo_t* info,
                                                                            void* context) {
  if (info->si_code == BUS_MCEERR_AO) return;
  JumpTarget* target = current_target;
  if (target == nullptr || info->si_code <= 0) {
    pass_on(signal_number, info, context);
    return;
  }
  current_target = target->outer;
  target->address = info->si_addr;
  target->code = info->si_code;
  // The thread sanitizer's handler, through which this one is called there, blocks all signals. A fault while SIGBUS is
  // blocked ends the process.
  pthread_sigmask(SIG_SETMASK, &static_cast<const ucontext_t*>(context)->uc_sigmask, nullptr);
  siglongjmp(target->buffer, 1);
}

__attribute__((noinline, cold)) void install() {
  static std::mutex mutex;
  std::lock_guard guard(mutex);
  if (installed.load(std::memory_order_relaxed)) return;
  struct sigaction action = {};
  action.sa_sigaction = handle_sigbus;
  // SA_NODEFER: the jump leaves the signal mask alone (saving it would cost a system call for each guard), so the
  // signal must not be blocked while it is handled. The previous action is read first: a fault can arrive at once.
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  CHECK(sigaction(SIGBUS, nullptr, &previous_action) == 0);
  CHECK(sigaction(SIGBUS, &action, nullptr) == 0);
  installed.store(true, std::memory_order_release);
}

inline void ensure_installed() {
  if (!installed.load(std::memory_order_acquire)) [[unlikely]]
    install();
}

// The copy itself. Under a sanitizer not by memcpy: its interceptor would complain of reads that race by design (see
// Medium), and must not be left by a jump.
__attribute__((no_sanitize_address, no_sanitize_thread)) inline void copy_bytes(void* to, const void* from,
                                                                                std::size_t length_bytes) {
#if defined(DAXCOW_SANITIZED) && defined(__x86_64__)
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length_bytes) : : "memory");
#else
  std::memcpy(to, from, length_bytes);
#endif
}

void report(const JumpTarget& target, MemoryFault* fault) {
  if (fault != nullptr) *fault = MemoryFault{.address = target.address, .machine_check = target.code == BUS_MCEERR_AR};
}

}  // namespace

// In both guards the fences keep the compiler from moving the body over the change of current_target.

DAXCOW_GUARD bool guarded_call(void (*body)(void*), void* context, MemoryFault* fault) {
  ensure_installed();
  JumpTarget target;
  target.outer = current_target;
  if (sigsetjmp(target.buffer, 0) != 0) {
    report(target, fault);
    return false;
  }
  current_target = &target;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  body(context);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  current_target = target.outer;
  return true;
}

DAXCOW_GUARD bool guarded_copy(void* to, const void* from, std::size_t length_bytes, MemoryFault* fault) {
  ensure_installed();
  JumpTarget target;
  target.outer = current_target;
  if (sigsetjmp(target.buffer, 0) != 0) {
    report(target, fault);
    return false;
  }
  current_target = &target;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  copy_bytes(to, from, length_bytes);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  current_target = target.outer;
  return true;
}

}  // namespace daxcow
