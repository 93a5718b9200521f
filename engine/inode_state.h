// What is known of an inode in DRAM only: its lock, the times not yet committed, the directory's index, and which blocks
// were found to be exclusive. May be forgotten whenever nobody uses it and its times are committed.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/directory.h"
#include "engine/format.h"
#include "engine/map.h"
#include "engine/mutex.h"
#include "engine/types.h"

namespace daxcow {

// Written blocks of a file that may be overwritten in place: found exclusive on the whole path. Ends with every snapshot
// of the volume (generation), with cloning the file, and where the map changes. Guarded by the inode's lock (exclusive).
class ExclusiveBlocks {
 public:
  // The run of blocks known for `block` onwards, if any.
  std::optional<Segment> find(FileBlock block, std::uint64_t generation);
  void add(const Segment& segment, std::uint64_t generation);
  void forget() { segments_.clear(); }

 private:
  static constexpr std::size_t kMaximumSegments = 4096;
  std::map<std::uint64_t, std::pair<std::uint64_t, BlockNumber>> segments_;  // first -> count, block
  std::uint64_t generation_ = 0;
};

struct LazyTimes {
  std::optional<Timestamp> access, modification, change;
  bool empty() const { return !access && !modification && !change; }
};

struct InodeState : std::enable_shared_from_this<InodeState> {
  explicit InodeState(InodeNumber inode) : number(inode) {}
  ~InodeState() {
    if (index_total) *index_total -= index_charged;
  }
  InodeState(const InodeState&) = delete;
  InodeState& operator=(const InodeState&) = delete;

  const InodeNumber number;
  SharedMutex lock;  // content: shared to look, exclusive to change

  std::shared_ptr<DirectoryIndex> index;  // lock; building needs index_mutex too
  Mutex index_mutex;
  std::atomic<std::uint64_t>* index_total = nullptr;  // what index_charged was added to
  std::uint64_t index_charged = 0;
  ExclusiveBlocks exclusive;              // lock, exclusive

  Mutex times_mutex;
  LazyTimes times;  // times_mutex
};

// How far the pages that a kernel has of a file can be taken for the content of its blocks.
struct PageTrust {
  std::uint64_t writers = 0;   // handles that may write, open now; a mapping counts through its handle
  std::uint64_t openings = 0;  // of such handles, so far
  // Content has changed, while a present writer was there, in a way that reaches the pages only after the reply (a hole, a
  // copy, a write past the cache): until all writers are gone a page may be older than its block.
  bool may_be_old = false;
  bool write_failed = false;  // a page may hold what never arrived
};

class InodeStates {
 public:
  std::shared_ptr<InodeState> get(InodeNumber inode);
  std::shared_ptr<InodeState> find(InodeNumber inode);
  void drop(InodeNumber inode);
  // All states at this moment.
  std::vector<std::shared_ptr<InodeState>> all();

  // The kernel's references.
  void remember(InodeNumber inode, std::uint64_t count);
  // Returns true if none is left.
  bool forget(InodeNumber inode, std::uint64_t count);
  bool is_remembered(InodeNumber inode) const;
  std::vector<InodeNumber> forget_all();

  // What is known of the pages of a remembered inode. Nothing is trusted of others.
  void open_for_writing(InodeNumber inode);
  void close_for_writing(InodeNumber inode);
  void note_change_behind_pages(InodeNumber inode);
  void note_failed_write(InodeNumber inode);
  std::optional<PageTrust> page_trust(InodeNumber inode) const;
  // Those with writers, at this moment.
  std::vector<InodeNumber> open_for_writing() const;

 private:
  // Calls `change` with the pages of an inode that the kernel remembers, and keeps `written`.
  template <class F>
  void change_pages(InodeNumber inode, F&& change);

  static constexpr std::size_t kShards = 16;
  static constexpr std::size_t kMaximumIdlePerShard = 4096;
  struct Remembered {
    std::uint64_t count = 0;
    PageTrust pages;
  };
  struct Shard {
    mutable Mutex mutex;
    std::unordered_map<std::uint64_t, std::shared_ptr<InodeState>> states;
    std::unordered_map<std::uint64_t, Remembered> remembered;
    std::unordered_set<std::uint64_t> written;  // of the remembered, those with writers
  };
  Shard& shard_of(InodeNumber inode) { return shards_[inode.value % kShards]; }
  const Shard& shard_of(InodeNumber inode) const { return shards_[inode.value % kShards]; }
  std::array<Shard, kShards> shards_;
};

}  // namespace daxcow
