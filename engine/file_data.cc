#include "engine/file_data.h"

namespace daxcow {

using format::InodeRecord;
using format::LeafKind;
using State = Volume::State;

alignas(4096) const std::byte kZeros[kZeroBytes]{};

FileRange block_range(std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t first = offset / kBlockBytes;
  return {FileBlock(first), (offset + length + kBlockBytes - 1) / kBlockBytes - first};
}

Result<> check_regular(const InodeRecord& record) {
  if (is_directory(record)) return fail(ErrorCode::kIsDirectory);
  if (!is_regular(record)) return fail(ErrorCode::kInvalid);
  return {};
}

Result<FileView> view_of(State& state, InodeNumber inode, FileRange range) {
  return state.store.read_consistent([&](BlockReader& reader) -> Result<FileView> {
    FileView view;
    view.record = TRY(state.table.read(reader, inode));
    TRY(check_regular(view.record));
    TRY(for_each_segment(reader, data_fork(view.record, LeafKind::kData), range, [&](const Segment& segment) {
      view.segments.push_back(segment);
      return true;
    }));
    for (const Segment& segment : view.segments)
      if (segment.entry.present() && !state.store.holds_data({segment.entry.block(), segment.range.count}))
        return fail(ErrorCode::kDamaged, "a file's map leads out of the data");
    return view;
  });
}

namespace {

Result<> split_by_sharing(State& state, Transaction& transaction, const Segment& segment, std::vector<SharingAnswer>& answers) {
  state.store.mutex.assert_held();
  const bool shared = TRY(state.store.reverse_map().any_shared(transaction, {segment.entry.block(), segment.range.count}));
  if (!shared || segment.range.count == 1) {
    answers.push_back({segment, shared});
    return {};
  }
  const std::uint64_t half = segment.range.count / 2;
  TRY(split_by_sharing(state, transaction, {{segment.range.first, half}, segment.entry}, answers));
  return split_by_sharing(state, transaction,
                          {{segment.range.first + half, segment.range.count - half},
                           MapEntry::leaf(segment.entry.block() + half, segment.entry.unwritten())},
                          answers);
}

}  // namespace

Result<std::vector<SharingAnswer>> ask_sharing(State& state, InodeNumber inode, FileRange range,
                                               const std::vector<Segment>& segments) {
  std::vector<SharingAnswer> answers;
  TRY(state.store.run(TransactionClass::kNormal, [&](Transaction& transaction) -> Result<Step> {
    if (TRY(state.own_inode(transaction, inode)) || TRY(state.own_data(transaction, inode, range))) return Step::kAgain;
    answers.clear();
    for (const Segment& segment : segments) TRY(split_by_sharing(state, transaction, segment, answers));
    return Step::kDone;
  }));
  return answers;
}

}  // namespace daxcow
