#include "test/fuzz/exercise.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "engine/check.h"
#include "engine/health.h"
#include "engine/metadata.h"
#include "engine/patrol.h"
#include "engine/poison_policy.h"
#include "engine/space_usage.h"
#include "engine/store.h"
#include "engine/survey.h"

namespace daxcow::fuzz {

namespace {

constexpr InodeNumber kRoot{1};
constexpr std::uint64_t kReadBytes = 64 << 10;
constexpr std::uint64_t kWriteBytes = 200 << 10;

const std::vector<std::byte>& content() {
  static const std::vector<std::byte> bytes(kWriteBytes, std::byte{0x5a});
  return bytes;
}

// Touches every byte.
void consume(const void* bytes, std::size_t length) {
  static volatile const void* sink;
  sink = std::memchr(bytes, 0xa7, length);
  static_cast<void>(sink);
}

}  // namespace

Exercise::~Exercise() {
  for (const auto& volume : volumes_) volume->forget_all();
  files_.clear();
  volumes_.clear();
}

void Exercise::mount(bool read_only) {
  const auto infos = pool_.volumes();
  (void)pool_.statistics();
  (void)pool_.mount("no-such-volume", true);
  if (!infos) return;
  for (const VolumeInfo& info : *infos) {
    volume_names_.push_back(info.name);
    if (volumes_.size() >= kMaximumVolumes) continue;
    auto volume = pool_.mount(info.name, read_only);
    if (!volume && !read_only) volume = pool_.mount(info.name, true);
    if (volume) volumes_.push_back(std::move(*volume));
  }
}

void Exercise::walk() {
  for (const auto& volume : volumes_) {
    (void)volume->statistics();
    const std::size_t first = files_.size();
    list(volume, kRoot);
    for (std::size_t i = first; i < files_.size(); ++i) {  // grows as directories are listed
      const File file = files_[i];
      look(file);
      if (S_ISDIR(file.mode)) list(volume, file.inode);
    }
    // Inodes that no name leads to.
    for (const std::uint64_t inode : {0ull, 1ull, 2ull, 3ull, 16ull, 17ull, 129ull, 1ull << 40, (1ull << 55) - 1, 1ull << 55, ~0ull})
      look({volume, InodeNumber(inode), kRoot, {}, 0, 0});
  }
  (void)pool_.poison_list(20);
}

void Exercise::list(const std::shared_ptr<Volume>& volume, InodeNumber directory) {
  std::vector<std::pair<std::string, InodeNumber>> entries;
  (void)volume->read_directory(directory, 0, [&](const DirectoryItem& item) {
    CHECK(item.name.size() <= format::kMaximumNameBytes);
    entries.emplace_back(item.name, item.inode);
    return entries.size() < kMaximumFiles;
  });
  (void)volume->read_directory(directory, 1ull << 33, [](const DirectoryItem&) { return false; });
  for (const auto& [name, inode] : entries) {
    if (files_.size() >= kMaximumFiles * volumes_.size()) return;
    if (name == "." || name == "..") continue;
    const auto found = volume->lookup(directory, name);
    if (!found) continue;
    files_.push_back({volume, found->inode, directory, name, found->mode, found->size_bytes});
  }
  (void)volume->lookup(directory, "..");
  (void)volume->lookup(directory, "not there");
}

void Exercise::look(const File& file) {
  const auto attributes = file.volume->attributes(file.inode);
  (void)file.volume->path_of(file.inode);
  (void)file.volume->paths_of(file.inode, 4);
  look_at_attributes(file);
  if (!attributes) return;
  File now = file;
  now.mode = attributes->mode;
  now.size_bytes = attributes->size_bytes;
  if (S_ISLNK(now.mode)) (void)file.volume->read_link(file.inode);
  if (S_ISREG(now.mode)) look_at_data(now);
}

void Exercise::look_at_attributes(const File& file) {
  const auto names = file.volume->list_attributes(file.inode);
  if (!names) return;
  for (std::size_t i = 0; i < std::min<std::size_t>(names->size(), 8); ++i) {
    const auto value = file.volume->get_attribute(file.inode, (*names)[i]);
    if (value) consume(value->data(), value->size());
  }
}

void Exercise::read(const File& file, std::uint64_t offset, std::uint64_t length) {
  const auto lease = file.volume->read(file.inode, offset, length);
  if (!lease) {
    if (lease.error().code == ErrorCode::kPoisoned)
      read_zeros(file, offset, std::min<std::uint64_t>(length, kReadBytes));
    return;
  }
  std::uint64_t bytes = 0;
  const auto& medium = pool_.store().medium();
  const auto* const mapping = medium.mapping();
  for (const iovec& piece : lease->pieces()) {
    consume(piece.iov_base, piece.iov_len);
    bytes += piece.iov_len;
    const auto* const at = static_cast<const std::byte*>(piece.iov_base);
    if (at < mapping || at >= mapping + medium.size_bytes()) continue;  // the zero area
    // Nothing that the engine keeps for itself may be given out.
    const auto first = static_cast<std::uint64_t>(at - mapping) / kBlockBytes;
    const auto end = blocks_for(static_cast<std::uint64_t>(at - mapping) + piece.iov_len);
    CHECK(pool_.store().holds_data({BlockNumber(first), end - first}));
  }
  CHECK(bytes == lease->bytes() && bytes <= length);
}

// Whatever the file's policy is.
void Exercise::read_zeros(const File& file, std::uint64_t offset, std::uint64_t length) {
  (void)file.volume->poison_policy(file.inode);
  std::vector<std::byte> to(length);
  const auto bytes = file.volume->read_with_zeros(file.inode, offset, to);
  CHECK(!bytes || *bytes <= length);
}

void Exercise::look_at_data(const File& file) {
  read(file, 0, kReadBytes);
  if (file.size_bytes > kReadBytes) read(file, file.size_bytes - kReadBytes / 2, kReadBytes);
  std::uint64_t at = 0;
  for (int i = 0; i < 12; ++i) {
    const auto data = file.volume->seek(file.inode, at, true);
    if (!data) break;
    CHECK(*data >= at);
    read(file, *data, 8192);
    const auto hole = file.volume->seek(file.inode, *data, false);
    if (!hole) break;
    CHECK(*hole >= *data);
    at = std::max(*hole, *data + 1);
  }
  int extents = 0;
  (void)file.volume->for_each_extent(file.inode, FileBlock(0), files_.size() < 40, [&](const FileExtent& extent) {
    if (extent.state != ExtentState::kHole && blocks_.size() < 200) blocks_.push_back(extent.block);
    return ++extents < 24;
  });
}

// What concerns the pool as a whole. False if the record is about something else.
bool Exercise::operate_on_pool(const Record& record) {
  const std::string name = "made" + std::to_string(record.value % 4);
  const std::string volume_name = volume_names_.empty() ? "main" : volume_names_[record.block % volume_names_.size()];
  switch (record.target) {
    case Target::kReport: {
      const BlockNumber block(record.field % 2 == 0 || blocks_.empty()
                                  ? record.value % (pool_.store().medium().block_count() + 1)
                                  : blocks_[record.value % blocks_.size()].value);
      (void)pool_.report(block, 50);
      return true;
    }
    case Target::kSettle:
      pool_.settle();
      return true;
    case Target::kScrub:
      (void)pool_.scrub({});
      return true;
    case Target::kSurvey:
      survey(record);
      return true;
    case Target::kPatrol:
      patrol(record);
      return true;
    case Target::kGoBad:
      go_bad(record);
      return true;
    case Target::kSnapshot:
      (void)pool_.snapshot(volume_name, name, record.field % 2);
      return true;
    case Target::kDeleteVolume:
    case Target::kRollback:
      // Only what is not mounted.
      std::erase_if(files_, [&](const File& file) { return file.volume->name() == volume_name; });
      std::erase_if(volumes_, [&](const auto& volume) {
        if (volume->name() != volume_name) return false;
        volume->forget_all();
        return true;
      });
      if (record.target == Target::kDeleteVolume)
        (void)pool_.delete_volume(volume_name);
      else
        (void)pool_.rollback(volume_name,
                             volume_names_.empty() ? "main" : volume_names_[record.slot % volume_names_.size()]);
      return true;
    default:
      return false;
  }
}

void Exercise::survey(const Record& record) {
  (void)pool_.health();
  (void)pool_.statistics();
  const auto survey = pool_.survey(1 + record.value % 5000);
  if (!survey) return;
  std::uint64_t blocks = 0;
  for (const SurveyCell& cell : survey->cells)
    for (const std::uint64_t count : cell.blocks) blocks += count;
  CHECK(blocks == survey->pool_blocks);
}

// The patrol's thread runs within this call only. What it leaves is gone on with by the next, or by the next open.
void Exercise::patrol(const Record& record) {
  Patrol& patrol = pool_.patrol();
  if (pool_.store().read_only()) return (void)patrol.status();
  const std::uint64_t rate = record.field % 2 == 0 ? 0 : record.value % (64ull << 20);
  if (!patrol.start_thread(record.field / 32 % 4 == 0 ? rate : 0)) return;
  switch (record.field / 2 % 4) {
    case 0:
      (void)patrol.begin(rate);
      break;
    case 1:
      (void)patrol.pause();
      break;
    case 2:
      (void)patrol.resume(record.field % 2 == 0 ? std::optional<std::uint64_t>() : rate);
      break;
    default:
      (void)patrol.stop();
      break;
  }
  (void)patrol.status();
  if (record.field / 8 % 2 == 0) (void)patrol.pause();
  (void)patrol.run(0, {});
  if (record.field / 16 % 2 == 0) (void)patrol.resume({});
  patrol.stop_thread();
  (void)patrol.status();
}

void Exercise::go_bad(const Record& record) {
  WorkingImage& image = *base_.work;
  if (record.field % 4 == 0 && !blocks_.empty()) return image.make_bad(blocks_[record.block % blocks_.size()]);
  const BlockNumber block = base_.metadata_block(record.slot, record.block);
  if (record.field % 4 != 1) image.make_bad(block);
  if (record.field % 4 != 2) image.make_bad(Metadata::mirror_of(block));
}

void Exercise::account(const Record& record) {
  if (const auto infos = pool_.volumes(); infos && record.field % 4 == 0)
    for (const VolumeInfo& info : *infos) (void)space_of_volume(pool_, info.number);
  const File* const one = file(record.block);
  if (one == nullptr) return;
  std::vector<InodeNumber> tops;
  for (std::size_t i = 0; i <= record.field / 4 % 4u; ++i)
    if (const File& some = *file(record.block + i * record.slot); some.volume == one->volume)
      tops.push_back(some.inode);
  if (record.field % 4 == 1) tops.assign(1, kRoot);
  const auto usage = space_of_trees(pool_, *one->volume, tops);
  CHECK(!usage || (usage->exclusive_data_blocks <= usage->data_blocks &&
                   usage->exclusive_metadata_blocks <= usage->metadata_blocks));
}

void Exercise::operate(const Record& record) {
  if (operate_on_pool(record)) return;
  const File* const one = file(record.block);
  const File* const other = file(record.slot);
  const std::string name = "made" + std::to_string(record.value % 4);
  if (volumes_.empty()) return;
  const auto& volume = one != nullptr ? one->volume : volumes_[record.block % volumes_.size()];
  const InodeNumber directory = one != nullptr && S_ISDIR(one->mode) ? one->inode : kRoot;
  switch (record.target) {
    case Target::kCreate: {
      if (record.value % 32 == 31) {
        const auto unnamed = volume->create_unnamed(directory, {.mode = S_IFREG | 0600, .uid = 0, .gid = 0, .device = 0, .symlink_target = {}});
        if (!unnamed) return;
        (void)volume->write(unnamed->inode, record.value >> 32, std::span(content()).first(kWriteBytes), {});
        if (record.value % 64 == 63) (void)volume->link(unnamed->inode, directory, name);
        return volume->forget(unnamed->inode, 1);
      }
      static constexpr std::uint32_t kModes[] = {S_IFREG | 0644, S_IFDIR | 0755, S_IFLNK | 0777, S_IFIFO | 0600};
      const std::uint32_t mode = kModes[record.field % std::size(kModes)];
      const std::string target(record.field % 8 < 4 ? 20 : 200, 't');
      const auto made = volume->create(directory, name, {.mode = mode, .symlink_target = S_ISLNK(mode) ? std::string_view(target) : std::string_view()});
      if (made && files_.size() < 2 * kMaximumFiles) files_.push_back({volume, made->inode, directory, name, made->mode, 0});
      return;
    }
    default: break;
  }
  if (one == nullptr || other == nullptr) return;
  const std::uint64_t length = record.value >> 48 == 0 ? ~0ull >> 1 : record.value >> 48 << 9;
  const std::uint64_t offset = record.value & 0xffffffffffff;
  switch (record.target) {
    case Target::kWrite: {
      const std::uint64_t within = record.field % 4 == 0 ? offset << 14 & format::kMaximumFileBytes : offset % (one->size_bytes + 8192);
      return (void)volume->write(one->inode, within, std::span(content()).first(std::min(length, kWriteBytes)), {.append = record.field % 8 == 1});
    }
    case Target::kRead: return read(*one, offset, std::min<std::uint64_t>(length, 1 << 20));
    case Target::kUnlink: return (void)volume->unlink(one->directory, one->name);
    case Target::kRemoveDirectory: return (void)volume->remove_directory(one->directory, one->name);
    case Target::kRename: {
      const auto mode = static_cast<RenameMode>(record.field % 3);
      const NewInode whiteout{.mode = S_IFCHR, .uid = 0, .gid = 0, .device = 0, .symlink_target = {}};
      if (record.field % 2 == 0)
        return (void)volume->rename(one->directory, one->name, other->directory, other->name, mode, record.field % 8 == 6 ? &whiteout : nullptr);
      return (void)volume->rename(one->directory, one->name, S_ISDIR(other->mode) ? other->inode : kRoot, name, mode);
    }
    case Target::kLink: return (void)volume->link(one->inode, S_ISDIR(other->mode) ? other->inode : kRoot, name);
    case Target::kTruncate: {
      AttributeChange change;
      change.size_bytes = record.field % 2 == 0 ? offset << 15 : offset % (one->size_bytes + 4096);
      return (void)volume->set_attributes(one->inode, change);
    }
    case Target::kAllocate:
      return (void)volume->allocate(one->inode, static_cast<AllocateMode>(record.field % 5), offset << (record.field % 4 * 4),
                                    record.field % 5 >= 2 ? length : std::min<std::uint64_t>(length, 1 << 22));
    case Target::kClone: {
      const std::uint64_t to_offset = record.field % 2 == 0 ? offset : offset & ~0xfffull;
      if (record.field % 4 < 2) return (void)volume->clone_range(one->inode, offset, one->volume == other->volume ? other->inode : one->inode, to_offset, length);
      return (void)volume->clone_range_to(one->inode, 0, *other->volume, other->inode, 0, one->size_bytes);
    }
    case Target::kSetAttribute: {
      const std::uint64_t bytes = std::min<std::uint64_t>(offset % 70'000, kWriteBytes);
      return (void)volume->set_attribute(one->inode, "user." + name, std::span(content()).first(bytes), static_cast<Volume::SetAttributeMode>(record.field % 3));
    }
    case Target::kRemoveAttribute: {
      const auto names = volume->list_attributes(one->inode);
      if (names && !names->empty()) (void)volume->remove_attribute(one->inode, (*names)[record.value % names->size()]);
      return;
    }
    case Target::kReadZeros:
      return read_zeros(*one, offset, std::min<std::uint64_t>(length, 1 << 20));
    case Target::kPolicy:
      return set_policy(record, *one);
    case Target::kReflink:
      return reflink(record, *one, *other);
    case Target::kUsage:
      return account(record);
    case Target::kSeek: return (void)volume->seek(one->inode, offset << (record.field / 2 % 16), record.field % 2);
    default: return;
  }
}

// Offsets of whole blocks mostly, for the others are refused; content made equal first, for else little is.
void Exercise::reflink(const Record& record, const File& from, const File& to) {
  const auto source = from.volume->attributes(from.inode);
  if (!source) return;
  const std::uint64_t mask = record.field / 5 % 8 == 0 ? ~0ull : ~0xfffull;
  const ReflinkRange range{.from_offset = (record.value & 0xfffff) & mask,
                           .to_offset = (record.value >> 20 & 0xfffff) & mask,
                           .length = (record.value >> 40) & mask};
  if (record.field / 40 % 2 == 0) {
    const auto same = std::span(content()).first(std::min(kWriteBytes, range.length));
    (void)from.volume->write(from.inode, range.from_offset, same);
    (void)to.volume->write(to.inode, range.to_offset, same);
  }
  const auto mode = static_cast<ReflinkMode>(record.field % 5);
  const auto done = from.volume->reflink({from.inode, source->generation}, *to.volume, to.inode, range, mode,
                                         record.field / 80 % 2 * S_ISUID);
  CHECK(!done || done->new_bytes <= done->bytes);
}

void Exercise::set_policy(const Record& record, const File& file) {
  static constexpr std::string_view kPolicies[] = {"zero", "zero,none", "error,late", "early,zero",
                                                   "none", "what",      "zero,error", ""};
  const std::string_view policy = kPolicies[record.value % std::size(kPolicies)];
  const InodeNumber inode = record.field % 2 == 0 ? file.inode : file.directory;
  (void)file.volume->set_attribute(inode, kPoisonPolicyAttribute, std::as_bytes(std::span(policy)),
                                   Volume::SetAttributeMode::kAny);
  const PoisonPolicy now = file.volume->poison_policy(file.inode);
  if (now.zero) read_zeros(file, 0, kReadBytes);
}

void Exercise::operate_a_little() {
  for (const auto& volume : volumes_) {
    const auto made = volume->create(kRoot, "made here", {.mode = S_IFREG | 0644, .symlink_target = {}});
    if (!made) continue;
    (void)volume->write(made->inode, 4000, std::span(content()).first(9000));
    const auto source = std::ranges::find_if(files_, [&](const File& f) { return f.volume == volume && S_ISREG(f.mode) && f.size_bytes > 4096; });
    if (source != files_.end()) {
      (void)volume->clone_range(source->inode, 0, made->inode, 0, source->size_bytes);
      (void)volume->write(source->inode, 4096, std::span(content()).first(5000));
      (void)volume->unlink(source->directory, source->name);
    }
    (void)volume->sync_all();
  }
}

}  // namespace daxcow::fuzz
