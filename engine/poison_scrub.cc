#include "engine/poison_scrub.h"

#include <algorithm>
#include <vector>

#include "engine/metadata.h"

namespace daxcow {

using format::BlockType;
using format::RecordKind;
using format::ReverseRecord;

namespace {

constexpr std::uint64_t kReadBlocks = 256;     // at once, and between two reports of progress
constexpr std::uint64_t kBatchBlocks = 16384;  // gathered under the mutex at a time
constexpr std::uint64_t kBatchRuns = 1000;

class Scrub {
 public:
  Scrub(Store& store, const std::function<void(std::uint64_t, std::uint64_t)>& progress)
      : store_(store), progress_(progress), buffer_(kReadBlocks * kBlockBytes) {}

  Result<std::uint64_t> run() {
    const std::uint64_t pool_blocks = store_.superblock().pool_bytes / kBlockBytes;
    {
      const LockGuard guard(store_.mutex);
      chunks_ = store_.metadata().chunks();
    }
    total_ = pool_blocks - std::min(pool_blocks, store_.space().free_blocks());
    read_run({format::kSuperblockPrimary, 1});
    read_run({BlockNumber(pool_blocks - 1), 1});
    read_run({format::kJournalChunk, format::kChunkBlocks});
    for (const BlockNumber base : chunks_) read_chunk(base);
    TRY(read_data(pool_blocks));
    if (progress_) progress_(total_, total_);
    return found_;
  }

 private:
  void advance(std::uint64_t blocks) {
    done_ += blocks;
    if (progress_ && done_ - reported_ >= kReadBlocks) {
      reported_ = done_;
      progress_(std::min(done_, total_), total_);
    }
  }

  void suspect(BlockNumber block) {
    if (store_.ledger().mask(block) != 0) return;  // known
    ++found_;
    store_.suspect({block, 1});
  }

  bool read_blocks(BlockRun run) {
    return store_.medium().read(byte_offset(run.first), std::span(buffer_).first(run.count * kBlockBytes)).has_value();
  }

  void read_run(BlockRun run) {
    while (run.count != 0) {
      const std::uint64_t count = std::min(run.count, kReadBlocks);
      if (!read_blocks({run.first, count}))
        for (std::uint64_t i = 0; i < count; ++i)
          if (!read_blocks({run.first + i, 1})) suspect(run.first + i);
      advance(count);
      run = {run.first + count, run.count - count};
    }
  }

  void read_chunk(BlockNumber base) {
    read_run({base, format::kChunkBlocks});
    // A copy that a commit is changing now fails here and passes when it is checked again under the mutex.
    for (const Copy copy : {Copy::kPrimary, Copy::kMirror}) {
      if (is_damaged(store_.metadata().verify_header_copy(base, copy))) report({base, copy});
      for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i) {
        if (store_.metadata().descriptor(base + i).type == BlockType::kFree) continue;
        if (is_damaged(store_.metadata().read_copy(base + i, copy))) report({base + i, copy});
      }
    }
  }
  template <class T>
  static bool is_damaged(const Result<T>& read) {
    return !read && read.error().code != ErrorCode::kPoisoned;  // poison was found already
  }
  void report(BadCopy copy) {
    ++found_;
    store_.bad_copy(copy);
  }

  Result<> read_data(std::uint64_t pool_blocks) {
    for (std::uint64_t position = 0; position < pool_blocks;) {
      std::vector<BlockRun> runs;
      TRY(gather(position, pool_blocks, runs));
      for (const BlockRun& run : runs) read_run(run);
    }
    return {};
  }

  // The next runs of data in use from `position` on, which moves behind them. A run may be freed before it is read:
  // reading it is harmless then.
  Result<> gather(std::uint64_t& position, std::uint64_t pool_blocks, std::vector<BlockRun>& runs) {
    const LockGuard guard(store_.mutex);
    const BlockRun rest{BlockNumber(position), pool_blocks - position};
    std::uint64_t blocks = 0;
    bool complete = true;
    TRY(store_.reverse_map().for_each_covering(store_.metadata(), rest, [&](const ReverseRecord& record) {
      if (record.kind != RecordKind::kTree && record.kind != RecordKind::kHold) return true;
      if (store_.metadata().in_chunk(BlockNumber(record.first))) return true;
      const std::uint64_t first = std::max(record.first, position);
      const std::uint64_t end = std::min({record.first + record.length_blocks, first + kBatchBlocks, pool_blocks});
      if (first >= end) return true;  // shared: seen already
      runs.push_back({BlockNumber(first), end - first});
      blocks += end - first;
      position = end;
      complete = blocks < kBatchBlocks && runs.size() < kBatchRuns;
      return complete;
    }));
    if (complete) position = pool_blocks;
    return {};
  }

  Store& store_;
  const std::function<void(std::uint64_t, std::uint64_t)>& progress_;
  std::vector<std::byte> buffer_;
  std::vector<BlockNumber> chunks_;
  std::uint64_t done_ = 0, reported_ = 0, total_ = 0, found_ = 0;
};

}  // namespace

Result<std::uint64_t> scrub_store(Store& store,
                                  const std::function<void(std::uint64_t done, std::uint64_t total)>& progress) {
  return Scrub(store, progress).run();
}

}  // namespace daxcow
