#include "engine/journal.h"

#include <algorithm>
#include <bit>
#include <ctime>

#include "engine/check.h"
#include "engine/checksum.h"
#include "engine/lines.h"

namespace daxcow {

using format::JournalGroup;
using format::JournalHeader;

namespace {
constexpr int kTimeShift = 24;  // sequences start at the time of day, in units of 2^-24 seconds
}

Journal::Journal(Medium& medium, BlockNumber first, std::uint64_t seed) : medium_(medium), first_(first), seed_(seed) {
  buffer_.reserve(64 * 1024);
}

Result<std::vector<std::byte>> read_journal_area(Medium& medium, BlockNumber area) {
  std::vector<std::byte> content(kBlockBytes);
  TRY(medium.read(byte_offset(area), content));
  JournalHeader header;
  std::memcpy(&header, content.data(), sizeof header);
  std::uint64_t bytes = sizeof header;
  if (header.magic == format::kJournalMagic && header.payload_bytes <= format::kJournalPayloadBytes) bytes += header.payload_bytes;
  content.resize(blocks_for(bytes) * kBlockBytes);
  if (content.size() > kBlockBytes) TRY(medium.read(byte_offset(area + 1), std::span(content).subspan(kBlockBytes)));
  content.resize(bytes);
  return content;
}

// A whole record that verifies, header first.
Result<std::vector<std::byte>> Journal::read_record(bool mirror) {
  auto record = TRY(read_journal_area(medium_, area(mirror)));
  JournalHeader header;
  std::memcpy(&header, record.data(), sizeof header);
  const auto payload = std::span(record).subspan(sizeof header);
  if (header.magic != format::kJournalMagic || header.payload_bytes != payload.size() ||
      header.check != journal_crc(seed_, header, payload))
    return fail(ErrorCode::kDamaged);
  return record;
}

Result<Journal::Recovered> Journal::recover(Copies copies) {
  auto primary = read_record(false);
  auto mirror = read_record(true);
  const auto sequence_of = [](const std::vector<std::byte>& record) {
    return reinterpret_cast<const JournalHeader*>(record.data())->sequence;
  };
  Recovered result;
  // Numbers start at the time of day, far above what was counted before: a copy that cannot be read now and comes back
  // later is never taken for the newest.
  sequence_ = static_cast<std::uint64_t>(std::time(nullptr)) << kTimeShift;
  if (!primary && !mirror) return result;
  const bool take_mirror = !primary || (mirror && sequence_of(*mirror) > sequence_of(*primary));
  buffer_ = take_mirror ? std::move(*mirror) : std::move(*primary);
  sequence_ = std::max(sequence_, sequence_of(buffer_));
  found_opened_seconds_ = static_cast<std::int64_t>(sequence_of(buffer_) >> kTimeShift);
  if (copies == Copies::kMakeEqual) {
    // Equal before anything is applied: else a crash now and a poisoned newer copy would bring the older record back.
    (void)medium_.store(area_offset(!take_mirror), buffer_);  // poison there: one copy is enough
    TRY(medium_.drain());
  }
  result.found = true;
  const std::uint64_t group_count = reinterpret_cast<const JournalHeader*>(buffer_.data())->group_count;
  std::span<const std::byte> rest = std::span(buffer_).subspan(sizeof(JournalHeader));
  for (std::uint64_t i = 0; i < group_count; ++i) {
    JournalGroup group;
    if (rest.size() < sizeof group) return fail(ErrorCode::kDamaged, "the journal's record is inconsistent");
    std::memcpy(&group, rest.data(), sizeof group);
    rest = rest.subspan(sizeof group);
    const std::uint64_t lines = static_cast<std::uint64_t>(std::popcount(group.line_mask));
    if (rest.size() < lines * kLineBytes || group.block >= medium_.block_count() ||
        group.block % format::kChunkBlocks >= format::kMirrorBlocks || group.block < format::kFirstChunk.value ||
        group.block + format::kMirrorBlocks >= medium_.block_count())
      return fail(ErrorCode::kDamaged, "the journal's record is inconsistent");
    result.groups.emplace_back(BlockNumber(group.block), group.line_mask);
    Block& content = result.contents.emplace_back();
    for (std::uint64_t line = 0; line < kLinesPerBlock; ++line) {
      if ((group.line_mask >> line & 1) == 0) continue;
      std::memcpy(content.bytes + line * kLineBytes, rest.data(), kLineBytes);
      rest = rest.subspan(kLineBytes);
    }
  }
  return result;
}

Result<bool> Journal::apply(const Recovered& recovered, FunctionRef<void(BlockNumber, bool)> on_failed_copy) {
  bool changed = false;
  for (std::size_t i = 0; i < recovered.groups.size(); ++i) {
    const auto [block, mask] = recovered.groups[i];
    for (const bool mirror : {false, true}) {
      const BlockNumber at = mirror ? block + format::kMirrorBlocks : block;
      Block present;
      changed |= medium_.read(byte_offset(at), present.bytes) && (changed_lines(present, recovered.contents[i]) & mask) != 0;
      if (!store_lines(medium_, at, mask, recovered.contents[i])) on_failed_copy(block, mirror);
    }
  }
  TRY(medium_.drain());
  return changed;
}

Result<> Journal::commit(std::span<const JournalChange> changes) {
  staging_.resize(sizeof(JournalHeader));
  for (const JournalChange& change : changes) {
    const JournalGroup group{change.block.value, change.line_mask};
    const auto bytes = std::as_bytes(std::span(&group, 1));
    staging_.insert(staging_.end(), bytes.begin(), bytes.end());
    for (std::uint64_t mask = change.line_mask; mask != 0; mask &= mask - 1) {
      const std::byte* line = change.content + static_cast<unsigned>(std::countr_zero(mask)) * kLineBytes;
      staging_.insert(staging_.end(), line, line + kLineBytes);
    }
  }
  CHECK(staging_.size() <= format::kJournalBytes);
  JournalHeader header{};
  header.magic = format::kJournalMagic;
  header.sequence = ++sequence_;
  header.payload_bytes = staging_.size() - sizeof header;
  header.group_count = changes.size();
  header.check = journal_crc(seed_, header, std::span(staging_).subspan(sizeof header));
  std::memcpy(staging_.data(), &header, sizeof header);
  unsigned stored = 0;
  for (const bool mirror : {false, true}) {
    if (medium_.store(area_offset(mirror), staging_))
      ++stored;
    else
      failed_copies_.push_back({BlockNumber(area_offset(mirror) / kBlockBytes), blocks_for(staging_.size())});
  }
  const auto drained = medium_.drain();
  if (drained && stored != 0) {
    bytes_written_ += staging_.size();
    buffer_.swap(staging_);
    return {};
  }
  // Nobody may find this record later: part of it may have reached the medium.
  for (const bool mirror : {false, true}) (void)medium_.store_zeros(area_offset(mirror), kLineBytes);
  TRY(medium_.drain());
  return fail(ErrorCode::kIo, "the journal cannot be written: both of its copies fail");
}

Result<> Journal::discard() {
  // A copy that cannot be stored to cannot be read either (see read_journal_area).
  for (const bool mirror : {false, true}) (void)medium_.store_zeros(area_offset(mirror), kLineBytes);
  buffer_.clear();
  return medium_.drain();
}

Result<> Journal::rewrite_copy(bool mirror) {
  if (buffer_.size() <= sizeof(JournalHeader)) {
    TRY(medium_.store_zeros(area_offset(mirror), kLineBytes));
  } else {
    TRY(medium_.store(area_offset(mirror), buffer_));
  }
  return medium_.drain();
}

}  // namespace daxcow
