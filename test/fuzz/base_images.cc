#include "test/fuzz/base_images.h"

#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "engine/pool.h"

namespace daxcow::fuzz {

namespace {

constexpr std::uint64_t kMiB = 1ull << 20;
constexpr InodeNumber kRoot{1};

template <class T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "making a base image: %s\n", describe(result.error()).c_str());
    std::abort();
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

std::string text_of(std::uint64_t bytes, unsigned seed) {
  std::string text(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i * 7 + seed + i / 4096);
  return text;
}

// A pool being made, in memory.
struct Maker {
  std::vector<std::byte> zeros = std::vector<std::byte>(16 * kMiB);
  WorkingImage image{zeros};
  std::unique_ptr<Pool> pool;
  std::shared_ptr<Volume> volume;

  Maker() {
    const auto medium = image.medium();
    must(Pool::format(*medium, {.label = "fuzz", .progress = {}}));
    open();
  }
  void open() {
    pool = must(Pool::open(image.medium(), {.cache_bytes = kMiB, .background = false, .log = {}}));
    volume = must(pool->mount("main", false));
  }
  void close() {
    if (volume) volume->forget_all();
    volume.reset();
    if (pool) pool->settle();
    pool.reset();
  }
  std::vector<std::byte> content() const { return {image.bytes().begin(), image.bytes().end()}; }

  InodeNumber make(InodeNumber directory, const std::string& name, std::uint32_t mode, const std::string& target = {}) {
    const auto made = must(volume->create(
        directory, name, {.mode = mode, .uid = 1, .gid = 2, .device = S_ISCHR(mode) ? 0x501u : 0u, .symlink_target = target}));
    volume->forget(made.inode, 1);
    return made.inode;
  }
  InodeNumber file(const std::string& name, std::uint64_t bytes, InodeNumber directory = kRoot) {
    const InodeNumber made = make(directory, name, S_IFREG | 0644);
    if (bytes != 0) write(made, 0, bytes);
    return made;
  }
  void write(InodeNumber inode, std::uint64_t offset, std::uint64_t bytes) {
    const std::string text = text_of(bytes, static_cast<unsigned>(inode.value));
    must(volume->write(inode, offset, std::as_bytes(std::span(text))));
  }
  void attribute(InodeNumber inode, const std::string& name, std::uint64_t bytes) {
    const std::string value = text_of(bytes, 3);
    must(volume->set_attribute(inode, name, std::as_bytes(std::span(value)), Volume::SetAttributeMode::kAny));
  }
  void clone(InodeNumber from, InodeNumber to, std::uint64_t length) { must(volume->clone_range(from, 0, to, 0, length)); }
};

void make_files(Maker& maker) {
  const auto first = maker.file("first", 10'000);
  maker.attribute(first, "user.short", 20);
  maker.attribute(first, "user.long", 9'000);
  maker.attribute(first, "security.label", 30);
  const auto directory = maker.make(kRoot, "directory", S_IFDIR | 02775);
  const auto inner = maker.make(directory, "inner", S_IFDIR | 0755);
  const auto linked = maker.file("linked", 4096, inner);
  must(maker.volume->link(linked, kRoot, "second-name"));
  must(maker.volume->link(linked, directory, "third-name-that-is-long-enough-for-two-granules"));
  maker.volume->forget_all();
  maker.make(kRoot, "short-link", S_IFLNK | 0777, "directory/inner");
  maker.make(directory, "long-link", S_IFLNK | 0777, std::string(300, 'x'));
  maker.make(kRoot, "device", S_IFCHR | 0600);
  maker.make(kRoot, "fifo", S_IFIFO | 0600);
  maker.make(inner, std::string(255, 'n'), S_IFREG | 0600);
  for (int i = 0; i < 20; ++i) maker.file("file" + std::to_string(i), static_cast<std::uint64_t>(i) * 1500, directory);
}

void make_sharing(Maker& maker) {
  const auto source = maker.file("source", 600'000);
  const auto whole = maker.file("whole-clone", 0), part = maker.file("part-clone", 0);
  maker.clone(source, whole, 600'000);
  maker.clone(source, part, 300'000);
  maker.write(whole, 100'000, 5'000);
  must(maker.pool->snapshot("main", "monday", true));
  maker.write(source, 0, 9'000);
  maker.make(kRoot, "later", S_IFDIR | 0755);
  must(maker.pool->snapshot("main", "tuesday", false));
  must(maker.volume->allocate(part, AllocateMode::kPunch, 40'960, 40'960));
  must(maker.pool->snapshot("monday", "of-monday", false));
  must(maker.pool->create_volume("other"));
}

void make_deep(Maker& maker) {
  const auto sparse = maker.file("sparse", 4096);
  for (const int shift : {15, 21, 24, 30, 33, 39, 42, 48, 51, 57, 62}) maker.write(sparse, 1ull << shift, 5000);
  maker.write(sparse, format::kMaximumFileBytes - 5000, 5000);
  const auto reserved = maker.file("reserved", 0);
  must(maker.volume->allocate(reserved, AllocateMode::kAllocate, 0, 2 * kMiB));
  maker.write(reserved, 1'000'000, 8192);
  const auto fragments = maker.file("fragments", 0);
  for (std::uint64_t i = 60; i > 0; --i) maker.write(fragments, i * 2 * 4096, 4096);
  const auto directory = maker.make(kRoot, "many", S_IFDIR | 0755);
  for (int i = 0; i < 300; ++i) maker.file("name-" + std::to_string(i * 7919) + std::string(static_cast<std::size_t>(i % 40), 'y'), 0, directory);
  for (int i = 0; i < 300; i += 3)
    must(maker.volume->unlink(directory, "name-" + std::to_string(i * 7919) + std::string(static_cast<std::size_t>(i % 40), 'y')));
}

void make_chunks(Maker& maker) {
  for (unsigned i = 0; i < 17; ++i) {
    const auto high = maker.file("high" + std::to_string(i), 0);
    maker.write(high, (1ull << 30) + i * (4ull << 20), 4096);
    maker.attribute(high, "user.large", 60'000);
  }
}

// Taken as a crash leaves it.
void make_dropped(Maker& maker) {
  const auto big = maker.file("big", 0);
  for (std::uint64_t i = 0; i < 24; ++i) maker.write(big, i << 22, 4096);
  const auto clone = maker.file("clone", 0);
  maker.clone(big, clone, 24ull << 22);
  must(maker.pool->snapshot("main", "doomed", false));
  must(maker.volume->set_attributes(big, {.mode = {}, .uid = {}, .gid = {}, .size_bytes = 0, .access = {}, .modification = {}}));
  must(maker.pool->delete_volume("doomed"));
  for (int i = 0; i < 5; ++i) {
    const std::string name = "orphan" + std::to_string(i);
    const auto orphan = maker.file(name, 20'000);
    maker.volume->remember(orphan);
    must(maker.volume->unlink(kRoot, name));
  }
}

void make_ledger(Maker& maker) {
  const auto file = maker.file("lost", 100'000), clone = maker.file("clone", 0);
  maker.clone(file, clone, 100'000);
  must(maker.pool->snapshot("main", "snapshot", true));
  std::vector<BlockNumber> blocks;
  must(maker.volume->for_each_extent(file, FileBlock(0), false, [&](const FileExtent& extent) {
    if (extent.state == ExtentState::kWritten) blocks.push_back(extent.block);
    return true;
  }));
  maker.volume.reset();
  maker.image.make_bad(blocks.at(0));
  maker.image.make_bad(blocks.at(0) + 3);
  maker.pool->settle();
}

void make_unfinished(Maker& maker) {
  make_sharing(maker);
  maker.image.capture_commits();
  // The last commit is the first overwrite of a clone: it copies nodes and changes the reverse map.
  maker.write(must(maker.volume->lookup(kRoot, "part-clone")).inode, 200'000, 4096);
}

std::vector<std::byte> make(BaseKind kind) {
  Maker maker;
  switch (kind) {
    case BaseKind::kEmpty: break;
    case BaseKind::kFiles: make_files(maker); break;
    case BaseKind::kSharing: make_sharing(maker); break;
    case BaseKind::kDeep: make_deep(maker); break;
    case BaseKind::kChunks: make_chunks(maker); break;
    case BaseKind::kDropped: {
      make_dropped(maker);
      auto content = maker.content();
      maker.close();
      return content;
    }
    case BaseKind::kLedger: make_ledger(maker); break;
    case BaseKind::kUnfinished: {
      make_unfinished(maker);
      auto content = maker.image.captured();
      maker.close();
      return content;
    }
  }
  maker.close();
  return maker.content();
}

void list_blocks(BaseImage& base) {
  BlockNumber chunk = format::kFirstChunk;
  do {
    base.chunks.push_back(chunk);
    const auto& header = base.work->look(chunk).as<format::ChunkHeader>();
    for (std::uint64_t i = 0; i < format::kChunkPayload; ++i) {
      const auto type = header.blocks[i].type;
      auto& list = base.blocks[static_cast<std::size_t>(type)];
      if (type != format::BlockType::kFree || list.size() < 8) list.push_back(chunk + 1 + i);
      if (type != format::BlockType::kFree) base.used.push_back(chunk + 1 + i);
    }
    chunk = BlockNumber(header.next);
  } while (chunk.value != 0);
}

}  // namespace

BaseImage& base_image(BaseKind kind) {
  static std::array<std::unique_ptr<BaseImage>, kBaseKinds> images;
  auto& image = images[static_cast<std::size_t>(kind)];
  if (!image) {
    image = std::make_unique<BaseImage>();
    image->content = make(kind);
    image->work = std::make_unique<WorkingImage>(image->content);
    list_blocks(*image);
  }
  return *image;
}

}  // namespace daxcow::fuzz
