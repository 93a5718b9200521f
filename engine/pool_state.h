// The inside of a Pool.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "engine/graveyard.h"
#include "engine/patrol.h"
#include "engine/poison.h"
#include "engine/pool.h"
#include "engine/store.h"
#include "engine/volume_state.h"

namespace daxcow {

struct Pool::State final : PoisonHost {
  State(Store& pool_store, PoolOptions pool_options);
  ~State() override;

  // --- PoisonHost ----------------------------------------------------------------------------------------------------------
  std::string volume_name(VolumeNumber volume) override;
  std::string path_of(VolumeNumber volume, InodeNumber inode) override;
  bool is_mounted(VolumeNumber volume) override;
  bool is_remembered(VolumeNumber volume, InodeNumber inode) override;
  Rescue read_page(const LostRange& page, Block& content) override;
  Result<bool> restore_page(const LostRange& page, const Block& content) override;
  void on_lost(const LostRange& range) override;
  void ledger_grew() override;

  // --- volume table: entries of volume 0's root directory. With table_mutex held --------------------------------------
  struct Entry {
    VolumeNumber number;
    std::string name;
    format::InodeRecord record;
  };
  Result<std::vector<Entry>> entries();
  Result<Entry> find(std::string_view name);
  // Makes an inode of volume 0 with a name; `fill` completes the record inside the transaction.
  Result<VolumeNumber> add_entry(std::string_view name,
                                 FunctionRef<Result<>(Transaction&, VolumeNumber, format::InodeRecord&)> fill);
  Result<> remove_entry(std::string_view name);
  // Borrows a volume's state, for a moment.
  std::shared_ptr<Volume> mounted(VolumeNumber volume);
  std::vector<std::shared_ptr<Volume>> all_mounted();
  // The pointer that keeps a volume mounted.
  std::shared_ptr<Volume> add_mounted(std::unique_ptr<Volume> volume);
  // Whether nobody has the volume mounted. Waits for those who borrowed it before it was unmounted: two states of one
  // volume must never be at work.
  bool wait_until_free(VolumeNumber volume);

  // Says what the user must know of how the pool was found.
  void tell_shutdown();
  // The pool is in use from now on.
  Result<> note_opening();
  std::atomic<bool> is_noted = false;  // and what a pool that is written to needs is running

  // --- background ----------------------------------------------------------------------------------------------------------
  void start_background();
  void stop_background();
  void background();
  void empty_graveyard();
  using Patience = Volume::State::Patience;
  bool reclaim_let_go(Patience patience);  // of all volumes
  bool bring_back_space();
  void commit_lazy_times();

  Store& store;
  PoolOptions options;
  OverlayMedium* overlay = nullptr;  // the store's medium, if it was opened read-only
  ShutdownReport shutdown;  // how the pool was found
  PoolGraveyard graveyard;
  PoolServices services;
  Volume::State zero;  // volume 0
  Poison poison;
  Patrol patrol;
  Mutex observer_mutex;
  PoisonObserver* observer = nullptr;  // observer_mutex

  Mutex table_mutex;  // volumes come and go; before all gates
  struct Mounted {
    std::weak_ptr<Volume> volume;
    bool ending = false;  // who mounted it has let go of it
  };
  Mutex mounted_mutex;
  Condition mounted_changed;
  std::map<std::uint64_t, Mounted> mounted_volumes;  // mounted_mutex; until their state is gone

  Mutex background_mutex;
  Condition background_wake;
  bool background_stop = false, background_work = true;
  std::thread background_thread;
};

}  // namespace daxcow
