#include "engine/poison.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "engine/bad_range.h"
#include "engine/check.h"

namespace daxcow {

using namespace std::chrono_literals;

namespace {

constexpr auto kRetryAfter = 20ms;     // blocks in flight
constexpr auto kOperationsLimit = 1s;  // how long process_now() waits for operations
constexpr int kWatchRetryMilliseconds = 5000;
constexpr std::size_t kRecordsAtOnce = 32;  // ledger records in a transaction

const char* describe_type(format::BlockType type) {
  switch (type) {
    case format::BlockType::kFree:
      return "unused";
    case format::BlockType::kRoots:
      return "roots";
    case format::BlockType::kMapNode:
      return "map node";
    case format::BlockType::kInodes:
      return "inodes";
    case format::BlockType::kDirectory:
      return "directory";
    case format::BlockType::kAttributes:
      return "attributes";
    case format::BlockType::kSymlink:
      return "symlink";
    case format::BlockType::kOrphans:
      return "orphans";
    case format::BlockType::kGraveyard:
      return "graveyard";
    case format::BlockType::kReverseLeaf:
      return "reverse map";
  }
  return "unknown";
}

}  // namespace

// --- threads --------------------------------------------------------------------------------------------------------

void Poison::Mailbox::wake() {
  {
    const LockGuard guard(mutex);
    woken = true;
  }
  changed.notify_all();
}

Poison::Poison(Store& store, PoisonHost& host) : store_(store), host_(host) {
  for (const auto& [block, sectors] : store_.ledger().all()) handled_.emplace(block, sectors);
  // Store calls a copy of the function outside of its lock, so possibly after this object is gone.
  store_.set_wake([mailbox = mailbox_] { mailbox->wake(); });
}

Poison::~Poison() {
  stop();
  store_.set_wake({});
}

Result<> Poison::start() {
  CHECK(!worker_.joinable());
  stop_event_ = FileDescriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_event_) return std::unexpected(Error::from_errno(errno, "cannot create an event descriptor"));
  {
    const LockGuard guard(mailbox_->mutex);
    mailbox_->stopping = false;
    mailbox_->woken = true;
  }
  worker_ = std::thread([this] { work(); });
  watcher_ = std::thread([this] { watch(); });
  return {};
}

void Poison::stop() {
  if (!worker_.joinable()) return;
  {
    const LockGuard guard(mailbox_->mutex);
    mailbox_->stopping = true;
  }
  mailbox_->changed.notify_all();
  CHECK(eventfd_write(stop_event_.get(), 1) == 0);
  watcher_.join();
  worker_.join();
}

void Poison::watch() {
  for (bool said = false;;) {
    const auto changed = store_.medium().wait_bad_change(stop_event_.get());
    if (changed && !*changed) return;
    if (changed) {
      said = false;
      mailbox_->wake();
      continue;
    }
    if (changed.error().code == ErrorCode::kUnsupported) return;
    if (!said) store_.log("the device's bad blocks cannot be watched: " + describe(changed.error()));
    said = true;
    pollfd stop{.fd = stop_event_.get(), .events = POLLIN, .revents = 0};
    if (poll(&stop, 1, kWatchRetryMilliseconds) > 0) return;
  }
}

void Poison::work() {
  for (bool retry = false;;) {
    {
      std::unique_lock lock(mailbox_->mutex);
      const auto due = [this] { return mailbox_->woken || mailbox_->stopping; };
      if (retry) {
        mailbox_->changed.wait_for(lock, kRetryAfter, due);
      } else {
        mailbox_->changed.wait(lock, due);
      }
      if (mailbox_->stopping) return;
      mailbox_->woken = false;
    }
    const LockGuard guard(pass_mutex_);
    pass();
    retry = !pending_.empty();
  }
}

void Poison::process_now() {
  const LockGuard guard(pass_mutex_);
  const auto deadline = std::chrono::steady_clock::now() + kOperationsLimit;
  for (;;) {
    {
      const LockGuard mailbox_guard(mailbox_->mutex);
      mailbox_->woken = false;
    }
    pass();
    bool woken = false;
    {
      const LockGuard mailbox_guard(mailbox_->mutex);
      woken = mailbox_->woken;
    }
    if (!woken && pending_.empty()) return;
    if (std::chrono::steady_clock::now() > deadline) return mailbox_->wake();  // the worker goes on with those in flight
    if (!woken) sleep_thread(1ms);
  }
}

Result<> Poison::begin_writing(FunctionRef<Result<>()> begin) {
  const LockGuard guard(pass_mutex_);
  TRY(begin());
  // Those that have a record already are none the worse for another.
  for (auto it = handled_.begin(); it != handled_.end();) {
    Sectors some;
    for (; it != handled_.end() && some.size() < kRecordsAtOnce; ++it) some.insert(*it);
    record(some, {});
  }
  first_pass_ = true;
  mailbox_->wake();
  return {};
}

// --- a pass ---------------------------------------------------------------------------------------------------------

void Poison::pass() {
  publish_healed();
  // `attend`: blocks of the ledger to sort out, with those sectors that are new.
  Sectors attend;
  if (std::exchange(first_pass_, false))
    for (const auto& [block, sectors] : handled_) attend.emplace(block, 0);

  const Sectors suspected = look_at_suspects(attend);
  Sectors listed = listed_;
  read_device_list(listed);
  Sectors bad = listed;
  for (const auto& [block, sectors] : suspected) bad.emplace(block, sectors);  // the device may say more exactly
  note_gone(listed, attend);
  listed_ = std::move(listed);
  enter_ledger(bad, attend);

  attend_to(attend);
  look_at_pending();
  if (store_.read_only()) return;  // bad copies are kept for the time when they can be mended: headers are read at open only
  const std::set<BadCopy> copies = store_.bad_copies();
  for (const BadCopy& copy : copies) mend_copy(copy);
  store_.forget_bad_copies(copies);
  const LockGuard guard(store_.mutex);
  store_.renew_spare_chunk();
}

// The unreadable among the suspects; those that were seen to before (they have lost their last reference, say) go to
// `attend`.
Poison::Sectors Poison::look_at_suspects(Sectors& attend) {
  Sectors unreadable;
  for (const BlockRun& run : store_.take_suspects()) {
    for (BlockNumber block = run.first; block < run.end() && block.value < store_.pool_blocks(); ++block) {
      store_.medium().note_fault(block);
      if (const auto it = handled_.find(block); it != handled_.end()) {
        store_.ledger().set(block, it->second);  // as exactly as it is known
        attend.emplace(block, 0);
        continue;
      }
      Block content;
      if (!store_.medium().read(byte_offset(block), content.bytes))
        unreadable.emplace(block, unreadable_sectors(store_.medium(), block));
      else if (!acquit(block))
        unreadable.emplace(block, kWholeBlock);
    }
  }
  return unreadable;
}

// A block that can be read after all leaves the ledger if it is in use. One that is not was kept out of the free space
// on account of its entry: only what is seen to as bad finds its way back there.
bool Poison::acquit(BlockNumber block) {
  const LockGuard guard(store_.mutex);
  if (store_.ledger().mask(block) == 0) return true;
  if (!has_second_copy(store_, block)) {
    const auto references = store_.reverse_map().count_references(store_.metadata(), block, 1);
    if (!references || *references == 0) return false;
  }
  store_.ledger().set(block, 0);
  return true;
}

// Leaves `listed` as it is when the device cannot be asked.
void Poison::read_device_list(Sectors& listed) {
  const auto ranges = store_.medium().bad_ranges();
  if (!ranges) {
    if (!list_failed_) store_.log("the device's bad blocks cannot be read: " + describe(ranges.error()));
    list_failed_ = true;
    return;
  }
  list_failed_ = false;
  listed.clear();
  for (const BadRange& range : clip(*ranges, 0, store_.pool_blocks() * kBlockBytes)) {
    const std::uint64_t end = (range.offset_bytes + range.length_bytes + kSectorBytes - 1) / kSectorBytes;
    for (std::uint64_t sector = range.offset_bytes / kSectorBytes; sector < end; ++sector)
      listed[BlockNumber(sector / kSectorsPerBlock)] |= static_cast<std::uint8_t>(1u << sector % kSectorsPerBlock);
  }
}

// Blocks that somebody else has cleared, or that the device no longer counts as bad.
void Poison::note_gone(const Sectors& listed, Sectors& attend) {
  for (const auto& [block, sectors] : listed_) {
    if (listed.contains(block)) continue;
    Event event = event_of(EventKind::kPoisonGone, block);
    event.text = "the device no longer lists block " + std::to_string(block.value) + " as bad";
    publish(std::move(event));
    cannot_clear_.erase(block);
    if (handled_.contains(block)) attend.emplace(block, 0);
  }
}

void Poison::enter_ledger(const Sectors& bad, Sectors& attend) {
  Sectors fresh;
  for (const auto& [block, sectors] : bad) {
    std::uint8_t& handled = handled_[block];
    const auto added = static_cast<std::uint8_t>(sectors & ~handled);
    if (added == 0) continue;
    handled |= added;
    store_.ledger().set(block, handled);
    fresh.emplace(block, added);
  }
  if (fresh.empty()) return;
  host_.ledger_grew();
  publish_found(fresh);
  for (const auto& [block, sectors] : fresh) attend[block] |= sectors;
}

void Poison::attend_to(const Sectors& blocks) {
  Sectors lost;
  std::set<BlockNumber> ours;
  for (const auto& [block, fresh] : blocks) {
    const auto place = place_of(block);
    if (!place) {
      store_.log("block " + std::to_string(block.value) + " is bad and cannot be placed: " + describe(place.error()));
      continue;
    }
    switch (*place) {
      case Place::kSecondCopy:
        mend(block);
        break;
      case Place::kData:
        if (fresh != 0) lost.emplace(block, fresh);
        break;
      case Place::kOurs:
        ours.insert(block);
        break;
      case Place::kInFlight:
        // The mark comes after the entry in the ledger: who begins later cannot be given the block.
        if (const auto [it, is_new] = pending_.try_emplace(block, Pending{0, fresh}); is_new) {
          it->second.mark = store_.operations().mark();
          record({{block, handled_[block]}}, {});
        } else {
          it->second.fresh_sectors |= fresh;
        }
        break;
    }
  }
  lose(lost);
  clear_ours(ours);
}

Result<Poison::Place> Poison::place_of(BlockNumber block) {
  if (has_second_copy(store_, block)) return Place::kSecondCopy;
  if (ours_.contains(block)) return Place::kOurs;
  if (store_.read_only()) return Place::kData;  // nothing will be cleared; what has no owner is reported to nobody
  if (withdraw(block)) return Place::kOurs;
  const LockGuard guard(store_.mutex);
  if (store_.in_spare_chunk(block)) {
    store_.give_up_spare_chunk();
    if (withdraw(block)) return Place::kOurs;
  }
  if (has_second_copy(store_, block)) return Place::kSecondCopy;  // a chunk was made there
  if (TRY(store_.reverse_map().count_references(store_.metadata(), block, 1)) != 0) return Place::kData;
  return Place::kInFlight;
}

bool Poison::withdraw(BlockNumber block) {
  if (store_.space().withdraw({block, 1}).empty()) return false;
  ours_.insert(block);
  return true;
}

// Store never hands out a block of the ledger, and does not take one back: a block without a reference that is not in
// the free space either is nobody's once all operations have ended that might have got it before it was in the ledger.
void Poison::look_at_pending() {
  if (pending_.empty()) return;
  {
    const LockGuard guard(store_.mutex);
    store_.reclaim();
  }
  Sectors again;
  for (auto it = pending_.begin(); it != pending_.end();) {
    const auto [block, pending] = *it;
    const bool passed = store_.operations().passed(pending.mark);
    const auto place = place_of(block);
    if (place && *place == Place::kInFlight) {
      const LockGuard guard(store_.mutex);
      if (!passed || store_.is_retired(block)) {
        ++it;
        continue;
      }
      ours_.insert(block);
    }
    again.emplace(block, pending.fresh_sectors);
    it = pending_.erase(it);
  }
  attend_to(again);
}

// --- recording and telling ------------------------------------------------------------------------------------------

bool Poison::record(const Sectors& ledger, const std::function<void(format::Roots&)>& count) {
  if (store_.read_only()) {
    for (const auto& [block, sectors] : ledger) store_.ledger().set(block, sectors);
    return true;
  }
  const auto recorded = store_.run(TransactionClass::kReleasing, [&](Transaction& transaction) -> Result<Step> {
    for (const auto& [block, sectors] : ledger) TRY(transaction.set_ledger(block, sectors));
    if (count) count(TRY(transaction.edit(format::kRootsBlock, format::BlockType::kRoots))->as<format::Roots>());
    return Step::kDone;
  });
  if (!recorded) {
    store_.log("the poison ledger cannot be written: " + describe(recorded.error()));
    return false;
  }
  for (const auto& [block, sectors] : ledger)
    if (sectors == 0) handled_.erase(block);
  return true;
}

void Poison::publish(Event event) {
  store_.log(event.text);
  store_.events().publish(std::move(event));
}

Event Poison::event_of(EventKind kind, BlockNumber block) {
  Event event;
  event.kind = kind;
  event.block = block;
  event.offset_bytes = byte_offset(block);
  event.length_bytes = kBlockBytes;
  return event;
}

void Poison::note_healed(VolumeNumber volume, InodeNumber inode, std::uint64_t offset_bytes, std::uint64_t length_bytes,
                         BlockNumber block) {
  {
    const LockGuard guard(mailbox_->mutex);
    mailbox_->healed.push_back({volume, inode, offset_bytes, length_bytes, block});
  }
  mailbox_->wake();
}

Result<BlockReport> Poison::report(BlockNumber block, std::size_t owner_limit) {
  BlockReport report;
  report.block = block;
  report.use = TRY(classify(store_, block));
  report.bad_sectors = store_.ledger().mask(block);
  report.in_ledger = report.bad_sectors != 0;
  if (report.use == BlockUse::kMetadata || report.use == BlockUse::kMetadataMirror) {
    // A mirror belongs to whom its primary belongs to.
    if (report.use == BlockUse::kMetadataMirror) block = block - format::kMirrorBlocks;
    report.detail =
        block == Metadata::chunk_base(block) ? "chunk header" : describe_type(store_.metadata().descriptor(block).type);
  } else if (report.use != BlockUse::kData) {
    return report;
  }
  const OwnerSet owners = TRY(find_owners(store_, store_.metadata(), block));
  for (const OwnerRange& range : owners.expand(owner_limit, &report.owners_truncated)) {
    Owner owner;
    owner.volume = range.volume;
    owner.volume_name = host_.volume_name(range.volume);
    owner.inode = range.inode;
    if (range.inode.value != 0) owner.path = host_.path_of(range.volume, range.inode);
    owner.offset_bytes = byte_offset(range.first);
    owner.length_bytes = range.count * kBlockBytes;
    owner.role = range.unwritten ? "reserved" : name_of(range.role);
    report.owners.push_back(std::move(owner));
  }
  return report;
}

}  // namespace daxcow
