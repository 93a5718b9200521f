// The reaction to poison: what the device reports as bad, and what somebody saw fail, is put into the ledger, and then,
// depending on what it hits, cleared, rewritten from a second copy, or reported to every owner.
//
//   free block          taken out of the free space, recorded, cleared on the device, verified, given back
//   metadata, journal,  recorded, cleared, rewritten whole from the other copy (or from memory), verified
//   superblock
//   data in use         recorded. If the kernel of a mount still has the page, that is written to a new block, for all owners
//                       or for the one. Every other owner gets an event, and those that a mount's kernel knows are invalidated. The
//                       range stays unreadable until its owner replaces it; when the last reference is gone, as free
//   in flight           (reserved by a writer, or freed and still looked at) recorded, and sorted out again when the
//                       operations begun before have ended
//
// A block is in the DRAM ledger before anything else happens to it, so reads are refused by block number from then on
// and an owner that is found late is safe already. Its record in the reverse map survives a remount.
//
// Worked example: the device reports a free block; it is withdrawn, recorded, cleared, and the machine stops. At the
// next open the block is covered by its ledger record only, so it is not in the free space; the first pass finds it in
// the ledger without a reference, clears it again, drops the record and releases it.
//
// Threads: a watcher waits for the device, a worker does the passes. No lock is held across the host's calls, waits and
// clears of data blocks; nothing in the engine ever waits for the worker but process_now().
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/file_descriptor.h"
#include "engine/function_ref.h"
#include "engine/mutex.h"
#include "engine/owners.h"
#include "engine/poison_repair.h"
#include "engine/pool.h"
#include "engine/result.h"
#include "engine/store.h"
#include "engine/types.h"

namespace daxcow {

// For whom a page that a kernel still had is what was in the bad block.
enum class Rescue {
  kNobody,  // there is no page, or it may be older than the block
  kOwner,   // programs may have changed the page since: it is what they see of their file
  kAll,     // nobody has: it is what was in the block
};

// What an owner has of a bad block.
LostRange lost_range(const OwnerRange& owner, BlockNumber block);

// What the worker needs from the layers above. Called without any lock held, from the worker's thread or from the one
// that called process_now() or report(). May take gates and inode locks; must not call back into Poison,
// except for note_healed() and report().
class PoisonHost {
 public:
  virtual ~PoisonHost() = default;
  // For people; never fail: what cannot be found out is said in words or by number.
  virtual std::string volume_name(VolumeNumber volume) = 0;
  virtual std::string path_of(VolumeNumber volume, InodeNumber inode) = 0;

  virtual bool is_mounted(VolumeNumber volume) = 0;
  // True if a mount's kernel knows the inode, so that it may have pages of it.
  virtual bool is_remembered(VolumeNumber volume, InodeNumber inode) = 0;
  // Reads the page of a remembered inode of a mounted volume that is in a bad block, if a kernel still has it.
  virtual Rescue read_page(const LostRange& page, Block& content) = 0;
  // Gives the owner a block with this content, if the bad one is still what it has there. Returns whether it was.
  virtual Result<bool> restore_page(const LostRange& page, const Block& content) = 0;
  // A range of a remembered inode of a mounted volume is lost; whole blocks.
  virtual void on_lost(const LostRange& range) = 0;
  // Blocks were put into the ledger: what is remembered about blocks that may be written in place must be asked anew.
  virtual void ledger_grew() {}
};

class Poison {
 public:
  // Both must outlive this. Registers as what Store wakes.
  Poison(Store& store, PoisonHost& host);
  ~Poison();
  Poison(const Poison&) = delete;
  Poison& operator=(const Poison&) = delete;

  // Starts and ends the threads. stop() waits for a pass that is under way; both may be called again.
  Result<> start();
  void stop();
  // Handles everything known by now in the caller's thread, which must hold no lock and be in no operation. Waits up to
  // a second for operations under way; what is still in flight then is left for a later pass.
  void process_now();

  // The pool becomes writable, by `begin`, between two passes. What passes could only note so far is recorded, and the next
  // pass does about it what it can now.
  Result<> begin_writing(FunctionRef<Result<>()> begin);

  // An owner replaced this range of its own (overwrote, punched or zeroed it), which had been in a ledgered block.
  // Cheap; any locks may be held.
  void note_healed(VolumeNumber volume, InodeNumber inode, std::uint64_t offset_bytes, std::uint64_t length_bytes,
                   BlockNumber block);

  // What a block is and whose; for tools.
  Result<BlockReport> report(BlockNumber block, std::size_t owner_limit);

 private:
  using Sectors = std::map<BlockNumber, std::uint8_t>;  // bad sectors of blocks, as masks
  enum class Place { kSecondCopy, kData, kOurs, kInFlight };

  // What other threads say to the worker. Shared with Store's wake function, which may outlive this object by a moment.
  struct Mailbox {
    struct Healed {
      VolumeNumber volume;
      InodeNumber inode;
      std::uint64_t offset_bytes, length_bytes;
      BlockNumber block;
    };
    Mutex mutex;
    Condition changed;
    bool woken = true;  // the first pass looks at what was in the ledger at open
    bool stopping = false;
    std::vector<Healed> healed;
    void wake();
  };
  struct Pending {
    std::uint64_t mark;  // of Operations, taken when the block was in the ledger already
    std::uint8_t fresh_sectors;
  };

  void watch();
  void work();

  // --- a pass: under pass_mutex_ ------------------------------------------------------------------------------------
  void pass() REQUIRES(pass_mutex_);
  Sectors look_at_suspects(Sectors& attend) REQUIRES(pass_mutex_);
  bool acquit(BlockNumber block) EXCLUDES(store_.mutex);
  void read_device_list(Sectors& listed) REQUIRES(pass_mutex_);
  void enter_ledger(const Sectors& bad, Sectors& attend) REQUIRES(pass_mutex_);
  void note_gone(const Sectors& listed, Sectors& attend) REQUIRES(pass_mutex_);
  void attend_to(const Sectors& blocks) REQUIRES(pass_mutex_);
  Result<Place> place_of(BlockNumber block) REQUIRES(pass_mutex_) EXCLUDES(store_.mutex);
  bool withdraw(BlockNumber block) REQUIRES(pass_mutex_);
  void look_at_pending() REQUIRES(pass_mutex_) EXCLUDES(store_.mutex);

  // poison_data.cc
  void lose(const Sectors& lost) REQUIRES(pass_mutex_);
  bool report_loss(BlockNumber block, std::uint8_t sectors);
  void publish_lost(BlockNumber block, std::uint8_t sectors, const OwnerRange& owner);
  void publish_healed() REQUIRES(pass_mutex_);
  void publish_found(const Sectors& bad);

  // poison_rescue.cc
  void rescue(BlockNumber block) REQUIRES(pass_mutex_);
  void publish_rescued(BlockNumber block, const OwnerRange& owner, Rescue whom) REQUIRES(pass_mutex_);

  // poison_clear.cc
  void mend(BlockNumber block) REQUIRES(pass_mutex_);
  void mend_copy(BadCopy copy) REQUIRES(pass_mutex_);
  void publish_mended(BlockNumber block, Mended mended, const std::string& why);
  void publish_metadata_lost(BlockNumber block) REQUIRES(pass_mutex_);
  void clear_ours(const std::set<BlockNumber>& blocks) REQUIRES(pass_mutex_);
  void clear_run(BlockRun run) REQUIRES(pass_mutex_);
  Result<> clear_and_verify(BlockRun run);
  void could_not_clear(BlockNumber block, const Error& error) REQUIRES(pass_mutex_);
  void could_not_mend(BlockNumber block, const Error& error) REQUIRES(pass_mutex_);

  // Changes ledger records and counters in one transaction; logs what fails. With an open that is read-only, nothing is
  // written and the ledger is the one in DRAM.
  bool record(const Sectors& ledger, const std::function<void(format::Roots&)>& count) REQUIRES(pass_mutex_);
  void publish(Event event);
  // An event about a whole block.
  static Event event_of(EventKind kind, BlockNumber block);
  // The same, and whom it concerns. The range is still the block's own.
  Event event_of_owner(EventKind kind, BlockNumber block, VolumeNumber volume, InodeNumber inode);

  Store& store_;
  PoisonHost& host_;
  std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
  FileDescriptor stop_event_;
  std::thread watcher_, worker_;

  Mutex pass_mutex_;  // one pass at a time; before all other locks
  bool first_pass_ GUARDED_BY(pass_mutex_) = true;
  // What passes have seen to of the ledger. Others may enter blocks into the DRAM ledger at once when they meet poison,
  // and report them by Store::suspect(); those are as new as what the device reports.
  Sectors handled_ GUARDED_BY(pass_mutex_);
  Sectors listed_ GUARDED_BY(pass_mutex_);                          // by the device, when last asked
  std::map<BlockNumber, Pending> pending_ GUARDED_BY(pass_mutex_);  // in flight
  std::set<BlockNumber> ours_ GUARDED_BY(pass_mutex_);           // neither in the free space nor in use: to be cleared
  std::set<BlockNumber> cannot_clear_ GUARDED_BY(pass_mutex_);   // said so already
  std::set<BlockNumber> metadata_lost_ GUARDED_BY(pass_mutex_);  // said so already
  bool list_failed_ GUARDED_BY(pass_mutex_) = false;             // said so already
};

}  // namespace daxcow
