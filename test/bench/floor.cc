// daxcow_bench_floor: a FUSE filesystem that does no storage work at all. What it needs for a request is what the
// kernel, libfuse and the way through them cost; daxcow cannot be faster, and what it needs more is its own.
//
// So everything that the kernel sees is daxcow's own: the INIT reply, the transport, the answers' timeouts and flags,
// the mount's options, the number of threads (fuse/operations.cc, transport.cc, session.cc, mounter.cc). Names are in
// hash tables. Reads are answered from one buffer, writes and clones are thrown away.
//
//   daxcow_bench_floor [--data FILE] [--announce] [--io_uring] DIRECTORY
//
//   --data FILE   keeps data in that file, mapped as a pool is (file offsets wrap around in it, all files share it): what copying costs
//   --announce    tells the kernel to forget the attributes of each directory that was changed, as daxcow must where others
//                 are asking for them: what that costs
//   --io_uring    takes requests from rings, as daxcow does with -o io_uring
//
// Stays in the foreground until it is unmounted.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <fmt/format.h>

#include "engine/file_descriptor.h"
#include "fuse/handlers.h"
#include "fuse/mount_options.h"
#include "fuse/transport.h"

namespace daxcow {
namespace {

struct Node {
  Attributes attributes;
  std::string target;  // of a symbolic link
  Node* parent = nullptr;
  std::atomic<std::uint64_t> known{0};  // to the kernel

  // Of a directory: entries keep their place, which is the cookie of a listing; a removed one is null.
  struct Entry {
    std::string name;
    Node* node;
  };
  std::vector<Entry> entries;
  std::unordered_map<std::string, std::size_t> places;
};

struct Floor {
  MountContext mount;
  bool announce = false;
  bool io_uring = false;
  std::byte* data = nullptr;  // null: nothing is kept
  std::uint64_t data_bytes = 0;
  std::vector<char> zeros = std::vector<char>(1 << 20);

  std::shared_mutex names;  // all nodes
  Node root;
  std::atomic<std::uint64_t> next_generation{1};
} floor_;

Node& node_of(fuse_ino_t number) { return number == FUSE_ROOT_ID ? floor_.root : *reinterpret_cast<Node*>(number); }

// A node id is the node's address.
fuse_entry_param entry_of(Node& node) { return handlers::to_entry(floor_.mount, node.attributes); }

void release_if_unused(Node& node) {
  if (&node != &floor_.root && node.attributes.link_count == 0 && node.known == 0) delete &node;
}

Node* find(Node& directory, const char* name) {
  const auto place = directory.places.find(name);
  return place == directory.places.end() ? nullptr : directory.entries[place->second].node;
}

void enter(Node& directory, const char* name, Node& node) {
  directory.places[name] = directory.entries.size();
  directory.entries.push_back({name, &node});
}

Node* make(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode) {
  auto* node = new Node;
  const fuse_ctx* caller = fuse_req_ctx(request);
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const Timestamp time{now.tv_sec, static_cast<std::uint32_t>(now.tv_nsec)};
  node->attributes = {.inode = InodeNumber(reinterpret_cast<std::uint64_t>(node)),
                      .generation = floor_.next_generation++,
                      .mode = S_ISLNK(mode) ? mode : mode & ~(caller->umask & 0777u),
                      .link_count = S_ISDIR(mode) ? 2u : 1u,
                      .uid = caller->uid,
                      .gid = caller->gid,
                      .access = time,
                      .modification = time,
                      .change = time,
                      .birth = time};
  node->known = 1;
  const std::unique_lock lock(floor_.names);
  auto& directory = node_of(parent);
  if (find(directory, name) != nullptr) {
    delete node;
    return nullptr;
  }
  node->parent = &directory;
  enter(directory, name, *node);
  return node;
}

void announce(fuse_req_t request, fuse_ino_t directory) {
  if (floor_.announce) handlers::forget_attributes(request, directory);
}

void reply_made(fuse_req_t request, fuse_ino_t parent, Node* node) {
  if (node == nullptr) return (void)fuse_reply_err(request, EEXIST);
  announce(request, parent);
  const auto entry = entry_of(*node);
  fuse_reply_entry(request, &entry);
}

void lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  std::shared_lock lock(floor_.names);
  Node* const node = find(node_of(parent), name);
  if (node == nullptr) {
    lock.unlock();
    fuse_entry_param nothing{};
    nothing.entry_timeout = floor_.mount.behaviour.entry_timeout_seconds;
    return (void)fuse_reply_entry(request, &nothing);
  }
  ++node->known;
  const auto entry = entry_of(*node);
  lock.unlock();
  fuse_reply_entry(request, &entry);
}

void forget_one(fuse_ino_t number, std::uint64_t count) {
  if (number == FUSE_ROOT_ID) return;
  auto& node = node_of(number);
  if (node.known.fetch_sub(count) != count) return;
  const std::unique_lock lock(floor_.names);
  release_if_unused(node);
}

void forget(fuse_req_t request, fuse_ino_t number, std::uint64_t count) {
  forget_one(number, count);
  fuse_reply_none(request);
}

void forget_multi(fuse_req_t request, std::size_t count, fuse_forget_data* forgets) {
  for (std::size_t i = 0; i < count; ++i) forget_one(forgets[i].ino, forgets[i].nlookup);
  fuse_reply_none(request);
}

void getattr(fuse_req_t request, fuse_ino_t number, fuse_file_info*) {
  const auto status = handlers::to_stat(node_of(number).attributes);
  fuse_reply_attr(request, &status, floor_.mount.behaviour.attribute_timeout_seconds);
}

void setattr(fuse_req_t request, fuse_ino_t number, struct stat* wanted, int to_set, fuse_file_info*) {
  auto& attributes = node_of(number).attributes;
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0) attributes.size_bytes = static_cast<std::uint64_t>(wanted->st_size);
  if ((to_set & FUSE_SET_ATTR_MODE) != 0) attributes.mode = (attributes.mode & S_IFMT) | (wanted->st_mode & 07777);
  if ((to_set & FUSE_SET_ATTR_UID) != 0) attributes.uid = wanted->st_uid;
  if ((to_set & FUSE_SET_ATTR_GID) != 0) attributes.gid = wanted->st_gid;
  if ((to_set & FUSE_SET_ATTR_MTIME) != 0)
    attributes.modification = {wanted->st_mtim.tv_sec, static_cast<std::uint32_t>(wanted->st_mtim.tv_nsec)};
  const auto status = handlers::to_stat(attributes);
  fuse_reply_attr(request, &status, floor_.mount.behaviour.attribute_timeout_seconds);
}

void mknod(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t) {
  reply_made(request, parent, make(request, parent, name, mode));
}

void mkdir(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode) {
  reply_made(request, parent, make(request, parent, name, S_IFDIR | (mode & 07777)));
}

void symlink(fuse_req_t request, const char* target, fuse_ino_t parent, const char* name) {
  Node* const node = make(request, parent, name, S_IFLNK | 0777);
  if (node != nullptr) {
    node->target = target;
    node->attributes.size_bytes = node->target.size();
  }
  reply_made(request, parent, node);
}

void readlink(fuse_req_t request, fuse_ino_t number) { fuse_reply_readlink(request, node_of(number).target.c_str()); }

void link(fuse_req_t request, fuse_ino_t number, fuse_ino_t parent, const char* name) {
  auto& node = node_of(number);
  {
    const std::unique_lock lock(floor_.names);
    ++node.attributes.link_count;
    ++node.known;
    enter(node_of(parent), name, node);
  }
  reply_made(request, parent, &node);
}

void create(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* file) {
  Node* const node = make(request, parent, name, S_IFREG | (mode & 07777));
  if (node == nullptr) return (void)fuse_reply_err(request, EEXIST);
  announce(request, parent);
  handlers::set_open_reply(request, file);
  const auto entry = entry_of(*node);
  fuse_reply_create(request, &entry, file);
}

void remove(fuse_req_t request, fuse_ino_t parent, const char* name) {
  int problem = 0;
  {
    const std::unique_lock lock(floor_.names);
    auto& directory = node_of(parent);
    Node* const node = find(directory, name);
    if (node == nullptr) {
      problem = ENOENT;
    } else if (!node->places.empty()) {
      problem = ENOTEMPTY;
    } else {
      directory.entries[directory.places[name]].node = nullptr;
      directory.places.erase(name);
      if (directory.places.empty()) directory.entries.clear();
      node->attributes.link_count -= S_ISDIR(node->attributes.mode) ? 2 : 1;
      release_if_unused(*node);
    }
  }
  announce(request, parent);
  fuse_reply_err(request, problem);
}

void opendir(fuse_req_t request, fuse_ino_t, fuse_file_info*) { fuse_reply_err(request, ENOSYS); }  // as daxcow does

// Cookies: 1 and 2 are "." and "..", entry i is i + 3.
template <class Add>
void list(fuse_req_t request, fuse_ino_t number, std::size_t size, off_t cookie, Add&& add) {
  std::vector<char> buffer(size);
  std::size_t used = 0;
  {
    const std::shared_lock lock(floor_.names);
    auto& directory = node_of(number);
    const auto fits = [&](const char* name, Node& node, off_t at) {
      const auto bytes = add(buffer.data() + used, size - used, name, node, at);
      if (bytes > size - used) return false;
      used += bytes;
      return true;
    };
    bool room = true;
    if (cookie < 1) room = fits(".", directory, 1);
    if (room && cookie < 2) room = fits("..", directory.parent != nullptr ? *directory.parent : directory, 2);
    for (auto i = static_cast<std::size_t>(std::max<off_t>(cookie - 2, 0)); room && i < directory.entries.size(); ++i) {
      const auto& [name, node] = directory.entries[i];
      if (node != nullptr) room = fits(name.c_str(), *node, static_cast<off_t>(i) + 3);
    }
  }
  fuse_reply_buf(request, buffer.data(), used);
}

void readdir(fuse_req_t request, fuse_ino_t number, std::size_t size, off_t cookie, fuse_file_info*) {
  list(request, number, size, cookie, [&](char* to, std::size_t room, const char* name, Node& node, off_t at) {
    const auto status = handlers::to_stat(node.attributes);
    return fuse_add_direntry(request, to, room, name, &status, at);
  });
}

void readdirplus(fuse_req_t request, fuse_ino_t number, std::size_t size, off_t cookie, fuse_file_info*) {
  list(request, number, size, cookie, [&](char* to, std::size_t room, const char* name, Node& node, off_t at) {
    auto entry = entry_of(node);
    const bool is_plain = node.known != 0 || std::string_view(name) == "." || std::string_view(name) == "..";
    if (is_plain) entry.ino = 0;
    const auto bytes = fuse_add_direntry_plus(request, to, room, name, &entry, at);
    if (!is_plain && bytes <= room) ++node.known;
    return bytes;
  });
}

void open(fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
  handlers::set_open_reply(request, file);
  fuse_reply_open(request, file);
}

void read(fuse_req_t request, fuse_ino_t number, std::size_t size, off_t offset, fuse_file_info*) {
  const auto start = static_cast<std::uint64_t>(offset), end = node_of(number).attributes.size_bytes;
  size = start >= end ? 0 : std::min<std::uint64_t>(size, end - start);
  std::vector<iovec> pieces;
  for (std::size_t done = 0; done < size;) {
    const auto at = floor_.data != nullptr ? (start + done) % floor_.data_bytes : 0;
    void* const from = floor_.data != nullptr ? floor_.data + at : static_cast<void*>(floor_.zeros.data());
    const auto room = floor_.data != nullptr ? floor_.data_bytes - at : floor_.zeros.size();
    const auto length = std::min<std::uint64_t>(size - done, room);
    pieces.push_back({from, length});
    done += length;
  }
  fuse_reply_iov(request, pieces.data(), static_cast<int>(pieces.size()));
}

void write(fuse_req_t request, fuse_ino_t number, const char* data, std::size_t size, off_t offset, fuse_file_info*) {
  auto& end = node_of(number).attributes.size_bytes;
  end = std::max(end, static_cast<std::uint64_t>(offset) + size);
  for (std::size_t done = 0; floor_.data != nullptr && done < size;) {
    const auto at = (static_cast<std::uint64_t>(offset) + done) % floor_.data_bytes;
    const auto length = std::min<std::uint64_t>(size - done, floor_.data_bytes - at);
    std::memcpy(floor_.data + at, data + done, length);
    done += length;
  }
  fuse_reply_write(request, size);
}

void copy_file_range(fuse_req_t request, fuse_ino_t from, off_t from_offset, fuse_file_info*, fuse_ino_t to,
                     off_t to_offset, fuse_file_info*, std::size_t length, int) {
  const auto source_bytes = node_of(from).attributes.size_bytes;
  const auto start = std::min<std::uint64_t>(static_cast<std::uint64_t>(from_offset), source_bytes);
  const auto done = std::min<std::uint64_t>(length, source_bytes - start);
  auto& end = node_of(to).attributes.size_bytes;
  end = std::max(end, static_cast<std::uint64_t>(to_offset) + done);
  fuse_reply_write(request, done);
}

void done(fuse_req_t request, fuse_ino_t, fuse_file_info*) { fuse_reply_err(request, 0); }
void synced(fuse_req_t request, fuse_ino_t, int, fuse_file_info*) { fuse_reply_err(request, 0); }
void allocated(fuse_req_t request, fuse_ino_t number, int mode, off_t offset, off_t length, fuse_file_info*) {
  auto& end = node_of(number).attributes.size_bytes;
  if (mode == 0) end = std::max(end, static_cast<std::uint64_t>(offset + length));
  fuse_reply_err(request, 0);
}
// Not ENOSYS: the kernel would never ask again, and it does ask daxcow.
void getxattr(fuse_req_t request, fuse_ino_t, const char*, std::size_t) { fuse_reply_err(request, ENODATA); }

void statfs(fuse_req_t request, fuse_ino_t) {
  struct statvfs status {};
  status.f_bsize = status.f_frsize = kBlockBytes;
  status.f_blocks = status.f_bfree = status.f_bavail = 1ull << 30;
  status.f_files = status.f_ffree = status.f_favail = 1ull << 30;
  status.f_namemax = 255;
  fuse_reply_statfs(request, &status);
}

fuse_lowlevel_ops make_operations() {
  fuse_lowlevel_ops table{};
  table.init = operations().init;
  table.lookup = lookup;
  table.forget = forget;
  table.forget_multi = forget_multi;
  table.getattr = getattr;
  table.setattr = setattr;
  table.readlink = readlink;
  table.mknod = mknod;
  table.mkdir = mkdir;
  table.unlink = remove;
  table.rmdir = remove;
  table.symlink = symlink;
  table.link = link;
  table.open = open;
  table.create = create;
  table.read = read;
  table.write = write;
  table.flush = done;
  table.release = done;
  table.fsync = synced;
  table.opendir = opendir;
  table.readdir = readdir;
  table.readdirplus = readdirplus;
  table.fsyncdir = synced;
  table.statfs = statfs;
  table.getxattr = getxattr;
  table.fallocate = allocated;
  table.copy_file_range = copy_file_range;
  return table;
}

Result<> serve(const std::string& directory) {
  const auto table = make_operations();
  const MountOptions defaults;
  floor_.mount.behaviour = defaults.behaviour;
  auto& root = floor_.root.attributes;
  root.inode = InodeNumber(FUSE_ROOT_ID);
  root.mode = S_IFDIR | 0755;
  root.link_count = 2;

  fuse_args arguments = FUSE_ARGS_INIT(0, nullptr);
  fuse_opt_add_arg(&arguments, "daxcow_bench_floor");
  if (floor_.io_uring) fuse_opt_add_arg(&arguments, "-oio_uring");
  fuse_session* const session = fuse_session_new(&arguments, &table, sizeof table, &floor_.mount);
  fuse_opt_free_args(&arguments);
  if (session == nullptr) return fail(ErrorCode::kIo, "libfuse could not make a session");
  floor_.mount.session = session;
  const int device = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (device < 0) return std::unexpected(Error::from_errno(errno, "cannot open /dev/fuse"));
  TRY(attach_transport(session, device));
  const auto data = fmt::format("fd={},rootmode={:o},user_id=0,group_id=0,default_permissions{}", device, S_IFDIR,
                                defaults.allow_other ? ",allow_other" : "");
  if (::mount("daxcow_bench_floor", directory.c_str(), "fuse.daxcow_bench_floor", defaults.kernel_flags,
              data.c_str()) != 0)
    return std::unexpected(Error::from_errno(errno, "cannot mount on " + directory));

  fuse_loop_config* const loop = fuse_loop_cfg_create();
  fuse_loop_cfg_set_max_threads(loop, defaults.threads);
  fuse_loop_cfg_set_idle_threads(loop, defaults.threads);
  const int result = fuse_session_loop_mt(session, loop);
  fuse_loop_cfg_destroy(loop);
  fuse_session_destroy(session);
  if (result < 0) return std::unexpected(Error::from_errno(-result, "the session ended"));
  return {};
}

bool map_data(const char* path) {
  const FileDescriptor file(::open(path, O_RDWR | O_CLOEXEC));
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0) return false;
  const auto bytes = static_cast<std::size_t>(status.st_size);
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (memory == MAP_FAILED) return false;
  floor_.data = static_cast<std::byte*>(memory);
  floor_.data_bytes = bytes;
  return true;
}

int run(int argc, char** argv) {
  std::string directory;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--announce") {
      floor_.announce = true;
    } else if (argument == "--io_uring") {
      if (const auto reason = no_io_uring_because({})) return fmt::print(stderr, "daxcow_bench_floor: no io_uring: {}\n", *reason), 1;
      floor_.io_uring = true;
    } else if (argument == "--data" && i + 1 < argc) {
      if (!map_data(argv[++i]))
        return fmt::print(stderr, "daxcow_bench_floor: {}: cannot be mapped: {}\n", argv[i], std::strerror(errno)), 1;
    } else if (directory.empty() && !argument.starts_with('-')) {
      directory = argument;
    } else {
      directory.clear();
      break;
    }
  }
  if (directory.empty())
    return fmt::print(stderr, "usage: daxcow_bench_floor [--data FILE] [--announce] [--io_uring] DIRECTORY\n"), 2;
  if (const auto served = serve(directory); !served)
    return fmt::print(stderr, "daxcow_bench_floor: {}\n", served.error().message), 1;
  return 0;
}

}  // namespace
}  // namespace daxcow

int main(int argc, char** argv) { return daxcow::run(argc, argv); }
