#include "test/explore/plan.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "engine/check.h"
#include "engine/format.h"
#include "engine/patrol.h"
#include "engine/schedule.h"

namespace daxcow::test {
namespace {

constexpr std::uint64_t kPoolBytes = format::kMinimumPoolBytes;
struct SceneFile {
  const char* volume;
  const char* path;
};
constexpr std::array<SceneFile, kHandles> kFiles{{{"main", "a"}, {"main", "b"}, {"main", "c"}, {"main", "d/x"}, {"other", "o"}, {"other", "p"}}};
constexpr std::array<const char*, 9> kNames{"a", "b", "c", "e", "n", "d/x", "d/y", "d/b", "m"};
constexpr std::array<const char*, 5> kFewNames{"a", "n", "d/x", "d/y", "d/b"};
constexpr std::array<const char*, 4> kVolumes{"s1", "s2", "s3", "s4"};

Result<InodeNumber> directory_of(Volume& volume, std::string& name) {
  const auto slash = name.find('/');
  if (slash == name.npos) return format::kRootInode;
  const auto directory = TRY(volume.lookup(format::kRootInode, name.substr(0, slash)));
  name = name.substr(slash + 1);
  return directory.inode;
}

Result<> build(Pool& pool, Scene scene) {
  TRY(pool.create_volume("other"));
  auto main = TRY(pool.mount("main", false));
  auto other = TRY(pool.mount("other", false));
  const auto create = [](Volume& volume, std::string name, std::uint32_t mode) -> Result<InodeNumber> {
    const InodeNumber directory = TRY(directory_of(volume, name));
    return TRY(volume.create(directory, name, {.mode = mode, .symlink_target = {}})).inode;
  };
  const auto write = [](Volume& volume, InodeNumber inode, std::uint64_t count, std::uint64_t tag) {
    std::vector<std::byte> bytes(count * kUnitBytes);
    fill(bytes, tag);
    return volume.write(inode, 0, bytes);
  };
  const InodeNumber a = TRY(create(*main, "a", S_IFREG | 0644));
  TRY(write(*main, a, 6, 1));
  const InodeNumber b = TRY(create(*main, "b", S_IFREG | 0644));
  TRY(write(*main, b, 50, 2));
  TRY(main->link(b, format::kRootInode, "e"));
  const InodeNumber c = TRY(create(*main, "c", S_IFREG | 0644));
  TRY(main->clone_range(a, 0, c, 0, 6 * kUnitBytes));
  TRY(create(*main, "d", S_IFDIR | 0755));
  TRY(write(*main, TRY(create(*main, "d/x", S_IFREG | 0644)), 9, 3));
  const InodeNumber o = TRY(create(*other, "o", S_IFREG | 0644));
  TRY(main->clone_range_to(a, 0, *other, o, 0, 6 * kUnitBytes));
  TRY(write(*other, TRY(create(*other, "p", S_IFREG | 0644)), 13, 3));
  if (scene == Scene::kShared) {
    TRY(pool.snapshot("main", "s1", true));
    TRY(pool.snapshot("other", "s2", false));
  }
  if (scene == Scene::kFull) {
    const InodeNumber filler = TRY(create(*other, "filler", S_IFREG | 0644));
    for (std::uint64_t step = 256, at = 0; step != 0;) {
      if (TRY(pool.statistics()).data_free_blocks <= step + 3 ||
          !other->allocate(filler, AllocateMode::kAllocate, at, step * kBlockBytes))
        step /= 2;
      else
        at += step * kBlockBytes;
    }
  }
  return {};
}

class Maker {
 public:
  explicit Maker(std::uint64_t seed) : random_(seed) {}

  Plan make(std::uint64_t seed, unsigned threads) {
    Plan plan;
    plan.seed = seed;
    plan.scene = static_cast<Scene>(below(kScenes));
    plan.order.seed = random_();
    static constexpr unsigned kEvery[] = {0, 0, 0, 2, 4, 8, 20, 60};
    plan.order.switch_every = kEvery[below(8)];
    plan.order.changes = 1 + below(5);
    plan.order.length = 100u << below(5);
    plan.small_cache = one_in(3);
    plan.poison = one_in(5);
    plan.crash = one_in(5);
    plan.patrol = one_in(5);
    if (threads == 0) threads = 2 + below(3);
    threads_ = threads;
    const unsigned longest = threads == 4 ? 3 : 4;
    // Each run likes a few kinds of calls, so that they meet.
    for (unsigned i = 0; i < kKinds; ++i) weights_[i] = one_in(3) ? 1 + below(6) : 0;
    for (const CallKind kind : {CallKind::kWrite, CallKind::kRead, CallKind::kLease, CallKind::kSnapshot})
      weights_[static_cast<unsigned>(kind)] += one_in(2) ? 3 : 0;
    weights_[static_cast<unsigned>(CallKind::kRead)] += 1;
    weights_[static_cast<unsigned>(CallKind::kPatrol)] = plan.patrol ? 6 : 0;
    if (!plan.poison) weights_[static_cast<unsigned>(CallKind::kPoison)] = 0;
    else weights_[static_cast<unsigned>(CallKind::kPoison)] = 6;
    favourite_ = below(kHandles);
    if (plan.patrol) weights_[static_cast<unsigned>(CallKind::kScrub)] += 6;
    if (plan.poison && one_in(3)) {
      zeros_ = true;
      favourite_ = below(2);
      for (const CallKind kind : {CallKind::kPoison, CallKind::kReadZeros, CallKind::kSnapshot})
        weights_[static_cast<unsigned>(kind)] += 4;
    } else if (one_in(4)) {
      // A file goes while it is read, and its space is wanted.
      favourite_ = one_in(3) ? 1 : 3;
      plan.not_held = favourite_;
      theme_ = true;
      for (const CallKind kind : {CallKind::kLease, CallKind::kUnlink, CallKind::kWrite, CallKind::kAppend, CallKind::kCreate, CallKind::kSettle})
        weights_[static_cast<unsigned>(kind)] += kind == CallKind::kLease || kind == CallKind::kUnlink ? 12 : 5;
      if (one_in(2)) plan.scene = Scene::kFull;
    }
    if (!theme_ && one_in(4)) {
      // A few names come and go in two directories.
      few_names_ = true;
      for (const CallKind kind : {CallKind::kCreate, CallKind::kUnlink, CallKind::kRename, CallKind::kExchange, CallKind::kLink, CallKind::kLookup, CallKind::kList})
        weights_[static_cast<unsigned>(kind)] += 2 + below(12);
    }
    for (unsigned t = 0; t < threads; ++t) {
      auto& calls = plan.threads.emplace_back();
      const unsigned count = 1 + below(longest);
      private_ = "p" + std::to_string(t);
      forgotten_ = 0;
      if (zeros_ && t == 0) {
        // What is lost is read as zeros, while others take snapshots.
        for (const CallKind kind : {CallKind::kPoison, CallKind::kReadZeros}) {
          Call& next = calls.emplace_back();
          next.kind = kind;
          next.volume = "main";
          next.file = favourite_;
          next.first = kind == CallKind::kPoison ? below(6) : 0;
          next.count = kind == CallKind::kPoison ? 0 : kMaximumUnits;
        }
      }
      for (unsigned i = 0; i < count; ++i) {
        calls.push_back(call(plan));
        calls.back().thread = t;
        if (calls.back().kind == CallKind::kCreate && calls.back().name == private_ && i + 1 < count && one_in(2)) {
          // What it has made is its own, and written to.
          Call next;
          next.kind = CallKind::kWrite;
          next.volume = calls.back().volume;
          next.file = kHandles + t;
          next.thread = t;
          next.count = 1 + below(10);
          next.write = ++write_;
          calls.push_back(next);
          ++i;
        }
      }
    }
    return plan;
  }

 private:
  static constexpr unsigned kKinds = static_cast<unsigned>(CallKind::kPoison) + 1;
  unsigned below(std::uint64_t n) { return static_cast<unsigned>(random_() % n); }
  bool one_in(unsigned n) { return below(n) == 0; }

  CallKind kind() {
    unsigned total = 0;
    for (const unsigned weight : weights_) total += weight;
    unsigned pick = below(total);
    for (unsigned i = 0; i < kKinds; ++i) {
      if (pick < weights_[i]) return static_cast<CallKind>(i);
      pick -= weights_[i];
    }
    return CallKind::kRead;
  }

  // Not one that this thread has let go.
  std::size_t file() {
    if (one_in(theme_ ? 3 : 8)) return kHandles + below(threads_);  // what a thread has created, if it has
    for (;;) {
      const std::size_t one = one_in(2) ? favourite_ : below(kHandles);
      if ((forgotten_ >> one & 1) == 0) return one;
    }
  }
  std::size_t held_file(const Plan& plan) {
    for (;;) {
      const std::size_t one = file();
      if (one != plan.not_held) return one;
    }
  }
  static bool only_reads(CallKind kind) {
    return kind == CallKind::kRead || kind == CallKind::kReadZeros || kind == CallKind::kLease ||
           kind == CallKind::kAttributes || kind == CallKind::kSync || kind == CallKind::kLink ||
           kind == CallKind::kPoison;
  }
  std::uint64_t offset() { return one_in(2) ? below(4) * kUnitsPerBlock : below(40); }
  std::uint64_t length() { return one_in(2) ? (1 + below(3)) * kUnitsPerBlock : 1 + below(12); }
  std::string name() {
    if (few_names_) return kFewNames[below(kFewNames.size())];
    if (one_in(2) && kFiles[favourite_].volume == std::string("main")) return kFiles[favourite_].path;
    return kNames[below(one_in(2) ? 4 : kNames.size())];
  }

  Call call(const Plan& plan) {
    Call call;
    call.kind = kind();
    call.volume = "main";
    call.file = only_reads(call.kind) ? file() : held_file(plan);
    call.first = offset();
    call.count = length();
    switch (call.kind) {
      case CallKind::kWrite:
        call.write = ++write_;
        break;
      case CallKind::kAppend:
        call.write = ++write_;
        call.count = 1 + below(6);
        call.first = 0;
        break;
      case CallKind::kTruncate:
        call.first = 0;
        call.count = one_in(3) ? 0 : below(30);
        break;
      case CallKind::kClone:
        call.to_file = held_file(plan);
        if (one_in(2)) call.first = call.to_first = 0, call.count = 50;
        else call.to_first = one_in(4) ? offset() : call.first % kUnitsPerBlock + below(4) * kUnitsPerBlock;
        if (call.to_file == call.file) {
          call.first = below(3);
          call.count = 1 + below(6);
          call.to_first = call.first + 12;
        }
        break;
      case CallKind::kReflink:
      case CallKind::kDedupe:
        call.to_file = held_file(plan);
        call.first = below(3) * kUnitsPerBlock;
        call.to_first = below(3) * kUnitsPerBlock;
        call.count = one_in(4) ? length() : (1 + below(2)) * kUnitsPerBlock;
        if (one_in(16)) ++call.to_first;  // refused
        if (call.kind == CallKind::kDedupe && !one_in(4)) {
          // What is equal, at first.
          static constexpr std::size_t kEqual[][2] = {{0, 2}, {0, 4}, {3, 5}, {5, 3}, {2, 4}};
          const auto& pair = kEqual[below(std::size(kEqual))];
          if (plan.not_held != pair[0] && plan.not_held != pair[1] &&
              ((forgotten_ >> pair[0] | forgotten_ >> pair[1]) & 1) == 0)
            call.file = pair[0], call.to_file = pair[1], call.to_first = call.first;
        }
        break;
      case CallKind::kPatrol:
        call.first = below(6);
        call.count = 0;
        break;
      case CallKind::kRead:
      case CallKind::kReadZeros:
      case CallKind::kLease:
        if (one_in(2)) call.first = 0, call.count = kMaximumUnits;
        break;
      case CallKind::kCreate:
        call.name = one_in(2) ? private_ : name();
        call.first = call.count = 0;
        break;
      case CallKind::kUnlink:
      case CallKind::kLink:
      case CallKind::kLookup:
        call.name = name();
        call.first = call.count = 0;
        break;
      case CallKind::kRename:
      case CallKind::kRenameNoReplace:
      case CallKind::kExchange:
        call.name = name();
        call.to_name = name();
        call.first = call.count = 0;
        break;
      case CallKind::kList:
        call.name = one_in(2) ? "d" : "";
        call.first = call.count = 0;
        break;
      case CallKind::kForget:
        // Two are kept, so that there is something to choose.
        if (call.file >= kHandles || __builtin_popcount(forgotten_) >= static_cast<int>(kHandles) - 2)
          call.kind = CallKind::kSyncAll;
        else
          forgotten_ |= 1u << call.file;
        call.first = call.count = 0;
        break;
      case CallKind::kSnapshot:
        call.volume = one_in(4) ? "other" : "main";
        call.name = kVolumes[below(4)];
        call.first = below(2);  // read-only
        call.count = 0;
        break;
      case CallKind::kDelete:
      case CallKind::kVerify:
        call.name = kVolumes[below(4)];
        call.first = call.count = 0;
        break;
      case CallKind::kRollback:
        call.name = kVolumes[below(4)];
        do {
          call.to_name = one_in(3) ? "main" : kVolumes[below(4)];
        } while (call.to_name == call.name);
        call.first = call.count = 0;
        break;
      case CallKind::kPoison:
        call.count = 0;
        break;
      default:
        break;
    }
    if (call.kind == CallKind::kLink)
      while (call.file < kHandles && kFiles[call.file].volume != std::string("main")) call.file = file();
    return call;
  }

  std::mt19937_64 random_;
  std::array<unsigned, kKinds> weights_{};
  std::size_t favourite_ = 0;
  unsigned forgotten_ = 0, threads_ = 0;
  std::uint64_t write_ = 8;
  std::string private_;
  bool theme_ = false, few_names_ = false, zeros_ = false;
};

}  // namespace

const char* name_of(Scene scene) {
  static const char* const kNamesOfScenes[] = {"plain", "shared", "full"};
  return kNamesOfScenes[static_cast<unsigned>(scene)];
}

std::vector<std::byte> make_scene(Scene scene) {
  std::vector<std::byte> image(kPoolBytes);
  Recording recording(image);
  {
    RecordingMedium medium(recording);
    CHECK(Pool::format(medium, {.label = name_of(scene), .progress = {}}).has_value());
  }
  auto pool = Pool::open(std::make_unique<RecordingMedium>(recording), {.background = false, .log = {}});
  CHECK(pool.has_value());
  if (const auto built = build(**pool, scene); !built) throw std::runtime_error(std::string(name_of(scene)) + ": " + describe(built.error()));
  (*pool)->settle();
  pool->reset();
  return image;
}

Plan make_plan(std::uint64_t seed, unsigned threads) { return Maker(seed).make(seed, threads); }

std::string Plan::text() const {
  std::string all = std::string("scene ") + name_of(scene) + ", " + order.text() +
                    (not_held ? ", " + std::string(kFiles[*not_held].path) + " not held" : "") +
                    (small_cache ? ", small cache" : "") + (poison ? ", poison" : "") + (patrol ? ", patrol" : "") +
                    (crash ? ", crash" : "") + "\n";
  return all;
}

ModelState start_of(ModelState content, const Plan& plan) {
  for (std::size_t i = 0; i < kHandles; ++i) {
    ModelVolume& volume = content.volumes.at(kFiles[i].volume);
    volume.files.at(volume.names.at(kFiles[i].path)).held = i == plan.not_held ? 0 : static_cast<unsigned>(plan.threads.size());
  }
  return content;
}

// --- the stage ---------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<Stage>> Stage::open(Pool& pool, Recording& recording, const Plan& plan) {
  std::unique_ptr<Stage> stage(new Stage{pool, recording, {}, {}, {}, {}, {}});
  for (const char* name : {"main", "other"}) stage->volumes[name] = TRY(pool.mount(name, false));
  for (const SceneFile& file : kFiles) {
    Volume& volume = *stage->volumes.at(file.volume);
    const auto found = TRY(volume.find(file.path));
    stage->handles.push_back({file.volume, found.inode.value});
    if (stage->handles.size() - 1 != plan.not_held) volume.remember(found.inode, plan.threads.size());
  }
  stage->handles.resize(kHandles + plan.threads.size());
  return stage;
}

namespace {

void note(Call& call, const Error& error) {
  call.error = error.code;
  call.message = error.message;
}

template <class T>
bool answered(Call& call, const Result<T>& result) {
  if (!result) note(call, result.error());
  return result.has_value();
}

Result<std::optional<BlockNumber>> block_at(Volume& volume, InodeNumber inode, FileBlock block) {
  std::optional<BlockNumber> found;
  TRY(volume.for_each_extent(inode, block, false, [&](const FileExtent& extent) {
    if (extent.state == ExtentState::kWritten && extent.start <= block && block < extent.start + extent.count)
      found = extent.block + (block - extent.start);
    return false;
  }));
  return found;
}

Result<> order_patrol(Patrol& patrol, std::uint64_t which) {
  switch (which) {
    case 0:
      return patrol.begin(0);
    case 1:
      return patrol.begin(1);
    case 2:
      return patrol.pause();
    case 3:
      return patrol.resume({});
    case 4:
      return patrol.resume(1);
    default:
      return patrol.stop();
  }
}

Result<ModelVolume> read_volume(Pool& pool, const std::string& name) {
  const auto volume = TRY(pool.mount(name, true));
  ModelVolume content;
  for (const std::string directory : {"", "d"}) {
    const auto at = volume->find(directory);
    if (!at) continue;
    std::vector<std::pair<std::string, InodeNumber>> files;
    TRY(volume->read_directory(at->inode, 0, [&](const DirectoryItem& item) {
      if (item.type == S_IFREG) files.emplace_back((directory.empty() ? "" : directory + "/") + std::string(item.name), item.inode);
      return true;
    }));
    for (const auto& [path, inode] : files) {
      const auto attributes = TRY(volume->attributes(inode));
      content.names[path] = attributes.generation;
      if (attributes.size_bytes > kLargestFile) {
        content.files[attributes.generation] = {};
        continue;
      }
      std::vector<std::byte> bytes(attributes.size_bytes);
      bytes.resize(TRY(volume->read(inode, 0, std::span(bytes))));
      content.files[attributes.generation] = {decode(bytes), 0, false};
    }
  }
  return content;
}

}  // namespace

bool Stage::perform(Call& call) {
  const bool by_number = call.kind <= CallKind::kSync || call.kind == CallKind::kLink || call.kind == CallKind::kForget || call.kind == CallKind::kPoison;
  if (by_number) {
    const std::lock_guard guard(mutex);
    const Handle& handle = handles[call.file];
    if (handle.number == 0) return false;
    call.volume = handle.volume;
    call.number = handle.number;
    if (is_clone(call.kind)) {
      call.to_volume = handles[call.to_file].volume;
      call.to_number = handles[call.to_file].number;
      if (call.to_number == 0) return false;
    }
  }
  Volume& volume = *volumes.at(call.volume);
  const InodeNumber inode(call.number);
  const std::uint64_t offset = call.first * kUnitBytes, bytes = call.count * kUnitBytes;
  std::string name = call.name, to_name = call.to_name;
  std::vector<std::byte> data(call.kind <= CallKind::kLease ? bytes : 0);
  if (call.kind == CallKind::kWrite || call.kind == CallKind::kAppend) fill(data, call.write);
  call.log_begin = recording.event_count();
  call.begin = clock.fetch_add(1, std::memory_order_relaxed);
  // Directories stay where they are.
  const InodeNumber directory = call.name.starts_with("d/") ? volume.find("d").value().inode : format::kRootInode;
  const InodeNumber to_directory = call.to_name.starts_with("d/") ? volume.find("d").value().inode : format::kRootInode;
  if (name.starts_with("d/")) name = name.substr(2);
  if (to_name.starts_with("d/")) to_name = to_name.substr(2);
  const auto note_found = [&](const Result<Attributes>& found) {
    if (!answered(call, found)) return;
    if (found->modification < found->birth || found->change < found->birth) call.wrong = "it was changed before it was made";
    call.got_number = found->inode.value;
    call.got_generation = found->generation;
    call.size = found->size_bytes / kUnitBytes;
    call.links = found->link_count;
  };
  switch (call.kind) {
    case CallKind::kWrite:
      answered(call, volume.write(inode, offset, data));
      break;
    case CallKind::kAppend:
      answered(call, volume.write(inode, 0, data, {.append = true}));
      break;
    case CallKind::kRead: {
      const auto got = volume.read(inode, offset, std::span(data));
      if (answered(call, got)) call.units = decode(std::span(data).first(*got));
      break;
    }
    case CallKind::kReadZeros: {
      const auto got = volume.read_with_zeros(inode, offset, std::span(data));
      if (answered(call, got)) call.units = decode(std::span(data).first(*got), kSectorBytes);
      break;
    }
    case CallKind::kLease: {
      auto lease = volume.read(inode, offset, bytes);
      if (!answered(call, lease)) break;
      // As the daemon while the kernel copies: others go on meanwhile.
      for (int i = 0; i < 50; ++i)
        if (Scheduler* s = scheduler()) s->pause();
      data.clear();
      for (const iovec& piece : lease->pieces()) {
        const auto* from = static_cast<const std::byte*>(piece.iov_base);
        data.insert(data.end(), from, from + piece.iov_len);
        yield_thread();
      }
      call.units = decode(data);
      break;
    }
    case CallKind::kTruncate: {
      AttributeChange change;
      change.size_bytes = bytes;
      answered(call, volume.set_attributes(inode, change));
      break;
    }
    case CallKind::kPunch:
      answered(call, volume.allocate(inode, AllocateMode::kPunch, offset, bytes));
      break;
    case CallKind::kZero:
      answered(call, volume.allocate(inode, AllocateMode::kZero, offset, bytes));
      break;
    case CallKind::kZeroKeep:
      answered(call, volume.allocate(inode, AllocateMode::kZeroKeep, offset, bytes));
      break;
    case CallKind::kAllocate:
      answered(call, volume.allocate(inode, AllocateMode::kAllocate, offset, bytes));
      break;
    case CallKind::kClone: {
      const auto done = volume.clone_range_to(inode, offset, *volumes.at(call.to_volume), InodeNumber(call.to_number), call.to_first * kUnitBytes, bytes);
      if (answered(call, done)) call.got = *done / kUnitBytes;
      break;
    }
    case CallKind::kReflink:
    case CallKind::kDedupe: {
      const auto source = volume.attributes(inode);
      if (!answered(call, source)) break;
      const auto done = volume.reflink({inode, source->generation}, *volumes.at(call.to_volume),
                                       InodeNumber(call.to_number), {offset, call.to_first * kUnitBytes, bytes},
                                       call.kind == CallKind::kDedupe ? ReflinkMode::kDedupe : ReflinkMode::kClone);
      if (answered(call, done)) call.got = done->bytes / kUnitBytes;
      break;
    }
    case CallKind::kAttributes: {
      note_found(volume.attributes(inode));
      call.got_number = call.got_generation = 0;
      break;
    }
    case CallKind::kSync:
      answered(call, volume.sync(inode));
      break;
    case CallKind::kCreate:
      note_found(volume.create(directory, name, {.mode = S_IFREG | 0644, .symlink_target = {}}));
      if (!call.error && call.name.starts_with("p")) {
        volume.remember(InodeNumber(call.got_number));
        const std::lock_guard guard(mutex);
        handles[kHandles + call.thread] = {call.volume, call.got_number};
      }
      break;
    case CallKind::kUnlink:
      answered(call, volume.unlink(directory, name));
      break;
    case CallKind::kRename:
      answered(call, volume.rename(directory, name, to_directory, to_name, RenameMode::kReplace));
      break;
    case CallKind::kRenameNoReplace:
      answered(call, volume.rename(directory, name, to_directory, to_name, RenameMode::kNoReplace));
      break;
    case CallKind::kExchange:
      answered(call, volume.rename(directory, name, to_directory, to_name, RenameMode::kExchange));
      break;
    case CallKind::kLink:
      answered(call, volume.link(inode, directory, name));
      break;
    case CallKind::kLookup:
      note_found(volume.lookup(directory, name));
      break;
    case CallKind::kList: {
      const InodeNumber listed = call.name == "d" ? volume.find("d").value().inode : format::kRootInode;
      answered(call, volume.read_directory(listed, 0, [&](const DirectoryItem& item) {
        if (item.type == S_IFREG)
          if (!call.listing.emplace((call.name.empty() ? "" : call.name + "/") + std::string(item.name), item.inode.value).second)
            call.wrong = std::string(item.name) + " is listed twice";
        return true;
      }));
      break;
    }
    case CallKind::kForget:
      volume.forget(inode, 1);
      break;
    case CallKind::kSnapshot:
      answered(call, pool.snapshot(call.volume, call.name, (call.first & 1) != 0));
      break;
    case CallKind::kDelete:
      answered(call, pool.delete_volume(call.name));
      break;
    case CallKind::kRollback:
      answered(call, pool.rollback(call.name, call.to_name));
      break;
    case CallKind::kVerify: {
      auto content = read_volume(pool, call.name);
      if (answered(call, content)) call.content = std::move(*content);
      break;
    }
    case CallKind::kSyncAll:
      answered(call, volume.sync_all());
      break;
    case CallKind::kSettle:
      pool.settle();
      break;
    case CallKind::kScrub:
      answered(call, pool.scrub({}));
      break;
    case CallKind::kPatrol:
      answered(call, order_patrol(pool.patrol(), call.first));
      if (const ScrubStatus status = pool.patrol().status(); status.place > 2 * kPoolBytes / kBlockBytes)
        call.wrong = "the scrub is beyond the end";
      break;
    case CallKind::kPoison: {
      const auto block = block_at(volume, inode, FileBlock(call.first / kUnitsPerBlock));
      if (!block || !*block) break;
      {
        const std::lock_guard guard(mutex);
        bad.insert((*block)->value);
      }
      recording.inject(**block, (call.first & 1) != 0);
      break;
    }
  }
  call.end = clock.fetch_add(1, std::memory_order_relaxed);
  call.log_end = recording.event_count();
  return true;
}

}  // namespace daxcow::test
