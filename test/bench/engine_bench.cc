// daxcow_engine_bench: each operation of the engine by itself, on a medium in DRAM, by the number of files in a
// directory and by the number of extents of a file. google-benchmark's options choose and repeat
// (--benchmark_filter=REGEX, ...).
//
//   DAXCOW_BENCH_MAXIMUM=10000000 daxcow_engine_bench      goes on to ten million (needs 12 GiB of memory)
//
// Each operation is timed by itself, or in batches where it is too short for that. p50_ns and p99_ns are quantiles of
// these (of batches: of their means): on a machine that does other things too, the median still says what an operation
// costs, unlike the mean that google-benchmark prints beside it.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/mutex.h"
#include "engine/store.h"
#include "test/bench/engine_pool.h"
#include "test/bench/samples.h"

namespace daxcow::bench {
namespace {

using benchmark::State;

constexpr std::uint64_t kMebibyte = 1 << 20;

std::uint64_t number_of(const State& state) { return static_cast<std::uint64_t>(state.range(0)); }

void report_tail(State& state, Samples& samples) {
  state.counters["p50_ns"] = samples.quantile(0.5);
  state.counters["p99_ns"] = samples.quantile(0.99);
}

// For operations without side effects: in batches of which one takes microseconds.
template <class F>
void time_batches(State& state, F&& operation) {
  constexpr int kBatch = 64;
  Samples samples;
  for (auto _ : state) {
    const auto start = now_ns();
    for (int i = 0; i < kBatch; ++i) operation();
    samples.add((now_ns() - start) / kBatch);
  }
  report_tail(state, samples);
  state.SetItemsProcessed(state.iterations() * kBatch);
}

// The pool that was asked for last. Benchmarks of one size follow each other, so each size is built once.
template <class T>
T& last_built(std::uint64_t number) {
  static std::pair<std::uint64_t, std::unique_ptr<T>> last;
  if (last.first != number || last.second == nullptr) {
    last.second.reset();
    last = {number, std::make_unique<T>(number)};
  }
  return *last.second;
}

// --- by the number of files in a directory
// -----------------------------------------------------------------------------------

struct Files {
  explicit Files(std::uint64_t number) : engine(512 * kMebibyte + number * 1024) {
    engine.mount();
    directory = engine.create("files", S_IFDIR | 0755).inode;
    for (std::uint64_t i = 0; i < number; ++i) inodes.push_back(engine.create(directory, name(i)).inode);
    order.resize(65536);
    for (auto& index : order) index = random() % number;
  }
  static std::string name(std::uint64_t i) { return "file-" + std::to_string(i); }

  EnginePool engine;
  InodeNumber directory;
  std::vector<InodeNumber> inodes;
  std::mt19937_64 random{1};
  std::vector<std::uint64_t> order;  // files in random order
  std::uint64_t made = 0;            // names beyond those
};

void create(State& state) {
  auto& files = last_built<Files>(number_of(state));
  Samples samples;
  std::vector<std::string> names;
  for (auto _ : state) {
    const std::string name = "new-" + std::to_string(files.made++);
    state.SetIterationTime(static_cast<double>(samples.time([&] { files.engine.create(files.directory, name); })) *
                           1e-9);
    names.push_back(name);
  }
  report_tail(state, samples);
  for (const auto& name : names) must(files.engine.volume().unlink(files.directory, name));
}

void unlink(State& state) {
  auto& files = last_built<Files>(number_of(state));
  Samples samples;
  std::vector<std::string> names;
  for (auto _ : state) {
    if (names.empty())
      for (int i = 0; i < 1000; ++i)
        files.engine.create(files.directory, names.emplace_back("gone-" + std::to_string(files.made++)));
    const auto taken = samples.time([&] { must(files.engine.volume().unlink(files.directory, names.back())); });
    names.pop_back();
    state.SetIterationTime(static_cast<double>(taken) * 1e-9);
  }
  report_tail(state, samples);
  for (const auto& name : names) must(files.engine.volume().unlink(files.directory, name));
}

void lookup(State& state) {
  auto& files = last_built<Files>(number_of(state));
  std::vector<std::string> names;
  for (const auto index : files.order) names.push_back(Files::name(index));
  std::size_t next = 0;
  time_batches(state, [&] {
    const auto found = files.engine.volume().lookup(files.directory, names[next]);
    benchmark::DoNotOptimize(found->inode);
    next = (next + 1) % names.size();
  });
}

void attributes(State& state) {
  auto& files = last_built<Files>(number_of(state));
  std::size_t next = 0;
  time_batches(state, [&] {
    const auto found = files.engine.volume().attributes(files.inodes[files.order[next]]);
    benchmark::DoNotOptimize(found->size_bytes);
    next = (next + 1) % files.order.size();
  });
}

// The whole directory; items_per_second counts entries.
void readdir(State& state) {
  auto& files = last_built<Files>(number_of(state));
  std::uint64_t entries = 0;
  Samples samples;
  for (auto _ : state)
    samples.time([&] {
      must(files.engine.volume().read_directory(
          files.directory, 0, [&](const DirectoryItem&) { return ++entries != 0; }, AccessTime::kKeep));
    });
  report_tail(state, samples);
  state.SetItemsProcessed(static_cast<std::int64_t>(entries));
  state.counters["p50_ns_per_entry"] = samples.median() / static_cast<double>(number_of(state));
}

void snapshot(State& state) {
  auto& files = last_built<Files>(number_of(state));
  Samples samples;
  for (auto _ : state) {
    const auto taken = samples.time([&] { must(files.engine.pool().snapshot("main", "copy", false)); });
    state.SetIterationTime(static_cast<double>(taken) * 1e-9);
    must(files.engine.pool().delete_volume("copy"));
    files.engine.pool().settle();
  }
  report_tail(state, samples);
}

// --- by the number of extents of a file
// ---------------------------------------------------------------------------------------

// A file whose blocks all lie apart: between each two of them is one of another file. Only a sample of them is written
// to (the others stay unwritten), so that a file of 4 GiB needs no 4 GiB of memory.
struct Extents {
  static constexpr std::uint64_t kHot = 16384;

  explicit Extents(std::uint64_t count)
      : number(count), engine(kMebibyte * 1024 + count * (2 * kBlockBytes + 1024)), block(kBlockBytes) {
    engine.mount();
    file = engine.create("file").inode;
    const auto other = engine.create("other").inode;
    auto& volume = engine.volume();
    for (std::uint64_t i = 0; i < number; ++i)
      for (const auto inode : {file, other})
        must(volume.allocate(inode, AllocateMode::kAllocate, i * kBlockBytes, kBlockBytes));
    // In pairs of neighbours: however far apart the pairs are, each node of the map with one has another.
    hot.resize(std::min(number, kHot));
    const auto stride = number / hot.size();
    for (std::uint64_t i = 0; i < hot.size(); ++i) hot[i] = i / 2 * 2 * stride + i % 2;
    std::ranges::shuffle(hot, std::mt19937_64(1));
    for (const auto index : hot) must(volume.write(file, index * kBlockBytes, block));
  }
  InodeNumber clone(const std::string& name) {
    const auto made = engine.create(name).inode;
    const auto size = number * kBlockBytes;
    CHECK(must(engine.volume().clone_range(file, 0, made, 0, size)) == size);
    return made;
  }

  std::uint64_t number;
  EnginePool engine;
  std::vector<std::byte> block;
  InodeNumber file;
  std::vector<std::uint64_t> hot;  // written blocks, each once, in random order
};

void write_in_place(State& state) {
  auto& extents = last_built<Extents>(number_of(state));
  Samples samples;
  std::size_t next = 0;
  for (auto _ : state) {
    const auto offset = extents.hot[next] * kBlockBytes;
    const auto taken = samples.time([&] { must(extents.engine.volume().write(extents.file, offset, extents.block)); });
    state.SetIterationTime(static_cast<double>(taken) * 1e-9);
    next = (next + 1) % extents.hot.size();
  }
  report_tail(state, samples);
}

// Each block once, in random order, in a clone of which every map node has been unshared before, or (first) not.
void write_shared(State& state, bool first) {
  auto& extents = last_built<Extents>(number_of(state));
  auto& volume = extents.engine.volume();
  constexpr std::uint64_t kNodeSlots = 512;
  Samples samples;
  InodeNumber clone;
  std::vector<std::uint64_t> blocks;
  const auto renew = [&] {
    if (clone.value != 0) {
      must(volume.unlink(format::kRootInode, "clone"));
      extents.engine.pool().settle();
    }
    clone = extents.clone("clone");
    blocks.clear();
    std::vector<bool> seen((extents.number - 1) / kNodeSlots + 1);
    for (const auto index : extents.hot) {
      if (!seen[index / kNodeSlots]) {
        seen[index / kNodeSlots] = true;
        if (first) blocks.push_back(index);
        if (!first) must(volume.write(clone, index * kBlockBytes, extents.block));
      } else if (!first) {
        blocks.push_back(index);
      }
    }
  };
  for (auto _ : state) {
    if (blocks.empty()) renew();
    const auto offset = blocks.back() * kBlockBytes;
    blocks.pop_back();
    const auto taken = samples.time([&] { must(volume.write(clone, offset, extents.block)); });
    state.SetIterationTime(static_cast<double>(taken) * 1e-9);
  }
  report_tail(state, samples);
  must(volume.unlink(format::kRootInode, "clone"));
  extents.engine.pool().settle();
}

void overwrite_shared(State& state) { write_shared(state, false); }
void overwrite_shared_first(State& state) { write_shared(state, true); }

void read_block(State& state) {
  auto& extents = last_built<Extents>(number_of(state));
  std::size_t next = 0;
  time_batches(state, [&] {
    const auto lease = extents.engine.volume().read(extents.file, extents.hot[next] * kBlockBytes, kBlockBytes, AccessTime::kKeep);
    benchmark::DoNotOptimize(lease->pieces().data());
    next = (next + 1) % extents.hot.size();
  });
}

// How long a clone takes that nothing is changed in; its deletion is measured by the next one.
void clone_file(State& state, bool deletion) {
  auto& extents = last_built<Extents>(number_of(state));
  auto& volume = extents.engine.volume();
  Samples samples;
  for (auto _ : state) {
    const auto made = extents.engine.create("clone").inode;
    const auto size = extents.number * kBlockBytes;
    Samples ignored;
    const auto cloned =
        (deletion ? ignored : samples).time([&] { must(volume.clone_range(extents.file, 0, made, 0, size)); });
    const auto deleted = (deletion ? samples : ignored).time([&] { must(volume.unlink(format::kRootInode, "clone")); });
    state.SetIterationTime(static_cast<double>(deletion ? deleted : cloned) * 1e-9);
    extents.engine.pool().settle();
  }
  report_tail(state, samples);
}
void clone(State& state) { clone_file(state, false); }
void delete_clone(State& state) { clone_file(state, true); }

// Is this block shared?
void reverse_lookup(State& state) {
  auto& extents = last_built<Extents>(number_of(state));
  auto& store = extents.engine.pool().store();
  std::vector<BlockNumber> blocks;
  for (const auto index : extents.hot) {
    must(extents.engine.volume().for_each_extent(extents.file, FileBlock(index), false, [&](const FileExtent& extent) {
      blocks.push_back(extent.block);
      return false;
    }));
  }
  std::size_t next = 0;
  time_batches(state, [&] {
    const LockGuard guard(store.mutex);
    const auto references = store.reverse_map().count_references(store.metadata(), blocks[next], 2);
    benchmark::DoNotOptimize(*references);
    next = (next + 1) % blocks.size();
  });
}

// Opening a pool with at least that many records of the reverse map.
void open_pool(State& state) {
  auto& extents = last_built<Extents>(number_of(state));
  std::uint64_t records = 0;
  Samples samples;
  for (auto _ : state) {
    extents.engine.close();
    const auto taken = samples.time([&] {
      extents.engine.open();
      extents.engine.mount();
    });
    state.SetIterationTime(static_cast<double>(taken) * 1e-9);
    records = must(extents.engine.pool().statistics()).reverse_records;
  }
  report_tail(state, samples);
  state.counters["records"] = static_cast<double>(records);
  state.counters["p50_ns_per_record"] = samples.median() / static_cast<double>(records);
  state.SetItemsProcessed(static_cast<std::int64_t>(records) * state.iterations());
}

// --- owners of a block, by their number
// ----------------------------------------------------------------------------------------

struct Owned {
  explicit Owned(std::uint64_t number) : engine(kMebibyte * 256 + number * 2048) {
    engine.mount();
    const std::vector<std::byte> bytes(kBlockBytes);
    const auto file = engine.create("owner-0").inode;
    must(engine.volume().write(file, 0, bytes));
    for (std::uint64_t i = 1; i < number; ++i)
      must(engine.volume().clone_range(file, 0, engine.create("owner-" + std::to_string(i)).inode, 0, kBlockBytes));
    must(engine.volume().for_each_extent(file, FileBlock(0), false, [&](const FileExtent& extent) {
      block = extent.block;
      return false;
    }));
  }
  EnginePool engine;
  BlockNumber block;
};

void owners(State& state) {
  auto& owned = last_built<Owned>(number_of(state));
  Samples samples;
  for (auto _ : state)
    samples.time([&] {
      CHECK(must(owned.engine.pool().report(owned.block, number_of(state))).owners.size() == number_of(state));
    });
  report_tail(state, samples);
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

// --- copies of 1 MiB, in turns with memcpy
// ---------------------------------------------------------------------------------------

// A file of 256 MiB and as much other memory, beyond every cache.
struct Bulk {
  static constexpr std::uint64_t kBytes = 256 * kMebibyte;
  explicit Bulk(std::uint64_t) : engine(1024 * kMebibyte), memory(kBytes), buffer(kMebibyte, std::byte{1}) {
    engine.mount();
    file = engine.create("file").inode;
    for (std::uint64_t offset = 0; offset < kBytes; offset += kMebibyte)
      must(engine.volume().write(file, offset, buffer));
  }
  EnginePool engine;
  InodeNumber file;
  std::vector<std::byte> memory, buffer;
};

void copy_mebibyte(State& state, bool writing) {
  auto& bulk = last_built<Bulk>(number_of(state));
  Samples engine, plain;
  std::uint64_t offset = 0;
  for (auto _ : state) {
    const auto taken = engine.time([&] {
      if (writing) must(bulk.engine.volume().write(bulk.file, offset, bulk.buffer));
      if (!writing) CHECK(must(bulk.engine.volume().read(bulk.file, offset, std::span(bulk.buffer))) == kMebibyte);
    });
    plain.time([&] {
      if (writing) std::memcpy(bulk.memory.data() + offset, bulk.buffer.data(), kMebibyte);
      if (!writing) std::memcpy(bulk.buffer.data(), bulk.memory.data() + offset, kMebibyte);
      benchmark::ClobberMemory();
    });
    state.SetIterationTime(static_cast<double>(taken) * 1e-9);
    offset = (offset + kMebibyte) % Bulk::kBytes;
  }
  report_tail(state, engine);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kMebibyte));
  state.counters["of_memcpy"] = plain.median() / engine.median();  // bandwidth; the aim is 0.8
}
void write_mebibyte(State& state) { copy_mebibyte(state, true); }
void read_mebibyte(State& state) { copy_mebibyte(state, false); }

// To new blocks; a file that has become large begins anew.
void append_mebibyte(State& state) {
  auto& bulk = last_built<Bulk>(number_of(state));
  auto& volume = bulk.engine.volume();
  Samples samples;
  auto file = bulk.engine.create("appended").inode;
  std::uint64_t offset = 0;
  for (auto _ : state) {
    if (offset == Bulk::kBytes) {
      must(volume.unlink(format::kRootInode, "appended"));
      bulk.engine.pool().settle();
      file = bulk.engine.create("appended").inode;
      offset = 0;
    }
    const auto taken = samples.time([&] { must(volume.write(file, offset, bulk.buffer)); });
    state.SetIterationTime(static_cast<double>(taken) * 1e-9);
    offset += kMebibyte;
  }
  must(volume.unlink(format::kRootInode, "appended"));
  bulk.engine.pool().settle();
  report_tail(state, samples);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kMebibyte));
}

// --- which, and in what order
// ----------------------------------------------------------------------------------------------------

struct Entry {
  const char* name;
  void (*function)(State&);
  bool manual;         // it times itself
  int iterations = 0;  // 0: as long as google-benchmark likes
};

void add(const Entry& entry, std::int64_t number) {
  auto* added = benchmark::RegisterBenchmark(entry.name, entry.function)->Arg(number)->Unit(benchmark::kNanosecond);
  if (entry.manual) added->UseManualTime();
  if (entry.iterations != 0) added->Iterations(entry.iterations);
}

void add_all(std::int64_t maximum) {
  const Entry of_files[] = {{"lookup", lookup, false},        {"attributes", attributes, false},
                            {"create", create, true, 50'000}, {"unlink", unlink, true, 50'000},
                            {"readdir", readdir, false},      {"snapshot", snapshot, true, 500}};
  const Entry of_extents[] = {{"read_4k", read_block, false},
                              {"write_4k_in_place", write_in_place, true, 200'000},
                              {"reverse_lookup", reverse_lookup, false},
                              {"clone", clone, true, 500},
                              {"delete_clone", delete_clone, true, 500},
                              {"overwrite_4k_shared", overwrite_shared, true, 10'000},
                              {"overwrite_4k_shared_first", overwrite_shared_first, true, 200},
                              {"open", open_pool, true, 3}};
  const Entry of_bulk[] = {{"write_1m_in_place", write_mebibyte, true, 1000},
                           {"append_1m", append_mebibyte, true, 1000},
                           {"read_1m", read_mebibyte, true, 1000}};
  for (const auto& entry : of_bulk) add(entry, 0);
  for (std::int64_t number = 1; number <= 10'000; number *= 10) add({"owners", owners, false}, number);
  for (std::int64_t number = 1000; number <= maximum; number *= 10)
    for (const auto& entry : of_files) add(entry, number);
  for (std::int64_t number = 1000; number <= maximum; number *= 10)
    for (const auto& entry : of_extents) add(entry, number);
}

}  // namespace
}  // namespace daxcow::bench

int main(int argc, char** argv) {
  const char* const maximum = std::getenv("DAXCOW_BENCH_MAXIMUM");
  daxcow::bench::add_all(maximum != nullptr ? std::atoll(maximum) : 1'000'000);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
