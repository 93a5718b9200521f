// The pool as a store of blocks that change atomically: metadata chunks, journal, reverse map and free space together,
// and the one transaction mutex. Everything above (maps, inodes, directories) is written in terms of it.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine/block.h"
#include "engine/events.h"
#include "engine/format.h"
#include "engine/function_ref.h"
#include "engine/journal.h"
#include "engine/ledger.h"
#include "engine/medium.h"
#include "engine/metadata.h"
#include "engine/mutex.h"
#include "engine/operations.h"
#include "engine/overlay_medium.h"
#include "engine/result.h"
#include "engine/reverse_map.h"
#include "engine/space.h"
#include "engine/transaction.h"
#include "engine/types.h"

namespace daxcow {

// What the body of Store::run() says: finished, or commit this part and call again (under the same lock).
enum class Step { kDone, kAgain };

struct StoreOptions {
  std::uint64_t cache_bytes = 256ull << 20;
  std::function<void(const std::string&)> log;
};

class Store {
 public:
  // Writes superblocks, journal and the first chunk with an empty roots block and the system's own records.
  static Result<> format(Medium& medium, const std::string& label);
  // The superblock that describes the pool: the good copy, or of two good ones the first. kNotAPool, kVersion, kDamaged.
  static Result<format::Superblock> read_superblock(Medium& medium);
  // Recovers the journal, loads the chunks, scans the reverse map. The store keeps the medium.
  static Result<std::unique_ptr<Store>> open(std::unique_ptr<Medium> medium, StoreOptions options);
  ~Store();
  // Makes a store writable that was opened on this overlay, with everybody at work in it. kReadOnly, kVersion, kDamaged if
  // the pool could not have been opened for writing.
  Result<> begin_writing(OverlayMedium& overlay) EXCLUDES(mutex);

  // --- changes -----------------------------------------------------------------------------------------------------------
  // Runs `body` in a transaction under the mutex and commits; again with a fresh transaction while it returns kAgain. When
  // metadata blocks run out, a chunk is added and the body is called once more from the start of its current step, so it
  // must not have changed anything but through the transaction (and what it re-computes). On an error of the body or of
  // the commit nothing of that step happened.
  Result<> run(TransactionClass transaction_class, FunctionRef<Result<Step>(Transaction&)> body) EXCLUDES(mutex);
  Result<> run_locked(TransactionClass transaction_class, FunctionRef<Result<Step>(Transaction&)> body) REQUIRES(mutex);

  // Calls `look` with a reader until no commit interfered, at the third try under the mutex. `look` must be repeatable.
  template <class F>
  auto read_consistent(F&& look) -> decltype(look(std::declval<BlockReader&>())) {
    for (int i = 0; i < 3; ++i) {
      const std::uint64_t before = commit_sequence_.load(std::memory_order_acquire);
      if (before & 1) {
        yield_thread();
        continue;
      }
      auto result = look(static_cast<BlockReader&>(metadata_));
      std::atomic_thread_fence(std::memory_order_acquire);
      if (commit_sequence_.load(std::memory_order_relaxed) == before) return result;
    }
    const LockGuard guard(mutex);
    return look(static_cast<BlockReader&>(metadata_));
  }

  // --- data space --------------------------------------------------------------------------------------------------------
  // Blocks taken for new data; given back by the destructor unless keep() was called after the commit that refers to them.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Store& store, BlockRun run) : store_(&store), run_(run) {}
    Reservation(Reservation&& other) noexcept : store_(std::exchange(other.store_, nullptr)), run_(other.run_) {}
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation();
    BlockRun run() const { return run_; }
    void keep() { store_ = nullptr; }

   private:
    Store* store_ = nullptr;
    BlockRun run_;
  };
  // 1..wanted contiguous blocks near `goal`; kNoSpace. Not under the mutex.
  Result<Reservation> reserve(BlockNumber goal, std::uint64_t wanted) EXCLUDES(mutex);
  // Who finds that they cannot be stored to asks for others, but not more often than this: then it is the device that has
  // failed, not a place.
  static constexpr std::uint64_t kBadPlaces = 64;
  // One block near `goal` with this content, which is durable.
  Result<Reservation> reserve_and_store(BlockNumber goal, const Block& content) EXCLUDES(mutex);

  // True if the whole run can hold data: inside the pool, and no superblock, journal or metadata chunk. Map entries come
  // from images that may be hostile: asked before anything is read from or stored to where they point.
  bool holds_data(BlockRun run) const;
  // True if any block of the run is free to be given out (or kept aside for that).
  bool is_free(BlockRun run) const REQUIRES(mutex);
  // Gives blocks back to the free space; those in the ledger are left to the poison thread.
  void release_data(BlockRun run);

  // Gives freed blocks back to the allocators whose time has come.
  void reclaim() REQUIRES(mutex);
  std::uint64_t retired_blocks() const { return retired_blocks_.load(std::memory_order_relaxed); }
  // True if the block was freed but may still be looked at.
  bool is_retired(BlockNumber block) const REQUIRES(mutex);

  // A number never used before in this pool; from a batch that the roots block has set aside.
  Result<std::uint64_t> take_generation(Transaction& transaction) REQUIRES(mutex);

  // --- parts -------------------------------------------------------------------------------------------------------------
  Mutex mutex;  // the transaction mutex
  Medium& medium() { return *medium_; }
  Metadata& metadata() { return metadata_; }
  ReverseMap& reverse_map() REQUIRES(mutex) { return reverse_map_; }
  const ReverseMap& reverse_map() const { return reverse_map_; }
  Space& space() { return space_; }
  Ledger& ledger() { return ledger_; }
  Operations& operations() { return operations_; }
  Journal& journal() { return journal_; }
  EventLog& events() { return events_; }
  const format::Superblock& superblock() const { return superblock_; }
  std::uint64_t pool_blocks() const { return superblock_.pool_bytes / kBlockBytes; }
  bool read_only() const { return read_only_.load(std::memory_order_acquire); }
  void log(const std::string& line) const {
    if (options_.log) options_.log(line);
  }
  std::uint64_t transactions() const { return transactions_.load(std::memory_order_relaxed); }
  // Moves with every commit; odd while one publishes its blocks. It stands still while the mutex is held.
  std::uint64_t commit_sequence() const { return commit_sequence_.load(std::memory_order_acquire); }
  // The chunk that is kept aside for freeing and healing is neither free nor in use. It is given up when a block of it
  // goes bad, so that the block can be taken out of the free space, and renewed afterwards.
  bool in_spare_chunk(BlockNumber block) const REQUIRES(mutex) { return spare_chunk_.contains(block); }
  std::uint64_t spare_blocks() const REQUIRES(mutex) { return spare_chunk_.count; }
  void give_up_spare_chunk() REQUIRES(mutex) {
    if (spare_chunk_.count != 0) space_.release(std::exchange(spare_chunk_, BlockRun{}));
  }
  void renew_spare_chunk() REQUIRES(mutex) { take_spare_chunk(); }
  // Metadata blocks that ordinary transactions leave to others.
  static constexpr std::uint64_t kReserveBlocks = blocks_left_by(TransactionClass::kNormal);

  // Blocks or copies that somebody saw fail and that the poison thread should look at; `wake` is called for each.
  void suspect(BlockRun run);
  void bad_copy(BadCopy copy);
  void quarantined(BlockRun run);  // freed while in the ledger: to be cleared
  std::vector<BlockRun> take_suspects();
  // Those that were seen and not forgotten yet: looking after one may find it bad again, which is no news.
  std::set<BadCopy> bad_copies();
  void forget_bad_copies(const std::set<BadCopy>& copies);
  void set_wake(std::function<void()> wake);

 private:
  friend class Transaction;
  Store(std::unique_ptr<Medium> medium, StoreOptions options, const format::Superblock& superblock);
  Result<> recover(Journal::Copies copies);
  Result<> scan();
  Result<> check_own_blocks() const REQUIRES(mutex);
  Result<> renew_superblocks();
  Result<> add_chunk(TransactionClass transaction_class) REQUIRES(mutex);
  Result<bool> try_add_chunk(TransactionClass transaction_class) REQUIRES(mutex);
  void take_spare_chunk();
  // For one of the two lists below.
  template <class Container>
  void add_and_wake(Container Store::*list, const typename Container::value_type& item) EXCLUDES(suspects_mutex_);
  void retire(std::vector<BlockRun> data, std::vector<BlockNumber> metadata) REQUIRES(mutex);

  std::unique_ptr<Medium> medium_;
  StoreOptions options_;
  format::Superblock superblock_;
  Metadata metadata_;
  Journal journal_;
  ReverseMap reverse_map_;
  Space space_;
  Ledger ledger_;
  Operations operations_;
  EventLog events_;
  std::atomic<std::uint64_t> commit_sequence_{0};  // odd while versions are being published
  std::atomic<std::uint64_t> transactions_{0};
  std::atomic<bool> read_only_;
  std::atomic<bool> failed_{false};  // a change could not be brought home
  struct Retired {
    std::uint64_t mark;
    std::vector<BlockRun> data;
    std::vector<BlockNumber> metadata;
  };
  std::deque<Retired> retired_ GUARDED_BY(mutex);
  std::atomic<std::uint64_t> retired_blocks_{0};
  std::uint64_t next_generation_ GUARDED_BY(mutex) = 0;
  BlockRun spare_chunk_;  // kept for freeing and healing

  mutable Mutex suspects_mutex_;
  std::vector<BlockRun> suspects_ GUARDED_BY(suspects_mutex_);
  std::set<BadCopy> bad_copies_ GUARDED_BY(suspects_mutex_);
  std::function<void()> wake_ GUARDED_BY(suspects_mutex_);
};

}  // namespace daxcow
