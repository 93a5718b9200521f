#include "test/explore/world.h"

#include <sys/stat.h>

#include <algorithm>
#include <span>
#include <stdexcept>
#include <thread>

#include "engine/check.h"
#include "engine/format.h"

namespace daxcow::test {

Result<std::unique_ptr<World>> World::open(Recording& recording) {
  std::unique_ptr<World> world(new World(recording));
  world->pool_ = TRY(Pool::open(std::make_unique<RecordingMedium>(recording), {.background = false, .leaves_reclaiming = true, .log = {}}));
  TRY(world->mount_all());
  return world;
}

World::~World() {
  held_.clear();
  volumes_.clear();
}

Result<> World::mount_all() {
  for (const VolumeInfo& info : TRY(pool_->volumes()))
    if (!info.read_only && !volumes_.contains(info.name)) volumes_[info.name] = TRY(pool_->mount(info.name, false));
  return {};
}

void World::unmount(const std::string& name) {
  std::erase_if(held_, [&](const auto& held) { return held.first->name() == name; });
  volumes_.erase(name);
}

Volume& World::volume(std::string_view name) {
  const auto it = volumes_.find(std::string(name));
  CHECK(it != volumes_.end());
  return *it->second;
}

Result<World::Place> World::place(std::string_view path) {
  Place place{};
  std::string volume_name = "main";
  if (const auto colon = path.find(':'); colon != path.npos) {
    volume_name = path.substr(0, colon);
    path.remove_prefix(colon + 1);
  }
  const auto it = volumes_.find(volume_name);
  if (it == volumes_.end()) return fail(ErrorCode::kNotFound, "no volume " + volume_name);
  place.volume = it->second.get();
  const auto slash = path.rfind('/');
  place.directory = TRY(place.volume->find(slash == 0 ? "/" : path.substr(0, slash))).inode;
  place.name = path.substr(slash + 1);
  return place;
}

Result<InodeNumber> World::inode(std::string_view path) {
  const Place at = TRY(place(path));
  return TRY(at.volume->lookup(at.directory, at.name)).inode;
}

Result<> World::create(std::string_view path, std::uint32_t mode, std::string_view target) {
  const Place at = TRY(place(path));
  TRY(at.volume->create(at.directory, at.name, {.mode = mode, .symlink_target = target}));
  return {};
}

// Different at every write, and never zero, so that no two states look alike by chance.
std::string World::content(std::uint64_t length) {
  std::string data(length, '\0');
  ++writes_;
  for (std::uint64_t i = 0; i < length; ++i) data[i] = static_cast<char>(1 + (i / 8 * 7 + writes_ * 31 + i) % 255);
  return data;
}

Result<> World::write(std::string_view path, std::uint64_t offset, std::uint64_t length) {
  const Place at = TRY(place(path));
  const std::string data = content(length);
  return at.volume->write(TRY(inode(path)), offset, std::as_bytes(std::span(data)));
}

Result<> World::truncate(std::string_view path, std::uint64_t size) {
  const Place at = TRY(place(path));
  AttributeChange change;
  change.size_bytes = size;
  TRY(at.volume->set_attributes(TRY(inode(path)), change));
  return {};
}

Result<> World::allocate(std::string_view path, AllocateMode mode, std::uint64_t offset, std::uint64_t length) {
  const Place at = TRY(place(path));
  return at.volume->allocate(TRY(inode(path)), mode, offset, length);
}

Result<> World::unlink(std::string_view path) {
  const Place at = TRY(place(path));
  return at.volume->unlink(at.directory, at.name);
}

Result<> World::remove_directory(std::string_view path) {
  const Place at = TRY(place(path));
  return at.volume->remove_directory(at.directory, at.name);
}

Result<> World::rename(std::string_view from, std::string_view to, RenameMode mode, const NewInode* whiteout) {
  const Place a = TRY(place(from));
  const Place b = TRY(place(to));
  TRY(a.volume->rename(a.directory, a.name, b.directory, b.name, mode, whiteout));
  return {};
}

Result<> World::link(std::string_view from, std::string_view to) {
  const Place at = TRY(place(to));
  TRY(at.volume->link(TRY(inode(from)), at.directory, at.name));
  return {};
}

Result<> World::set_attribute(std::string_view path, std::string_view name, std::uint64_t length) {
  const Place at = TRY(place(path));
  const std::string value = content(length);
  return at.volume->set_attribute(TRY(inode(path)), name, std::as_bytes(std::span(value)), Volume::SetAttributeMode::kAny);
}

Result<> World::set_policy(std::string_view path, std::string_view policy) {
  const Place at = TRY(place(path));
  const InodeNumber number = at.name.empty() ? at.directory : TRY(inode(path));
  return at.volume->set_attribute(number, kPoisonPolicyAttribute, std::as_bytes(std::span(policy)),
                                  Volume::SetAttributeMode::kAny);
}

Result<> World::copy(std::string_view from, std::string_view to, std::uint64_t to_offset, std::uint64_t length) {
  const Place a = TRY(place(from));
  const Place b = TRY(place(to));
  std::vector<std::byte> data(length);
  data.resize(TRY(a.volume->read(TRY(inode(from)), 0, std::span(data))));
  return b.volume->write(TRY(inode(to)), to_offset, data);
}

Result<> World::clone(std::string_view from, std::uint64_t from_offset, std::string_view to, std::uint64_t to_offset,
                      std::uint64_t length) {
  const Place a = TRY(place(from));
  const Place b = TRY(place(to));
  const InodeNumber source = TRY(inode(from)), target = TRY(inode(to));
  if (length == 0) length = TRY(a.volume->attributes(source)).size_bytes;
  TRY(a.volume->clone_range_to(source, from_offset, *b.volume, target, to_offset, length));
  return {};
}

Result<> World::reflink(std::string_view from, std::uint64_t from_offset, std::string_view to, std::uint64_t to_offset,
                        std::uint64_t length, ReflinkMode mode) {
  const Place a = TRY(place(from));
  const Place b = TRY(place(to));
  const Attributes source = TRY(a.volume->lookup(a.directory, a.name));
  TRY(a.volume->reflink({source.inode, source.generation}, *b.volume, TRY(inode(to)), {from_offset, to_offset, length},
                        mode));
  return {};
}

Result<> World::patrol(const std::function<Result<>(Patrol&)>& order,
                       const std::function<bool(const ScrubStatus&)>& until) {
  Patrol& patrol = pool_->patrol();
  TRY(patrol.start_thread(0));
  const auto done = order(patrol);
  while (done) {
    const ScrubStatus status = patrol.status();
    if (status.state != ScrubState::kRunning || until(status)) break;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  patrol.stop_thread();
  return done;
}

Result<> World::hold(std::string_view path) {
  const Place at = TRY(place(path));
  const InodeNumber number = TRY(inode(path));
  at.volume->remember(number);
  held_.emplace_back(at.volume->shared_from_this(), number);
  return {};
}

void World::let_go() {
  for (const auto& [volume, number] : held_) volume->forget(number, 1);
  held_.clear();
}

Result<> World::make_unnamed(std::string_view directory, std::string_view link_to) {
  Volume& volume = *TRY(place(directory)).volume;
  const Attributes made = TRY(volume.create_unnamed(TRY(inode(directory)), {.mode = S_IFREG | 0600, .uid = 0, .gid = 0, .device = 0, .symlink_target = {}}));
  held_.emplace_back(volume.shared_from_this(), made.inode);
  const std::string bytes = content(2 * kBlockBytes);
  TRY(volume.write(made.inode, 0, std::as_bytes(std::span(bytes))));
  if (link_to.empty()) return {};
  const Place to = TRY(place(link_to));
  TRY(to.volume->link(made.inode, to.directory, to.name));
  return {};
}

Result<> World::poison(std::string_view path, FileBlock block) {
  const Place at = TRY(place(path));
  std::optional<BlockNumber> found;
  TRY(at.volume->for_each_extent(TRY(inode(path)), block, false, [&](const FileExtent& extent) {
    if (extent.state == ExtentState::kWritten && extent.start <= block) found = extent.block + (block - extent.start);
    return false;
  }));
  if (!found) return fail(ErrorCode::kNotFound, "a hole cannot go bad");
  recording_.inject(*found);
  return {};
}

Result<> World::poison_cached(std::string_view path, FileBlock block, bool written_to) {
  // Has what the file has there now, as a kernel that has just read it.
  struct Kernel : PoisonObserver {
    InodeNumber inode;
    std::array<std::byte, kBlockBytes> page{};
    std::uint64_t offset = 0, bytes = 0;
    void on_lost(const LostRange&) override {}
    std::uint64_t read_cached(const LostRange& wanted, std::span<std::byte> to) override {
      if (wanted.inode != inode || wanted.offset_bytes != offset) return 0;
      std::ranges::copy(std::span(page).first(bytes), to.begin());
      return bytes;
    }
  };
  Kernel kernel;
  const Place at = TRY(place(path));
  kernel.inode = TRY(inode(path));
  kernel.offset = byte_offset(block);
  kernel.bytes = TRY(at.volume->read(kernel.inode, kernel.offset, kernel.page));
  at.volume->remember(kernel.inode);
  if (written_to) at.volume->open_for_writing(kernel.inode);
  pool_->set_poison_observer(&kernel);
  const auto poisoned = poison(path, block);
  pool_->settle();
  pool_->set_poison_observer(nullptr);
  if (written_to) at.volume->close_for_writing(kernel.inode);
  at.volume->forget(kernel.inode, 1);
  return poisoned;
}

// --- setups --------------------------------------------------------------------------------------------------------------

namespace {

constexpr std::uint64_t kBlock = kBlockBytes, kMiB = 1 << 20;
constexpr std::uint64_t kPoolBytes = format::kMinimumPoolBytes;
const NewInode kWhiteout{.mode = S_IFCHR, .uid = 0, .gid = 0, .device = 0, .symlink_target = {}};
const std::string kLongTarget(300, 't');

// /small   2.5 blocks, two names (/d/link), attributes
// /big     blocks 0..11 written, 12..15 a hole, 16..19 unwritten, 20..23 written; a map node, since 8 roots do not do
// /clone   shares all of /big
// /border  a few blocks on both sides of 2 MiB, where a second node begins
// /cut     a clone of /big that ends in the middle of a shared block
// /twin    the first six blocks of /big, twice, in blocks of its own; /tail likewise all of /small
// /d, /d/e directories; /d with a policy for lost data; /s, /l symlinks; /x a fifo; /empty
// volume other with /o, which shares /big's blocks too
Result<> build_plain(World& w) {
  TRY(w.create("/small", S_IFREG | 0644));
  TRY(w.write("/small", 0, 10'240));
  TRY(w.set_attribute("/small", "user.short", 20));
  TRY(w.set_attribute("/small", "user.long", 5'000));
  TRY(w.create("/big", S_IFREG | 0600));
  TRY(w.write("/big", 0, 12 * kBlock));
  TRY(w.allocate("/big", AllocateMode::kAllocate, 16 * kBlock, 4 * kBlock));
  TRY(w.write("/big", 20 * kBlock, 4 * kBlock));
  TRY(w.create("/clone", S_IFREG | 0644));
  TRY(w.clone("/big", 0, "/clone", 0, 0));
  TRY(w.create("/border", S_IFREG | 0644));
  TRY(w.write("/border", 2 * kMiB - 2 * kBlock, 4 * kBlock));
  TRY(w.create("/cut", S_IFREG | 0644));
  TRY(w.clone("/big", 0, "/cut", 0, 0));
  TRY(w.truncate("/cut", 5 * kBlock + 100));
  TRY(w.create("/twin", S_IFREG | 0644));
  for (const std::uint64_t at : {0, 6}) TRY(w.copy("/big", "/twin", at * kBlock, 6 * kBlock));
  TRY(w.create("/tail", S_IFREG | 0644));
  TRY(w.copy("/small", "/tail", 0, 10'240));
  TRY(w.create("/d", S_IFDIR | 0755));
  TRY(w.set_policy("/d", "late"));
  TRY(w.create("/d/e", S_IFDIR | 0755));
  TRY(w.link("/small", "/d/link"));
  TRY(w.create("/s", S_IFLNK | 0777, "small"));
  TRY(w.create("/l", S_IFLNK | 0777, kLongTarget));
  TRY(w.create("/x", S_IFIFO | 0600));
  TRY(w.create("/empty", S_IFREG | 0644));
  TRY(w.pool().create_volume("other"));
  TRY(w.mount_all());
  TRY(w.create("other:/o", S_IFREG | 0644));
  return w.clone("/big", 0, "other:/o", 0, 0);
}

Result<> build_shared(World& w) {
  TRY(build_plain(w));
  TRY(w.pool().snapshot("main", "snap", true));
  TRY(w.pool().snapshot("main", "work", false));
  return w.mount_all();
}

// Nearly no metadata block left: the next operations take a chunk.
Result<> build_tight(World& w) {
  TRY(build_plain(w));
  TRY(w.create("/nodes", S_IFREG | 0644));
  for (std::uint64_t i = 0; TRY(w.pool().statistics()).metadata_free_blocks > Store::kReserveBlocks + 4; ++i)
    TRY(w.allocate("/nodes", AllocateMode::kAllocate, i * 2 * kMiB, kBlock));
  return {};
}

// Nearly no data block left, and no room for a chunk.
Result<> build_full(World& w) {
  TRY(build_shared(w));
  TRY(w.create("/filler", S_IFREG | 0644));
  for (std::uint64_t step = 256; step != 0; step /= 2)
    for (std::uint64_t at = 0; TRY(w.pool().statistics()).data_free_blocks > step + 3; at = TRY(w.volume().find("/filler")).size_bytes)
      if (!w.allocate("/filler", AllocateMode::kAllocate, at, step * kBlock)) break;
  return {};
}

constexpr Setup kSetups[] = {
    {"plain", "files, clones, directories, two volumes", build_plain},
    {"shared", "the same with two snapshots: everything is shared", build_shared},
    {"tight", "as plain, nearly without free metadata blocks", build_tight},
    {"full", "as shared, nearly without free data blocks", build_full},
};

// --- operations ----------------------------------------------------------------------------------------------------------

Result<> chmod(World& w) {
  AttributeChange change;
  change.mode = 0751;
  TRY(w.volume().set_attributes(TRY(w.inode("/small")), change));
  return {};
}

Result<> chown_and_times(World& w) {
  AttributeChange change;
  change.uid = 1000;
  change.gid = 100;
  change.modification = Timestamp{1'000'000'000, 5};
  TRY(w.volume().set_attributes(TRY(w.inode("/big")), change));
  return {};
}

Result<> unmounted(World& w, const std::string& name, const std::function<Result<>()>& body) {
  w.unmount(name);
  auto done = body();
  TRY(w.mount_all());
  return done;
}

// With all owners told.
Result<> poison(World& w, std::string_view path, std::uint64_t block) {
  TRY(w.poison(path, FileBlock(block)));
  w.pool().settle();
  return {};
}

// One read of a pass takes place; the next one would be in weeks.
Result<> patrol_reads_once(World& w, const std::function<Result<>(Patrol&)>& order) {
  return w.patrol(order, [](const ScrubStatus& status) { return status.done_bytes != 0; });
}

Result<> patrol_ends(World& w, const std::function<Result<>(Patrol&)>& order) {
  return w.patrol(order, [](const ScrubStatus& status) { return status.state == ScrubState::kIdle; });
}

template <class T>
Result<> only_status(const Result<T>& result) {
  if (!result) return std::unexpected(result.error());
  return {};
}

const Operation kOperations[] = {
    // data
    {"overwrite", [](World& w) { return w.write("/small", kBlock, kBlock); }, {"/small"}, Atomicity::kInPlace},
    {"overwrite-unaligned", [](World& w) { return w.write("/small", 100, 5'000); }, {"/small"}, Atomicity::kInPlace},
    {"overwrite-shared",
     [](World& w) { return w.write("/clone", 2 * kBlock, 2 * kBlock); },
     {"/clone"},
     Atomicity::kInPlace},
    {"overwrite-shared-unaligned",
     [](World& w) { return w.write("/big", kBlock + 7, 5'000); },
     {"/big"},
     Atomicity::kInPlace},
    {"append", [](World& w) { return w.write("/small", 10'240, 3'000); }, {"/small"}, Atomicity::kNew},
    {"append-blocks", [](World& w) { return w.write("/big", 24 * kBlock, 10'000); }, {"/big"}, Atomicity::kNew},
    {"write-hole", [](World& w) { return w.write("/big", 12 * kBlock + 5, 2 * kBlock); }, {"/big"}, Atomicity::kNew},
    {"write-unwritten", [](World& w) { return w.write("/big", 17 * kBlock, 6'000); }, {"/big"}, Atomicity::kNew},
    {"write-mixed",
     [](World& w) { return w.write("/clone", 10 * kBlock + 9, 12 * kBlock); },
     {"/clone"},
     Atomicity::kInPlace},
    {"write-far", [](World& w) { return w.write("/border", 4 * kMiB, 100); }, {"/border"}, Atomicity::kNew},
    {"write-border",
     [](World& w) { return w.write("/border", 2 * kMiB - 100, 200); },
     {"/border"},
     Atomicity::kInPlace},
    {"write-empty", [](World& w) { return w.write("/empty", 0, 20'000); }, {"/empty"}, Atomicity::kNew},
    {"truncate-unaligned", [](World& w) { return w.truncate("/small", 5'000); }, {"/small"}},
    {"truncate-shared", [](World& w) { return w.truncate("/big", 8 * kBlock + 9); }, {"/big"}},
    {"truncate-to-nothing", [](World& w) { return w.truncate("/clone", 0); }, {"/clone"}},
    {"truncate-border", [](World& w) { return w.truncate("/border", 2 * kMiB + 10); }, {"/border"}},
    {"truncate-up", [](World& w) { return w.truncate("/small", 50'000); }, {"/small"}},
    {"truncate-up-shared", [](World& w) { return w.truncate("/cut", 9 * kBlock); }, {"/cut"}},
    {"append-behind-gap",
     [](World& w) { return w.write("/cut", 5 * kBlock + 1'000, 5'000); },
     {"/cut"},
     Atomicity::kNew},
    {"allocate",
     [](World& w) { return w.allocate("/big", AllocateMode::kAllocate, 10 * kBlock, 20 * kBlock); },
     {"/big"}},
    {"allocate-keep",
     [](World& w) { return w.allocate("/empty", AllocateMode::kAllocateKeep, kBlock, 9 * kBlock); },
     {"/empty"}},
    {"punch", [](World& w) { return w.allocate("/clone", AllocateMode::kPunch, 2 * kBlock, 4 * kBlock); }, {"/clone"}},
    {"punch-unaligned",
     [](World& w) { return w.allocate("/small", AllocateMode::kPunch, 50, 6'000); },
     {"/small"},
     Atomicity::kSteps},
    {"zero",
     [](World& w) { return w.allocate("/big", AllocateMode::kZero, 3 * kBlock + 3, 30 * kBlock); },
     {"/big"},
     Atomicity::kSteps},
    {"zero-keep",
     [](World& w) { return w.allocate("/clone", AllocateMode::kZeroKeep, 18 * kBlock, 10 * kBlock); },
     {"/clone"}},
    // names
    {"create", [](World& w) { return w.create("/n", S_IFREG | 0644); }, {}},
    {"create-long-name", [](World& w) { return w.create("/d/" + std::string(255, 'n'), S_IFREG | 0644); }, {}},
    {"mkdir", [](World& w) { return w.create("/m", S_IFDIR | 0755); }, {}},
    {"symlink", [](World& w) { return w.create("/t", S_IFLNK | 0777, "target"); }, {}},
    {"symlink-long", [](World& w) { return w.create("/d/t", S_IFLNK | 0777, kLongTarget); }, {}},
    {"mknod", [](World& w) { return w.create("/y", S_IFSOCK | 0600); }, {}},
    {"link", [](World& w) { return w.link("/big", "/d/k"); }, {}},
    {"unlink-one-of-two", [](World& w) { return w.unlink("/small"); }, {}},
    {"unlink", [](World& w) { return w.unlink("/clone"); }, {}},
    {"unlink-symlink", [](World& w) { return w.unlink("/l"); }, {}},
    {"unlink-open",
     [](World& w) -> Result<> {
       TRY(w.hold("/border"));
       return w.unlink("/border");
     },
     {}},
    {"close-unlinked",
     [](World& w) -> Result<> {
       w.let_go();
       return {};
     },
     {}},
    {"reclaim-several",
     [](World& w) -> Result<> {
       for (int i = 0; i < 4; ++i) TRY(w.make_unnamed("/d"));
       w.let_go();
       w.pool().settle();
       return {};
     },
     {}},
    {"tmpfile", [](World& w) { return w.make_unnamed("/d"); }, {}},
    {"tmpfile-linked", [](World& w) { return w.make_unnamed("/", "/d/u"); }, {}},
    {"rmdir", [](World& w) { return w.remove_directory("/d/e"); }, {}},
    {"rename", [](World& w) { return w.rename("/small", "/d/r"); }, {}},
    {"rename-over", [](World& w) { return w.rename("/empty", "/clone"); }, {}},
    {"rename-over-open",
     [](World& w) -> Result<> {
       TRY(w.hold("/big"));
       return w.rename("/border", "/big");
     },
     {}},
    {"rename-directory", [](World& w) { return w.rename("/d/e", "/de"); }, {}},
    {"rename-directory-over", [](World& w) { return w.rename("/m", "/d/e"); }, {}},
    {"rename-noreplace", [](World& w) { return w.rename("/x", "/d/x", RenameMode::kNoReplace); }, {}},
    {"rename-same-inode", [](World& w) { return w.rename("/small", "/d/link"); }, {}},
    {"rename-whiteout", [](World& w) { return w.rename("/x", "/d/x", RenameMode::kNoReplace, &kWhiteout); }, {}},
    {"rename-whiteout-over", [](World& w) { return w.rename("/d/e", "/m", RenameMode::kReplace, &kWhiteout); }, {}},
    {"exchange", [](World& w) { return w.rename("/clone", "/d/link", RenameMode::kExchange); }, {}},
    {"exchange-types", [](World& w) { return w.rename("/border", "/d/e", RenameMode::kExchange); }, {}},
    // attributes
    {"chmod", chmod, {}},
    {"chown-and-times", chown_and_times, {}},
    {"setxattr", [](World& w) { return w.set_attribute("/big", "user.new", 50); }, {"/big"}},
    {"setxattr-replace", [](World& w) { return w.set_attribute("/small", "user.long", 9'000); }, {"/small"}},
    {"removexattr",
     [](World& w) -> Result<> { return w.volume().remove_attribute(TRY(w.inode("/small")), "user.long"); },
     {"/small"}},
    // clones
    {"clone-file", [](World& w) { return w.clone("/big", 0, "/empty", 0, 0); }, {"/empty"}},
    {"clone-over", [](World& w) { return w.clone("/small", 0, "/clone", 0, 0); }, {"/clone"}, Atomicity::kSteps},
    {"clone-range",
     [](World& w) { return w.clone("/big", 0, "/clone", 4 * kBlock, 9 * kBlock); },
     {"/clone"},
     Atomicity::kSteps},
    {"clone-unaligned",
     [](World& w) { return w.clone("/small", 100, "/border", 50, 5'000); },
     {"/border"},
     Atomicity::kSteps},
    {"clone-within", [](World& w) { return w.clone("/big", 0, "/big", 20 * kBlock, 6 * kBlock); }, {"/big"}},
    {"clone-to-volume", [](World& w) { return w.clone("/border", 0, "other:/o", 0, 0); }, {"other:/o"}},
    // clones and equal ranges, by the ioctls' rules
    {"reflink-range",
     [](World& w) {
       return w.reflink("/border", 2 * kMiB - 2 * kBlock, "/clone", 3 * kBlock, 4 * kBlock, ReflinkMode::kClone);
     },
     {"/clone"},
     Atomicity::kSteps},
    {"reflink-within",
     [](World& w) { return w.reflink("/big", 20 * kBlock, "/big", 2 * kBlock, 3 * kBlock, ReflinkMode::kClone); },
     {"/big"},
     Atomicity::kSteps},
    {"reflink-to-end",
     [](World& w) { return w.reflink("/small", kBlock, "/border", 4 * kMiB, 0, ReflinkMode::kClone); },
     {"/border"},
     Atomicity::kSteps},
    {"reflink-to-volume",
     [](World& w) { return w.reflink("/big", 16 * kBlock, "other:/o", kBlock, 6 * kBlock, ReflinkMode::kClone); },
     {"other:/o"},
     Atomicity::kSteps},
    {"replace", [](World& w) { return w.reflink("/small", 0, "/clone", 0, 0, ReflinkMode::kReplace); }, {"/clone"}},
    {"replace-in-volume",
     [](World& w) { return w.reflink("/border", 0, "other:/o", 0, 0, ReflinkMode::kReplace); },
     {"other:/o"}},
    {"dedupe", [](World& w) { return w.reflink("/big", 0, "/twin", 0, 6 * kBlock, ReflinkMode::kDedupe); }, {}},
    {"dedupe-within",
     [](World& w) { return w.reflink("/twin", 0, "/twin", 6 * kBlock, 6 * kBlock, ReflinkMode::kDedupe); },
     {}},
    {"dedupe-tail", [](World& w) { return w.reflink("/small", 0, "/tail", 0, 10'240, ReflinkMode::kDedupe); }, {}},
    {"dedupe-to-volume",
     [](World& w) { return w.reflink("/twin", 0, "other:/o", 0, 5 * kBlock, ReflinkMode::kDedupe); },
     {}},
    {"dedupe-different",
     [](World& w) { return w.reflink("/big", 0, "/twin", kBlock, 2 * kBlock, ReflinkMode::kDedupe); },
     {}},
    // volumes
    {"snapshot", [](World& w) { return only_status(w.pool().snapshot("main", "monday", true)); }, {}},
    {"snapshot-writable",
     [](World& w) -> Result<> {
       TRY(w.pool().snapshot("other", "tuesday", false));
       return w.mount_all();
     },
     {}},
    {"volume-create",
     [](World& w) -> Result<> {
       TRY(w.pool().create_volume("new"));
       return w.mount_all();
     },
     {}},
    {"volume-delete",
     [](World& w) { return unmounted(w, "other", [&] { return w.pool().delete_volume("other"); }); },
     {}},
    {"snapshot-delete", [](World& w) { return w.pool().delete_volume("snap"); }, {}},
    {"rollback",
     [](World& w) { return unmounted(w, "work", [&] { return w.pool().rollback("work", "snap"); }); },
     {"work:*"}},
    // poison
    {"poison", [](World& w) { return poison(w, "/small", 0); }, {}},
    {"poison-shared", [](World& w) { return poison(w, "/clone", 3); }, {}},
    {"rescue", [](World& w) { return w.poison_cached("/clone", FileBlock(5), false); }, {}, Atomicity::kWhole, true},
    {"rescue-border",
     [](World& w) { return w.poison_cached("/border", FileBlock(511), false); },
     {},
     Atomicity::kWhole,
     true},
    {"rescue-own", [](World& w) { return w.poison_cached("/big", FileBlock(6), true); }, {}, Atomicity::kWhole, true},
    {"rescue-end", [](World& w) { return w.poison_cached("/small", FileBlock(2), true); }, {}, Atomicity::kWhole, true},
    {"heal-by-writing",
     [](World& w) { return w.write("/clone", 3 * kBlock, kBlock); },
     {"/clone"},
     Atomicity::kInPlace},
    {"heal-by-punching", [](World& w) { return w.allocate("/small", AllocateMode::kPunch, 0, kBlock); }, {"/small"}},
    {"policy", [](World& w) { return w.set_policy("/d", "zero,none"); }, {"/d"}},
    {"policy-of-file", [](World& w) { return w.set_policy("/small", "zero"); }, {"/small"}},
    {"policy-of-volume", [](World& w) { return w.set_policy("/", "none"); }, {"/"}},
    {"policy-removed",
     [](World& w) -> Result<> { return w.volume().remove_attribute(TRY(w.inode("/d")), kPoisonPolicyAttribute); },
     {"/d"}},
    // scrubs
    {"patrol", [](World& w) { return patrol_reads_once(w, [](Patrol& patrol) { return patrol.begin(1); }); }, {}},
    {"patrol-pass", [](World& w) { return patrol_ends(w, [](Patrol& patrol) { return patrol.begin(0); }); }, {}},
    {"patrol-resumed", [](World& w) { return patrol_ends(w, [](Patrol& patrol) { return patrol.resume(0); }); }, {}},
    {"patrol-paused", [](World& w) { return w.pool().patrol().pause(); }, {}},
    {"patrol-stopped", [](World& w) { return w.pool().patrol().stop(); }, {}},
    {"scrub", [](World& w) { return only_status(w.pool().scrub({})); }, {}},
    // the rest
    {"settle",
     [](World& w) -> Result<> {
       w.pool().settle();
       return {};
     },
     {}},
    {"sync", [](World& w) { return w.volume().sync_all(); }, {}},
};

}  // namespace

std::span<const Setup> setups() { return kSetups; }
std::span<const Operation> operations() { return kOperations; }

std::vector<std::byte> make_image(const Setup& setup) {
  std::vector<std::byte> image(kPoolBytes);
  Recording recording(image);
  {
    RecordingMedium medium(recording);
    CHECK(Pool::format(medium, {.label = setup.name, .progress = {}}).has_value());
  }
  auto world = World::open(recording);
  CHECK(world.has_value());
  if (const auto built = setup.build(**world); !built)
    throw std::runtime_error(std::string(setup.name) + ": " + describe(built.error()));
  (*world)->pool().settle();
  world->reset();
  return image;
}

}  // namespace daxcow::test
