#include "engine/block.h"

#include <cstring>
#include <mutex>
#include <new>
#include <vector>

namespace daxcow {

namespace {

// The address sanitizer is to see each use of a version that is gone.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kRecycles = false;
#elif defined(__has_feature)
constexpr bool kRecycles = !__has_feature(address_sanitizer);
#else
constexpr bool kRecycles = true;
#endif
constexpr std::size_t kMaximumSpare = 1024;

// Memory of one size. Each commit makes a few versions and drops as many; taking a block's memory from the heap and giving
// it back, with the pages that come and go, costs several times what filling it does.
template <std::size_t kBytes, std::size_t kAlignment>
class SpareMemory {
 public:
  static SpareMemory& instance() {
    static auto* const spare = new SpareMemory;  // for good: versions may outlive everything static
    return *spare;
  }
  void* take() {
    if (kRecycles) {
      const std::lock_guard guard(mutex_);
      if (!spare_.empty()) {
        void* const memory = spare_.back();
        spare_.pop_back();
        return memory;
      }
    }
    return ::operator new(kBytes, std::align_val_t(kAlignment));
  }
  void give(void* memory) noexcept {
    if (kRecycles) {
      const std::lock_guard guard(mutex_);
      if (spare_.size() < kMaximumSpare) return spare_.push_back(memory);
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
