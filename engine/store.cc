#include "engine/store.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/check.h"
#include "engine/checksum.h"
#include "engine/pool_layout.h"

namespace daxcow {

using format::BlockDescriptor;
using format::BlockType;
using format::kChunkBlocks;
using format::ReverseRecord;
using format::Superblock;

namespace {

// Home and mirror of a metadata block, outside of any transaction.
Result<> store_both(Medium& medium, BlockNumber block, std::span<const std::byte> content) {
  TRY(medium.store(byte_offset(block), content));
  return medium.store(byte_offset(Metadata::mirror_of(block)), content);
}

Result<> check_writable(const Superblock& superblock) {
  if (superblock.oldest_minor > format::kFormatMinor || superblock.read_only_compatible_features != 0)
    return fail(ErrorCode::kVersion, "the pool was written by a newer version; open it read-only or use that");
  return {};
}

}  // namespace

// --- format and open -------------------------------------------------------------------------------------------------

Result<> Store::format(Medium& medium, const std::string& label) {
  if (medium.size_bytes() < format::kMinimumPoolBytes)
    return fail(ErrorCode::kNoSpace, "a pool needs at least 16 MiB, this has " + std::to_string(medium.size_bytes() >> 20) + " MiB");
  if (medium.size_bytes() > format::kMaximumPoolBytes) return fail(ErrorCode::kFileTooBig, "a pool can have at most 1 EiB");
  const std::uint64_t pool_blocks = medium.block_count();
  const Superblock superblock = TRY(make_superblock(pool_blocks, label));

  // The old superblocks go first: a crash in between leaves no pool rather than half of one.
  const BlockNumber copies[2] = {format::kSuperblockPrimary, second_superblock(pool_blocks)};
  for (const BlockNumber copy : copies) TRY(medium.store_zeros(byte_offset(copy), kBlockBytes));
  TRY(medium.drain());
  for (const BlockNumber area : {format::kJournalChunk, Metadata::mirror_of(format::kJournalChunk)})
    TRY(medium.store_zeros(byte_offset(area), kBlockBytes));

  const Block roots{};
  Block leaf{};
  auto& records = leaf.as<format::ReverseLeaf>();
  std::size_t count = 0;
  for_each_system_record({format::kFirstChunk}, pool_blocks, [&](const ReverseRecord& record) { records.records[count++] = record; });
  records.used[0] = (1ull << count) - 1;
  const BlockNumber leaf_block = format::kRootsBlock + 1;

  Block header_block{};
  auto& header = header_block.as<format::ChunkHeader>();
  header.magic = format::kChunkMagic;
  header.self = format::kFirstChunk.value;
  header.blocks[0] = BlockDescriptor{BlockType::kRoots, 0, format::LeafKind::kData, 0, 0};
  header.blocks[0].crc = block_crc(format::kRootsBlock, header.blocks[0], roots);
  header.blocks[1] = BlockDescriptor{BlockType::kReverseLeaf, 0, format::LeafKind::kData, 0, 0};
  header.blocks[1].crc = block_crc(leaf_block, header.blocks[1], leaf);
  header.crc = chunk_header_crc(header);
  TRY(store_both(medium, format::kRootsBlock, roots.bytes));
  TRY(store_both(medium, leaf_block, leaf.bytes));
  TRY(store_both(medium, format::kFirstChunk, header_block.bytes));
  TRY(medium.drain());
  for (const BlockNumber copy : copies) TRY(medium.store(byte_offset(copy), std::as_bytes(std::span(&superblock, 1))));
  return medium.drain();
}

Result<Superblock> Store::read_superblock(Medium& medium) {
  if (medium.block_count() < format::kMinimumPoolBytes / kBlockBytes)
    return fail(ErrorCode::kNotAPool, "not a daxcow pool (smaller than any); make one with mkfs.daxcow");
  Superblock superblock;
  auto state = read_superblock_copy(medium, format::kSuperblockPrimary, superblock);
  if (state != SuperblockState::kGood) {
    // The second copy is in the last block; if the first is gone, only the medium's own size says where that is.
    const auto second = read_superblock_copy(medium, second_superblock(medium.block_count()), superblock);
    if (second != SuperblockState::kGood) {
      if (state == SuperblockState::kAbsent && second == SuperblockState::kAbsent)
        return fail(ErrorCode::kNotAPool, "not a daxcow pool; make one with mkfs.daxcow");
      return fail(ErrorCode::kDamaged, "both superblocks are damaged");
    }
  }
  if (superblock.major != format::kFormatMajor)
    return fail(ErrorCode::kVersion, "pool format " + std::to_string(superblock.major) + "." + std::to_string(superblock.minor) +
                                         ", this program knows " + std::to_string(format::kFormatMajor) + "." +
                                         std::to_string(format::kFormatMinor) + "; use a matching version");
  if (superblock.incompatible_features != 0)
    return fail(ErrorCode::kVersion, "the pool uses features that this program does not know; use a newer version");
  if (!medium.info().read_only) TRY(check_writable(superblock));
  if (superblock.pool_bytes > medium.size_bytes())
    return fail(ErrorCode::kDamaged, "the pool is truncated: it has " + std::to_string(medium.size_bytes()) + " of " +
                                         std::to_string(superblock.pool_bytes) + " bytes; restore its full length");
  if (!makes_sense(superblock))
    return fail(ErrorCode::kDamaged, "the superblock makes no sense");
  return superblock;
}

Store::Store(std::unique_ptr<Medium> medium, StoreOptions options, const Superblock& superblock)
    : medium_(std::move(medium)),
      options_(std::move(options)),
      superblock_(superblock),
      metadata_(*medium_, options_.cache_bytes),
      journal_(*medium_, format::kJournalChunk, journal_seed(superblock)),
      read_only_(medium_->info().read_only) {
  metadata_.set_bad_copy_handler([this](BadCopy copy) { bad_copy(copy); });
}

Store::~Store() = default;

Result<std::unique_ptr<Store>> Store::open(std::unique_ptr<Medium> medium, StoreOptions options) {
  const Superblock superblock = TRY(read_superblock(*medium));
  std::unique_ptr<Store> store(new Store(std::move(medium), std::move(options), superblock));
  TRY(store->recover(store->read_only() ? Journal::Copies::kLeave : Journal::Copies::kMakeEqual));
  TRY(store->metadata_.load_chunks(format::kFirstChunk));
  TRY(store->scan());
  if (store->read_only()) return store;
  {
    const LockGuard guard(store->mutex);
    TRY(store->check_own_blocks());
  }
  TRY(store->renew_superblocks());
  return store;
}

// The same recovery as at the opening, but on the medium. What it brings home is what all have seen since, so nothing
// changes for them; a crash in the middle of it leaves a pool that the next opening recovers.
Result<> Store::begin_writing(OverlayMedium& overlay) {
  {
    const LockGuard guard(mutex);
    if (!read_only()) return {};
    TRY(check_writable(superblock_));
    TRY(check_own_blocks());
    TRY(overlay.begin_writing());
    TRY(recover(Journal::Copies::kMakeEqual));
    overlay.forget_aside();
    read_only_.store(false, std::memory_order_release);
  }
  return renew_superblocks();
}

// A copy that fails its check is written again from the other one: the next damage may hit that. What cannot be read at all
// is left to the reaction to poison.
Result<> Store::renew_superblocks() {
  for (const BlockNumber copy : {format::kSuperblockPrimary, second_superblock(pool_blocks())}) {
    const auto wanted = std::as_bytes(std::span(&superblock_, 1));
    Superblock found;
    if (!medium_->read(byte_offset(copy), std::as_writable_bytes(std::span(&found, 1)))) continue;
    if (std::memcmp(&found, &superblock_, sizeof found) == 0) continue;
    TRY(medium_->store(byte_offset(copy), wanted));
    TRY(medium_->drain());
    Event event;
    event.kind = EventKind::kMetadataRepaired;
    event.block = copy;
    event.text = "block " + std::to_string(copy.value) + " (superblock) failed its check and was rewritten from its other copy";
    log(event.text);
    events_.publish(std::move(event));
    TRY(run(TransactionClass::kReleasing, [](Transaction& transaction) -> Result<Step> {
      TRY(transaction.edit(format::kRootsBlock, BlockType::kRoots))->as<format::Roots>().metadata_repaired += 1;
      return Step::kDone;
    }));
  }
  return {};
}

Result<> Store::recover(Journal::Copies copies) {
  const auto recovered = TRY(journal_.recover(copies));
  // Read-only media are opened through an overlay, which takes these stores in DRAM.
  TRY(journal_.apply(recovered, [this](BlockNumber block, bool mirror) {
    bad_copy({block, mirror ? Copy::kMirror : Copy::kPrimary});
  }));
  return {};
}

Result<> Store::scan() {
  for (const BlockNumber base : metadata_.chunks()) {
    for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i) {
      if (metadata_.descriptor(base + i).type != BlockType::kReverseLeaf) continue;
      const BlockPtr leaf = TRY(metadata_.read(base + i, BlockType::kReverseLeaf));
      TRY(reverse_map_.add_leaf(base + i, leaf->as<format::ReverseLeaf>(), pool_blocks()));
    }
  }
  TRY(reverse_map_.finish_open());

  std::uint64_t position = 0;  // everything below is accounted for
  const auto free_up_to = [&](std::uint64_t end) {
    if (position < end) space_.release({BlockNumber(position), end - position});
  };
  const LockGuard guard(mutex);
  TRY(reverse_map_.for_each_record(metadata_, [&](const ReverseRecord& record) {
    if (record.kind == format::RecordKind::kLedger) ledger_.set(BlockNumber(record.first), record.sector_mask);
    free_up_to(record.first);
    position = std::max(position, record.first + record.length_blocks);
    return true;
  }));
  free_up_to(pool_blocks());
  take_spare_chunk();
  return {};
}

// What no record keeps from being given out as free must not be the pool's own.
Result<> Store::check_own_blocks() const {
  const auto free = [this](BlockNumber first, std::uint64_t count) {
    mutex.assert_held();
    return is_free({first, count});
  };
  bool any = free(format::kSuperblockPrimary, 1) || free(second_superblock(pool_blocks()), 1) ||
             free(format::kJournalChunk, kChunkBlocks);
  for (const BlockNumber base : metadata_.chunks()) any |= free(base, kChunkBlocks);
  if (any)
    return fail(ErrorCode::kDamaged, "the pool's own blocks are recorded as free; run fsck.daxcow");
  return {};
}

// --- changes -----------------------------------------------------------------------------------------------------------

Result<> Store::run(TransactionClass transaction_class, FunctionRef<Result<Step>(Transaction&)> body) {
  const LockGuard guard(mutex);
  return run_locked(transaction_class, body);
}

Result<> Store::run_locked(TransactionClass transaction_class, FunctionRef<Result<Step>(Transaction&)> body) {
  if (read_only()) return fail(ErrorCode::kReadOnly);
  if (failed_) return fail(ErrorCode::kIo, "the pool cannot be written any more; unmount it");
  constexpr int kMaximumChunks = 8;  // more than any single transaction can need
  for (int added = 0;;) {
    Error error{};
    {
      Transaction transaction(*this, transaction_class);
      auto step = body(transaction);
      Result<> done = step ? transaction.commit() : Result<>(std::unexpected(std::move(step).error()));
      if (done) {
        if (*step == Step::kDone) return {};
        added = 0;
        continue;
      }
      error = std::move(done).error();
    }
    if (error.code != ErrorCode::kNeedChunk) return std::unexpected(std::move(error));
    if (++added > kMaximumChunks) return fail(ErrorCode::kNoSpace);
    TRY(add_chunk(transaction_class));
  }
}

void Store::take_spare_chunk() {
  // Small pools cannot afford one.
  if (spare_chunk_.count == 0 && superblock_.pool_bytes >= (64ull << 20)) spare_chunk_ = space_.allocate_chunk();
}

Result<> Store::add_chunk(TransactionClass transaction_class) {
  reclaim();
  constexpr int kTries = 8;  // chunks with a bad block in their headers, one after the other
  for (int i = 0; i < kTries; ++i) {
    const auto added = TRY(try_add_chunk(transaction_class));
    if (added) return {};
  }
  return fail(ErrorCode::kNoSpace);
}

// False if the place turned out to be bad, and is out of circulation now.
Result<bool> Store::try_add_chunk(TransactionClass transaction_class) {
  BlockRun run = space_.allocate_chunk();
  const bool spare = run.count == 0 && transaction_class != TransactionClass::kNormal && spare_chunk_.count != 0;
  if (spare) run = std::exchange(spare_chunk_, BlockRun{});
  if (run.count == 0) return fail(ErrorCode::kNoSpace);

  for (const BlockNumber header : {run.first, Metadata::mirror_of(run.first)}) {
    const bool good = medium_->store_zeros(byte_offset(header), kBlockBytes).has_value();
    if (good && !ledger_.touches(run)) continue;
    if (!good) ledger_.set(header, kWholeBlock);
    release_data(run);
    return false;
  }
  const auto link = [&]() -> Result<> {
    Block block{};
    auto& header = block.as<format::ChunkHeader>();
    header.magic = format::kChunkMagic;
    header.self = run.first.value;
    header.crc = chunk_header_crc(header);
    TRY(store_both(*medium_, run.first, block.bytes));
    TRY(medium_->drain());
    const BlockNumber last = metadata_.last_chunk();
    // May use the reserve: it is what makes more of it.
    Transaction transaction(*this, TransactionClass::kReleasing);
    TRY(transaction.insert_record(chunk_record(run.first, last)));
    transaction.link_chunk(last, run.first);
    return transaction.commit();
  };
  if (auto linked = link(); !linked) {
    release_data(run);
    if (linked.error().code == ErrorCode::kNeedChunk) return fail(ErrorCode::kNoSpace);
    return std::unexpected(linked.error());
  }
  metadata_.add_chunk(run.first);
  if (!spare) take_spare_chunk();
  return true;
}

Result<std::uint64_t> Store::take_generation(Transaction& transaction) {
  constexpr std::uint64_t kBatch = 4096;
  const BlockPtr roots = TRY(transaction.read(format::kRootsBlock, BlockType::kRoots));
  const std::uint64_t limit = roots->as<format::Roots>().generation_limit;
  if (limit > format::kMaximumGeneration)
    return fail(ErrorCode::kDamaged, "the generations of inodes have come to their end; run fsck.daxcow");
  // First use since open: all numbers below the limit may be in use.
  if (next_generation_ == 0) next_generation_ = std::max<std::uint64_t>(limit, 1);
  if (next_generation_ >= limit) {
    Block* edited = TRY(transaction.edit(format::kRootsBlock, BlockType::kRoots));
    edited->as<format::Roots>().generation_limit = next_generation_ + kBatch;
  }
  return next_generation_++;
}

// --- data space --------------------------------------------------------------------------------------------------------

Store::Reservation& Store::Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    if (store_ != nullptr && run_.count != 0) store_->release_data(run_);
    store_ = std::exchange(other.store_, nullptr);
    run_ = other.run_;
  }
  return *this;
}

Store::Reservation::~Reservation() {
  if (store_ != nullptr && run_.count != 0) store_->release_data(run_);
}

Result<Store::Reservation> Store::reserve_and_store(BlockNumber goal, const Block& content) {
  for (std::uint64_t bad_places = 0;;) {
    auto reservation = TRY(reserve(goal, 1));
    const BlockNumber block = reservation.run().first;
    const auto stored = medium().store(byte_offset(block), content.bytes);
    if (stored) {
      TRY(medium().drain());
      return reservation;
    }
    if (stored.error().code != ErrorCode::kPoisoned || ++bad_places == kBadPlaces) return std::unexpected(stored.error());
    ledger_.set(block, kWholeBlock);  // not handed out again
    suspect({block, 1});
  }
}

Result<Store::Reservation> Store::reserve(BlockNumber goal, std::uint64_t wanted) {
  while (true) {
    BlockRun run = space_.allocate(goal, wanted);
    if (run.count == 0) {
      const LockGuard guard(mutex);
      reclaim();
      run = space_.allocate(goal, wanted);
    }
    if (run.count == 0) return fail(ErrorCode::kNoSpace);
    if (!ledger_.touches(run)) return Reservation(*this, run);
    release_data(run);  // keeps the bad blocks out: the next try cannot meet them again
  }
}

// Chunk by chunk: their list may grow meanwhile.
bool Store::holds_data(BlockRun run) const {
  const BlockNumber last = second_superblock(pool_blocks());
  if (run.count == 0 || run.first == format::kSuperblockPrimary || run.first >= last || run.count > last - run.first)
    return false;
  for (std::uint64_t base = run.first.value / kChunkBlocks * kChunkBlocks; base < run.end().value; base += kChunkBlocks)
    if (base == format::kJournalChunk.value || metadata_.in_chunk(BlockNumber(base))) return false;
  return true;
}

bool Store::is_free(BlockRun run) const {
  const bool spare = run.first < spare_chunk_.end() && spare_chunk_.first < run.end();
  return spare || space_.touches(run);
}

void Store::release_data(BlockRun run) {
  const auto release = [this](BlockRun part) {
    // Freed twice: only a damaged reverse map can bring that about.
    if (space_.release(part) != part.count)
      log("blocks " + std::to_string(part.first.value) + " and following were free before they were freed; run fsck.daxcow");
  };
  for (const auto& [bad, mask] : ledger_.in(run)) {
    if (bad > run.first) release({run.first, bad - run.first});
    run = {bad + 1, run.end() - (bad + 1)};
    quarantined({bad, 1});
  }
  if (run.count != 0) release(run);
}

void Store::retire(std::vector<BlockRun> data, std::vector<BlockNumber> metadata) {
  std::uint64_t blocks = metadata.size();
  for (const BlockRun& run : data) {
    blocks += run.count;
    // The poison thread clears them on the device once nobody looks at them any more.
    for (const auto& [bad, mask] : ledger_.in(run)) quarantined({bad, 1});
  }
  retired_blocks_.fetch_add(blocks, std::memory_order_relaxed);
  retired_.push_back({operations_.mark(), std::move(data), std::move(metadata)});
  if (retired_.size() >= 64) reclaim();
}

void Store::reclaim() {
  if (retired_.empty()) return;
  const std::uint64_t oldest = operations_.oldest();
  while (!retired_.empty() && retired_.front().mark < oldest) {
    Retired& retired = retired_.front();
    std::uint64_t blocks = retired.metadata.size();
    for (const BlockRun& run : retired.data) {
      release_data(run);
      blocks += run.count;
    }
    for (const BlockNumber block : retired.metadata) metadata_.give_back(block);
    retired_blocks_.fetch_sub(blocks, std::memory_order_relaxed);
    retired_.pop_front();
  }
}

bool Store::is_retired(BlockNumber block) const {
  for (const Retired& retired : retired_) {
    if (std::ranges::any_of(retired.data, [&](const BlockRun& run) { return run.contains(block); })) return true;
    if (std::ranges::find(retired.metadata, block) != retired.metadata.end()) return true;
  }
  return false;
}

// --- what the poison thread should look at -----------------------------------------------------------------------------

// Nobody is woken for what is there already.
template <class Container>
void Store::add_and_wake(Container Store::*list, const typename Container::value_type& item) {
  std::function<void()> wake;
  {
    const LockGuard guard(suspects_mutex_);
    Container& items = this->*list;
    const std::size_t before = items.size();
    items.insert(items.end(), item);
    if (items.size() == before) return;
    wake = wake_;
  }
  if (wake) wake();
}

void Store::suspect(BlockRun run) { add_and_wake(&Store::suspects_, run); }
void Store::quarantined(BlockRun run) { suspect(run); }
void Store::bad_copy(BadCopy copy) { add_and_wake(&Store::bad_copies_, copy); }

std::vector<BlockRun> Store::take_suspects() {
  const LockGuard guard(suspects_mutex_);
  return std::exchange(suspects_, {});
}

std::set<BadCopy> Store::bad_copies() {
  const LockGuard guard(suspects_mutex_);
  return bad_copies_;
}

void Store::forget_bad_copies(const std::set<BadCopy>& copies) {
  const LockGuard guard(suspects_mutex_);
  for (const BadCopy& copy : copies) bad_copies_.erase(copy);
}

void Store::set_wake(std::function<void()> wake) {
  const LockGuard guard(suspects_mutex_);
  wake_ = std::move(wake);
}

}  // namespace daxcow
