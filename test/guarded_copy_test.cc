#include "engine/guarded_copy.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <thread>
#include <vector>

#include "engine/file_descriptor.h"
#include "engine/types.h"
#include "test/catch.h"

namespace daxcow {
namespace {

// Two pages of which the second has nothing behind it.
class HalfBackedPages {
 public:
  HalfBackedPages() : file_(memfd_create("half", MFD_CLOEXEC)) {
    REQUIRE(ftruncate(file_.get(), kBlockBytes) == 0);
    void* memory = mmap(nullptr, 2 * kBlockBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
    REQUIRE(memory != MAP_FAILED);
    memory_ = static_cast<std::byte*>(memory);
  }
  ~HalfBackedPages() { munmap(memory_, 2 * kBlockBytes); }
  HalfBackedPages(const HalfBackedPages&) = delete;
  HalfBackedPages& operator=(const HalfBackedPages&) = delete;
  std::byte* good() { return memory_; }
  std::byte* bad() { return memory_ + kBlockBytes; }

 private:
  FileDescriptor file_;
  std::byte* memory_ = nullptr;
};

TEST_CASE("a guarded copy tells where it failed and can be repeated", "[guard]") {
  HalfBackedPages pages;
  std::array<std::byte, kBlockBytes> block = {};
  REQUIRE(guarded_copy(pages.good(), block.data(), kBlockBytes));
  for (int i = 0; i < 3; ++i) {
    MemoryFault fault;
    REQUIRE_FALSE(guarded_copy(block.data(), pages.bad() - 64, 128, &fault));
    CHECK(static_cast<const std::byte*>(fault.address) >= pages.bad());
    CHECK(static_cast<const std::byte*>(fault.address) < pages.bad() + kBlockBytes);
    CHECK_FALSE(fault.machine_check);
  }
  REQUIRE_FALSE(guarded_copy(pages.bad(), block.data(), 1));
  REQUIRE(guarded_copy(block.data(), pages.good(), kBlockBytes));
}

TEST_CASE("guards nest, and the outer one still holds after a fault in the inner", "[guard]") {
  HalfBackedPages pages;
  std::byte byte{};
  bool inner = true;
  volatile bool reached = false;
  std::byte* bad = pages.bad();
  const bool outer = guarded_run([&] {
    inner = guarded_copy(&byte, bad, 1);
    reached = true;
    *static_cast<volatile std::byte*>(bad) = std::byte{1};
  });
  CHECK_FALSE(inner);
  CHECK(reached);
  CHECK_FALSE(outer);
}

TEST_CASE("threads fault independently", "[guard]") {
  HalfBackedPages pages;
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::byte byte{};
      for (int i = 0; i < 2000; ++i) {
        const bool bad = (i + t) % 2 == 0;
        if (guarded_copy(&byte, bad ? pages.bad() : pages.good(), 1) == bad) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("a SIGBUS outside of a guard still ends the process", "[guard]") {
  HalfBackedPages pages;
  std::byte byte{};
  REQUIRE(guarded_copy(&byte, pages.good(), 1));  // the handler is installed
  const bool sent = GENERATE(false, true);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    close(STDERR_FILENO);  // a sanitizer's report is not wanted
    if (sent) {
      raise(SIGBUS);
    } else {
      *static_cast<volatile std::byte*>(pages.bad()) = std::byte{1};
    }
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK_FALSE((WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

}  // namespace
}  // namespace daxcow
