// Defaults of the sanitizers for every program of such a build: the engine handles SIGBUS itself (engine/guarded_copy.h).
extern "C" {
const char* __asan_default_options() {
  return "handle_segv=1:handle_sigbus=0:detect_stack_use_after_return=0:strict_string_checks=1";
}
const char* __ubsan_default_options() { return "print_stacktrace=1"; }
const char* __tsan_default_options() { return "handle_sigbus=0:second_deadlock_stack=1:history_size=4"; }
}
