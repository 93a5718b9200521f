// A pool: format it, open it, its volumes, its poison. The façade of the engine together with engine/volume.h.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/events.h"
#include "engine/medium.h"
#include "engine/result.h"
#include "engine/shutdown.h"
#include "engine/types.h"
#include "engine/volume.h"

namespace daxcow {

class Store;
class Poison;
class Patrol;
struct CheckReport;
struct PoolHealth;
struct PoolSurvey;

struct FormatOptions {
  std::string label;
  std::string first_volume = "main";  // empty: none
  bool force = false;                 // also over an existing pool
  std::uint32_t root_uid = 0, root_gid = 0;
  std::uint32_t root_mode = 0755;
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;  // may be empty
};

struct PoolOptions {
  bool read_only = false;                          // writes nothing at all
  std::uint64_t cache_bytes = 256ull << 20;        // metadata blocks kept in DRAM
  std::uint64_t directory_bytes = 256ull << 20;    // DRAM for directory indexes
  bool background = true;                          // threads: graveyard, lazy times, bad blocks
  bool leaves_reclaiming = false;                  // without them: to settle(), and to who needs the space (tests)
  bool patrol = false;                             // goes on with passes of the scrub (engine/patrol.h), in a thread
  std::uint64_t patrol_bytes_per_second = 0;       // and begins one when it is due; 0: only when told to
  std::function<void(const std::string&)> log;     // one line each for a person; may be empty; called from any thread
};

struct VolumeInfo {
  VolumeNumber number;
  std::string name;
  bool read_only = false;
  bool snapshot = false;
  std::string origin;  // of a snapshot; empty if that is gone
  bool mounted = false;
  Timestamp created;
};

// A range of a file that refers to a block.
struct Owner {
  VolumeNumber volume;
  std::string volume_name;
  InodeNumber inode;
  std::string path;  // for people
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  std::string role;  // "data", "reserved" (never written), "directory", "attributes", "symlink", "map", "inode", "volume"
};

// What a block is, without touching it.
enum class BlockUse { kFree, kData, kMetadata, kMetadataMirror, kJournal, kSuperblock, kQuarantined, kInFlight };
const char* name_of(BlockUse use);

struct BlockReport {
  BlockNumber block;
  BlockUse use{};
  std::string detail;     // e.g. the metadata type
  bool in_ledger = false;
  std::uint8_t bad_sectors = 0;  // mask
  std::vector<Owner> owners;
  bool owners_truncated = false;
};

struct LostRange {
  VolumeNumber volume;
  InodeNumber inode;
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  BlockNumber block;
};

// The daemon's part of the reaction to poison: told of each lost range of each mounted volume whose inode the kernel
// knows. Called without any lock held, from the poison thread.
class PoisonObserver {
 public:
  virtual ~PoisonObserver() = default;
  virtual void on_lost(const LostRange& range) = 0;
  // Copies what the kernel has of this page of a file, without asking the pool for it; returns the number of bytes, which may
  // end before the page where the file does, or 0 if it has none. May wait for other requests of the mount, not for poison.
  virtual std::uint64_t read_cached(const LostRange&, std::span<std::byte>) { return 0; }
};

struct PoolStatistics {
  std::string path, label, uuid;
  std::uint64_t size_bytes = 0;
  std::uint64_t data_free_blocks = 0;
  std::uint64_t metadata_blocks = 0, metadata_free_blocks = 0, chunks = 0;
  std::uint64_t reverse_records = 0, reverse_leaves = 0;
  std::uint64_t ledger_blocks = 0;
  std::uint64_t transactions = 0, journal_bytes = 0;
  std::uint64_t metadata_repaired = 0, blocks_lost = 0, blocks_healed = 0, blocks_cleared = 0;
  std::uint64_t cache_bytes = 0;
  std::uint64_t volumes = 0;
  ShutdownReport shutdown;  // of the opening before this one
  MediumInfo medium;
};

class Pool {
 public:
  // Writes an empty pool to the medium. kExists if there is one and not options.force; kNoSpace if it is too small.
  static Result<> format(Medium& medium, const FormatOptions& options);
  // Opens, recovers from a crash, scans the reverse map. kNotAPool, kVersion, kDamaged.
  static Result<std::unique_ptr<Pool>> open(std::unique_ptr<Medium> medium, PoolOptions options);
  // Clean shutdown: lazy times, clean flag. All volumes must be released before.
  ~Pool();
  // Makes a pool writable that was opened read-only, with its volumes in use; nothing happens if it is. kReadOnly if its
  // medium cannot be written, and the other reasons for which open() would have refused it.
  Result<> begin_writing();

  // --- volumes ---------------------------------------------------------------------------------------------------------
  Result<std::vector<VolumeInfo>> volumes();
  Result<VolumeNumber> create_volume(std::string_view name);
  // A volume for use by one mount. kBusy if it is mounted already; kReadOnly for a writable mount of a read-only one.
  // Processes orphans. The volume is free for others when the last pointer is gone.
  Result<std::shared_ptr<Volume>> mount(std::string_view name, bool read_only);
  // Makes a volume of a writable pool writable that was mounted read-only. kReadOnly if it is a read-only one.
  Result<> begin_writing(Volume& volume);
  // O(1), also while mounted and under load.
  Result<VolumeNumber> snapshot(std::string_view volume, std::string_view name, bool read_only);
  // kBusy if mounted. O(1); space comes back in the background.
  Result<> delete_volume(std::string_view name);
  // Makes `volume` what `snapshot` is. kBusy if `volume` is mounted.
  Result<> rollback(std::string_view volume, std::string_view snapshot);

  // --- poison ----------------------------------------------------------------------------------------------------------
  Result<BlockReport> report(BlockNumber block, std::size_t owner_limit = 10'000);
  // Every block of the ledger, with its owners.
  Result<std::vector<BlockReport>> poison_list(std::size_t owner_limit = 1000);
  void set_poison_observer(PoisonObserver* observer);
  // What the device lists as bad now, known or not. When this returns, the mapping fails where the device does.
  Result<std::vector<BadRange>> bad_ranges();
  // Something failed at this block (a system call that read the mapping returned EFAULT): looks at it soon. Does not wait.
  void suspect(BlockRun run);
  // Reads every metadata copy and every data block in use once, at most that many bytes a second (0: no bound); finds
  // latent poison. Returns how many blocks were found. Can take long. kBusy while another pass runs.
  Result<std::uint64_t> scrub(const std::function<void(std::uint64_t done, std::uint64_t total)>& progress,
                              std::uint64_t bytes_per_second = 0);
  // Passes that go on beside everything else.
  Patrol& patrol();
  // Waits until the poison thread has handled everything known so far, and freed blocks have been reclaimed (tests, tools).
  void settle();
  EventLog& events();

  Result<PoolStatistics> statistics();
  // What is wrong with the pool as far as is known; no block is touched (engine/health.h).
  Result<PoolHealth> health();
  // What lies where in the pool, gathered into at most that many cells (engine/survey.h).
  Result<PoolSurvey> survey(std::size_t cells);
  const MediumInfo& medium_info() const;

  Store& store() { return *store_; }  // internal to engine/ and the checker

 private:
  friend class Volume;
  Pool();
  struct State;
  std::unique_ptr<State> state_;
  std::unique_ptr<Store> store_;
};

}  // namespace daxcow
