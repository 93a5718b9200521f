#include "engine/block.h"

#include <sanitizer/asan_interface.h>

#include <cstring>
#include <mutex>
#include <new>
#include <vector>

namespace daxcow {

namespace {

constexpr std::size_t kMaximumSpare = 1024;

// Memory of one size, which the address sanitizer forbids while it is spare. Each commit makes a few versions and drops
// as many; taking a block's memory from the heap and giving it back, with the pages that come and go, costs several
// times what filling it does.
template <std::size_t kBytes, std::size_t kAlignment>
class SpareMemory {
 public:
  static SpareMemory& instance() {
    static auto* const spare = new SpareMemory;  // for good: versions may outlive everything static
    return *spare;
  }
  void* take() {
    {
      const std::lock_guard guard(mutex_);
      if (!spare_.empty()) {
        void* const memory = spare_.back();
        spare_.pop_back();
        ASAN_UNPOISON_MEMORY_REGION(memory, kBytes);
        return memory;
      }
    }
    return ::operator new(kBytes, std::align_val_t(kAlignment));
  }
  void give(void* memory) noexcept {
    {
      const std::lock_guard guard(mutex_);
      if (spare_.size() < kMaximumSpare) {
        ASAN_POISON_MEMORY_REGION(memory, kBytes);
        return spare_.push_back(memory);
      }
    }
    ::operator delete(memory, kBytes, std::align_val_t(kAlignment));
  }

 private:
  SpareMemory() { spare_.reserve(kMaximumSpare); }
  std::mutex mutex_;
  std::vector<void*> spare_;
};

template <class T>
struct RecyclingAllocator {
  using value_type = T;
  RecyclingAllocator() = default;
  template <class U>
  RecyclingAllocator(const RecyclingAllocator<U>&) {}  // NOLINT: as allocators convert
  T* allocate(std::size_t) { return static_cast<T*>(SpareMemory<sizeof(T), alignof(T)>::instance().take()); }
  void deallocate(T* memory, std::size_t) { SpareMemory<sizeof(T), alignof(T)>::instance().give(memory); }
  friend bool operator==(RecyclingAllocator, RecyclingAllocator) { return true; }
};

}  // namespace

std::shared_ptr<Block> make_block_for_overwrite() {
  return std::allocate_shared_for_overwrite<Block>(RecyclingAllocator<Block>());
}

std::shared_ptr<Block> make_block() {
  auto block = make_block_for_overwrite();
  std::memset(block->bytes, 0, sizeof block->bytes);
  return block;
}

std::shared_ptr<Block> copy_block(const Block& from) {
  auto block = make_block_for_overwrite();
  std::memcpy(block->bytes, from.bytes, sizeof block->bytes);
  return block;
}

}  // namespace daxcow
