// Random operations on files, clones, snapshots and volumes, compared with a model in memory, with the checker run between.
//
// rapidcheck prints how to replay a failure; its parameters come from the environment variable RC_PARAMS, such as
// RC_PARAMS="seed=123 max_success=500".
#include <sys/stat.h>

#include <map>
#include <memory>
#include <rapidcheck.h>
#include <string>
#include <vector>

#include "engine/checker.h"
#include "engine/format.h"
#include "engine/medium_dram.h"
#include "engine/pool.h"
#include "test/catch.h"

namespace daxcow {
namespace {

enum class Action {
  kWrite, kTruncate, kPunch, kZero, kAllocate, kCloneRange, kCloneFile, kCreate, kMakeDirectory, kUnlink, kRename, kExchange, kLink,
  kSetAttribute, kRemoveAttribute, kSnapshot, kDeleteSnapshot, kRollback, kReopen, kHoldOpen, kLetGo, kActionCount
};

struct Command {
  int action = 0;
  unsigned file = 0, other = 0, volume = 0;
  std::uint64_t offset = 0, length = 0, other_offset = 0;
};

void showValue(const Command& c, std::ostream& os) {
  os << "{" << c.action << ", file " << c.file << ", other " << c.other << ", volume " << c.volume << ", " << c.offset << "+" << c.length
     << " -> " << c.other_offset << "}";
}

constexpr std::uint64_t kMiB = 1 << 20;

// Offsets that matter: near block boundaries, near the borders of map nodes (2 MiB), and anywhere.
rc::Gen<std::uint64_t> offsets() {
  return rc::gen::oneOf(rc::gen::inRange<std::uint64_t>(0, 3 * 4096), rc::gen::map(rc::gen::inRange<std::uint64_t>(0, 60), [](std::uint64_t b) { return b * 4096; }),
                        rc::gen::map(rc::gen::inRange<std::uint64_t>(0, 20000), [](auto d) { return 2 * kMiB - 10000 + d; }),
                        rc::gen::map(rc::gen::inRange<std::uint64_t>(500, 530), [](auto b) { return b * 4096; }));
}

rc::Gen<std::uint64_t> lengths() {
  return rc::gen::oneOf(rc::gen::inRange<std::uint64_t>(1, 9000), rc::gen::map(rc::gen::inRange<std::uint64_t>(1, 20), [](auto b) { return b * 4096; }),
                        rc::gen::just(std::uint64_t{kMiB}), rc::gen::just(std::uint64_t{2 * kMiB + 4096}));
}

// Data and sharing most of all: that is where one file can reach into another.
rc::Gen<int> actions() {
  std::vector<int> weighted;
  for (int action = 0; action < static_cast<int>(Action::kActionCount); ++action)
    weighted.insert(weighted.end(), action <= static_cast<int>(Action::kCloneFile) ? 6 : action == static_cast<int>(Action::kSnapshot) ? 3 : 1, action);
  return rc::gen::elementOf(weighted);
}

// The files that are there from the beginning, mostly.
rc::Gen<unsigned> files() {
  return rc::gen::weightedOneOf<unsigned>({{3, rc::gen::element(0u, 1u, 3u, 5u)}, {1, rc::gen::inRange(0u, 12u)}});
}

rc::Gen<Command> commands() {
  return rc::gen::build<Command>(rc::gen::set(&Command::action, actions()), rc::gen::set(&Command::file, files()),
                                 rc::gen::set(&Command::other, files()),
                                 rc::gen::set(&Command::volume, rc::gen::inRange(0u, 4u)), rc::gen::set(&Command::offset, offsets()),
                                 rc::gen::set(&Command::length, lengths()), rc::gen::set(&Command::other_offset, offsets()));
}

// --- the model -----------------------------------------------------------------------------------------------------------

struct Node {
  bool directory = false;
  std::string content;
  std::map<std::string, std::string> attributes;
};

struct Tree {  // path -> node; hard links share the node
  std::map<std::string, std::shared_ptr<Node>> names;

  Tree copy() const {
    std::map<Node*, std::shared_ptr<Node>> copies;
    Tree tree;
    for (const auto& [path, node] : names) {
      auto& made = copies[node.get()];
      if (!made) made = std::make_shared<Node>(*node);
      tree.names[path] = made;
    }
    return tree;
  }
};

std::string path_for(unsigned n) {
  static const char* const kPaths[] = {"a", "b", "c", "d/a", "d/b", "e/a", "d", "e", "d/e", "e/long-name-that-takes-more-than-one-granule", "f", "g"};
  return kPaths[n % 12];
}
std::string parent_of(const std::string& path) { return path.find('/') == std::string::npos ? "" : path.substr(0, path.rfind('/')); }
std::string leaf_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }

class World {
 public:
  World() {
    auto medium = DramMedium::create(48 * kMiB);
    RC_ASSERT(medium.has_value());
    RC_ASSERT(Pool::format(**medium, {.label = "model", .progress = {}}).has_value());
    dram_ = static_cast<DramMedium*>(medium->get());
    open(std::move(*medium));
    trees_["main"] = {};
  }

  void run(const Command& command) {
    switch (static_cast<Action>(command.action)) {
      case Action::kWrite: return write(command);
      case Action::kTruncate: return truncate(command);
      case Action::kPunch: return zero(command, AllocateMode::kPunch);
      case Action::kZero: return zero(command, AllocateMode::kZeroKeep);
      case Action::kAllocate: return zero(command, AllocateMode::kAllocateKeep);
      case Action::kCloneRange: return clone(command, false);
      case Action::kCloneFile: return clone(command, true);
      case Action::kCreate: return create(command, false);
      case Action::kMakeDirectory: return create(command, true);
      case Action::kUnlink: return unlink(command);
      case Action::kRename: return rename(command, RenameMode::kReplace);
      case Action::kExchange: return rename(command, RenameMode::kExchange);
      case Action::kLink: return link(command);
      case Action::kSetAttribute: return set_attribute(command);
      case Action::kRemoveAttribute: return remove_attribute(command);
      case Action::kSnapshot: return snapshot(command);
      case Action::kDeleteSnapshot: return delete_snapshot(command);
      case Action::kRollback: return rollback(command);
      case Action::kReopen: return reopen();
      case Action::kHoldOpen: return hold(command);
      case Action::kLetGo: return let_go();
      case Action::kActionCount: return;
    }
  }

  void check_all() {
    pool_->settle();
    const auto report = check(*pool_, {.progress = {}});
    RC_ASSERT(report.has_value());
    for (const auto& finding : report->findings) RC_LOG() << name_of(finding.kind) << " " << finding.where << ": " << finding.what << "\n";
    RC_ASSERT(report->finding_count == 0u);
    for (auto& [name, tree] : trees_) {
      const auto mounted = volumes_.find(name);
      std::shared_ptr<Volume> volume;
      if (mounted != volumes_.end()) {
        volume = mounted->second;
      } else {
        auto opened = pool_->mount(name, true);
        RC_ASSERT(opened.has_value());
        volume = *opened;
      }
      compare(*volume, tree);
    }
  }

 private:
  void open(std::unique_ptr<Medium> medium) {
    auto pool = Pool::open(std::move(medium), {.background = false, .log = {}});
    RC_ASSERT(pool.has_value());
    pool_ = std::move(*pool);
    remount();
  }
  void remount() {
    volumes_.clear();
    const auto infos = pool_->volumes();
    RC_ASSERT(infos.has_value());
    for (const auto& info : *infos) {
      if (info.read_only) continue;
      auto volume = pool_->mount(info.name, false);
      RC_ASSERT(volume.has_value());
      volumes_[info.name] = *volume;
    }
  }

  // A writable volume and its model.
  std::pair<Volume*, Tree*> pick(unsigned n) {
    auto it = volumes_.begin();
    std::advance(it, n % volumes_.size());
    return {it->second.get(), &trees_[it->first]};
  }
  static InodeNumber inode_of(Volume& volume, const std::string& path) {
    const auto found = volume.find(path);
    RC_ASSERT(found.has_value());
    return found->inode;
  }
  // The file at a path, in the model; null if there is none or it is a directory.
  static Node* file_in(Tree& tree, const std::string& path) {
    const auto it = tree.names.find(path);
    return it == tree.names.end() || it->second->directory ? nullptr : it->second.get();
  }
  static bool has_parent(const Tree& tree, const std::string& path) {
    const std::string parent = parent_of(path);
    const auto it = tree.names.find(parent);
    return parent.empty() || (it != tree.names.end() && it->second->directory);
  }
  static bool is_empty(const Tree& tree, const std::string& path) {
    const auto it = tree.names.upper_bound(path + "/");
    return it == tree.names.end() || !it->first.starts_with(path + "/");
  }
  bool full(const Result<>& result) {
    if (result) return false;
    RC_ASSERT(result.error().code == ErrorCode::kNoSpace);
    return true;
  }
  template <class T>
  bool full(const Result<T>& result) {
    return full(result ? Result<>{} : Result<>(std::unexpected(result.error())));
  }

  void write(const Command& c) {
    auto [volume, tree] = pick(c.volume);
    Node* node = file_in(*tree, path_for(c.file));
    if (!node) return;
    std::string data(c.length, '\0');
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(1 + (++counter_ + i) % 250);
    if (full(volume->write(inode_of(*volume, path_for(c.file)), c.offset, std::as_bytes(std::span(data))))) return;
    if (node->content.size() < c.offset + c.length) node->content.resize(c.offset + c.length);
    node->content.replace(c.offset, c.length, data);
  }
  void truncate(const Command& c) {
    auto [volume, tree] = pick(c.volume);
    Node* node = file_in(*tree, path_for(c.file));
    if (!node) return;
    const std::uint64_t size = c.other % 3 == 0 ? 0 : c.offset;
    if (full(volume->set_attributes(inode_of(*volume, path_for(c.file)), {.mode = {}, .uid = {}, .gid = {}, .size_bytes = size, .access = {}, .modification = {}}))) return;
    node->content.resize(size);
  }
  void zero(const Command& c, AllocateMode mode) {
    auto [volume, tree] = pick(c.volume);
    Node* node = file_in(*tree, path_for(c.file));
    if (!node) return;
    const bool done = !full(volume->allocate(inode_of(*volume, path_for(c.file)), mode, c.offset, c.length));
    if (mode == AllocateMode::kAllocateKeep) return;
    if (!done && mode == AllocateMode::kPunch) {
      // Its edges may need a block; what was zeroed before stays zeroed: read it back.
      node->content = read_all(*volume, inode_of(*volume, path_for(c.file)));
      return;
    }
    for (std::uint64_t i = c.offset; i < std::min<std::uint64_t>(c.offset + c.length, node->content.size()); ++i) node->content[i] = '\0';
    if (!done) node->content = read_all(*volume, inode_of(*volume, path_for(c.file)));
  }
  void clone(const Command& c, bool whole) {
    auto [volume, tree] = pick(c.volume);
    auto [to_volume, to_tree] = c.other_offset % 3 == 0 ? pick(c.volume + 1) : std::pair{volume, tree};
    Node* from = file_in(*tree, path_for(c.file));
    Node* to = file_in(*to_tree, path_for(c.other));
    if (!from || !to) return;
    const std::uint64_t from_offset = whole ? 0 : c.offset;
    const std::uint64_t to_offset = whole ? 0 : (c.length % 2 ? c.offset % 4096 + c.other_offset / 4096 * 4096 : c.other_offset);
    const std::uint64_t length = whole ? from->content.size() : c.length;
    if (from == to && from_offset < to_offset + length && to_offset < from_offset + length) return;
    const InodeNumber from_inode = inode_of(*volume, path_for(c.file)), to_inode = inode_of(*to_volume, path_for(c.other));
    if (whole && full(to_volume->set_attributes(to_inode, {.mode = {}, .uid = {}, .gid = {}, .size_bytes = 0, .access = {}, .modification = {}}))) return;
    if (whole) to->content.clear();
    for (std::uint64_t done = 0; done < length;) {
      const auto step = volume->clone_range_to(from_inode, from_offset + done, *to_volume, to_inode, to_offset + done, length - done);
      if (full(step)) break;
      if (*step == 0) break;
      const std::string part = from->content.substr(std::min<std::size_t>(from_offset + done, from->content.size()), *step);
      RC_ASSERT(part.size() == *step);
      if (to->content.size() < to_offset + done + *step) to->content.resize(to_offset + done + *step);
      to->content.replace(to_offset + done, *step, part);
      done += *step;
    }
  }
  void create(const Command& c, bool directory) {
    auto [volume, tree] = pick(c.volume);
    const std::string path = path_for(c.file);
    if (!has_parent(*tree, path)) return;
    const auto made = volume->create(inode_of(*volume, parent_of(path)), leaf_of(path),
                                     {.mode = directory ? S_IFDIR | 0755u : S_IFREG | 0644u, .symlink_target = {}});
    if (tree->names.contains(path)) {
      RC_ASSERT(!made && made.error().code == ErrorCode::kExists);
      return;
    }
    if (full(made)) return;
    tree->names[path] = std::make_shared<Node>(Node{directory, {}, {}});
  }
  void unlink(const Command& c) {
    auto [volume, tree] = pick(c.volume);
    const std::string path = path_for(c.file);
    const auto it = tree->names.find(path);
    if (it == tree->names.end()) return;
    const InodeNumber parent = inode_of(*volume, parent_of(path));
    const auto removed = it->second->directory ? volume->remove_directory(parent, leaf_of(path)) : volume->unlink(parent, leaf_of(path));
    if (it->second->directory && !is_empty(*tree, path)) {
      RC_ASSERT(!removed && removed.error().code == ErrorCode::kNotEmpty);
      return;
    }
    if (full(removed)) return;
    tree->names.erase(it);
  }
  void rename(const Command& c, RenameMode mode) {
    auto [volume, tree] = pick(c.volume);
    const std::string from = path_for(c.file), to = path_for(c.other);
    const auto a = tree->names.find(from);
    if (a == tree->names.end() || !has_parent(*tree, to)) return;
    const auto b = tree->names.find(to);
    const auto renamed = volume->rename(inode_of(*volume, parent_of(from)), leaf_of(from), inode_of(*volume, parent_of(to)), leaf_of(to), mode);
    const bool into_itself = (a->second->directory && (to + "/").starts_with(from + "/") && to != from) ||
                             (mode == RenameMode::kExchange && b != tree->names.end() && b->second->directory && (from + "/").starts_with(to + "/") && to != from);
    if (mode == RenameMode::kExchange && b == tree->names.end()) {
      RC_ASSERT(!renamed.has_value());
      return;
    }
    if (into_itself) {
      RC_ASSERT(!renamed.has_value());
      return;
    }
    if (b != tree->names.end() && a->second == b->second) {
      RC_ASSERT(renamed.has_value());
      return;
    }
    if (mode == RenameMode::kReplace && b != tree->names.end()) {
      if (a->second->directory != b->second->directory || (b->second->directory && !is_empty(*tree, to))) {
        RC_ASSERT(!renamed.has_value());
        return;
      }
    }
    if (full(renamed)) return;
    std::map<std::string, std::shared_ptr<Node>> next;
    for (const auto& [path, node] : tree->names) {
      const auto moved = [&](const std::string& x, const std::string& y) { return path == x ? y : y + path.substr(x.size()); };
      const bool in_from = path == from || path.starts_with(from + "/"), in_to = path == to || path.starts_with(to + "/");
      if (in_from)
        next[moved(from, to)] = node;
      else if (in_to && mode == RenameMode::kExchange)
        next[moved(to, from)] = node;
      else if (!in_to)
        next[path] = node;
    }
    tree->names = next;
  }
  void link(const Command& c) {
    auto [volume, tree] = pick(c.volume);
    const std::string from = path_for(c.file), to = path_for(c.other);
    if (!file_in(*tree, from) || !has_parent(*tree, to) || tree->names.contains(to)) return;
    if (full(volume->link(inode_of(*volume, from), inode_of(*volume, parent_of(to)), leaf_of(to)))) return;
    tree->names[to] = tree->names[from];
  }
  void set_attribute(const Command& c) {
    auto [volume, tree] = pick(c.volume);
    const auto it = tree->names.find(path_for(c.file));
    if (it == tree->names.end()) return;
    const std::string name = "user." + std::to_string(c.other % 4), value(c.length % 20000, static_cast<char>('a' + c.offset % 26));
    if (full(volume->set_attribute(inode_of(*volume, it->first), name, std::as_bytes(std::span(value)), Volume::SetAttributeMode::kAny))) return;
    it->second->attributes[name] = value;
  }
  void remove_attribute(const Command& c) {
    auto [volume, tree] = pick(c.volume);
    const auto it = tree->names.find(path_for(c.file));
    if (it == tree->names.end()) return;
    const std::string name = "user." + std::to_string(c.other % 4);
    const auto removed = volume->remove_attribute(inode_of(*volume, it->first), name);
    if (!it->second->attributes.contains(name)) {
      RC_ASSERT(!removed && removed.error().code == ErrorCode::kNoAttribute);
      return;
    }
    if (full(removed)) return;
    it->second->attributes.erase(name);
  }
  void snapshot(const Command& c) {
    auto [volume, tree] = pick(c.volume);
    if (trees_.size() >= 5) return;
    const std::string name = "s" + std::to_string(++snapshots_);
    const bool read_only = c.file % 2 == 0;
    if (full(pool_->snapshot(volume->name(), name, read_only))) return;
    trees_[name] = tree->copy();
    if (read_only) return;
    auto mounted = pool_->mount(name, false);
    RC_ASSERT(mounted.has_value());
    volumes_[name] = *mounted;
  }
  void delete_snapshot(const Command& c) {
    if (trees_.size() < 2) return;
    auto it = trees_.begin();
    std::advance(it, c.volume % trees_.size());
    if (it->first == "main") return;
    held_.clear();
    volumes_.erase(it->first);
    if (full(pool_->delete_volume(it->first))) return remount();
    trees_.erase(it);
  }
  void rollback(const Command& c) {
    if (trees_.size() < 2) return;
    auto it = trees_.begin();
    std::advance(it, c.volume % trees_.size());
    if (it->first == "main") return;
    let_go();
    volumes_.erase("main");
    if (full(pool_->rollback("main", it->first))) return remount();
    trees_["main"] = it->second.copy();
    auto mounted = pool_->mount("main", false);
    RC_ASSERT(mounted.has_value());
    volumes_["main"] = *mounted;
  }
  // As after a crash: whatever is on the medium, without a clean shutdown.
  void reopen() {
    held_.clear();
    auto image = dram_->snapshot();
    volumes_.clear();
    pool_.reset();
    auto medium = DramMedium::from_image(image);
    RC_ASSERT(medium.has_value());
    dram_ = static_cast<DramMedium*>(medium->get());
    open(std::move(*medium));
  }
  // The kernel holds an inode: unlinked, it stays until it is let go.
  void hold(const Command& c) {
    auto [volume, tree] = pick(c.volume);
    if (!file_in(*tree, path_for(c.file))) return;
    const InodeNumber inode = inode_of(*volume, path_for(c.file));
    volume->remember(inode);
    held_.emplace_back(volume->name(), inode);
  }
  void let_go() {
    for (const auto& [name, inode] : held_)
      if (const auto it = volumes_.find(name); it != volumes_.end()) it->second->forget(inode, 1);
    held_.clear();
  }

  static std::string read_all(Volume& volume, InodeNumber inode) {
    const auto attributes = volume.attributes(inode);
    RC_ASSERT(attributes.has_value());
    std::string content(attributes->size_bytes, '\0');
    const auto got = volume.read(inode, 0, std::as_writable_bytes(std::span(content)));
    RC_ASSERT(got.has_value());
    RC_ASSERT(*got == content.size());
    return content;
  }

  void compare(Volume& volume, Tree& tree) {
    std::map<std::string, InodeNumber> found;
    list(volume, format::kRootInode, "", found);
    RC_ASSERT(found.size() == tree.names.size());
    for (const auto& [path, node] : tree.names) {
      RC_ASSERT(found.contains(path));
      const InodeNumber inode = found[path];
      if (!node->directory) RC_ASSERT(read_all(volume, inode) == node->content);
      const auto names = volume.list_attributes(inode);
      RC_ASSERT(names.has_value());
      RC_ASSERT(names->size() == node->attributes.size());
      for (const auto& [name, value] : node->attributes) {
        const auto got = volume.get_attribute(inode, name);
        RC_ASSERT(got.has_value());
        RC_ASSERT(*got == value);
      }
    }
  }
  static void list(Volume& volume, InodeNumber directory, const std::string& prefix, std::map<std::string, InodeNumber>& found) {
    std::vector<std::pair<std::string, InodeNumber>> directories;
    const auto done = volume.read_directory(directory, 0, [&](const DirectoryItem& item) {
      if (item.name == "." || item.name == "..") return true;
      found[prefix + std::string(item.name)] = item.inode;
      if (item.type == S_IFDIR) directories.emplace_back(prefix + std::string(item.name) + "/", item.inode);
      return true;
    });
    RC_ASSERT(done.has_value());
    for (const auto& [path, inode] : directories) list(volume, inode, path, found);
  }

  DramMedium* dram_ = nullptr;
  std::unique_ptr<Pool> pool_;
  std::map<std::string, std::shared_ptr<Volume>> volumes_;  // writable ones
  std::map<std::string, Tree> trees_;
  std::vector<std::pair<std::string, InodeNumber>> held_;
  unsigned counter_ = 0, snapshots_ = 0;
};

TEST_CASE("random operations agree with a model, and the checker finds nothing in between") {
  const bool held = rc::check([] {
    const auto sequence = *rc::gen::scale(3.0, rc::gen::container<std::vector<Command>>(commands()));
    World world;
    // A few names to begin with, or most commands would have nothing to work on.
    for (const unsigned file : {6u, 7u}) world.run({.action = static_cast<int>(Action::kMakeDirectory), .file = file});
    for (const unsigned file : {0u, 1u, 3u, 5u}) world.run({.action = static_cast<int>(Action::kCreate), .file = file});
    unsigned done = 0;
    for (const Command& command : sequence) {
      world.run(command);
      if (++done % 25 == 0) world.check_all();
    }
    world.check_all();
  });
  CHECK(held);
}

}  // namespace
}  // namespace daxcow
