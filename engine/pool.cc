// Formatting, opening and closing a pool, what runs in the background, and what is asked about the pool as a whole.
#include "engine/pool.h"

#include <sys/stat.h>

#include <chrono>
#include <cstdio>

#include "engine/borrowed_medium.h"
#include "engine/health.h"
#include "engine/overlay_medium.h"
#include "engine/paths.h"
#include "engine/pool_state.h"
#include "engine/survey.h"

namespace daxcow {

using format::BlockType;
using format::InodeRecord;

namespace {

// An inode that is there for the format's own purposes.
Result<> make_reserved(InodeTable& table, Transaction& transaction, InodeNumber inode, std::uint32_t mode,
                       Timestamp now) {
  InodeRecord* record = TRY(table.occupy(transaction, inode));
  record->mode = mode;
  record->link_count = S_ISDIR(mode) ? 2 : 1;
  record->generation = TRY(next_generation(transaction));
  for (const TimeIndex which : {kAccess, kModification, kChange, kBirth}) set_time(*record, which, now);
  return {};
}

Result<> make_volume_zero(Store& store) {
  return store.run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
    const Timestamp now = current_time();
    Block* roots = TRY(transaction.edit(format::kRootsBlock, BlockType::kRoots));
    InodeRecord& zero = roots->as<format::Roots>().volume_zero;
    zero.mode = S_IFREG | 0600;
    zero.link_count = 1;
    zero.flags = static_cast<std::uint32_t>(format::InodeFlag::kVolume);
    zero.data_level = zero.attribute_level = 1;
    for (const TimeIndex which : {kAccess, kModification, kChange, kBirth}) set_time(zero, which, now);
    InodeTable table(kVolumeZero);
    TRY(make_reserved(table, transaction, format::kRootInode, S_IFDIR | 0700, now));
    TRY(make_reserved(table, transaction, format::kOrphansInode, S_IFREG | 0600, now));
    TRY(make_reserved(table, transaction, format::kGraveyardInode, S_IFREG | 0600, now));
    return Step::kDone;
  });
}

constexpr auto kLazyInterval = std::chrono::seconds(5);
constexpr auto kBurialInterval = std::chrono::milliseconds(2);

}  // namespace

Result<> make_volume_root(Transaction& transaction, VolumeNumber volume, const FormatOptions& options) {
  const Timestamp now = current_time();
  InodeTable table(volume);
  TRY(make_reserved(table, transaction, format::kRootInode, S_IFDIR | (options.root_mode & 07777), now));
  InodeRecord* root = TRY(table.edit(transaction, format::kRootInode));
  root->uid = options.root_uid;
  root->gid = options.root_gid;
  return make_reserved(table, transaction, format::kOrphansInode, S_IFREG | 0600, now);
}

Result<> Pool::format(Medium& medium, const FormatOptions& options) {
  if (!options.force) {
    const auto existing = Store::read_superblock(medium);
    if (existing || (existing.error().code != ErrorCode::kNotAPool && existing.error().code != ErrorCode::kDamaged))
      return fail(ErrorCode::kExists, "there is a daxcow pool already; use --force to overwrite it");
  }
  TRY(Store::format(medium, options.label));
  {
    const auto store = TRY(Store::open(std::make_unique<BorrowedMedium>(medium), {}));
    TRY(make_volume_zero(*store));
  }
  if (options.progress) options.progress(1, 2);
  if (!options.first_volume.empty()) {
    const auto pool = TRY(Pool::open(std::make_unique<BorrowedMedium>(medium), {.background = false, .log = {}}));
    const LockGuard guard(pool->state_->table_mutex);
    TRY(pool->state_->add_entry(options.first_volume, [&](Transaction& transaction, VolumeNumber volume, InodeRecord&) {
      return make_volume_root(transaction, volume, options);
    }));
  }
  if (options.progress) options.progress(2, 2);
  return {};
}

Pool::Pool() = default;

Result<std::unique_ptr<Pool>> Pool::open(std::unique_ptr<Medium> medium, PoolOptions options) {
  options.read_only |= medium->info().read_only;
  OverlayMedium* overlay = nullptr;
  if (options.read_only) {
    auto wrapped = std::make_unique<OverlayMedium>(std::move(medium));
    overlay = wrapped.get();
    medium = std::move(wrapped);
  }
  std::unique_ptr<Pool> pool(new Pool());
  pool->store_ = TRY(Store::open(std::move(medium), {options.cache_bytes, options.log}));
  Store& store = *pool->store_;
  pool->state_ = std::make_unique<State>(store, options);
  pool->state_->overlay = overlay;
  TRY(pool->state_->zero.read_record(format::kRootInode));
  const BlockPtr found = TRY(store.metadata().read(format::kRootsBlock, BlockType::kRoots));
  pool->state_->shutdown = judge_shutdown(found->as<format::Roots>(), store.medium().identity());
  if (!options.read_only) {
    auto noted = pool->state_->note_opening();
    if (!noted) {  // both copies of the journal are bad, say: what can be mended is mended first
      pool->state_->poison.process_now();
      noted = pool->state_->note_opening();
    }
    TRY(noted);
    pool->state_->is_noted = true;
  }
  pool->state_->tell_shutdown();
  if (options.background) {
    TRY(pool->state_->poison.start());
    if (!options.read_only) pool->state_->start_background();
    if (options.patrol && !options.read_only) TRY(pool->state_->patrol.start_thread(options.patrol_bytes_per_second));
  }
  return pool;
}

Result<> Pool::begin_writing() {
  State& state = *state_;
  if (state.is_noted) return {};
  return state.poison.begin_writing([&]() -> Result<> {
    const LockGuard guard(state.table_mutex);
    if (state.is_noted) return {};
    if (store_->read_only()) TRY(store_->begin_writing(*state.overlay));
    TRY(state.note_opening());  // may fail, and be tried again
    state.options.read_only = false;
    if (state.shutdown.last != LastShutdown::kPowerLost) state.tell_shutdown();  // that was said
    if (state.options.background) state.start_background();
    if (state.options.patrol) TRY(state.patrol.start_thread(state.options.patrol_bytes_per_second));
    state.is_noted = true;
    return {};
  });
}

Pool::~Pool() {
  if (!state_) return;
  state_->patrol.stop_thread();
  state_->stop_background();
  state_->poison.stop();
  if (!store_->read_only()) {
    auto done = store_->run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
      TRY(transaction.edit(format::kRootsBlock, BlockType::kRoots))->as<format::Roots>().in_use = 0;
      return Step::kDone;
    });
    if (!done) store_->log("closing the pool: " + describe(done.error()));
  }
  state_.reset();
}

// --- state -----------------------------------------------------------------------------------------------------------

Pool::State::State(Store& pool_store, PoolOptions pool_options)
    : store(pool_store),
      options(std::move(pool_options)),
      graveyard(store),
      services{store,
               graveyard,
               [this] {
                 const LockGuard guard(background_mutex);
                 if (std::exchange(background_work, true)) return;
                 background_wake.notify_one();
               },
               options.background || options.leaves_reclaiming,
               [this] { return bring_back_space(); },
               [this](VolumeNumber volume, InodeNumber inode, std::uint64_t offset, std::uint64_t length,
                      BlockNumber block) { poison.note_healed(volume, inode, offset, length, block); },
               options.directory_bytes},
      zero(services, kVolumeZero, false),
      poison(store, *this),
      patrol(store) {}

Pool::State::~State() = default;

std::string Pool::State::volume_name(VolumeNumber volume) {
  if (volume == kVolumeZero) return "(volume table)";
  const LockGuard guard(table_mutex);
  const auto all = entries();
  if (all)
    for (const Entry& entry : *all)
      if (entry.number == volume) return entry.name;
  return "volume " + std::to_string(volume.value);
}

std::string Pool::State::path_of(VolumeNumber volume, InodeNumber inode) {
  const auto scope = store.operations().begin();
  const auto paths = store.read_consistent([&](BlockReader& reader) { return paths_of(reader, volume, inode, 1); });
  if (!paths || paths->empty()) return "inode " + std::to_string(inode.value);
  return paths->front();
}

std::shared_ptr<Volume> Pool::State::mounted(VolumeNumber volume) {
  const LockGuard guard(mounted_mutex);
  const auto it = mounted_volumes.find(volume.value);
  return it == mounted_volumes.end() ? nullptr : it->second.volume.lock();
}

std::vector<std::shared_ptr<Volume>> Pool::State::all_mounted() {
  std::vector<std::shared_ptr<Volume>> all;
  const LockGuard guard(mounted_mutex);
  for (const auto& [number, mounted] : mounted_volumes)
    if (auto volume = mounted.volume.lock()) all.push_back(std::move(volume));
  return all;
}

bool Pool::State::is_mounted(VolumeNumber volume) {
  const LockGuard guard(mounted_mutex);
  const auto it = mounted_volumes.find(volume.value);
  return it != mounted_volumes.end() && !it->second.ending;
}

bool Pool::State::is_remembered(VolumeNumber volume, InodeNumber inode) {
  const auto held = mounted(volume);
  return held && held->is_remembered(inode);
}

Rescue Pool::State::read_page(const LostRange& page, Block& content) {
  const auto held = mounted(page.volume);
  if (!held) return Rescue::kNobody;
  const InodeStates& inodes = held->state().inodes;
  const auto before = inodes.page_trust(page.inode);
  std::uint64_t bytes = 0;
  {
    const LockGuard guard(observer_mutex);
    if (observer) bytes = observer->read_cached(page, content.bytes);
  }
  const auto after = inodes.page_trust(page.inode);
  if (bytes == 0 || !before || !after || after->write_failed || after->may_be_old) return Rescue::kNobody;
  const FileBlock at(page.offset_bytes / kBlockBytes);
  if (held->state().may_have_been_zeroed(page.inode, at)) return Rescue::kNobody;
  // The owners were looked up some time ago: meanwhile the file may have got another block there, and its page is of that.
  const auto is_owner = held->state().holds(page.inode, at, page.block);
  if (!is_owner || !*is_owner) return Rescue::kNobody;
  std::fill(content.bytes + bytes, content.bytes + kBlockBytes, std::byte{0});
  // A file may end inside the block where others go on. And of a page that nobody could have written to from before it
  // was read until after, none is newer than the block.
  const bool unchanged = before->writers == 0 && after->writers == 0 && before->openings == after->openings;
  return bytes == kBlockBytes && unchanged ? Rescue::kAll : Rescue::kOwner;
}

Result<bool> Pool::State::restore_page(const LostRange& page, const Block& content) {
  const auto held = mounted(page.volume);
  if (!held) return false;
  return held->state().restore_page(page.inode, FileBlock(page.offset_bytes / kBlockBytes), page.block, content);
}

void Pool::State::on_lost(const LostRange& range) {
  const LockGuard guard(observer_mutex);
  if (observer) observer->on_lost(range);
}

void Pool::State::ledger_grew() {
  for (const auto& held : all_mounted()) held->state().sharing_generation.fetch_add(1, std::memory_order_acq_rel);
}

Result<> Pool::State::note_opening() {
  const auto identity = store.medium().identity();
  return store.run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
    auto& roots = TRY(transaction.edit(format::kRootsBlock, BlockType::kRoots))->as<format::Roots>();
    ++roots.mount_count;
    roots.in_use = 1;
    note_device(roots, identity);
    return Step::kDone;
  });
}

void Pool::State::tell_shutdown() {
  const std::string line = describe(shutdown, store.journal().found_opened_seconds());
  if (line.empty()) return;
  const bool lost = shutdown.last == LastShutdown::kPowerLost;
  // Who only looks is told what was lost; the rest is for the opening that ends it.
  if (lost || !options.read_only) store.log(line);
  if (!lost) return;
  Event event;
  event.kind = EventKind::kPowerLost;
  event.text = line;
  store.events().publish(std::move(event));
}

// --- background ------------------------------------------------------------------------------------------------------

void Pool::State::start_background() {
  if (!background_thread.joinable()) background_thread = std::thread([this] { background(); });
}

void Pool::State::stop_background() {
  {
    const LockGuard guard(background_mutex);
    background_stop = true;
    background_wake.notify_one();
  }
  if (background_thread.joinable()) background_thread.join();
}

void Pool::State::background() {
  using Clock = std::chrono::steady_clock;
  auto times_due = Clock::now() + kLazyInterval;
  std::unique_lock lock(background_mutex);
  while (!background_stop) {
    // Those who delete one file mostly delete another: not a thread switch for each.
    if (background_work) background_wake.wait_for(lock, kBurialInterval, [this] { return background_stop; });
    const bool work = std::exchange(background_work, false);
    lock.unlock();
    if (work) empty_graveyard();
    if (Clock::now() >= times_due) {  // which looks at every inode that is known
      commit_lazy_times();
      times_due = Clock::now() + kLazyInterval;
    }
    lock.lock();
    const auto rest = std::chrono::ceil<std::chrono::milliseconds>(times_due - Clock::now());
    background_wake.wait_for(lock, std::max(rest, std::chrono::milliseconds(1)),
                             [this] { return background_stop || background_work; });
  }
}

void Pool::State::empty_graveyard() {
  constexpr int kStepsBetween = 16;  // what is let go meanwhile need not wait for all of a large file
  for (int i = 0;; ++i) {
    if (i % kStepsBetween == 0) reclaim_let_go(Patience::kWaitsForNobody);
    {
      const LockGuard guard(background_mutex);
      if (background_stop) return;  // the next open goes on
    }
    const auto more = graveyard.step();
    if (!more) {
      store.log("giving back the space of deleted files: " + describe(more.error()));
      return;
    }
    if (!*more) break;
  }
  const LockGuard guard(store.mutex);
  store.reclaim();
}

bool Pool::State::reclaim_let_go(Volume::State::Patience patience) {
  bool any = false;
  for (const auto& volume : all_mounted()) any |= volume->state().reclaim_let_go(patience);
  return any;
}

bool Pool::State::bring_back_space() {
  constexpr int kStepsAtOnce = 16;
  bool worked = reclaim_let_go(Patience::kWaitsForNobody);
  if (!options.background) return worked;
  for (int i = 0; i < kStepsAtOnce; ++i) {
    const auto more = graveyard.step();
    if (!more || !*more) break;
    worked = true;
  }
  const LockGuard guard(store.mutex);
  store.reclaim();
  return worked || store.retired_blocks() != 0;
}

void Pool::State::commit_lazy_times() {
  for (const auto& volume : all_mounted()) {
    if (volume->read_only()) continue;
    const Volume::State::Operation operation(volume->state());
    if (auto done = volume->state().commit_all_times(); !done) store.log("committing times: " + describe(done.error()));
  }
}

void Pool::settle() {
  // Twice: emptying the graveyard may free blocks of the ledger, and clearing those may free more.
  for (int i = 0; i < 2; ++i) {
    state_->poison.process_now();
    if (!store_->read_only()) {
      state_->reclaim_let_go(State::Patience::kWaits);
      while (true) {
        const auto more = state_->graveyard.step();
        if (!more || !*more) break;
      }
    }
    const LockGuard guard(store_->mutex);
    store_->reclaim();
  }
  state_->poison.process_now();
}

// --- poison and statistics -------------------------------------------------------------------------------------------

Result<BlockReport> Pool::report(BlockNumber block, std::size_t owner_limit) {
  if (block.value >= store_->pool_blocks())
    return fail(ErrorCode::kRange, "block " + std::to_string(block.value) + " is beyond the end of the pool");
  return state_->poison.report(block, owner_limit);
}

Result<std::vector<BlockReport>> Pool::poison_list(std::size_t owner_limit) {
  std::vector<BlockReport> reports;
  for (const auto& [block, mask] : store_->ledger().all())
    reports.push_back(TRY(state_->poison.report(block, owner_limit)));
  return reports;
}

void Pool::set_poison_observer(PoisonObserver* observer) {
  const LockGuard guard(state_->observer_mutex);
  state_->observer = observer;
}

Result<std::vector<BadRange>> Pool::bad_ranges() { return store_->medium().bad_ranges(); }

void Pool::suspect(BlockRun run) { store_->suspect(run); }

Result<std::uint64_t> Pool::scrub(const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                  std::uint64_t bytes_per_second) {
  const std::uint64_t found = TRY(state_->patrol.run(bytes_per_second, progress));
  state_->poison.process_now();
  return found;
}

Patrol& Pool::patrol() { return state_->patrol; }

EventLog& Pool::events() { return store_->events(); }

const MediumInfo& Pool::medium_info() const { return store_->medium().info(); }

const char* name_of(BlockUse use) {
  switch (use) {
    case BlockUse::kFree:
      return "free";
    case BlockUse::kData:
      return "data";
    case BlockUse::kMetadata:
      return "metadata";
    case BlockUse::kMetadataMirror:
      return "metadata-mirror";
    case BlockUse::kJournal:
      return "journal";
    case BlockUse::kSuperblock:
      return "superblock";
    case BlockUse::kQuarantined:
      return "quarantined";
    case BlockUse::kInFlight:
      return "in-flight";
  }
  return "unknown";
}

Result<PoolHealth> Pool::health() {
  PoolHealth health = TRY(health_of(*store_));
  health.power_lost = state_->shutdown.last == LastShutdown::kPowerLost;
  return health;
}

Result<PoolSurvey> Pool::survey(std::size_t cells) { return survey_of(*store_, cells); }

Result<PoolStatistics> Pool::statistics() {
  PoolStatistics statistics;
  const format::Superblock& superblock = store_->superblock();
  statistics.medium = medium_info();
  statistics.medium.read_only = store_->read_only();
  statistics.shutdown = state_->shutdown;
  statistics.path = statistics.medium.path;
  statistics.label = std::string(superblock.label.data(), strnlen(superblock.label.data(), superblock.label.size()));
  for (std::size_t i = 0; i < superblock.uuid.size(); ++i) {
    char text[4];
    std::snprintf(text, sizeof text, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", superblock.uuid[i]);
    statistics.uuid += text;
  }
  {
    const LockGuard guard(state_->table_mutex);
    statistics.volumes = TRY(state_->entries()).size();
  }
  const LockGuard guard(store_->mutex);
  store_->reclaim();
  statistics.size_bytes = superblock.pool_bytes;
  statistics.data_free_blocks = store_->space().free_blocks() + store_->retired_blocks();
  statistics.metadata_blocks = store_->metadata().block_count();
  statistics.metadata_free_blocks = store_->metadata().free_count();
  statistics.chunks = store_->metadata().chunks().size();
  statistics.reverse_records = store_->reverse_map().record_count();
  statistics.reverse_leaves = store_->reverse_map().leaf_count();
  statistics.ledger_blocks = store_->ledger().size();
  statistics.transactions = store_->transactions();
  statistics.journal_bytes = store_->journal().bytes_written();
  statistics.cache_bytes = store_->metadata().cached_bytes();
  const BlockPtr roots = TRY(store_->metadata().read(format::kRootsBlock, BlockType::kRoots));
  statistics.metadata_repaired = roots->as<format::Roots>().metadata_repaired;
  statistics.blocks_lost = roots->as<format::Roots>().blocks_lost;
  statistics.blocks_healed = roots->as<format::Roots>().blocks_healed;
  statistics.blocks_cleared = roots->as<format::Roots>().blocks_cleared;
  return statistics;
}

}  // namespace daxcow
