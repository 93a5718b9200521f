#include "test/explore/explorer.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <thread>

#include "engine/check_context.h"
#include "engine/format.h"
#include "engine/repair.h"
#include "engine/store.h"
#include "test/explore/inspect.h"

namespace daxcow::test {
namespace {

constexpr std::size_t kKeptFailures = 100;  // of different workloads

// A dump without the blocks that `lost` says are lost in it, so that what is left can be compared.
void forget_lost(DumpedInode& inode, const std::set<std::uint64_t>& lost) {
  inode.lost.clear();
  for (const std::uint64_t block : lost) inode.blocks.erase(block);
}

template <class AnyDump>  // const or not
auto inode_in(AnyDump& dump, const std::string& volume, const std::string& path)
    -> decltype(&dump.volumes.begin()->second.names.begin()->second) {
  const auto v = dump.volumes.find(volume);
  if (v == dump.volumes.end()) return nullptr;
  const auto i = v->second.names.find(path);
  return i == v->second.names.end() ? nullptr : &i->second;
}

void add_losses(Dump& to, const Dump& from) {
  for (const auto& [volume, content] : from.volumes)
    for (const auto& [path, inode] : content.names)
      if (DumpedInode* other = inode_in(to, volume, path)) other->lost.insert(inode.lost.begin(), inode.lost.end());
}

// Every byte is that of one or the other. Blocks that are lost were left out on all sides.
bool is_mixed(const DumpedInode& found, const DumpedInode& a, const DumpedInode& b) {
  static const std::string kZeros(kBlockBytes, '\0');
  const auto block_of = [](const DumpedInode& inode, std::uint64_t block) -> const std::string& {
    const auto it = inode.blocks.find(block);
    return it == inode.blocks.end() ? kZeros : it->second;
  };
  std::set<std::uint64_t> blocks;
  for (const auto* inode : {&found, &a, &b})
    for (const auto& [block, content] : inode->blocks) blocks.insert(block);
  for (const std::uint64_t block : blocks) {
    if (a.lost.contains(block) || b.lost.contains(block)) continue;
    const std::string &x = block_of(found, block), &y = block_of(a, block), &z = block_of(b, block);
    if (x == y || x == z) continue;
    for (std::size_t i = 0; i < kBlockBytes; ++i)
      if (x[i] != y[i] && x[i] != z[i]) return false;
  }
  return true;
}

struct Position {
  BlockNumber block;
  std::string what;
  std::optional<BlockNumber> mirror;  // with it, both copies are gone: a case for repair
};

// One block of every class that the pool has.
std::vector<Position> poison_positions(Recording& recording, std::mt19937_64& random) {
  std::vector<Position> positions;
  const auto pool = open_pool(recording);
  if (!pool) return positions;
  Store& store = (*pool)->store();
  const auto add = [&](BlockNumber block, const std::string& what) { positions.push_back({block, what, {}}); };
  add(BlockNumber(0), "superblock");
  add(BlockNumber(recording.memory().size() / kBlockBytes - 1), "second superblock");
  add(format::kJournalChunk, "journal");
  add(format::kJournalChunk + format::kMirrorBlocks, "journal's mirror");
  add(format::kFirstChunk, "chunk header");
  add(format::kFirstChunk + format::kMirrorBlocks, "chunk header's mirror");
  positions.push_back({format::kFirstChunk, "both copies of chunk header", format::kFirstChunk + format::kMirrorBlocks});
  std::map<std::string, std::vector<BlockNumber>> by_type;
  for (const BlockNumber base : store.metadata().chunks())
    for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i) {
      const auto descriptor = store.metadata().descriptor(base + i);
      std::string name = checker::name_of(descriptor.type);
      if (descriptor.type == format::BlockType::kMapNode) name += " of level " + std::to_string(descriptor.level) + ", kind " + std::to_string(static_cast<unsigned>(descriptor.leaf_kind));
      by_type[name].push_back(base + i);
    }
  for (const auto& [name, blocks] : by_type) {
    const BlockNumber block = blocks[random() % blocks.size()];
    add(block, name);
    add(Metadata::mirror_of(block), name + "'s mirror");
    if (name != "free") positions.push_back({block, "both copies of " + name, Metadata::mirror_of(block)});
  }
  std::map<std::string, std::vector<BlockNumber>> data;
  for (std::uint64_t block = 1; block < recording.memory().size() / kBlockBytes - 1; ++block) {
    const auto report = (*pool)->report(BlockNumber(block), 2);
    if (!report) continue;
    if (report->use == BlockUse::kFree) data["free block"].push_back(report->block);
    if (report->use == BlockUse::kData) data[report->owners.size() > 1 ? "shared data" : "data"].push_back(report->block);
  }
  for (const auto& [name, blocks] : data)
    positions.push_back({blocks[random() % blocks.size()], name, {}});
  recording.cut_power();
  return positions;
}

}  // namespace

std::string Workload::name() const {
  std::string text = std::string(setup->name) + ":";
  for (const Operation* operation : operations) text += std::string(" ") + operation->name;
  return text;
}

void Tally::add(const Tally& other) {
  workloads += other.workloads;
  operations += other.operations;
  refused += other.refused;
  drains += other.drains;
  states += other.states;
  nested_states += other.nested_states;
  used += other.used;
  poison_positions += other.poison_positions;
  poison_states += other.poison_states;
  repaired += other.repaired;
  failure_count += other.failure_count;
  for (const auto& failure : other.failures)
    if (failures.size() < kKeptFailures) failures.push_back(failure);
}

void Explorer::fail(const Workload& workload, const std::string& where, const std::string& what) {
  ++tally_.failure_count;
  const bool known = !tally_.failures.empty() && tally_.failures.back().starts_with(workload.name() + ": ");
  if (!known && tally_.failures.size() < kKeptFailures) tally_.failures.push_back(workload.name() + ": " + where + ": " + what);
}

std::vector<std::byte>& Explorer::load(const Setup& setup) {
  auto& image = images_[setup.name];
  if (image.empty()) image = make_image(setup);
  memory_ = image;
  return memory_;
}

Result<Explorer::Seen> Explorer::seen_as_opened(Recording& recording) {
  recording.arm();
  Result<Seen> found = [&]() -> Result<Seen> {
    auto pool = TRY(open_pool(recording));
    Seen result {
      TRY(dump(*pool, {}, {.tolerate_losses = true}))
      , pool->patrol().status()
    };
    recording.cut_power();
    return result;
  }();
  recording.cut_power();
  recording.take_log().undo(recording.memory());
  return found;
}

bool Explorer::run(const Workload& workload, Recording& recording, Log& log, Expected& expected,
                   std::optional<BlockNumber> goes_bad) {
  auto world = World::open(recording);
  if (!world) {
    fail(workload, "before", "does not open: " + describe(world.error()));
    return false;
  }
  bool times_are_lazy = false;
  for (const Operation* operation : workload.operations) {
    if (operation == workload.operations.back()) recording.arm();
    times_are_lazy |= operation->atomicity != Atomicity::kWhole;
    ++tally_.operations;
    if (!operation->run(**world)) ++tally_.refused;
  }
  log = recording.take_log();
  recording.set_listed(recording.listed());  // what was to go bad during the operation and did not, stays good
  const auto live = dump((*world)->pool(), (*world)->volumes(), {.tolerate_losses = true});
  const ScrubStatus live_scrub = (*world)->pool().patrol().status();
  recording.cut_power();
  world->reset();
  auto after = seen_as_opened(recording);
  if (goes_bad) recording.inject(*goes_bad);
  const auto losses_after = seen_as_opened(recording);
  log.undo(recording.memory());
  const auto before = seen_as_opened(recording);
  const auto taken = [&](const auto& one, const char* when) {
    if (!one) fail(workload, when, describe(one.error()));
    return one.has_value();
  };
  if (!taken(live, "alive") || !taken(after, "after") || !taken(losses_after, "after") || !taken(before, "before")) return false;
  auto differs = difference(*live, after->dump, {.times = times_are_lazy});
  if (!differs && !is_same(live_scrub, after->scrub))
    differs = "scrub: " + text_of(live_scrub) + " and " + text_of(after->scrub);
  if (differs) {
    fail(workload, "after the last drain", "what was completed is not there: " + *differs);
    return false;
  }
  add_losses(after->dump, losses_after->dump);
  expected = {std::move(before->dump),
              std::move(after->dump),
              before->scrub,
              after->scrub,
              workload.operations.back(),
              workload.operations.back()->atomicity,
              times_are_lazy};
  if (expected.atomicity == Atomicity::kNew)
    expected.atomicity = workload.operations.size() == 1 ? Atomicity::kWhole : Atomicity::kInPlace;
  if (const std::string found = check_bystanders(expected); !found.empty()) {
    fail(workload, "after", found);
    return false;
  }
  return true;
}

// The record of the scrub is written when a pass begins or goes on, and when its thread ends.
std::string Explorer::judge_scrub(const ScrubStatus& found, const Expected& expected) const {
  const ScrubStatus &before = expected.scrub_before, &after = expected.scrub_after;
  if (is_same(found, before) || is_same(found, after)) return "";
  const bool has_begun = !is_same(before, after) && found.state == ScrubState::kRunning &&
                         found.passes == before.passes && found.finished_seconds == before.finished_seconds &&
                         (found.place == 0 || found.place == before.place);
  return has_begun ? ""
                   : "scrub: " + text_of(found) + ", neither as before (" + text_of(before) + ") nor as after (" +
                         text_of(after) + ")";
}

std::string Explorer::judge(const Dump& found, const Expected& expected) const {
  for (const auto& [volume, content] : found.volumes)
    for (const auto& [path, inode] : content.names) {
      const DumpedInode* sides[] = {inode_in(expected.before, volume, path), inode_in(expected.after, volume, path)};
      for (const std::uint64_t block : inode.lost)
        if (!expected.operation->loses_meanwhile && std::ranges::none_of(sides, [&](const DumpedInode* side) { return side != nullptr && side->lost.contains(block); }))
          return volume + ":" + path + ": block " + std::to_string(block) + " is lost";
    }
  const std::string before = compare(found, expected.before, expected);
  if (before.empty()) return "";
  const std::string after = compare(found, expected.after, expected);
  if (after.empty()) return "";
  return "neither as before (" + before + ") nor as after (" + after + ")";
}

// How `found` differs from one side, beyond what is lost and what an overwrite in place may leave.
std::string Explorer::compare(Dump found, Dump side, const Expected& expected) const {
  for (auto& [volume, content] : found.volumes)
    for (auto& [path, inode] : content.names) {
      DumpedInode* other = inode_in(side, volume, path);
      auto lost = inode.lost;
      if (other != nullptr) lost.insert(other->lost.begin(), other->lost.end());
      forget_lost(inode, lost);
      if (other != nullptr) forget_lost(*other, lost);
    }
  const bool in_steps = expected.atomicity == Atomicity::kSteps;
  for (auto& [volume, content] : side.volumes)
    for (auto& [path, other] : content.names) {
      const DumpedInode *a = inode_in(expected.before, volume, path), *b = inode_in(expected.after, volume, path);
      const DumpedInode* inode = inode_in(found, volume, path);
      if (a == nullptr || b == nullptr || inode == nullptr) continue;
      const bool partly = expected.atomicity != Atomicity::kWhole && is_mixed(*inode, *a, *b) && may_change(expected, volume, other.number);
      for (std::size_t t = 0; t < 3; ++t)
        if ((expected.times_are_lazy && (inode->times[t] == a->times[t] || inode->times[t] == b->times[t])) ||
            (partly && in_steps && inode->times[t] > a->times[t] && inode->times[t] < b->times[t]))
          other.times[t] = inode->times[t];
      if (!partly) continue;
      other.blocks = inode->blocks;
      if (!in_steps) continue;
      const auto between = [](std::uint64_t x, std::uint64_t y, std::uint64_t z) { return x >= std::min(y, z) && x <= std::max(y, z); };
      if (between(inode->size_bytes, a->size_bytes, b->size_bytes)) other.size_bytes = inode->size_bytes;
      other.block_count = inode->block_count;
    }
  return difference(side, found).value_or("");
}

// Whether the last operation is one that changes this inode.
bool Explorer::may_change(const Expected& expected, const std::string& volume, std::uint64_t number) const {
  for (const std::string& changed : expected.operation->changes) {
    const auto colon = changed.find(':');
    const std::string changed_volume = colon == changed.npos ? "main" : changed.substr(0, colon);
    const std::string path = colon == changed.npos ? changed : changed.substr(colon + 1);
    if (changed_volume != volume) continue;
    if (path == "*") return true;
    for (const Dump* side : {&expected.before, &expected.after})
      if (const DumpedInode* inode = inode_in(*side, volume, path); inode != nullptr && inode->number == number) return true;
  }
  return false;
}

// That an operation changes the content of nothing but what it was asked to change.
std::string Explorer::check_bystanders(const Expected& expected) const {
  for (const auto& [volume, content] : expected.before.volumes) {
    std::map<std::uint64_t, const DumpedInode*> inodes;
    for (const auto& [path, inode] : content.names) inodes[inode.number] = &inode;
    const auto after = expected.after.volumes.find(volume);
    if (after == expected.after.volumes.end()) continue;
    for (const auto& [path, inode] : after->second.names) {
      const auto found = inodes.find(inode.number);
      if (found == inodes.end() || found->second->generation != inode.generation) continue;
      if (may_change(expected, volume, inode.number)) continue;
      DumpedInode a = *found->second, b = inode;
      a.lost.insert(b.lost.begin(), b.lost.end());
      forget_lost(b, a.lost);
      forget_lost(a, std::set<std::uint64_t>(a.lost));
      if (a.blocks != b.blocks || a.size_bytes != b.size_bytes || a.attributes != b.attributes || a.target != b.target)
        return volume + ":" + path + " was changed by an operation on other files";
    }
  }
  return "";
}

// What lies behind the end of a file must not come to light when the file grows.
std::string grow_to_block(Volume& volume, const std::string& path) {
  const auto file = volume.find(path);
  if (!file || !S_ISREG(file->mode) || file->size_bytes % kBlockBytes == 0) return "";
  AttributeChange change;
  change.size_bytes = file->size_bytes + kBlockBytes - file->size_bytes % kBlockBytes;
  if (!volume.set_attributes(file->inode, change)) return "";  // no space for metadata
  std::string tail(*change.size_bytes - file->size_bytes, '?');
  if (!volume.read(file->inode, file->size_bytes, std::as_writable_bytes(std::span(tail)))) return "";  // lost
  return tail.find_first_not_of('\0') == tail.npos ? "" : path + ": bytes behind its end came to light";
}

std::string Explorer::use(Pool& pool) {
  const auto tolerated = [](const Error& error) {
    return error.code == ErrorCode::kNoSpace || error.code == ErrorCode::kExists || error.code == ErrorCode::kPoisoned;
  };
  const auto volumes = pool.volumes();
  if (!volumes) return "volumes: " + describe(volumes.error());
  for (const VolumeInfo& info : *volumes) {
    if (info.read_only) continue;
    auto volume = pool.mount(info.name, false);
    if (!volume) return "mount of " + info.name + ": " + describe(volume.error());
    for (const char* path : {"/small", "/big", "/clone", "/border", "/cut", "/empty", "/o"})
      if (std::string found = grow_to_block(**volume, path); !found.empty()) return found;
    const std::string data(9'000, 'u');
    const auto made = (*volume)->create(format::kRootInode, "used-after-the-crash", {.mode = S_IFREG | 0644, .symlink_target = {}});
    if (!made) {
      if (tolerated(made.error())) continue;
      return "create: " + describe(made.error());
    }
    if (auto done = (*volume)->write(made->inode, 0, std::as_bytes(std::span(data))); !done && !tolerated(done.error()))
      return "write: " + describe(done.error());
    for (const char* path : {"/small", "/big", "/clone"}) {
      const auto file = (*volume)->find(path);
      if (!file || !S_ISREG(file->mode)) continue;
      if (auto done = (*volume)->write(file->inode, 3'000, std::as_bytes(std::span(data))); !done && !tolerated(done.error()))
        return std::string("write to ") + path + ": " + describe(done.error());
    }
    if (auto done = (*volume)->unlink(format::kRootInode, "used-after-the-crash"); !done) return "unlink: " + describe(done.error());
  }
  if (std::string found = go_on_with_scrub(pool); !found.empty()) return found;
  pool.settle();
  return check_clean(pool, "after use");
}

// A pass that the crash has interrupted, or that was paused, comes to its end from where it was.
std::string Explorer::go_on_with_scrub(Pool& pool) {
  Patrol& patrol = pool.patrol();
  const ScrubStatus before = patrol.status();
  if (before.state == ScrubState::kIdle) return "";
  if (auto done = patrol.start_thread(0); !done) return "patrol: " + describe(done.error());
  if (auto done = patrol.resume(0); !done && done.error().code != ErrorCode::kInvalid)
    return "patrol: " + describe(done.error());
  ScrubStatus now = patrol.status();
  for (std::uint64_t place = before.place; now.state == ScrubState::kRunning; now = patrol.status()) {
    if (now.place < place)
      return "the scrub went back from " + std::to_string(place) + " to " + std::to_string(now.place);
    place = now.place;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  patrol.stop_thread();
  return now.passes == before.passes + 1 ? ""
                                         : "the scrub did not go on: " + text_of(before) + ", then " + text_of(now);
}

std::string Explorer::look(Recording& recording, const Expected& expected, bool use_it, Log* recovery) {
  recording.arm();
  const BadRanges bad = recording.listed();
  const auto verdict = [&]() -> std::string {
    auto pool = open_pool(recording);
    if (!pool) return "does not open: " + describe(pool.error());
    if (!bad.empty()) (*pool)->settle();
    std::string found = check_clean(**pool, "after the crash");
    if (found.empty()) {
      const auto now = dump(**pool, {}, {.tolerate_losses = !bad.empty()});
      found = now ? judge(*now, expected) : "dump: " + describe(now.error());
      if (found.empty()) found = judge_scrub((*pool)->patrol().status(), expected);
    }
    if (found.empty() && use_it) {
      ++tally_.used;
      found = use(**pool);
    }
    recording.cut_power();
    return found;
  }();
  Log log = recording.take_log();
  log.undo(recording.memory());
  recording.set_listed(bad);
  if (recovery != nullptr) *recovery = std::move(log);
  return verdict;
}

void Explorer::explore(const Workload& workload) {
  std::mt19937_64 random(options_.seed ^ std::hash<std::string>()(workload.name()));
  Recording recording(load(*workload.setup));
  Log log;
  Expected expected;
  ++tally_.workloads;
  if (!run(workload, recording, log, expected)) return;
  tally_.drains += log.drain_count();
  const auto every = [&](unsigned n) { return n != 0 && random() % n == 0; };
  for_each_crash(recording.memory(), log, options_.crash, random, [&](const CrashPoint& point) {
    ++tally_.states;
    recording.set_listed(point.bad);
    const bool nested = every(options_.nested_every);
    Log recovery;
    const auto where = [](const CrashPoint& p) {
      return "after drain " + std::to_string(p.drain) + ", " + std::to_string(p.lines) + " lines under way, " + p.choice;
    };
    if (const std::string found = look(recording, expected, !nested && every(options_.use_every), nested ? &recovery : nullptr); !found.empty()) {
      fail(workload, where(point), found);
      return tally_.failure_count < 1000;
    }
    if (!nested) return true;
    const bool went_on = for_each_crash(recording.memory(), recovery, options_.nested, random, [&](const CrashPoint& inner) {
      ++tally_.nested_states;
      recording.set_listed(inner.bad);
      const std::string found = look(recording, expected, false, nullptr);
      if (!found.empty()) fail(workload, where(point) + "; recovery crashed " + where(inner), found);
      return tally_.failure_count < 1000;
    });
    recovery.undo(recording.memory());
    return went_on;
  });
}

// Whether the file had this before it was cut: whose inode is lost loses its size, and gets that of its blocks.
bool Explorer::has_had(const Expected& expected, const std::string& volume, const std::string& path,
                       std::uint64_t block, const std::string& bytes) const {
  if (path != "/cut") return false;
  for (const Dump* side : {&expected.before, &expected.after})
    if (const DumpedInode* big = inode_in(*side, volume, "/big"))
      if (const auto had = big->blocks.find(block); had != big->blocks.end() && had->second == bytes) return true;
  return false;
}

// What a repaired pool still says must be true: files have the content they had, or less. Names go only with the
// directories and inodes that are lost.
std::string Explorer::judge_repaired(const Dump& found, const Expected& expected, bool names_may_go) const {
  for (const auto& [volume, content] : found.volumes)
    for (const auto& [path, inode] : content.names) {
      const DumpedInode *a = inode_in(expected.before, volume, path), *b = inode_in(expected.after, volume, path);
      if (a == nullptr && b == nullptr) continue;  // in lost+found
      if (a == nullptr || (b != nullptr && a->number != inode.number)) a = b;
      if (b == nullptr || b->number != inode.number) b = a;
      if (a->number != inode.number || may_change(expected, volume, inode.number)) continue;
      for (const auto& [block, bytes] : inode.blocks) {
        const auto x = a->blocks.find(block), y = b->blocks.find(block);
        if ((x == a->blocks.end() || x->second != bytes) && (y == b->blocks.end() || y->second != bytes) &&
            !has_had(expected, volume, path, block, bytes))
          return volume + ":" + path + ": file block " + std::to_string(block) + " has what it never had";
      }
    }
  if (names_may_go) return "";
  for (const auto& [volume, content] : expected.before.volumes) {
    const auto after = expected.after.volumes.find(volume);
    const auto now = found.volumes.find(volume);
    for (const auto& [path, inode] : content.names) {
      if (after == expected.after.volumes.end() || !after->second.names.contains(path)) continue;
      if (now == found.volumes.end() || !now->second.names.contains(path)) return volume + ":" + path + " is gone";
    }
  }
  return "";
}

std::string Explorer::look_repaired(Recording& recording, const Expected& expected, bool names_may_go) {
  recording.arm();
  const BadRanges bad = recording.listed();
  const auto verdict = [&]() -> std::string {
    for (int round = 0; round < 2; ++round) {
      const auto report = repair(std::make_unique<RecordingMedium>(recording), {.mode = RepairMode::kAll, .progress = {}});
      if (!report) return "cannot be repaired: " + describe(report.error());
      if (const std::string left = first_inconsistency(report->after); !left.empty()) return "not repaired: " + left;
      if (round == 1 && report->action_count != 0) return "the second repair finds something to do: " + report->actions.front().what;
    }
    auto pool = open_pool(recording);
    if (!pool) return "does not open after repair: " + describe(pool.error());
    (*pool)->settle();
    const auto now = dump(**pool, {}, {.tolerate_losses = true});
    recording.cut_power();
    return now ? judge_repaired(*now, expected, names_may_go) : "dump after repair: " + describe(now.error());
  }();
  recording.cut_power();
  recording.take_log().undo(recording.memory());
  recording.set_listed(bad);
  return verdict;
}

// Both copies of a metadata block go bad after a crash, and the pool is repaired.
void Explorer::explore_repair(const Workload& workload, BlockNumber block, BlockNumber mirror, const std::string& what,
                              std::mt19937_64& random) {
  ++tally_.poison_positions;
  Recording recording(load(*workload.setup));
  Log log;
  Expected expected;
  if (!run(workload, recording, log, expected)) return;
  const bool names_may_go = what.find("director") != what.npos || what.find("symlink") != what.npos || what.find("inodes") != what.npos || what.find("kind 3") != what.npos;
  for_each_crash(recording.memory(), log, {.exhaustive_lines = 0, .samples = 2}, random, [&](const CrashPoint& point) {
    ++tally_.repaired;
    recording.set_listed(unite(point.bad, {range_of({block, 1}), range_of({mirror, 1})}));
    if (const std::string found = look_repaired(recording, expected, names_may_go); !found.empty())
      fail(workload, what + ", block " + std::to_string(block.value) + ", bad; crash after drain " + std::to_string(point.drain) + ", " + point.choice, found);
    return tally_.failure_count < 1000;
  });
}

void Explorer::explore_poison(const Workload& workload) {
  std::mt19937_64 random(options_.seed ^ std::hash<std::string>()(workload.name()));
  std::vector<Position> positions;
  std::size_t event_count = 0;
  {
    Recording recording(load(*workload.setup));
    recording.arm();
    positions = poison_positions(recording, random);
    recording.take_log().undo(recording.memory());
    Log log;
    Expected expected;
    if (!run(workload, recording, log, expected)) return;
    event_count = log.events.size();
  }
  ++tally_.workloads;
  for (const Position& position : positions) {
    if (position.mirror) {
      explore_repair(workload, position.block, *position.mirror, position.what, random);
      continue;
    }
    for (const char* when : {"before", "during", "after"}) {
      ++tally_.poison_positions;
      Recording recording(load(*workload.setup));
      const bool for_good = random() % 3 == 0;  // on such a device what is bad stays bad
      recording.set_can_clear(!for_good);
      const std::string how = std::string("bad ") + when + (for_good ? " for good" : "");
      if (*when == 'b') recording.inject(position.block);
      if (*when == 'd') {
        if (event_count == 0) continue;
        recording.inject_at(random() % event_count, position.block);
      }
      Log log;
      Expected expected;
      if (!run(workload, recording, log, expected, position.block)) {
        tally_.failures.back() += std::string(" [") + position.what + ", block " + std::to_string(position.block.value) + ", " + how + "]";
        continue;
      }
      for_each_crash(recording.memory(), log, options_.crash, random, [&](const CrashPoint& point) {
        ++tally_.poison_states;
        BadRanges bad = point.bad;
        if (*when == 'a') bad = unite(std::move(bad), {range_of({position.block, 1})});
        recording.set_listed(bad);
        if (const std::string found = look(recording, expected, random() % 8 == 0, nullptr); !found.empty())
          fail(workload, position.what + ", block " + std::to_string(position.block.value) + ", " + how + "; crash after drain " + std::to_string(point.drain) + ", " + point.choice, found);
        return tally_.failure_count < 1000;
      });
    }
  }
}

}  // namespace daxcow::test
