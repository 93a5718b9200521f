// Extended attributes of a volume's inodes.
#include "engine/volume.h"
#include "engine/volume_state.h"

namespace daxcow {

using format::AttributeSpace;
using format::InodeRecord;
using State = Volume::State;

Result<std::string> Volume::get_attribute(InodeNumber inode, std::string_view name) {
  const auto parsed = TRY(parse_attribute_name(name));
  State& state = *state_;
  const State::Operation operation(state);
  AttributeList list = TRY(state.store.read_consistent([&](BlockReader& reader) -> Result<AttributeList> {
    return AttributeList::read(reader, TRY(state.table.read(reader, inode)));
  }));
  const AttributeList::Item* item = list.find(parsed.space, parsed.name);
  if (!item) return fail(ErrorCode::kNoAttribute);
  return item->value;
}

Result<std::vector<std::string>> Volume::list_attributes(InodeNumber inode) {
  State& state = *state_;
  const State::Operation operation(state);
  const AttributeList list = TRY(state.store.read_consistent([&](BlockReader& reader) -> Result<AttributeList> {
    return AttributeList::read(reader, TRY(state.table.read(reader, inode)));
  }));
  std::vector<std::string> names;
  for (const auto& item : list.items())
    if (item.space != AttributeSpace::kParent) names.push_back(full_attribute_name({item.space, item.name}));
  return names;
}

namespace {

// Runs `change` on the inode's list in a transaction.
Result<> change_attributes(State& state, InodeNumber inode, TransactionClass transaction_class, FunctionRef<Result<>(AttributeList&)> change) {
  TRY(state.writable());
  return state.with_space([&]() -> Result<> {
    const State::Operation operation(state);
    const auto held = state.inodes.get(inode);
    const std::unique_lock lock(held->lock);
    return state.store.run(transaction_class, [&](Transaction& transaction) -> Result<Step> {
      if (TRY(state.own_inode(transaction, inode)) || TRY(state.own_attributes(transaction, inode))) return Step::kAgain;
      InodeRecord* record = TRY(state.table.edit(transaction, inode));
      AttributeList list = TRY(AttributeList::read(transaction, *record));
      TRY(change(list));
      TRY(list.write(transaction, *record, state.services.graveyard));
      state.take_times(transaction, *held, *record);
      set_time(*record, kChange, current_time());
      return Step::kDone;
    });
  });
}

}  // namespace

Result<> Volume::set_attribute(InodeNumber inode, std::string_view name, std::span<const std::byte> value, SetAttributeMode mode) {
  const auto parsed = TRY(parse_attribute_name(name));
  if (value.size() > format::kMaximumAttributeBytes) return fail(ErrorCode::kTooBig);
  return change_attributes(*state_, inode, TransactionClass::kNormal, [&](AttributeList& list) -> Result<> {
    const bool exists = list.find(parsed.space, parsed.name) != nullptr;
    if (mode == SetAttributeMode::kCreate && exists) return fail(ErrorCode::kExists);
    if (mode == SetAttributeMode::kReplace && !exists) return fail(ErrorCode::kNoAttribute);
    list.set(parsed.space, parsed.name, std::string(reinterpret_cast<const char*>(value.data()), value.size()));
    return {};
  });
}

Result<> Volume::remove_attribute(InodeNumber inode, std::string_view name) {
  const auto parsed = TRY(parse_attribute_name(name));
  return change_attributes(*state_, inode, TransactionClass::kShrinking, [&](AttributeList& list) -> Result<> {
    if (!list.remove(parsed.space, parsed.name)) return fail(ErrorCode::kNoAttribute);
    return {};
  });
}

}  // namespace daxcow
