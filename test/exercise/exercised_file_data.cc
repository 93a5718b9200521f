// Reading, writing, and everything else that the content depends on.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "test/exercise/exercised_file.h"
#include "test/exercise/failure.h"
#include "test/exercise/guarded_access.h"

namespace daxcow::exercise {

namespace {

constexpr std::uint64_t kPage = 4096;

std::string hexadecimal(std::span<const std::byte> bytes) {
  std::string text;
  for (const auto byte : bytes.first(std::min<std::size_t>(bytes.size(), 32)))
    text += fmt::format(" {:02x}", static_cast<unsigned>(byte));
  return text;
}

std::array<iovec, 3> in_three(std::span<std::byte> memory, Random& random) {
  const auto first = random.below(memory.size() + 1), second = random.below(memory.size() - first + 1);
  return {{{memory.data(), first}, {memory.data() + first, second}, {memory.data() + first + second, memory.size() - first - second}}};
}

}  // namespace

// The part of the range that direct I/O can be asked for.
std::optional<Range> ExercisedFile::aligned(Range range) const {
  const auto alignment = context_.features.direct_alignment;
  const auto start = (range.offset + alignment - 1) / alignment * alignment, end = range.end() / alignment * alignment;
  if (start >= end) return std::nullopt;
  return Range{start, end - start};
}

void ExercisedFile::compare(Range range, std::span<const std::byte> got) {
  territory_.each(range, [&](Range own) {
    const auto expected = model_.bytes(own.offset, own.length);
    const auto found = got.subspan(own.offset - range.offset, own.length);
    if (std::memcmp(expected.data(), found.data(), own.length) == 0) return;
    const auto differs = [&](std::size_t index) { return expected[index] != found[index]; };
    std::size_t first = 0;
    while (!differs(first)) ++first;
    std::size_t last = own.length - 1;
    while (!differs(last)) --last;
    std::size_t end = first + 1;  // of the first stretch that has nothing right, but by chance
    while (end <= last && (differs(end) || differs(std::min(end + 1, last)))) ++end;
    const auto stretch = end - first;
    const auto wrong = found.subspan(first, std::min<std::size_t>(stretch, 32));
    auto origin = context_.history.origin(wrong, context_.pattern);
    for (unsigned process = 0; !territory_.is_whole() && process < context_.options.processes; ++process)
      if (process != context_.process &&
          Pattern(context_.options.seed, process, context_.options.longest_bytes).find(wrong))
        origin = fmt::format("bytes of process {}", process);
    fail("wrong content at {:#x}, {:#x} bytes at first and the last one at {:#x}\n  expected:{}\n  got:     {}\n"
         "  that is {}; expected was {}",
         own.offset + first, stretch, own.offset + last, hexadecimal(expected.subspan(first)),
         hexadecimal(found.subspan(first)), origin,
         context_.history.origin(expected.subspan(first, wrong.size()), context_.pattern));
  });
}

// --- reading -----------------------------------------------------------------------------------------------------------

void ExercisedFile::read(Kind way) {
  auto& random = context_.random;
  // Of what is shared one may look at everything, and at a private file behind its end.
  const Territory all(model_.maximum());
  const auto limit = random.one_in(8) ? model_.maximum() : std::max<std::uint64_t>(model_.size(), 1);
  Range range = all.pick(random, limit, context_.options.longest_bytes);
  int descriptor = file_.get();
  std::uint64_t alignment = 1;
  if (way == Kind::kReadDirect) {
    if (const auto exact = aligned(range)) {
      range = *exact;
      descriptor = this->descriptor(direct_, O_RDWR | O_DIRECT);
      alignment = context_.features.direct_alignment;
    } else {
      way = Kind::kRead;
    }
  }
  note(way, range);
  const auto memory = context_.buffer(range.length, alignment);
  ssize_t got;
  if (way == Kind::kReadVector) {
    const auto parts = in_three(memory, random);
    got = preadv(descriptor, parts.data(), parts.size(), static_cast<off_t>(range.offset));
  } else {
    got = pread(descriptor, memory.data(), range.length, static_cast<off_t>(range.offset));
  }
  if (got < 0) fail_call("pread");
  const auto size = model_.size();
  const auto expected = range.offset >= size ? 0 : std::min(range.length, size - range.offset);
  if (static_cast<std::uint64_t>(got) != expected) fail("read {:#x} bytes instead of {:#x}", got, expected);
  range.length = expected;
  compare(range, memory);
}

void ExercisedFile::read_mapped() {
  auto& random = context_.random;
  if (model_.size() == 0) return read(Kind::kRead);
  auto range = Territory(model_.maximum()).pick(random, model_.size(), context_.options.longest_bytes);
  note(Kind::kReadMapped, range);
  // The page of the end is there as a whole, with zeros behind the end.
  const bool at_end = range.end() == model_.size();
  if (at_end) range.length = std::min((range.end() + kPage - 1) / kPage * kPage - range.offset, context_.options.longest_bytes);
  const auto memory = context_.buffer(range.length, 1);
  if (!copy_guarded(memory.data(), mapping() + range.offset, range.length)) fail("SIGBUS within the file");
  compare(range, memory);
}

void ExercisedFile::compare_all(Kind way) {
  note(way, {0, model_.size()}, way == Kind::kSnapshotCompare ? 1 : 0);
  struct stat status {};
  if (fstat(file_.get(), &status) != 0) fail_call("fstat");
  if (static_cast<std::uint64_t>(status.st_size) != model_.size())
    fail("the size is {:#x}, and should be {:#x}", status.st_size, model_.size());
  for (std::uint64_t offset = 0; offset < model_.size();) {
    const auto length = std::min(context_.options.longest_bytes, model_.size() - offset);
    const auto memory = context_.buffer(length, 1);
    const auto got = pread(file_.get(), memory.data(), length, static_cast<off_t>(offset));
    if (got < 0) fail_call("pread");
    if (static_cast<std::uint64_t>(got) != length) fail("read {:#x} bytes instead of {:#x}", got, length);
    compare({offset, length}, memory);
    offset += length;
  }
}

// --- writing -----------------------------------------------------------------------------------------------------------

void ExercisedFile::write(Kind way) {
  auto& random = context_.random;
  // Near what is there already, more often than not.
  const auto limit = territory_.is_whole() && !random.one_in(4) ? model_.size() + random.between(1, context_.options.longest_bytes)
                                                                : model_.maximum();
  auto range = territory_.pick(random, limit, context_.options.longest_bytes);
  if (range.length == 0) return;
  int descriptor = file_.get();
  std::uint64_t alignment = 1;
  switch (way) {
    case Kind::kWriteDirect:
      if (const auto exact = aligned(range)) {
        range = *exact;
        descriptor = this->descriptor(direct_, O_RDWR | O_DIRECT);
        alignment = context_.features.direct_alignment;
      } else {
        way = Kind::kWrite;
      }
      break;
    case Kind::kWriteSync:
      descriptor = this->descriptor(sync_, O_RDWR | (random.one_in(2) ? O_SYNC : O_DSYNC));
      break;
    case Kind::kAppend:
      descriptor = this->descriptor(append_, O_RDWR | O_APPEND);
      range = {model_.size(), std::min(range.length, model_.maximum() - model_.size())};
      if (range.length == 0) return truncate();
      break;
    default:
      break;
  }
  // Linux 6.18 on FUSE without writeback_cache zeroes the rest of the last page when it writes a page that was stored to: also
  // what a write has just put there and the file's size does not yet cover. Only other processes can have it do so now.
  if (context_.features.fuse && context_.options.processes > 1 && range.end() > model_.size()) write_stores();
  const auto number = note(way, range);
  const auto data = context_.pattern.of(number, range.length);
  const auto memory = context_.buffer(range.length, alignment);
  std::memcpy(memory.data(), data.data(), range.length);
  const auto before = now();
  ssize_t written;
  // With O_APPEND the kernel must not look at the offset.
  const auto offset = static_cast<off_t>(way == Kind::kAppend ? random.below(model_.maximum()) : range.offset);
  if (way == Kind::kWriteVector) {
    const auto parts = in_three(memory, random);
    written = pwritev(descriptor, parts.data(), parts.size(), offset);
  } else {
    written = pwrite(descriptor, memory.data(), range.length, offset);
  }
  if (written < 0) fail_call("pwrite");
  if (static_cast<std::uint64_t>(written) != range.length) fail("wrote {:#x} bytes instead of {:#x}", written, range.length);
  model_.write(range.offset, data);
  if (context_.features.late_writes) unsynced_stores_ = true;
  content_changed(before);
}

void ExercisedFile::store_mapped() {
  auto& random = context_.random;
  const auto range = territory_.pick(random, model_.size(), context_.options.longest_bytes);
  if (range.length == 0) return write(Kind::kWrite);
  const auto sync = random.below(8);
  const auto number = note(Kind::kStoreMapped, range, static_cast<unsigned>(sync));
  const auto data = context_.pattern.of(number, range.length);
  if (!unsynced_stores_) times_.first_store = now();
  if (!copy_guarded(mapping() + range.offset, data.data(), range.length)) fail("SIGBUS within the file");
  unsynced_stores_ = true;
  times_.modification_may_move = times_.change_may_move = true;
  model_.write(range.offset, data);
  if (sync > 2) return;
  const auto start = range.offset / kPage * kPage;
  constexpr std::array<int, 3> kWays = {MS_SYNC, MS_ASYNC, MS_SYNC | MS_INVALIDATE};
  if (msync(mapping() + start, range.end() - start, kWays[sync]) != 0) fail_call("msync");
}

// A private mapping shows the file, and what is stored to it stays out of the file.
void ExercisedFile::store_private() {
  auto& random = context_.random;
  if (model_.size() == 0) return read(Kind::kRead);
  const auto range = Territory(model_.maximum()).pick(random, model_.size(), context_.options.longest_bytes);
  note(Kind::kStorePrivate, range);
  const auto start = range.offset / kPage * kPage;
  void* const memory = mmap(nullptr, range.end() - start, PROT_READ | PROT_WRITE, MAP_PRIVATE, file_.get(), static_cast<off_t>(start));
  if (memory == MAP_FAILED) fail_call("mmap(MAP_PRIVATE)");
  const struct Unmap {
    void* memory;
    std::uint64_t length;
    ~Unmap() { munmap(memory, length); }
  } unmap{memory, range.end() - start};
  std::byte* const there = static_cast<std::byte*>(memory) + (range.offset - start);
  const auto copy = context_.buffer(range.length, 1);
  if (!copy_guarded(copy.data(), there, range.length)) fail("SIGBUS within the file");
  compare(range, copy);
  for (auto& byte : copy) byte = ~byte;
  if (!copy_guarded(there, copy.data(), range.length)) fail("SIGBUS within the file");
}

void ExercisedFile::touch_behind_end() {
  const auto behind = (model_.size() + kPage - 1) / kPage * kPage;
  if (behind >= model_.maximum()) return read_mapped();
  const auto offset = behind + context_.random.below(model_.maximum() - behind);
  note(Kind::kTouchBehindEnd, {offset, 1});
  std::byte found{};
  if (copy_guarded(&found, mapping() + offset, 1)) fail("no SIGBUS in a page behind the end");
}

// --- size and allocation -----------------------------------------------------------------------------------------------

void ExercisedFile::truncate() {
  auto& random = context_.random;
  std::uint64_t size = random.below(model_.maximum() + 1);
  switch (random.below(8)) {
    case 0:
      size = 0;
      break;
    case 1:
      size = size / kPage * kPage;
      break;
    case 2:
    case 3:  // not far
      size = std::min(model_.maximum(), model_.size() + random.below(2 * kPage));
      size -= std::min(size, random.below(2 * kPage));
      break;
  }
  const bool by_name = !names_.empty() && random.one_in(4);
  note(Kind::kTruncate, {size, 0}, by_name ? 1 : 0);
  const auto before = now();
  if (by_name) {
    const auto path = fmt::format("/proc/self/fd/{}/{}", directory_, a_name());
    if (::truncate(path.c_str(), static_cast<off_t>(size)) != 0) fail_call("truncate");
  } else if (ftruncate(file_.get(), static_cast<off_t>(size)) != 0) {
    fail_call("ftruncate");
  }
  if (size == model_.size()) {  // may change the times, and need not
    times_.modification_may_move = times_.change_may_move = true;
  } else {
    content_changed(before);
  }
  model_.truncate(size);
}

void ExercisedFile::allocate(Kind way) {
  auto range = territory_.pick(context_.random, model_.maximum(), context_.options.longest_bytes);
  if (range.length == 0) return;
  note(way, range);
  int mode = 0;
  if (way == Kind::kPunch) mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  if (way == Kind::kZero) mode = FALLOC_FL_ZERO_RANGE;
  if (way == Kind::kZeroKeep) mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
  if (way == Kind::kAllocateKeep) mode = FALLOC_FL_KEEP_SIZE;
  const auto size_before = model_.size();
  const auto before = now();
  if (fallocate(file_.get(), mode, static_cast<off_t>(range.offset), static_cast<off_t>(range.length)) != 0)
    fail_call("fallocate");
  switch (way) {
    case Kind::kPunch:
      model_.punch(range.offset, range.length);
      break;
    case Kind::kZero:
    case Kind::kZeroKeep:
      model_.zero(range.offset, range.length, way == Kind::kZeroKeep);
      break;
    default:
      model_.allocate(range.offset, range.length, way == Kind::kAllocateKeep);
      break;
  }
  // What is allocated inside the file leaves its content as it is: whether that is a modification is a matter of taste.
  const bool modifies = (way != Kind::kAllocate && way != Kind::kAllocateKeep) || model_.size() != size_before;
  times_.modification_may_move = times_.change_may_move = true;
  if (!context_.features.allocate_times) return;
  if (modifies) times_.least_modification = before;
  times_.least_change = before;
}

// --- copies ------------------------------------------------------------------------------------------------------------

void ExercisedFile::copy_from(ExercisedFile& source, Kind way) {
  auto& random = context_.random;
  auto to = territory_.pick(random, model_.maximum(), context_.options.longest_bytes);
  auto from = source.territory_.pick(random, source.model_.maximum(), context_.options.longest_bytes);
  if (to.length == 0 || from.length == 0) return;
  // Half of them can share blocks.
  if (random.one_in(2) && source.territory_.is_whole())
    from.offset = std::min(from.offset / kPage * kPage + to.offset % kPage, source.model_.maximum() - from.length);
  std::uint64_t length = std::min(from.length, to.length);
  if (&source == this && territory_.is_whole() && model_.size() != 0 && random.one_in(4)) {
    // The end of the file behind itself, so that its last page may be on both sides.
    length = 1 + random.below(std::min(model_.size(), length));
    from.offset = model_.size() - length;
    to.offset = from.offset + (length + kPage - 1) / kPage * kPage;
    if (to.offset + length > model_.maximum()) return;
  }
  if (&source == this) length = std::min(length, from.offset < to.offset ? to.offset - from.offset : from.offset - to.offset);
  if (length == 0) return copy_overlapping();
  note(way, {to.offset, length}, 0, &source, from.offset);
  const auto size = source.model_.size();
  const auto expected = from.offset >= size ? 0 : std::min(length, size - from.offset);
  const auto before = now();
  auto from_offset = static_cast<off_t>(from.offset), to_offset = static_cast<off_t>(to.offset);
  std::uint64_t copied = 0;
  do {  // it may copy less than it could; and if this file grows, there is more to copy than there was
    const auto step = copy_file_range(source.file_.get(), &from_offset, file_.get(), &to_offset, length - copied, 0);
    if (step < 0) fail_call("copy_file_range");
    if (step == 0) break;
    copied += static_cast<std::uint64_t>(step);
  } while (copied < expected);
  if (copied != expected) fail("copy_file_range copies {:#x} bytes instead of {:#x}", copied, expected);
  if (copied == 0) {
    times_.modification_may_move = times_.change_may_move = true;
    return;
  }
  model_.write(to.offset, source.model_.bytes(from.offset, copied));
  content_changed(before);
}

void ExercisedFile::copy_overlapping() {
  if (model_.size() < 2) return;
  const auto length = context_.random.between(2, std::min(model_.size(), context_.options.longest_bytes));
  const auto from = context_.random.below(model_.size() - length + 1);
  const auto shift = context_.random.below(length);
  const auto to = context_.random.one_in(2) ? from + shift : from - std::min(from, shift);
  note(Kind::kCopyOverlapping, {to, length}, 0, this, from);
  auto from_offset = static_cast<off_t>(from), to_offset = static_cast<off_t>(to);
  if (copy_file_range(file_.get(), &from_offset, file_.get(), &to_offset, length, 0) >= 0 || errno != EINVAL)
    fail("copy_file_range between overlapping ranges does not fail with EINVAL");
}

void ExercisedFile::become_clone_of(const ExercisedFile& source) {
  model_.become(source.model_);
  times_.modification_may_move = times_.change_may_move = true;
}

}  // namespace daxcow::exercise
