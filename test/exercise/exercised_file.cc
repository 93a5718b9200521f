#include "test/exercise/exercised_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <compare>
#include <utility>

#include "test/exercise/failure.h"

namespace daxcow::exercise {

namespace {

std::strong_ordering operator<=>(const timespec& a, const timespec& b) {
  return std::pair(a.tv_sec, a.tv_nsec) <=> std::pair(b.tv_sec, b.tv_nsec);
}

const timespec& later(const timespec& a, const timespec& b) { return a < b ? b : a; }

std::string text(const timespec& time) { return fmt::format("{}.{:09}", time.tv_sec, time.tv_nsec); }

}  // namespace

ExercisedFile::ExercisedFile(Context& context, int directory, unsigned world, unsigned number, FileModel model,
                             Territory territory)
    : context_(context),
      directory_(directory),
      world_(world),
      number_(number),
      model_(std::move(model)),
      territory_(territory) {}

ExercisedFile::~ExercisedFile() {
  if (mapping_ != nullptr) munmap(mapping_, model_.maximum());
}

void ExercisedFile::create(const std::string& name) {
  file_ = FileDescriptor(openat(directory_, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode_));
  if (!file_) fail_call(fmt::format("creating {}", name));
  names_ = {name};
  look_at_first();
}

void ExercisedFile::open(const std::string& name, bool read_only) {
  file_ = FileDescriptor(openat(directory_, name.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!file_) fail_call(fmt::format("opening {}", name));
  if (names_.empty()) names_ = {name};
  look_at_first();
}

void ExercisedFile::look_at_first() {
  struct stat status {};
  if (fstat(file_.get(), &status) != 0) fail_call("fstat");
  inode_ = status.st_ino;
  mode_ = status.st_mode & 07777;
  times_ = {};
  times_.modification = status.st_mtim;
  times_.change = status.st_ctim;
}

const std::string& ExercisedFile::a_name() {
  return *std::next(names_.begin(), static_cast<std::ptrdiff_t>(context_.random.below(names_.size())));
}

// The clock that kernels take the times of files from; a filesystem may take a finer one, which is later.
timespec ExercisedFile::now() {
  timespec time{};
  clock_gettime(CLOCK_REALTIME_COARSE, &time);
  return time;
}

std::uint64_t ExercisedFile::note(Kind kind, Range range, unsigned variant, const ExercisedFile* other,
                                  std::uint64_t other_offset) {
  Operation operation{.kind = kind, .world = world_, .file = number_, .offset = range.offset, .length = range.length};
  operation.other_offset = other_offset;
  operation.size_before = model_.size();
  operation.variant = variant;
  if (other != nullptr) operation.other_file = other->number_;
  return context_.history.add(operation).number;
}

std::string ExercisedFile::proc_path() const { return fmt::format("/proc/self/fd/{}", file_.get()); }

int ExercisedFile::descriptor(FileDescriptor& kept, int flags) {
  if (!kept) kept = FileDescriptor(::open(proc_path().c_str(), flags | O_CLOEXEC));
  if (!kept) fail_call(fmt::format("opening the file again with flags {:#o}", flags));
  return kept.get();
}

std::byte* ExercisedFile::mapping() {
  if (mapping_ == nullptr) {
    void* const memory = mmap(nullptr, model_.maximum(), PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
    if (memory == MAP_FAILED) fail_call("mmap");
    mapping_ = static_cast<std::byte*>(memory);
  }
  return mapping_;
}

// --- what changes no content -------------------------------------------------------------------------------------------

void ExercisedFile::sync() {
  const auto way = static_cast<unsigned>(context_.random.below(8));
  note(Kind::kSync, {}, way);
  if (way == 0 && mapping_ != nullptr) {
    if (msync(mapping_, model_.maximum(), MS_SYNC) != 0) fail_call("msync(MS_SYNC)");
  } else if (way == 1 && mapping_ != nullptr) {
    if (msync(mapping_, model_.maximum(), MS_ASYNC) != 0) fail_call("msync(MS_ASYNC)");
    return;
  } else if (way == 2 && context_.random.one_in(16)) {
    if (syncfs(file_.get()) != 0) fail_call("syncfs");
  } else if (way < 5) {
    if (fdatasync(file_.get()) != 0) fail_call("fdatasync");
  } else {
    if (fsync(file_.get()) != 0) fail_call("fsync");
  }
  everything_written();
}

void ExercisedFile::write_stores() {
  if (!unsynced_stores_) return;
  if (fsync(file_.get()) != 0) fail_call("fsync");
  everything_written();
}

void ExercisedFile::unmap() {
  if (mapping_ == nullptr) return;
  note(Kind::kUnmap, {});
  if (munmap(std::exchange(mapping_, nullptr), model_.maximum()) != 0) fail_call("munmap");
}

// What is read next comes from the filesystem, not from the kernel's pages.
void ExercisedFile::drop_pages() {
  if (context_.random.one_in(2)) unmap();  // mapped pages stay
  note(Kind::kDropPages, {});
  if (fsync(file_.get()) != 0) fail_call("fsync");
  everything_written();
  posix_fadvise(file_.get(), 0, 0, POSIX_FADV_DONTNEED);
}

void ExercisedFile::reopen() {
  const bool empty = territory_.is_whole() && context_.random.one_in(8);
  const bool mapped = context_.random.one_in(2);  // a mapping needs no descriptor
  note(Kind::kReopen, {}, (empty ? 1 : 0) + (mapped ? 2 : 0));
  if (!mapped && mapping_ != nullptr) munmap(std::exchange(mapping_, nullptr), model_.maximum());
  const std::string path = names_.empty() ? proc_path() : a_name();
  const auto before = now();
  FileDescriptor fresh(openat(directory_, path.c_str(), O_RDWR | O_CLOEXEC | (empty ? O_TRUNC : 0)));
  if (!fresh) fail_call(fmt::format("opening {}", path));
  if (empty) {
    model_.truncate(0);
    content_changed(before);
  }
  for (FileDescriptor* kept : {&direct_, &append_, &sync_}) kept->reset();
  file_ = std::move(fresh);
  struct stat status {};
  if (fstat(file_.get(), &status) != 0) fail_call("fstat");
  if (status.st_ino != inode_) fail("{} is inode {}, and was {}", path, status.st_ino, inode_);
}

void ExercisedFile::check_sparse() {
  note(Kind::kSparse, {});
  // FUSE kernels ask the daemon, which does not know of stores that are still in pages.
  write_stores();
  const auto size = model_.size();
  const auto seek = [&](std::uint64_t from, int whence) -> std::uint64_t {
    const auto found = lseek(file_.get(), static_cast<off_t>(from), whence);
    if (found < 0 && errno != ENXIO) fail_call(fmt::format("lseek({:#x}, {})", from, whence == SEEK_DATA ? "SEEK_DATA" : "SEEK_HOLE"));
    if (found < 0 && whence == SEEK_HOLE && from < size) fail("SEEK_HOLE at {:#x} finds not even the end {:#x}", from, size);
    return found < 0 ? size : static_cast<std::uint64_t>(found);
  };
  const auto require_zeros = [&](Range hole) {
    territory_.each(hole, [&](Range own) {
      const auto bytes = model_.bytes(own.offset, own.length);
      const auto first = std::ranges::find_if(bytes, [](std::byte byte) { return byte != std::byte{0}; });
      if (first != bytes.end())
        fail("SEEK_DATA calls {:#x}+{:#x} a hole, and there is data at {:#x}", hole.offset, hole.length,
             own.offset + static_cast<std::uint64_t>(first - bytes.begin()));
    });
  };
  for (std::uint64_t position = 0; position < size;) {
    const auto data = seek(position, SEEK_DATA);
    if (data < position || data > size) fail("SEEK_DATA at {:#x} finds {:#x}, size is {:#x}", position, data, size);
    require_zeros({position, data - position});
    if (data == size) break;
    auto hole = seek(data, SEEK_HOLE);
    if (hole == data && !territory_.is_whole()) ++hole;  // somebody else has just made one
    if (hole <= data || hole > size) fail("SEEK_HOLE at {:#x}, which is data, finds {:#x}, size is {:#x}", data, hole, size);
    if (context_.features.exact_blocks && territory_.is_whole() && context_.options.blocks)
      for (auto block = data / model_.block_bytes(); block * model_.block_bytes() < hole; ++block)
        if (!model_.block_is_possible(block)) fail("SEEK_DATA finds data in block {:#x}, where nothing was ever written", block);
    position = hole;
  }
  for (const int whence : {SEEK_DATA, SEEK_HOLE})
    if (lseek(file_.get(), static_cast<off_t>(size + context_.random.below(3)), whence) >= 0 || errno != ENXIO)
      fail("lseek behind the end does not fail with ENXIO");
}

// --- attributes --------------------------------------------------------------------------------------------------------

void ExercisedFile::content_changed(timespec before) {
  times_.modification_may_move = times_.change_may_move = true;
  times_.least_modification = times_.least_change = before;
}

void ExercisedFile::stores_written() {
  if (!times_.first_store) return;
  if (context_.features.mapped_times) {
    times_.least_modification = later(times_.least_modification, *times_.first_store);
    times_.least_change = later(times_.least_change, *times_.first_store);
  }
  times_.first_store.reset();
}

void ExercisedFile::link_changed(bool must_move) {
  times_.change_may_move = true;
  if (must_move) times_.least_change = before_names_change_;
}

// The times that the filesystem has, whatever the kernel remembers.
void ExercisedFile::ask_for_times(struct stat& status) const {
  struct statx asked {};
  if (statx(file_.get(), "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &asked) != 0) fail_call("statx");
  status.st_mtim = {asked.stx_mtime.tv_sec, asked.stx_mtime.tv_nsec};
  status.st_ctim = {asked.stx_ctime.tv_sec, asked.stx_ctime.tv_nsec};
}

void ExercisedFile::check_attributes() {
  note(Kind::kAttributes, {});
  struct stat status {};
  if (!names_.empty() && context_.random.one_in(4)) {
    const auto& name = a_name();
    if (fstatat(directory_, name.c_str(), &status, 0) != 0) fail_call("fstatat of " + name);
  } else if (fstat(file_.get(), &status) != 0) {
    fail_call("fstat");
  }
  if (static_cast<std::uint64_t>(status.st_size) != model_.size())
    fail("the size is {:#x}, and should be {:#x}", status.st_size, model_.size());
  if (status.st_ino != inode_) fail("the inode is {}, and was {}", status.st_ino, inode_);
  if (status.st_nlink != names_.size()) fail("there are {} links, and should be {}", status.st_nlink, names_.size());
  if ((status.st_mode & 07777) != mode_) fail("the mode is {:o}, and should be {:o}", status.st_mode & 07777, mode_);
  if (context_.options.blocks && territory_.is_whole()) check_blocks(status);
  if (!context_.options.times) return;

  // Of several processes that look at once, a FUSE kernel may remember the answer that is the older one.
  if (!territory_.is_whole()) ask_for_times(status);
  const bool others_change_it = !territory_.is_whole() || unsynced_stores_;
  const auto check = [&](const char* which, const timespec& seen, timespec& last, bool& may_move, const timespec& least) {
    if (seen < last) fail("the time of {} goes back from {} to {}", which, text(last), text(seen));
    if (seen < least) fail("the time of {} is {}, older than the change at {}", which, text(seen), text(least));
    if (last < seen && !may_move && !others_change_it)
      fail("the time of {} moves from {} to {} without a change", which, text(last), text(seen));
    last = seen;
    may_move = others_change_it;
  };
  check("modification", status.st_mtim, times_.modification, times_.modification_may_move, times_.least_modification);
  check("change", status.st_ctim, times_.change, times_.change_may_move, times_.least_change);
}

void ExercisedFile::check_blocks(const struct stat& status) {
  const std::uint64_t bytes = static_cast<std::uint64_t>(status.st_blocks) * 512;
  // Others than daxcow count blocks of their metadata, and what they take ahead.
  const auto most = model_.possible_blocks() * model_.block_bytes();
  if (context_.features.exact_blocks && bytes > most) fail("{:#x} bytes are allocated, {:#x} can be", bytes, most);
  if (unsynced_stores_) return;
  const auto least = model_.needed_blocks() * model_.block_bytes();
  if (bytes < least) fail("{:#x} bytes are allocated, {:#x} are in use", bytes, least);
}

void ExercisedFile::set_times() {
  note(Kind::kSetTimes, {});
  write_stores();
  constexpr std::uint64_t kSomeDayIn2001 = 1'000'000'000, kThirteenYears = 400'000'000;
  timespec times[2] = {};
  times[0].tv_nsec = UTIME_OMIT;
  times[1].tv_sec = static_cast<time_t>(kSomeDayIn2001 + context_.random.below(kThirteenYears));
  times[1].tv_nsec = static_cast<long>(context_.random.below(1'000'000'000));
  const auto before = now();
  if (futimens(file_.get(), times) != 0) fail_call("futimens");
  times_.modification = times_.least_modification = times[1];
  times_.modification_may_move = false;
  times_.change_may_move = true;
  times_.least_change = before;
}

void ExercisedFile::set_mode() {
  note(Kind::kSetMode, {});
  const mode_t wanted = 0600 | (context_.random.below(8) << 3) | context_.random.below(8);
  const auto before = now();
  if (fchmod(file_.get(), wanted) != 0) fail_call("fchmod");
  mode_ = wanted;
  times_.change_may_move = true;
  times_.least_change = before;
}

}  // namespace daxcow::exercise
