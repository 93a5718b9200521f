// The inside of a Volume: what its parts (names, data, attributes, life of inodes) share.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/attribute_list.h"
#include "engine/directory.h"
#include "engine/gate.h"
#include "engine/graveyard.h"
#include "engine/inode_state.h"
#include "engine/inode_table.h"
#include "engine/schedule.h"
#include "engine/store.h"
#include "engine/volume.h"

namespace daxcow {

Timestamp current_time();

enum TimeIndex { kAccess = 0, kModification = 1, kChange = 2, kBirth = 3 };
void set_time(format::InodeRecord& inode, TimeIndex which, Timestamp time);
Timestamp time_of(const format::InodeRecord& inode, TimeIndex which);

format::LeafKind leaf_kind_of(const format::InodeRecord& inode);
bool is_directory(const format::InodeRecord& inode);
bool is_regular(const format::InodeRecord& inode);

// What the pool offers to its volumes.
struct PoolServices {
  Store& store;
  PoolGraveyard& graveyard;
  std::function<void()> wake_background;  // there is something in the graveyard, or let go
  const bool leaves_reclaiming;           // somebody will look
  // Brings back space that deleted files still have, in the caller's thread; false if none is to come. Not in an operation.
  std::function<bool()> bring_back_space;
  std::function<void(VolumeNumber, InodeNumber, std::uint64_t offset, std::uint64_t length, BlockNumber)> healed;
  std::uint64_t directory_bytes;  // DRAM for the indexes of all directories
  std::atomic<std::uint64_t> index_bytes{0};
};

struct Volume::State {
  State(PoolServices& pool_services, VolumeNumber volume, bool is_read_only)
      : services(pool_services), store(pool_services.store), number(volume), read_only(is_read_only), table(volume) {}

  PoolServices& services;
  Store& store;
  const VolumeNumber number;
  std::atomic<bool> read_only;  // until Pool::begin_writing()
  Gate gate;
  InodeTable table;  // changes and its memory: the transaction mutex
  // Leaves whose path was found exclusive, the last ones by a hash of their place (inode 0: none). The transaction mutex.
  struct Leaf {
    InodeNumber inode;
    FileBlock block;
    friend bool operator==(const Leaf&, const Leaf&) = default;
  };
  std::array<Leaf, 64> exclusive_leaves{};
  InodeStates inodes;
  // Blocks of files that were read as zeros, and told of; a kernel's page of such a block is not what was in it.
  Mutex zeroed_mutex;
  std::map<std::pair<std::uint64_t, std::uint64_t>, BlockNumber> zeroed;  // zeroed_mutex; inode and file block -> the lost one
  static constexpr std::size_t kMaximumZeroed = 10'000;
  // Before the zeros are handed out. True the first time for this lost block, as long as there is room.
  bool note_zeroed(InodeNumber inode, FileBlock block, BlockNumber lost);
  void forget_zeroed(InodeNumber inode);  // of a file that is gone, as its pages are
  bool may_have_been_zeroed(InodeNumber inode, FileBlock block);
  // Memos of exclusive blocks made before this value are void (snapshots).
  std::atomic<std::uint64_t> sharing_generation{1};

  // --- orphans: guarded by the transaction mutex ---------------------------------------------------------------------------
  std::unordered_map<std::uint64_t, std::uint64_t> orphan_index;  // inode -> index in the list; changed with orphans_mutex too
  std::set<std::uint64_t> orphan_gaps;
  std::uint64_t orphan_end = 0;
  std::unordered_set<std::uint64_t> unnamed;  // of the orphans, those that never had a name and may get one
  // Orphans that nobody remembers any more, left to the background: who removes many files has several reclaimed in one
  // transaction, and waits neither for that nor, to tell that one is let go, for the transaction mutex.
  Mutex orphans_mutex;
  std::set<InodeNumber> let_go;  // orphans_mutex
  static constexpr std::size_t kMaximumLetGo = 1024;
  Mutex let_go_mutex;  // who reclaims them; before the gates. Whoever comes next finds what this one has taken reclaimed

  // Takes the kernel's references back; the last one of a file without a name ends it. Not in an operation.
  void forget(InodeNumber inode, std::uint64_t count);

  // Keeps an inode, as a reference of the kernel does, while something is done to it by number that the kernel does not know
  // of. What is found of it afterwards (its generation, a block) stays true of that number. Around operations, not in one.
  class Kept {
   public:
    Kept(State& state, InodeNumber inode) : state_(state), inode_(inode) {
      state_.inodes.remember(inode_, 1);
      const LockGuard guard(state_.store.mutex);  // a reclaim that has not seen that is over
    }
    ~Kept() { state_.forget(inode_, 1); }
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;

   private:
    State& state_;
    InodeNumber inode_;
  };

  // --- an operation: gate and epoch, from first look-up to reply ----------------------------------------------------------
  class Operation {
   public:
    explicit Operation(State& state) : state_(&state), scope_((state.gate.lock_shared(), state.store.operations().begin())) {}
    static std::optional<Operation> try_begin(State& state) {  // nothing where the gate is being closed
      if (!state.gate.try_lock_shared()) return std::nullopt;
      return Operation(state, state.store.operations().begin());
    }
    Operation(Operation&& other) noexcept : state_(std::exchange(other.state_, nullptr)), scope_(std::move(other.scope_)) {}
    Operation& operator=(Operation&&) = delete;
    ~Operation() {
      if (state_) state_->gate.unlock_shared();
    }

   private:
    Operation(State& state, Operations::Scope scope) : state_(&state), scope_(std::move(scope)) {}
    State* state_;
    Operations::Scope scope_;
  };

  // The space of deleted files comes back step by step in the background, and the kernel tells late that nobody uses a file any
  // more. So who finds the pool full waits for what is on its way, and tries again. `attempt` is an operation of its own, and
  // can be repeated after it has failed.
  template <class F>
  auto with_space(F&& attempt) -> decltype(attempt()) {
    constexpr int kMaximumTries = 200, kTriesForOrphans = 40;
    auto done = attempt();
    bool waits = services.bring_back_space != nullptr;
    for (int i = 0; waits && i < kMaximumTries && !done && done.error().code == ErrorCode::kNoSpace; ++i) {
      waits = wait_for_space(i < kTriesForOrphans, std::chrono::milliseconds(5));
      done = attempt();  // also if there was nothing to do: the background may have done it since the last time
    }
    return done;
  }
  // The same for who only asks how much space there is, and not for long: the kernel tells a moment after unlink(2) has
  // returned that nobody uses the file.
  void wait_for_deletions() {
    constexpr int kMaximumTries = 20, kTriesForOrphans = 3;
    for (int i = 0; services.bring_back_space != nullptr && i < kMaximumTries; ++i)
      if (!wait_for_space(i < kTriesForOrphans, std::chrono::milliseconds(1))) return;
  }
  // Brings back what is on its way, and waits a moment if more may come; with `for_orphans` also from files that the kernel
  // may let go of.
  bool wait_for_space(bool for_orphans, std::chrono::milliseconds pause) {
    const bool more = services.bring_back_space();
    if (!more && !(for_orphans && has_orphans())) return false;
    sleep_thread(more ? std::chrono::milliseconds(1) : pause);
    return true;
  }
  bool has_orphans() {
    const LockGuard guard(store.mutex);
    return !orphan_index.empty();
  }

  // --- looking ---------------------------------------------------------------------------------------------------------------
  // The record as last committed.
  Result<format::InodeRecord> read_record(InodeNumber inode) {
    return store.read_consistent([&](BlockReader& reader) { return table.read(reader, inode); });
  }
  LazyTimes kept_times(InodeNumber inode);
  Result<Attributes> attributes_of(InodeNumber inode);
  static Attributes attributes_of(InodeNumber inode, const format::InodeRecord& record, const LazyTimes& kept);
  Result<> writable() const;

  // --- inside a transaction -----------------------------------------------------------------------------------------------
  // Each makes one shared block on a path exclusive and returns true (commit, call again), or false when all is exclusive.
  Result<bool> own_inode(Transaction& transaction, InodeNumber inode) { return table.unshare_path(transaction, inode); }
  // The inode first. Metadata leaves of the range are made exclusive too.
  Result<bool> own_data(Transaction& transaction, InodeNumber inode, FileRange range, Unshare what = Unshare::kNodes);
  Result<bool> own_attributes(Transaction& transaction, InodeNumber inode);
  // Of a directory or of the orphan list, and the inode: what every change of a name asks for is remembered.
  Result<bool> own_leaf(Transaction& transaction, InodeNumber inode, FileBlock block);
  Result<bool> own_directory_block(Transaction& transaction, InodeNumber inode, DirectoryPosition position) {
    return own_leaf(transaction, inode, block_of(position));
  }
  // After a change of what is shared (snapshot): forgets what is known to be exclusive.
  void forget_exclusive() {
    table.forget_exclusive();
    exclusive_leaves.fill({});
  }
  // Lazy times of the inode go into the record that is being changed anyway.
  void take_times(Transaction& transaction, InodeState& state, format::InodeRecord& record);
  // The parent links of an inode.
  Result<> add_parent(Transaction& transaction, format::InodeRecord& record, InodeNumber directory, DirectoryPosition position);
  Result<> remove_parent(Transaction& transaction, format::InodeRecord& record, InodeNumber directory, DirectoryPosition position);
  // The orphan list.
  std::uint64_t orphan_place(InodeNumber inode) const;  // the index it has there, or would get
  Result<bool> own_orphan_place(Transaction& transaction, InodeNumber inode);
  struct OrphanChange {
    std::uint64_t inode = 0, index = 0;
    bool add = false;
  };
  Result<OrphanChange> add_orphan(Transaction& transaction, InodeNumber inode);
  Result<OrphanChange> remove_orphan(Transaction& transaction, InodeNumber inode);
  void note_orphan(const OrphanChange& change);  // after the commit, still under the mutex
  Result<> load_orphans();
  Result<> process_orphans();
  // Frees those of the inodes, each named once, that have no name and are not remembered. All in one transaction, or none.
  Result<> reclaim(std::span<const InodeNumber> inodes);
  // The same one by one, and tells of those that cannot be freed.
  void reclaim_each(std::span<const InodeNumber> inodes);
  // What forget() has left to the background. Returns whether there was anything, or is: who does not wait leaves it where
  // somebody else is at it, or the gate is being closed. Not in an operation.
  enum class Patience { kWaits, kWaitsForNobody };
  bool reclaim_let_go(Patience patience);

  // --- directories ---------------------------------------------------------------------------------------------------------
  // The index of a directory; the caller holds its lock (shared is enough).
  Result<std::shared_ptr<DirectoryIndex>> index_of(InodeState& state);
  // Accounts for the memory of the index; over the bound others are let go.
  void charge_index(InodeState& state);

  // --- times -------------------------------------------------------------------------------------------------------------------
  // relatime: the access time moves, lazily, when it is older than a change or than a day.
  bool note_access(InodeState& state, const format::InodeRecord& record, AccessTime rule);  // true if the time was moved
  Result<> commit_times(InodeState& state);
  Result<> commit_all_times();

  // --- data, with the inode's lock held exclusively -----------------------------------------------------------------------
  Result<> write_locked(InodeState& state, std::uint64_t offset, std::span<const std::byte> from, WriteOptions options);
  Result<> truncate_locked(InodeState& state, std::uint64_t size_bytes, const std::function<void(Transaction&, format::InodeRecord&)>& also);
  Result<> allocate_locked(InodeState& state, AllocateMode mode, std::uint64_t offset, std::uint64_t length);
  // A page that the kernel still had of a lost block goes to a new one, if the file still has the bad one there. Takes the
  // inode's lock. Returns whether it did so.
  // Whether this is what the file has there, and not merely reserved.
  Result<bool> holds(InodeNumber inode, FileBlock at, BlockNumber block);
  Result<bool> restore_page(InodeNumber inode, FileBlock at, BlockNumber bad, const Block& page);
  Result<std::uint64_t> read_locked(InodeNumber inode, std::uint64_t offset, std::span<std::byte> to);
};

}  // namespace daxcow
