// The volume table: volumes come, go, are mounted and snapshotted. A volume is an inode of volume 0 whose map is the
// volume's inode table, and its name an entry of volume 0's root directory.
#include <sys/stat.h>

#include <algorithm>
#include <chrono>

#include "engine/pool.h"
#include "engine/pool_state.h"

namespace daxcow {

using format::InodeFlag;
using format::InodeRecord;
using format::LeafKind;

Result<> make_volume_root(Transaction& transaction, VolumeNumber volume, const FormatOptions& options);  // pool.cc

namespace {

constexpr bool has(const InodeRecord& record, InodeFlag flag) { return (record.flags & static_cast<std::uint32_t>(flag)) != 0; }

Result<> check_volume_name(std::string_view name) {
  const auto allowed = [](char c) { return static_cast<unsigned char>(c) > ' ' && c != ',' && c != '/' && c != 0x7f; };
  if (name.empty() || name == "." || name == ".." || name.size() > format::kMaximumNameBytes || !std::ranges::all_of(name, allowed))
    return fail(ErrorCode::kInvalid,
                "'" + std::string(name) + "' cannot be a volume's name: use 1 to 255 bytes without blanks, commas and slashes");
  return {};
}

Result<> check_writable(const Store& store) {
  if (store.read_only()) return fail(ErrorCode::kReadOnly, "the pool is open read-only");
  return {};
}

}  // namespace

Result<std::vector<Pool::State::Entry>> Pool::State::entries() {
  const Volume::State::Operation operation(zero);
  return store.read_consistent([&](BlockReader& reader) -> Result<std::vector<Entry>> {
    std::vector<Entry> found;
    const InodeRecord root = TRY(zero.table.read(reader, format::kRootInode));
    TRY(for_each_directory_block(reader, root, [&](FileBlock, const Block& block) -> Result<> {
      Result<> outcome{};
      TRY(for_each_entry(block, 0, [&](std::uint64_t, const format::DirectoryEntry& entry, std::string_view name) {
        const auto record = zero.table.read(reader, InodeNumber(entry.inode));
        if (!record) outcome = std::unexpected(record.error());
        if (record && has(*record, InodeFlag::kVolume)) found.push_back({InodeNumber(entry.inode), std::string(name), *record});
        return outcome.has_value();
      }));
      return outcome;
    }));
    return found;
  });
}

Result<Pool::State::Entry> Pool::State::find(std::string_view name) {
  const Volume::State::Operation operation(zero);
  const auto held = zero.inodes.get(format::kRootInode);
  const std::shared_lock lock(held->lock);
  const auto index = TRY(zero.index_of(*held));
  return store.read_consistent([&](BlockReader& reader) -> Result<Entry> {
    const InodeRecord root = TRY(zero.table.read(reader, format::kRootInode));
    const auto entry = TRY(find_entry(reader, root, *index, name));
    if (!entry) return fail(ErrorCode::kNotFound, "no volume '" + std::string(name) + "' in this pool; see daxcow volume list");
    const InodeRecord record = TRY(zero.table.read(reader, entry->inode));
    return Entry{entry->inode, std::string(name), record};
  });
}

Result<VolumeNumber> Pool::State::add_entry(std::string_view name,
                                            FunctionRef<Result<>(Transaction&, VolumeNumber, InodeRecord&)> fill) {
  TRY(check_writable(store));
  TRY(check_volume_name(name));
  const Volume::State::Operation operation(zero);
  const auto held = zero.inodes.get(format::kRootInode);
  const std::unique_lock lock(held->lock);
  const auto index = TRY(zero.index_of(*held));
  const DirectoryPosition position = index->find_room(granules_for(name.size()));
  VolumeNumber made;
  TRY(store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
    InodeRecord* root = TRY(zero.table.edit(transaction, format::kRootInode));
    if (TRY(find_entry(transaction, *root, *index, name)))
      return fail(ErrorCode::kExists, "there is a volume '" + std::string(name) + "' already");
    made = TRY(zero.table.find_free(transaction));
    InodeRecord* record = TRY(zero.table.occupy(transaction, made));
    record->mode = S_IFREG | 0600;
    record->link_count = 1;
    record->flags = static_cast<std::uint32_t>(InodeFlag::kVolume);
    record->generation = TRY(next_generation(transaction));
    record->parent = format::kRootInode.value;
    record->parent_cookie = position;
    const Timestamp now = current_time();
    for (const TimeIndex which : {kAccess, kModification, kChange, kBirth}) set_time(*record, which, now);
    TRY(fill(transaction, made, *record));
    TRY(zero.table.note_used(transaction, made));
    TRY(write_entry(transaction, *root, position, name, made, S_IFREG >> 12, graveyard));
    return Step::kDone;
  }));
  index->insert(name_hash(name), position, granules_for(name.size()));
  return made;
}

Result<> Pool::State::remove_entry(std::string_view name) {
  const Volume::State::Operation operation(zero);
  const auto held = zero.inodes.get(format::kRootInode);
  const std::unique_lock lock(held->lock);
  const auto index = TRY(zero.index_of(*held));
  FoundEntry entry;
  TRY(store.run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
    InodeRecord* root = TRY(zero.table.edit(transaction, format::kRootInode));
    const auto found = TRY(find_entry(transaction, *root, *index, name));
    if (!found) return fail(ErrorCode::kNotFound);
    entry = *found;
    TRY(erase_entry(transaction, *root, entry.position, graveyard));
    InodeRecord* record = TRY(zero.table.edit(transaction, entry.inode));
    TRY(graveyard.bury_fork(transaction, edit_data_fork(*record, LeafKind::kInodes)));
    TRY(zero.table.free(transaction, entry.inode));
    return Step::kDone;
  }));
  index->erase(name_hash(name), entry.position, granules_for(name.size()));
  zero.inodes.drop(entry.inode);
  services.wake_background();
  return {};
}

// The borrowers' pointers are those of the state; the one that keeps it mounted is another, and holds one of them. Nobody
// waits when he gives his back: a pool's thread that has borrowed a volume may be given, and let go of, the pointer that
// keeps it mounted.
std::shared_ptr<Volume> Pool::State::add_mounted(std::unique_ptr<Volume> volume) {
  const std::uint64_t number = volume->number().value;
  std::shared_ptr<Volume> held(volume.release(), [this, number](Volume* gone) {
    delete gone;
    const LockGuard guard(mounted_mutex);
    mounted_volumes.erase(number);
    mounted_changed.notify_all();
  });
  {
    const LockGuard guard(mounted_mutex);
    mounted_volumes[number] = {.volume = held};
  }
  Volume* const raw = held.get();
  return {raw, [this, number, held = std::move(held)](Volume*) mutable {
            {
              const LockGuard guard(mounted_mutex);
              mounted_volumes[number].ending = true;
            }
            held.reset();
          }};
}

bool Pool::State::wait_until_free(VolumeNumber volume) {
  std::unique_lock lock(mounted_mutex);
  const auto find = [&] { return mounted_volumes.find(volume.value); };
  mounted_changed.wait(lock, [&] { return find() == mounted_volumes.end() || !find()->second.ending; });
  return find() == mounted_volumes.end();
}

// --- the façade --------------------------------------------------------------------------------------------------------

Result<std::vector<VolumeInfo>> Pool::volumes() {
  const LockGuard guard(state_->table_mutex);
  const auto entries = TRY(state_->entries());
  std::vector<VolumeInfo> infos;
  for (const auto& entry : entries) {
    VolumeInfo info;
    info.number = entry.number;
    info.name = entry.name;
    info.read_only = has(entry.record, InodeFlag::kReadOnlyVolume);
    info.snapshot = has(entry.record, InodeFlag::kSnapshot);
    info.created = time_of(entry.record, kBirth);
    info.mounted = state_->is_mounted(entry.number);
    // `device` is free in a volume's inode: the number of the volume that a snapshot was made from.
    for (const auto& other : entries)
      if (info.snapshot && other.number.value == entry.record.device && other.record.generation < entry.record.generation) info.origin = other.name;
    infos.push_back(std::move(info));
  }
  std::ranges::sort(infos, {}, &VolumeInfo::number);
  return infos;
}

Result<VolumeNumber> Pool::create_volume(std::string_view name) {
  const LockGuard guard(state_->table_mutex);
  return state_->add_entry(name, [](Transaction& transaction, VolumeNumber volume, InodeRecord&) {
    return make_volume_root(transaction, volume, FormatOptions{});
  });
}

namespace {

Result<> check_writable(const InodeRecord& volume, std::string_view name) {
  if (!has(volume, InodeFlag::kReadOnlyVolume)) return {};
  return fail(ErrorCode::kReadOnly, "volume '" + std::string(name) + "' is read-only; mount it with -o ro");
}

}  // namespace

Result<std::shared_ptr<Volume>> Pool::mount(std::string_view name, bool read_only) {
  const LockGuard guard(state_->table_mutex);
  const auto entry = TRY(state_->find(name));
  if (!state_->wait_until_free(entry.number))
    return fail(ErrorCode::kBusy, "volume '" + std::string(name) + "' is mounted already");
  if (!read_only) TRY(check_writable(entry.record, name));
  if (!read_only) TRY(check_writable(*store_));
  std::unique_ptr<Volume> volume(new Volume(*this, entry.number, std::string(name), read_only));
  volume->state_ = std::make_unique<Volume::State>(state_->services, entry.number, read_only);
  TRY(volume->state_->load_orphans());
  if (!read_only) {
    const Volume::State::Operation operation(*volume->state_);
    TRY(volume->state_->process_orphans());
  }
  return state_->add_mounted(std::move(volume));
}

Result<> Pool::begin_writing(Volume& volume) {
  const LockGuard guard(state_->table_mutex);
  if (!volume.read_only()) return {};
  TRY(check_writable(TRY(state_->find(volume.name())).record, volume.name()));
  TRY(check_writable(*store_));
  Volume::State& state = volume.state();
  state.read_only = volume.read_only_ = false;
  const Volume::State::Operation operation(state);
  return state.process_orphans();  // nobody has them open: what has no name is not found read-only
}

Result<VolumeNumber> Pool::snapshot(std::string_view source_name, std::string_view name, bool read_only) {
  const LockGuard guard(state_->table_mutex);
  const auto source = TRY(state_->find(source_name));
  const auto mounted = state_->mounted(source.number);
  std::unique_lock<Gate> gate;
  if (mounted && !mounted->read_only()) {
    // Or a read-only snapshot would keep what was deleted before it. Before the gate is closed: somebody else who is at it waits for that.
    mounted->state().reclaim_let_go(Volume::State::Patience::kWaits);
    {
      const Volume::State::Operation operation(mounted->state());
      TRY(mounted->state().commit_all_times());
    }
    gate = std::unique_lock(mounted->state().gate);
  }
  auto made = state_->add_entry(name, [&](Transaction& transaction, VolumeNumber, InodeRecord& record) -> Result<> {
    const InodeRecord now = TRY(state_->zero.table.read(transaction, source.number));
    record.data = now.data;
    record.data_level = now.data_level;
    record.block_count = now.block_count;
    record.flags |= static_cast<std::uint32_t>(InodeFlag::kSnapshot);
    if (read_only) record.flags |= static_cast<std::uint32_t>(InodeFlag::kReadOnlyVolume);
    record.device = static_cast<std::uint32_t>(source.number.value);
    return {};
  });
  if (made && mounted) {
    mounted->state().sharing_generation.fetch_add(1, std::memory_order_acq_rel);
    const LockGuard mutex_guard(store_->mutex);
    mounted->state().forget_exclusive();
  }
  return made;
}

Result<> Pool::delete_volume(std::string_view name) {
  TRY(check_writable(*store_));
  const LockGuard guard(state_->table_mutex);
  const auto entry = TRY(state_->find(name));
  if (!state_->wait_until_free(entry.number))
    return fail(ErrorCode::kBusy, "volume '" + std::string(name) + "' is mounted; unmount it first");
  return state_->remove_entry(name);
}

Result<> Pool::rollback(std::string_view name, std::string_view snapshot_name) {
  TRY(check_writable(*store_));
  const LockGuard guard(state_->table_mutex);
  const auto volume = TRY(state_->find(name));
  const auto snapshot = TRY(state_->find(snapshot_name));
  if (volume.number == snapshot.number) return fail(ErrorCode::kInvalid, "a volume cannot be rolled back to itself");
  if (!state_->wait_until_free(volume.number))
    return fail(ErrorCode::kBusy, "volume '" + std::string(name) + "' is mounted; unmount it first");
  const auto mounted = state_->mounted(snapshot.number);
  std::unique_lock<Gate> gate;
  if (mounted) gate = std::unique_lock(mounted->state().gate);
  TRY(store_->run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
    const InodeRecord from = TRY(state_->zero.table.read(transaction, snapshot.number));
    InodeRecord* record = TRY(state_->zero.table.edit(transaction, volume.number));
    TRY(state_->graveyard.bury_fork(transaction, edit_data_fork(*record, LeafKind::kInodes)));
    record->data = from.data;
    record->data_level = from.data_level;
    record->block_count = from.block_count;
    set_time(*record, kModification, current_time());
    set_time(*record, kChange, current_time());
    return Step::kDone;
  }));
  if (mounted) {
    mounted->state().sharing_generation.fetch_add(1, std::memory_order_acq_rel);
    const LockGuard mutex_guard(store_->mutex);
    mounted->state().forget_exclusive();
  }
  state_->services.wake_background();
  return {};
}

}  // namespace daxcow
