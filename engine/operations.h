// Who is still looking? Every operation registers while it may hold block numbers that it has read from older versions of
// the metadata. A freed block is used again only when all operations that began before its release have ended.
//
// Worked example: a reader finds in an old inode block that its data is in block 9. A snapshot's writer moves that
// reference to block 12 and commits; nothing refers to block 9 any more. The reader's retry will see 12, but until it
// retries it may load 9, so 9 must not turn into somebody else's block in the meantime.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace daxcow {

class Operations {
 public:
  class Scope {
   public:
    explicit Scope(Operations& operations);
    Scope(Scope&& other) noexcept : slot_(other.slot_) { other.slot_ = nullptr; }
    Scope& operator=(Scope&& other) noexcept;
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope();

   private:
    std::atomic<std::uint64_t>* slot_;
  };

  // Begins an operation. Cheap; waits only if more than kSlots operations are under way.
  Scope begin() { return Scope(*this); }

  // Called after a release was committed: a mark that passed() answers true for once every operation that had begun
  // before this call has ended.
  std::uint64_t mark() { return epoch_.fetch_add(1, std::memory_order_seq_cst); }
  bool passed(std::uint64_t mark) const { return oldest() > mark; }
  // The epoch of the oldest operation under way (or the current one): marks below it have passed.
  std::uint64_t oldest() const;

 private:
  static constexpr std::size_t kSlots = 256;
  struct alignas(64) Slot {
    std::atomic<std::uint64_t> epoch{0};  // 0: free
  };
  std::array<Slot, kSlots> slots_;
  std::atomic<std::uint64_t> epoch_{1};
};

}  // namespace daxcow
