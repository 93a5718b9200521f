// A small pool with a bit of everything in it, and the operations that the exploration tries on it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/patrol.h"
#include "engine/pool.h"
#include "test/recording_medium.h"

namespace daxcow::test {

// An open pool on a recording, its mounted volumes, and helpers in terms of paths. Paths name files of the volume "main";
// "other:/p" those of another one.
class World {
 public:
  // Opens the pool that is in the recording's memory and mounts every writable volume.
  static Result<std::unique_ptr<World>> open(Recording& recording);
  // Closes the pool in order, unless the power was cut.
  ~World();

  Pool& pool() { return *pool_; }
  Recording& recording() { return recording_; }
  const std::map<std::string, std::shared_ptr<Volume>>& volumes() const { return volumes_; }
  Volume& volume(std::string_view name = "main");
  Result<> mount_all();
  void unmount(const std::string& name);

  Result<InodeNumber> inode(std::string_view path);
  Result<> create(std::string_view path, std::uint32_t mode, std::string_view target = {});
  Result<> write(std::string_view path, std::uint64_t offset, std::uint64_t length);
  Result<> truncate(std::string_view path, std::uint64_t size);
  Result<> allocate(std::string_view path, AllocateMode mode, std::uint64_t offset, std::uint64_t length);
  Result<> unlink(std::string_view path);
  Result<> remove_directory(std::string_view path);
  Result<> rename(std::string_view from, std::string_view to, RenameMode mode = RenameMode::kReplace, const NewInode* whiteout = nullptr);
  Result<> link(std::string_view from, std::string_view to);
  // The bytes of one file, written to another.
  Result<> copy(std::string_view from, std::string_view to, std::uint64_t to_offset, std::uint64_t length);
  Result<> set_attribute(std::string_view path, std::string_view name, std::uint64_t length);
  Result<> set_policy(std::string_view path, std::string_view policy);
  // Whole file when length is 0.
  Result<> clone(std::string_view from, std::uint64_t from_offset, std::string_view to, std::uint64_t to_offset, std::uint64_t length);
  // By the rules of the kernel's ioctls.
  Result<> reflink(std::string_view from, std::uint64_t from_offset, std::string_view to, std::uint64_t to_offset,
                   std::uint64_t length, ReflinkMode mode);
  // Gives the patrol an order while its thread runs, and waits until `until` holds or the pass has ended; then the thread ends, as with its
  // daemon.
  Result<> patrol(const std::function<Result<>(Patrol&)>& order, const std::function<bool(const ScrubStatus&)>& until);
  // As a process that has the file open: it stays when its name goes.
  Result<> hold(std::string_view path);
  void let_go();
  // O_TMPFILE in a directory, with two blocks of content; link_to: the name that it gets then, or none. It is held.
  Result<> make_unnamed(std::string_view directory, std::string_view link_to = {});
  // Makes the block that holds this part of the file go bad.
  Result<> poison(std::string_view path, FileBlock block);
  // The same while a kernel has the page of this file, and (written_to) a program may have written to that.
  Result<> poison_cached(std::string_view path, FileBlock block, bool written_to);

 private:
  explicit World(Recording& recording) : recording_(recording) {}
  struct Place {
    Volume* volume;
    InodeNumber directory;
    std::string name;
  };
  Result<Place> place(std::string_view path);
  std::string content(std::uint64_t length);

  Recording& recording_;
  std::unique_ptr<Pool> pool_;
  std::map<std::string, std::shared_ptr<Volume>> volumes_;
  std::vector<std::pair<std::shared_ptr<Volume>, InodeNumber>> held_;
  std::uint64_t writes_ = 0;
};

// A pool to begin with.
struct Setup {
  const char* name;
  const char* what;
  Result<> (*build)(World& world);
};
std::span<const Setup> setups();
// Its content, closed in order. The same setup always gives a pool of the same structure.
std::vector<std::byte> make_image(const Setup& setup);

// How much of an operation may be there after a crash in it.
enum class Atomicity {
  kWhole,    // all or nothing
  kNew,      // all or nothing, as long as no operation before it has written there
  kInPlace,  // each byte that is overwritten may be old or new, and times are lazy
  kSteps,    // likewise, and the size may be in between and counts anything: several transactions do it bit by bit
};

struct Operation {
  const char* name;
  Result<> (*run)(World& world);
  std::vector<std::string> changes;  // the files whose content or extended attributes it may change; "*" ends a prefix
  Atomicity atomicity = Atomicity::kWhole;
  bool loses_meanwhile = false;  // after a crash in it, what went bad and was not yet rescued is lost
};
std::span<const Operation> operations();

}  // namespace daxcow::test
