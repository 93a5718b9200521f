#include "engine/space_usage.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <unordered_map>
#include <vector>

#include "engine/inode_table.h"
#include "engine/map.h"
#include "engine/references.h"
#include "engine/store.h"
#include "engine/volume_state.h"

namespace daxcow {

using format::BlockDescriptor;
using format::BlockType;
using format::InodeRecord;
using format::LeafKind;
using format::ReverseRecord;

namespace {

// The set that is measured: a frontier of blocks that it refers to, worked off from the highest level down.
class Measurement {
 public:
  explicit Measurement(Store& store) : store_(store), began_(store.commit_sequence()), scope_(store.operations().begin()) {}

  // Every reference of a root in an inode that is itself in the set.
  void add_fork(const Fork& fork, bool exclusive) {
    const auto log512 = static_cast<std::uint8_t>(fork.level - 1);
    for (const std::uint64_t slot : fork.slots)
      if (const MapEntry entry{slot}; entry.present())
        add({entry.block(), entry.is_node() ? 1 : blocks_spanned(log512)}, 1, exclusive, kRootRank);
  }

  Result<SpaceUsage> finish() {
    while (!frontier_.empty()) {
      const auto level = std::prev(frontier_.end());
      const auto blocks = std::move(level->second);
      const std::uint32_t rank = level->first;
      frontier_.erase(level);
      for (const auto& [block, from_set] : blocks) TRY(visit(block, rank, from_set));
    }
    TRY(count_data());
    return usage_;
  }

  // Whether the reverse map has no more references to a block than these.
  Result<bool> nobody_else(BlockNumber block, std::uint64_t references) {
    const auto limit = static_cast<unsigned>(std::min<std::uint64_t>(references + 1, ~0u));
    const LockGuard guard(store_.mutex);
    return TRY(store_.reverse_map().count_references(store_.metadata(), block, limit)) <= references;
  }

  void count_file() { ++usage_.files; }

 private:
  // A holder comes before all that it may refer to: tables, inode blocks, the nodes of files, what holds nothing.
  static constexpr std::uint32_t kRootRank = ~0u, kInodeRank = 1000;
  static std::uint32_t rank_of(const BlockDescriptor& descriptor) {
    if (descriptor.type == BlockType::kInodes) return kInodeRank;
    if (descriptor.type != BlockType::kMapNode) return 0;
    return descriptor.level + (descriptor.leaf_kind == LeafKind::kInodes ? kInodeRank : 0u);
  }

  // What `slots` neighbours of one holder refer to: data, or a block of metadata each. In a hostile image a large page
  // may begin at metadata, or a holder refer to what comes before it.
  void add(BlockRun run, std::uint64_t slots, bool exclusive, std::uint32_t holder_rank) {
    if (store_.metadata().descriptor(run.first).type == BlockType::kFree) {
      data_.push_back({run.first.value, run.end().value, exclusive});
      return;
    }
    for (std::uint64_t i = 0; i < slots; ++i)
      if (const std::uint32_t rank = rank_of(store_.metadata().descriptor(run.first + i)); rank < holder_rank)
        frontier_[rank][run.first + i] += exclusive ? 1 : 0;
  }

  // `from_set`: references of exclusive holders.
  Result<> visit(BlockNumber block, std::uint32_t rank, std::uint64_t from_set) {
    const bool exclusive = from_set != 0 && TRY(nobody_else(block, from_set));
    ++usage_.metadata_blocks;
    if (exclusive) ++usage_.exclusive_metadata_blocks;
    const BlockDescriptor descriptor = store_.metadata().descriptor(block);
    if (!holds_references(descriptor.type) || rank == 0 || rank_of(descriptor) != rank)
      return {};  // the last: changed meanwhile
    const auto content = store_.metadata().read(block, descriptor.type);
    if (!content) return store_.commit_sequence() != began_ ? Result<>() : std::unexpected(content.error());
    for (const ReverseRecord& record : records_of(block, descriptor.type, descriptor.level, **content))
      add({BlockNumber(record.first), record.length_blocks}, slots_of(record), exclusive, rank);
    return {};
  }

  struct DataRun {
    std::uint64_t first, end;
    bool exclusive;
  };

  // The runs cut where the number of references from exclusive holders changes.
  Result<> count_data() {
    struct Edge {
      std::uint64_t block;
      int all, exclusive;
    };
    std::vector<Edge> edges;
    edges.reserve(2 * data_.size());
    for (const DataRun& run : data_) {
      edges.push_back({run.first, 1, run.exclusive ? 1 : 0});
      edges.push_back({run.end, -1, run.exclusive ? -1 : 0});
    }
    data_ = {};
    std::ranges::sort(edges, {}, &Edge::block);
    std::int64_t all = 0, exclusive = 0;
    for (std::size_t i = 0; i < edges.size();) {
      const std::uint64_t block = edges[i].block;
      for (; i < edges.size() && edges[i].block == block; ++i) all += edges[i].all, exclusive += edges[i].exclusive;
      if (all == 0) continue;
      const BlockRun run{BlockNumber(block), edges[i].block - block};  // a run that is open has an end
      usage_.data_blocks += run.count;
      if (exclusive != 0) usage_.exclusive_data_blocks += TRY(exclusive_in(run, static_cast<std::uint64_t>(exclusive)));
    }
    return {};
  }

  // How many blocks of the run have no more references than the set's.
  Result<std::uint64_t> exclusive_in(BlockRun run, std::uint64_t from_set) {
    std::map<std::uint64_t, std::int64_t> edges;
    {
      const LockGuard guard(store_.mutex);
      TRY(store_.reverse_map().for_each_covering(store_.metadata(), run, [&](const ReverseRecord& record) {
        if (record.kind != format::RecordKind::kTree && record.kind != format::RecordKind::kHold) return true;
        ++edges[std::max(record.first, run.first.value)];
        --edges[std::min(record.first + record.length_blocks, run.end().value)];
        return true;
      }));
    }
    std::uint64_t blocks = 0;
    std::int64_t references = 0;
    for (auto edge = edges.begin(); edge != edges.end(); ++edge) {
      references += edge->second;
      if (references > 0 && static_cast<std::uint64_t>(references) <= from_set) blocks += std::next(edge)->first - edge->first;
    }
    return blocks;
  }

  Store& store_;
  const std::uint64_t began_;
  const Operations::Scope scope_;  // nothing that is freed meanwhile becomes something else
  std::map<std::uint32_t, std::unordered_map<BlockNumber, std::uint64_t>> frontier_;  // by rank: block, references of the set
  std::vector<DataRun> data_;
  SpaceUsage usage_;
};

// Whether the inode's block belongs to this volume alone: no node on the way to it is shared with a snapshot.
Result<bool> owns_inode(Store& store, Measurement& measurement, VolumeNumber volume, InodeNumber inode) {
  std::vector<BlockNumber> path;
  TRY(store.read_consistent([&](BlockReader& reader) -> Result<> {
    path.clear();
    const Fork table = TRY(InodeTable::root(reader, volume));
    const FileBlock block(inode.value / format::kInodesPerBlock);
    if (block.value >= table.capacity()) return fail(ErrorCode::kStale);
    auto log512 = static_cast<std::uint8_t>(table.level - 1);
    MapEntry entry{table.slots[block.value / blocks_spanned(log512)]};
    for (;; --log512) {
      if (!entry.present()) return fail(ErrorCode::kStale);
      if (!entry.is_node()) {
        path.push_back(entry.block() + block.value % blocks_spanned(log512));
        return {};
      }
      path.push_back(entry.block());
      if (log512 == 0) return fail(ErrorCode::kDamaged);
      const BlockPtr node = TRY(reader.read(entry.block(), BlockType::kMapNode));
      const auto below = static_cast<std::uint8_t>(log512 - 1);
      entry = MapEntry{node->as<format::MapNode>()[block.value / blocks_spanned(below) % format::kMapFanout]};
    }
  }));
  for (const BlockNumber block : path)
    if (!TRY(measurement.nobody_else(block, 1))) return false;
  return true;
}

}  // namespace

Result<SpaceUsage> space_of_trees(Pool& pool, Volume& volume, std::span<const InodeNumber> tops) {
  // What is in the set, and by how many of its names.
  std::unordered_map<std::uint64_t, std::uint64_t> names;
  std::vector<InodeNumber> directories;
  for (const InodeNumber top : tops) {
    const Attributes attributes = TRY(volume.attributes(top));
    ++names[top.value];
    if (S_ISDIR(attributes.mode) && names[top.value] == 1) directories.push_back(top);
  }
  while (!directories.empty()) {
    const InodeNumber directory = directories.back();
    directories.pop_back();
    const auto listed = volume.read_directory(directory, 0, [&](const DirectoryItem& item) {
      if (item.name == "." || item.name == "..") return true;
      if (++names[item.inode.value] == 1 && S_ISDIR(item.type)) directories.push_back(item.inode);
      return true;
    }, AccessTime::kKeep);
    if (!listed && listed.error().code != ErrorCode::kStale) return std::unexpected(listed.error());
  }
  Store& store = pool.store();
  Measurement measurement(store);
  for (const auto& [number, seen] : names) {
    const InodeNumber inode(number);
    const auto record = volume.state().read_record(inode);
    if (!record && record.error().code == ErrorCode::kStale) continue;  // removed meanwhile
    TRY(record);
    measurement.count_file();
    const bool all_names = is_directory(*record) || seen >= record->link_count;
    const bool exclusive = all_names && TRY(owns_inode(store, measurement, volume.number(), inode));
    measurement.add_fork(data_fork(*record, leaf_kind_of(*record)), exclusive);
    measurement.add_fork(attribute_fork(*record), exclusive);
  }
  return measurement.finish();
}

Result<SpaceUsage> space_of_volume(Pool& pool, VolumeNumber volume) {
  Store& store = pool.store();
  Measurement measurement(store);
  const Fork table = TRY(store.read_consistent([&](BlockReader& reader) { return InodeTable::root(reader, volume); }));
  measurement.add_fork(table, true);
  return measurement.finish();
}

}  // namespace daxcow
