#include "test/repair_image.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "engine/borrowed_medium.h"
#include "engine/inode_table.h"
#include "engine/store.h"
#include "engine/volume.h"
#include "test/dump.h"

namespace daxcow::test {

namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

InodeNumber make(Volume& volume, InodeNumber directory, std::string_view name, std::uint32_t mode,
                 std::string_view target = {}, std::uint32_t device = 0) {
  const auto made = volume.create(directory, name, NewInode{.mode = mode, .device = device, .symlink_target = target});
  REQUIRE(made);
  return made->inode;
}

void write(Volume& volume, InodeNumber file, std::uint64_t offset, const std::string& text) {
  REQUIRE(volume.write(file, offset, bytes_of(text)));
}

void fill_main(Volume& volume, RepairImage& built) {
  const InodeNumber root = format::kRootInode;
  built.directory = make(volume, root, "a", S_IFDIR | 0755);
  const InodeNumber below = make(volume, built.directory, "b", S_IFDIR | 0755);
  make(volume, below, "deep", S_IFREG | 0600);
  built.file = make(volume, built.directory, "file", S_IFREG | 0644);
  for (std::uint64_t i = 0; i < 40; ++i)
    write(volume, built.file, i * 2 * kBlockBytes, std::string(kBlockBytes, static_cast<char>('a' + i % 26)));
  const InodeNumber clone = make(volume, root, "clone", S_IFREG | 0644);
  REQUIRE(volume.clone_range(built.file, 0, clone, 0, 79 * kBlockBytes));
  write(volume, clone, 6 * kBlockBytes, "changed");
  built.big = make(volume, root, "big", S_IFREG | 0640);
  for (std::uint64_t i = 0; i < 3; ++i) write(volume, built.big, i * (3ull << 20), std::string(9000, 'B'));
  REQUIRE(volume.allocate(built.big, AllocateMode::kAllocate, 20ull << 20, 100'000));
  built.linked = make(volume, root, "one", S_IFREG | 0600);
  write(volume, built.linked, 0, "linked");
  REQUIRE(volume.link(built.linked, built.directory, "two"));
  REQUIRE(volume.link(built.linked, below, "three"));
  built.attributed = make(volume, root, "attributed", S_IFREG | 0600);
  for (int i = 0; i < 12; ++i)
    REQUIRE(volume.set_attribute(built.attributed, "user.colour" + std::to_string(i),
                                 bytes_of(std::string(700, static_cast<char>('a' + i))),
                                 Volume::SetAttributeMode::kAny));
  REQUIRE(volume.set_attribute(built.file, "user.colour", bytes_of("blue"), Volume::SetAttributeMode::kAny));
  make(volume, root, "short", S_IFLNK | 0777, "a/file");
  built.symlink = make(volume, root, "long", S_IFLNK | 0777, std::string(300, 'l'));
  built.pipe = make(volume, root, "pipe", S_IFIFO | 0600);
  built.device = make(volume, root, "null", S_IFCHR | 0666, {}, 0x103);
  built.empty = make(volume, root, "empty", S_IFREG | 0604);
  for (int i = 0; i < 300; ++i) make(volume, built.directory, "entry number " + std::to_string(i), S_IFREG | 0644);
  for (int i = 0; i < 300; i += 3) REQUIRE(volume.unlink(built.directory, "entry number " + std::to_string(i)));
}

// All of it is home. Left there, the last record would mend what is planted, or half of it.
void empty_journal(Image& image) {
  for (const BlockNumber copy : {format::kJournalChunk, Metadata::mirror_of(format::kJournalChunk)})
    at<Block>(image, copy) = Block{};
}

std::unique_ptr<Pool> open_to_look(const Image& image) {
  auto medium = DramMedium::from_image(image);
  REQUIRE(medium);
  auto pool = Pool::open(std::move(*medium), PoolOptions{.read_only = true, .background = false, .log = {}});
  if (!pool) FAIL(describe(pool.error()));
  return *std::move(pool);
}

std::string text_of(const DumpedInode& inode) {
  std::string text = "mode " + std::to_string(inode.mode) + " links " + std::to_string(inode.link_count) + " owner " +
                     std::to_string(inode.uid) + ":" + std::to_string(inode.gid) + " size " +
                     std::to_string(inode.size_bytes) + " device " + std::to_string(inode.device) + " generation " +
                     std::to_string(inode.generation) + " blocks " + std::to_string(inode.block_count) + " times";
  for (std::size_t i = 1; i < inode.times.size(); ++i)  // all but of the last access
    text += " " + std::to_string(inode.times[i].seconds) + "." + std::to_string(inode.times[i].nanoseconds);
  for (const auto& [name, value] : inode.attributes) text += " " + name + "=" + value;
  if (!inode.target.empty()) text += " -> " + inode.target;
  for (const auto& [block, content] : inode.blocks)
    text += " @" + std::to_string(block) + " " + std::to_string(crc32c(0, std::as_bytes(std::span(content))));
  for (const std::uint64_t block : inode.lost) text += " @" + std::to_string(block) + " lost";
  return text;
}

}  // namespace

void with_pool(Image& image, const std::function<void(Pool&)>& use) {
  auto medium = DramMedium::from_image(image);
  REQUIRE(medium);
  DramMedium* raw = medium->get();
  auto pool = Pool::open(std::move(*medium), PoolOptions{.background = false, .log = {}});
  if (!pool) FAIL(describe(pool.error()));
  use(**pool);
  image = raw->snapshot();
  empty_journal(image);
}

namespace {

void fill_pool(Pool& pool, RepairImage& made, const std::function<void()>& keep) {
  REQUIRE(pool.create_volume("other"));
  {
    const auto volume = pool.mount("other", false);
    REQUIRE(volume);
    const InodeNumber directory = make(**volume, format::kRootInode, "many", S_IFDIR | 0755);
    for (int i = 0; i < 2000; ++i) make(**volume, directory, "file " + std::to_string(i), S_IFREG | 0644);
    for (int i = 0; i < 2000; i += 50) {
      const auto found = (*volume)->lookup(directory, "file " + std::to_string(i));
      REQUIRE(found);
      write(**volume, found->inode, 0, "content");
    }
  }
  const auto mounted = pool.mount("main", false);
  REQUIRE(mounted);
  Volume& volume = **mounted;
  fill_main(volume, made);
  REQUIRE(pool.snapshot("main", "before", true));
  write(volume, made.file, 0, std::string(3 * kBlockBytes, 'y'));
  make(volume, made.directory, "later", S_IFREG | 0600);
  REQUIRE(volume.unlink(made.directory, "entry number 1"));
  // An orphan, and what was large when it was dropped.
  const InodeNumber held = make(volume, format::kRootInode, "held", S_IFREG | 0600);
  write(volume, held, 0, "held");
  volume.remember(held);
  const InodeNumber dropped = make(volume, format::kRootInode, "dropped", S_IFREG | 0600);
  for (std::uint64_t i = 0; i < 6; ++i) write(volume, dropped, i * (2ull << 20), "x");
  REQUIRE(volume.unlink(format::kRootInode, "held"));
  REQUIRE(volume.unlink(format::kRootInode, "dropped"));
  keep();
}

}  // namespace

const RepairImage& repair_image() {
  static const RepairImage built = [] {
    RepairImage made;
    auto medium = DramMedium::create(24ull << 20);
    REQUIRE(medium);
    REQUIRE(Pool::format(**medium, FormatOptions{.label = "test", .progress = {}}));
    DramMedium* raw = medium->get();
    auto pool = Pool::open(std::move(*medium), PoolOptions{.background = false, .log = {}});
    REQUIRE(pool);
    // As it is while a file without a name is still open.
    fill_pool(**pool, made, [&] { made.image = raw->snapshot(); });
    empty_journal(made.image);
    return made;
  }();
  return built;
}

Contents contents_of(const Image& image) {
  const auto dumped = dump(*open_to_look(image), {}, {.tolerate_losses = true});
  if (!dumped) FAIL(describe(dumped.error()));
  Contents contents;
  for (const auto& [name, volume] : dumped->volumes) {
    contents[name] = std::string(volume.read_only ? "read-only " : "") + (volume.snapshot ? "snapshot " : "");
    for (const auto& [path, inode] : volume.names) contents[name + ":" + (path == "/" ? "" : path)] = text_of(inode);
  }
  return contents;
}

std::string difference(const Contents& before, const Contents& after) {
  std::string text;
  for (const auto& [path, was] : before) {
    const auto it = after.find(path);
    if (it == after.end())
      text += "gone: " + path + "\n";
    else if (it->second != was)
      text += "changed: " + path + "\n  was " + was.substr(0, 400) + "\n  is  " + it->second.substr(0, 400) + "\n";
  }
  for (const auto& [path, is] : after)
    if (!before.contains(path)) text += "new: " + path + "\n";
  return text;
}

VolumeNumber number_of(const Image& image, std::string_view volume) {
  const auto volumes = open_to_look(image)->volumes();
  REQUIRE(volumes);
  for (const VolumeInfo& info : *volumes)
    if (info.name == volume) return info.number;
  return kVolumeZero;
}

InodeAt find_inode(const Image& image, std::string_view volume, InodeNumber inode) {
  const VolumeNumber number = number_of(image, volume);
  const auto pool = open_to_look(image);
  BlockReader& reader = pool->store().metadata();
  const auto table = InodeTable::root(reader, number);
  REQUIRE(table);
  const auto entry = entry_at(reader, *table, FileBlock(inode.value / format::kInodesPerBlock));
  REQUIRE(entry);
  const auto block = reader.read(entry->block(), format::BlockType::kInodes);
  REQUIRE(block);
  return {entry->block(), (*block)->as<format::InodeBlock>().inodes[inode.value % format::kInodesPerBlock]};
}

BlockNumber table_node(std::string_view volume) {
  const Image& image = repair_image().image;
  return MapEntry{find_inode(image, "", number_of(image, volume)).record.data[0]}.block();
}

format::InodeRecord& inode_in(Image& image, const InodeAt& where, InodeNumber inode) {
  return at<format::InodeBlock>(image, where.block).inodes[inode.value % format::kInodesPerBlock];
}

BlockNumber leaf_of(const Image& image, const Fork& fork, FileBlock block) {
  auto medium = DramMedium::from_image(image);
  REQUIRE(medium);
  Metadata metadata(**medium, 1 << 20);
  REQUIRE(metadata.load_chunks(format::kFirstChunk));
  const auto entry = entry_at(metadata, fork, block);
  REQUIRE(entry);
  REQUIRE(entry->present());
  return entry->block();
}

std::vector<BlockNumber> blocks_of_type(const Image& image, format::BlockType type) {
  auto medium = DramMedium::from_image(image);
  REQUIRE(medium);
  Metadata metadata(**medium, 1 << 20);
  REQUIRE(metadata.load_chunks(format::kFirstChunk));
  std::vector<BlockNumber> blocks;
  for (const BlockNumber base : metadata.chunks())
    for (std::uint64_t i = 1; i <= format::kChunkPayload; ++i)
      if (metadata.descriptor(base + i).type == type) blocks.push_back(base + i);
  return blocks;
}

void lose(Image& image, BlockNumber block) {
  for (const BlockNumber copy : {block, Metadata::mirror_of(block)})
    for (std::uint64_t i = 0; i < kBlockBytes; i += 8) image[byte_offset(copy) + i] ^= std::byte{0x55};
}

Repaired repair_of(const Image& image, RepairMode mode, const std::function<void(DramMedium&)>& prepare) {
  // The repair owns its medium: what it stored is seen through a second one on the same memory.
  auto medium = DramMedium::from_image(image);
  REQUIRE(medium);
  if (prepare) prepare(**medium);
  Repaired repaired;
  repaired.report = repair(std::make_unique<BorrowedMedium>(**medium), RepairOptions{.mode = mode, .progress = {}});
  repaired.image = (*medium)->snapshot();
  return repaired;
}

std::string listing(const RepairReport& report) {
  std::string text = "before:\n" + listing(report.before) + "done:\n";
  for (const RepairAction& action : report.actions)
    text += std::string(action.loss ? "LOSS " : "") + "block " + std::to_string(action.block.value) + " [" +
            action.where + "] " + action.what + "\n";
  return text + "after:\n" + listing(report.after);
}

}  // namespace daxcow::test
