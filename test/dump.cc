#include "test/dump.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/format.h"

namespace daxcow::test {
namespace {

class Dumper {
 public:
  Dumper(Volume& volume, const DumpOptions& options) : volume_(volume), options_(options) {}

  Result<> run(DumpedVolume& into) {
    const Attributes root = TRY(volume_.attributes(format::kRootInode));
    return visit("/", root, into);
  }

 private:
  bool tolerated(const Error& error) const {
    return options_.tolerate_losses && (error.code == ErrorCode::kPoisoned || error.code == ErrorCode::kDamaged);
  }

  Result<> visit(const std::string& path, const Attributes& attributes, DumpedVolume& into) {
    DumpedInode& inode = into.names[path];
    inode.number = attributes.inode.value;
    inode.generation = attributes.generation;
    inode.mode = attributes.mode;
    inode.link_count = attributes.link_count;
    inode.uid = attributes.uid;
    inode.gid = attributes.gid;
    inode.device = attributes.device;
    inode.size_bytes = attributes.size_bytes;
    inode.block_count = attributes.block_count;
    inode.times = {attributes.access, attributes.modification, attributes.change, attributes.birth};
    if (auto done = read_attributes(attributes.inode, inode); !done && !tolerated(done.error())) return done;
    const PoisonPolicy policy = volume_.poison_policy(attributes.inode);
    inode.policy = {policy.signal, policy.zero};
    if (S_ISLNK(attributes.mode)) {
      auto target = volume_.read_link(attributes.inode);
      if (target)
        inode.target = *target;
      else if (!tolerated(target.error()))
        return std::unexpected(target.error());
    }
    if (S_ISREG(attributes.mode)) return read_content(attributes, inode);
    if (S_ISDIR(attributes.mode)) return read_directory(path, attributes.inode, into);
    return {};
  }

  Result<> read_attributes(InodeNumber number, DumpedInode& inode) {
    for (const std::string& name : TRY(volume_.list_attributes(number)))
      inode.attributes[name] = TRY(volume_.get_attribute(number, name));
    return {};
  }

  Result<> read_directory(const std::string& path, InodeNumber number, DumpedVolume& into) {
    std::vector<std::pair<std::string, InodeNumber>> found;
    auto listed = volume_.read_directory(number, 0, [&](const DirectoryItem& item) {
      if (item.name != "." && item.name != "..") found.emplace_back(item.name, item.inode);
      return true;
    });
    if (!listed && !tolerated(listed.error())) return listed;
    for (const auto& [name, inode] : found) {
      const std::string below = (path == "/" ? path : path + "/") + name;
      const auto attributes = volume_.lookup(number, name);
      if (!attributes) {
        if (tolerated(attributes.error())) continue;
        return std::unexpected(attributes.error());
      }
      if (attributes->inode != inode) return fail(ErrorCode::kDamaged, below + ": listing and look-up disagree");
      TRY(visit(below, *attributes, into));
    }
    return {};
  }

  Result<> read_content(const Attributes& attributes, DumpedInode& inode) {
    std::vector<FileExtent> written;
    TRY(volume_.for_each_extent(attributes.inode, FileBlock(0), false, [&](const FileExtent& extent) {
      if (extent.state == ExtentState::kWritten) written.push_back(extent);
      return byte_offset(extent.start + extent.count) < attributes.size_bytes;
    }));
    for (const FileExtent& extent : written) {
      for (std::uint64_t i = 0; i < extent.count; ++i) {
        const std::uint64_t block = extent.start.value + i;
        if (block * kBlockBytes >= attributes.size_bytes) break;
        std::string content(kBlockBytes, '\0');
        const auto got = volume_.read(attributes.inode, block * kBlockBytes, std::as_writable_bytes(std::span(content)));
        if (!got) {
          if (!tolerated(got.error())) return std::unexpected(got.error());
          inode.lost.insert(block);
          if (got.error().code == ErrorCode::kPoisoned)  // who wants zeros for it, gets an answer
            TRY(volume_.read_with_zeros(attributes.inode, block * kBlockBytes,
                                        std::as_writable_bytes(std::span(content))));
        } else if (std::ranges::any_of(content, [](char c) { return c != 0; })) {
          inode.blocks[block] = std::move(content);
        }
      }
    }
    return {};
  }

  Volume& volume_;
  const DumpOptions& options_;
};

std::string text_of(const Timestamp& time) {
  return std::to_string(time.seconds) + "." + std::to_string(time.nanoseconds);
}

std::optional<std::string> difference(const DumpedInode& a, const DumpedInode& b, const Tolerance& tolerance) {
  const auto differs = [](const char* what, auto x, auto y) -> std::string {
    return std::string(what) + " " + std::to_string(x) + " and " + std::to_string(y);
  };
  if (a.number != b.number) return differs("inode", a.number, b.number);
  if (a.generation != b.generation) return differs("generation", a.generation, b.generation);
  if (a.mode != b.mode) return differs("mode", a.mode, b.mode);
  if (a.link_count != b.link_count) return differs("links", a.link_count, b.link_count);
  if (a.uid != b.uid) return differs("uid", a.uid, b.uid);
  if (a.gid != b.gid) return differs("gid", a.gid, b.gid);
  if (a.device != b.device) return differs("device", a.device, b.device);
  if (a.size_bytes != b.size_bytes) return differs("size", a.size_bytes, b.size_bytes);
  if (a.block_count != b.block_count) return differs("blocks", a.block_count, b.block_count);
  if (a.attributes != b.attributes) return "extended attributes";
  if (a.target != b.target) return "target";
  if (a.policy != b.policy) return "policy for lost data";
  if (a.lost != b.lost) return differs("lost blocks", a.lost.size(), b.lost.size());
  if (a.blocks != b.blocks) {
    for (const auto* side : {&a.blocks, &b.blocks})
      for (const auto& [block, content] : *side) {
        const auto x = a.blocks.find(block), y = b.blocks.find(block);
        if (x != a.blocks.end() && y != b.blocks.end() && x->second == y->second) continue;
        return "content of file block " + std::to_string(block) +
               (x == a.blocks.end() ? " (zeros and data)" : y == b.blocks.end() ? " (data and zeros)" : "");
      }
  }
  static const char* const kTimes[] = {"access time", "modification time", "change time", "birth time"};
  for (std::size_t i = 0; i < a.times.size(); ++i)
    if (a.times[i] != b.times[i] && (!tolerance.times || i == 3))
      return std::string(kTimes[i]) + " " + text_of(a.times[i]) + " and " + text_of(b.times[i]);
  return std::nullopt;
}

}  // namespace

Result<Dump> dump(Pool& pool, const std::map<std::string, std::shared_ptr<Volume>>& mounted, const DumpOptions& options) {
  Dump result;
  for (const VolumeInfo& info : TRY(pool.volumes())) {
    DumpedVolume& volume = result.volumes[info.name];
    volume.read_only = info.read_only;
    volume.snapshot = info.snapshot;
    const auto held = mounted.find(info.name);
    const auto opened = held != mounted.end() ? held->second : TRY(pool.mount(info.name, true));
    TRY(Dumper(*opened, options).run(volume));
  }
  return result;
}

std::optional<std::string> difference(const Dump& a, const Dump& b, const Tolerance& tolerance) {
  for (const auto& [name, volume] : a.volumes)
    if (!b.volumes.contains(name)) return "volume " + name + " is missing";
  for (const auto& [name, volume] : b.volumes) {
    const auto other = a.volumes.find(name);
    if (other == a.volumes.end()) return "volume " + name + " is new";
    const DumpedVolume& first = other->second;
    if (first.read_only != volume.read_only || first.snapshot != volume.snapshot) return "flags of volume " + name;
    for (const auto& [path, inode] : first.names)
      if (!volume.names.contains(path)) return name + ":" + path + " is missing";
    for (const auto& [path, inode] : volume.names) {
      const auto one = first.names.find(path);
      if (one == first.names.end()) return name + ":" + path + " is new";
      if (auto found = difference(one->second, inode, tolerance)) return name + ":" + path + ": " + *found;
    }
  }
  return std::nullopt;
}

}  // namespace daxcow::test
