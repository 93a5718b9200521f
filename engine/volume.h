// One volume as POSIX sees it: the façade that the daemon calls. Every function is thread-safe, takes the volume's gate and
// the inode locks that it needs, and returns when its change is committed (see docs/ARCHITECTURE.md for the lock order).
//
// Permission checks are the caller's (the kernel does them with default_permissions); what depends on the change itself
// (clearing set-id bits, setgid inheritance of directories) is done here.
//
// Errors common to all: kDamaged (metadata lost in every copy), kPoisoned (data lost), kNoSpace, kReadOnly, kStale (the
// inode number is not in use).
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <boost/container/small_vector.hpp>

#include "engine/poison_policy.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

class Pool;
class Store;

struct Attributes {
  InodeNumber inode;
  std::uint64_t generation = 0;
  std::uint32_t mode = 0;  // S_IFMT and permissions
  std::uint32_t link_count = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t device = 0;  // as in st_rdev (kernel's 32-bit encoding, passed through)
  std::uint64_t size_bytes = 0;
  std::uint64_t block_count = 0;  // 4 KiB blocks mapped, shared ones included
  Timestamp access, modification, change, birth;
};

// What set_attributes() shall change; what is not set stays.
struct AttributeChange {
  std::optional<std::uint32_t> mode;  // permission bits only
  std::optional<std::uint32_t> uid;
  std::optional<std::uint32_t> gid;
  std::optional<std::uint64_t> size_bytes;
  std::optional<Timestamp> access;
  std::optional<Timestamp> modification;
  std::uint32_t clear_mode = 0;  // of S_ISUID and S_ISGID: to clear unless it is a directory (truncate and chown)
};

struct NewInode {
  std::uint32_t mode = 0;  // S_IFMT and permissions, umask applied already
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;  // replaced by the directory's when that is set-gid
  std::uint32_t device = 0;
  std::string_view symlink_target;  // S_IFLNK only
};

// What a read does to the access time: nothing, what relatime says, or always. Lazily.
enum class AccessTime : std::uint8_t { kKeep, kRelative, kStrict };

enum class RenameMode { kReplace, kNoReplace, kExchange };

enum class AllocateMode {
  kAllocate,      // unwritten blocks for holes; the file grows
  kAllocateKeep,  // FALLOC_FL_KEEP_SIZE
  kPunch,         // FALLOC_FL_PUNCH_HOLE (size kept)
  kZero,          // FALLOC_FL_ZERO_RANGE; the file grows
  kZeroKeep,      // with KEEP_SIZE
};

// What Volume::reflink() does with a range.
enum class ReflinkMode {
  kClone,    // FICLONE, FICLONERANGE: the target's range gets the source's content
  kDedupe,   // FIDEDUPERANGE: the same, if both ranges are equal; kDifferent if not. No time moves
  kReplace,  // the target's whole content and size; the range does not matter
  kCopy,     // as clone_range(): whatever the offsets are, and not all at once
  kCompare,  // what kDedupe would do, without doing it
};
inline constexpr std::uint64_t kDedupeAtOnceBytes = 16 << 20;  // compared and shared under one lock; others wait meanwhile
struct ReflinkDone {
  std::uint64_t bytes = 0;
  std::uint64_t new_bytes = 0;  // kDedupe, kCompare: those that had blocks of their own
};
// A file that may be gone by now: (number, generation) is never used again.
struct ReflinkFile {
  InodeNumber inode;
  std::uint64_t generation = 0;
};
struct ReflinkRange {
  std::uint64_t from_offset = 0, to_offset = 0;  // bytes
  std::uint64_t length = 0;                      // kClone: 0 is to the end of the source
};

struct DirectoryItem {
  std::string_view name;  // valid during the call only
  InodeNumber inode;
  std::uint32_t type;     // mode & S_IFMT
  std::uint64_t cookie;   // of this entry; pass it to go on after it. Never 0; stable while the entry exists
};

enum class ExtentState { kHole, kUnwritten, kWritten };
struct FileExtent {
  FileBlock start;
  std::uint64_t count = 0;
  ExtentState state = ExtentState::kHole;
  BlockNumber block;     // not for holes
  unsigned owners = 0;   // files (of all volumes) that own its blocks, as far as asked for and at most 10,000; 1: exclusive
  bool bad = false;      // its first block is in the poison ledger
};

struct VolumeStatistics {
  std::uint64_t block_bytes = kBlockBytes;
  std::uint64_t blocks = 0;
  std::uint64_t free_blocks = 0;
  std::uint64_t available_blocks = 0;
  std::uint64_t inodes = 0;       // in use and possible (an estimate)
  std::uint64_t free_inodes = 0;  // an estimate: what the free space would hold
  std::uint64_t name_bytes = 255;
};

// A read in progress: pieces of the pool's mapping (hand them to system calls only) and of a zero area. Holds the inode
// shared until destroyed, so send the reply first. Movable.
class ReadLease {
 public:
  ReadLease();
  ReadLease(ReadLease&&) noexcept;
  ReadLease& operator=(ReadLease&&) noexcept;
  ~ReadLease();
  std::span<const iovec> pieces() const { return {pieces_.data(), pieces_.size()}; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  friend class Volume;
  struct Held;
  std::unique_ptr<Held> held_;
  boost::container::small_vector<iovec, 4> pieces_;
  std::vector<std::unique_ptr<std::byte[]>> copies_;  // of what cannot be handed out as a piece of the mapping
  std::uint64_t bytes_ = 0;
};

class Volume : public std::enable_shared_from_this<Volume> {
 public:
  ~Volume();
  const std::string& name() const { return name_; }
  VolumeNumber number() const { return number_; }
  bool read_only() const { return read_only_; }

  // --- names -----------------------------------------------------------------------------------------------------------
  Result<Attributes> lookup(InodeNumber directory, std::string_view name);  // "." and ".." included; kNotFound
  // mkdir, mknod, creat, symlink. kExists, kNameTooLong, kTooManyLinks.
  Result<Attributes> create(InodeNumber directory, std::string_view name, const NewInode& inode);
  // O_TMPFILE: a regular file without a name, which is reclaimed like an unlinked one, or gets a name by link(). It is
  // remembered, once: the caller's to forget(). `directory`: whose group it may inherit.
  Result<Attributes> create_unnamed(InodeNumber directory, const NewInode& inode);
  Result<Attributes> link(InodeNumber inode, InodeNumber directory, std::string_view name);
  Result<> unlink(InodeNumber directory, std::string_view name);  // kIsDirectory
  Result<> remove_directory(InodeNumber directory, std::string_view name);  // kNotEmpty, kNotDirectory
  // kInvalid for a directory that would come to lie in itself. `whiteout`: a new inode that takes the old name in the same
  // step (not with kExchange). Answers whose time of change has moved; both invalid when two
  // names of one inode were given, and nothing was to be done.
  struct Renamed {
    InodeNumber moved;
    InodeNumber other;  // exchanged for it, or replaced; invalid if there was none
  };
  Result<Renamed> rename(InodeNumber directory, std::string_view name, InodeNumber new_directory, std::string_view new_name,
                         RenameMode mode, const NewInode* whiteout = nullptr);
  Result<std::string> read_link(InodeNumber inode, AccessTime access_time = AccessTime::kRelative);
  // Calls visit for each entry after `cookie` (0: from the start, "." and ".." first) until it returns false.
  Result<> read_directory(InodeNumber directory, std::uint64_t cookie, const std::function<bool(const DirectoryItem&)>& visit,
                          AccessTime access_time = AccessTime::kRelative);

  // --- attributes ------------------------------------------------------------------------------------------------------
  Result<Attributes> attributes(InodeNumber inode);
  Result<Attributes> set_attributes(InodeNumber inode, const AttributeChange& change);
  // Extended attributes by full name ("user.x"); kUnsupported for an unknown prefix, kNoAttribute, kTooBig, kNoSpace.
  Result<std::string> get_attribute(InodeNumber inode, std::string_view name);
  enum class SetAttributeMode { kAny, kCreate, kReplace };
  Result<> set_attribute(InodeNumber inode, std::string_view name, std::span<const std::byte> value, SetAttributeMode mode);
  Result<> remove_attribute(InodeNumber inode, std::string_view name);
  Result<std::vector<std::string>> list_attributes(InodeNumber inode);

  // --- data
  // ------------------------------------------------------------------------------------------------------------ At
  // most `length` bytes at `offset`, fewer at the end of the file. kPoisoned if any byte wanted is lost, to the sector
  // of 512 bytes where the device lets the others of a block be read.
  Result<ReadLease> read(InodeNumber inode, std::uint64_t offset, std::uint64_t length,
                         AccessTime access_time = AccessTime::kRelative);
  // Moves the access time of a file that is about to be read where nobody sees it; true if it was moved.
  Result<bool> note_access(InodeNumber inode, AccessTime access_time);
  // A system call could not read what the lease hands out: finds out which of its blocks are bad, and reports them.
  void suspect(const ReadLease& lease);
  // As read(), into `to`, with zeros for what is lost; the first time that it does so for a block of a file, it publishes an event.
  Result<std::uint64_t> read_with_zeros(InodeNumber inode, std::uint64_t offset, std::span<std::byte> to);
  // What the file's users want to happen when data of it is lost. Climbs to the root: for the rare case.
  PoisonPolicy poison_policy(InodeNumber inode);
  // Copying variant for callers in the process. Returns the bytes read; kPoisoned also for poison found only now.
  Result<std::uint64_t> read(InodeNumber inode, std::uint64_t offset, std::span<std::byte> to);
  struct WriteOptions {
    bool append = false;           // at the end of the file, whatever `offset` says
    std::uint32_t clear_mode = 0;  // of S_ISUID and S_ISGID: to clear with it (an unprivileged writer)
    bool zero_lost = false;        // what is lost around the bytes written counts as zero
    bool restores = false;         // what the file had already: its times stay, and it is not told as healed by its owner
    bool waits_for_space = true;   // kNoSpace only when nothing deleted is on its way back
  };
  // Writes all or fails with nothing visible changed (an in-place overwrite that meets poison may be partly done).
  Result<> write(InodeNumber inode, std::uint64_t offset, std::span<const std::byte> from, WriteOptions options);
  Result<> write(InodeNumber inode, std::uint64_t offset, std::span<const std::byte> from) { return write(inode, offset, from, WriteOptions{}); }
  Result<> allocate(InodeNumber inode, AllocateMode mode, std::uint64_t offset, std::uint64_t length);
  // Makes [to_offset, +length) of `to` equal to that range of `from`, sharing whole blocks where the offsets agree modulo
  // 4 KiB and copying the rest; stops at the end of `from`. Returns the bytes done, which may be fewer than asked for
  // (go on). Both inodes may be the same if the ranges do not overlap. A clone of a whole file into an empty one costs
  // the same whatever its number of extents.
  Result<std::uint64_t> clone_range(InodeNumber from, std::uint64_t from_offset, InodeNumber to, std::uint64_t to_offset,
                                    std::uint64_t length);
  // As clone_range, to another volume of the pool.
  Result<std::uint64_t> clone_range_to(InodeNumber from, std::uint64_t from_offset, Volume& to_volume, InodeNumber to,
                                       std::uint64_t to_offset, std::uint64_t length);
  // What the kernel's ioctls do, by its rules: all of the range while both files are locked, or kInvalid (offsets that are no
  // multiples of 4 KiB; a length that is none and does not reach the end of both; a range beyond the end of the source;
  // ranges of one file that overlap), kIsDirectory, kFileTooBig. kDedupe and kCompare do kDedupeAtOnceBytes at most, and end at
  // the last whole block that can be shared. Clears `clear_mode` (of S_ISUID and S_ISGID) with a change of content. After an error
  // of the pool (kNoSpace) a beginning may be done. kStale if `from` is another file by now. A whole file in place of another is
  // one step, whatever both contain.
  Result<ReflinkDone> reflink(const ReflinkFile& from, Volume& to_volume, InodeNumber to, const ReflinkRange& range, ReflinkMode mode,
                                std::uint32_t clear_mode = 0, bool may_change_content = true);
  // Whether that would change what the target contains; wrong arguments as reflink() answers them. Without `may_change_content`
  // reflink() answers kBusy where that is so by now.
  Result<bool> reflink_would_change(const ReflinkFile& from, Volume& to_volume, InodeNumber to, const ReflinkRange& range, ReflinkMode mode);
  Result<std::uint64_t> seek(InodeNumber inode, std::uint64_t offset, bool data);  // kNoData beyond the end
  // Extents of the file from block `from` on, until visit returns false. `count_owners`: fill FileExtent::owners, split
  // where the number changes.
  Result<> for_each_extent(InodeNumber inode, FileBlock from, bool count_owners, const std::function<bool(const FileExtent&)>& visit);
  // Makes everything about the inode durable; lazy times too, unless only its content is asked for, as by fdatasync(2).
  enum class Sync { kAll, kContent };
  Result<> sync(InodeNumber inode, Sync what = Sync::kAll);
  Result<> sync_all();

  // --- the kernel's references -------------------------------------------------------------------------------------------
  // lookup(), create() and link() of a FUSE session count one each; forget() takes them back. An inode without a name lives
  // until its count is zero; after that its number may be another file's. So who writes to an inode must have it
  // remembered, as the kernel has what is open.
  void remember(InodeNumber inode, std::uint64_t count = 1);
  void forget(InodeNumber inode, std::uint64_t count);
  bool is_remembered(InodeNumber inode) const;
  // All counts of this volume at once, at the end of a session.
  void forget_all();

  // --- the kernel's pages ------------------------------------------------------------------------------------------------
  // What a rescue must know of them (see PageTrust). Handles that may write are counted from before the reply that makes them
  // until they are given back. A change of content in another way than by writes is noted before it is begun.
  void open_for_writing(InodeNumber inode);
  void close_for_writing(InodeNumber inode);
  bool is_open_for_writing(InodeNumber inode) const;
  std::vector<InodeNumber> files_open_for_writing() const;  // at this moment, in no order
  void note_change_behind_pages(InodeNumber inode);
  void note_failed_write(InodeNumber inode);

  Result<VolumeStatistics> statistics();
  // A path for people: "/dir/name", or the inode number when it has none.
  Result<std::string> path_of(InodeNumber inode);
  // All its paths (hard links), at most `limit`.
  Result<std::vector<std::string>> paths_of(InodeNumber inode, std::size_t limit);
  // The inode at a path from the volume's root; does not follow symlinks.
  Result<Attributes> find(std::string_view path);

  struct State;  // internal to engine/
  State& state() { return *state_; }

 private:
  friend class Pool;
  Volume(Pool& pool, VolumeNumber number, std::string name, bool read_only);
  std::string name_;
  VolumeNumber number_;
  std::atomic<bool> read_only_;
  std::unique_ptr<State> state_;
};

}  // namespace daxcow
