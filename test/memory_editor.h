// A BlockEditor over blocks in DRAM: transactions without a pool, for the layers that only need blocks.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/block.h"

namespace daxcow::test {

class MemoryEditor : public BlockEditor {
 public:
  // New blocks are numbered from `first` upwards; released numbers are used again after the commit.
  explicit MemoryEditor(BlockNumber first = BlockNumber(1)) : next_(first) {}

  Result<BlockPtr> read(BlockNumber block, format::BlockType type) override {
    ++reads;
    const auto changed = changes_.find(block);
    if (changed != changes_.end()) return content_of(changed->second, block, type);
    const auto committed = committed_.find(block);
    if (committed == committed_.end()) return damaged(block);
    return content_of(committed->second, block, type);
  }

  Result<Block*> edit(BlockNumber block, format::BlockType type) override {
    if (fails_now()) return fail(ErrorCode::kIo, "planted");
    ++edits;
    const BlockPtr current = read(block, type).value_or(nullptr);
    if (current == nullptr) return damaged(block);
    const auto [change, is_new] = changes_.try_emplace(block);
    if (is_new) change->second = {type, std::make_shared<Block>(*current)};
    return change->second.content.get();
  }

  Result<BlockNumber> allocate(format::BlockType type, std::uint8_t, format::LeafKind) override {
    if (fails_now()) return fail(ErrorCode::kNoSpace, "planted");
    BlockNumber block = next_;
    if (!reusable_.empty()) {
      block = reusable_.back();
      reusable_.pop_back();
      taken_.push_back(block);
    } else {
      ++next_;
    }
    auto content = std::make_shared<Block>();
    std::memset(content->bytes, 0, sizeof content->bytes);
    changes_[block] = {type, std::move(content)};
    return block;
  }

  void release(BlockNumber block) override { changes_[block] = {}; }

  void commit() {
    for (auto& [block, version] : changes_) {
      if (version.content != nullptr) {
        committed_[block] = std::move(version);
      } else {
        committed_.erase(block);
        reusable_.push_back(block);
      }
    }
    changes_.clear();
    taken_.clear();
  }

  void abort() {
    changes_.clear();
    reusable_.insert(reusable_.end(), taken_.begin(), taken_.end());
    taken_.clear();
  }

  // Lines in which the versions of this transaction differ from the committed ones; new and released blocks apart.
  unsigned changed_lines() const {
    unsigned lines = 0;
    for (const auto& [block, version] : changes_) {
      const auto committed = committed_.find(block);
      if (committed == committed_.end() || version.content == nullptr) continue;
      for (std::size_t at = 0; at < kBlockBytes; at += kLineBytes)
        lines += std::memcmp(version.content->bytes + at, committed->second.content->bytes + at, kLineBytes) != 0;
    }
    return lines;
  }

  // Committed blocks of a type.
  std::vector<std::pair<BlockNumber, BlockPtr>> blocks(format::BlockType type) const {
    std::vector<std::pair<BlockNumber, BlockPtr>> found;
    for (const auto& [block, version] : committed_)
      if (version.type == type) found.emplace_back(block, version.content);
    return found;
  }

  // The number of edits and allocations that succeed before each further one fails.
  std::uint64_t succeed = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t reads = 0;
  std::uint64_t edits = 0;

 private:
  struct Version {
    format::BlockType type = format::BlockType::kFree;
    std::shared_ptr<Block> content;  // null: released
  };

  bool fails_now() { return succeed == 0 || (--succeed, false); }
  static std::unexpected<Error> damaged(BlockNumber block) {
    return fail(ErrorCode::kDamaged, "no such block: " + std::to_string(block.value));
  }
  static Result<BlockPtr> content_of(const Version& version, BlockNumber block, format::BlockType type) {
    if (version.content == nullptr || version.type != type) return damaged(block);
    return BlockPtr(version.content);
  }

  BlockNumber next_;
  std::map<BlockNumber, Version> committed_;
  std::map<BlockNumber, Version> changes_;
  std::vector<BlockNumber> reusable_;
  std::vector<BlockNumber> taken_;  // from reusable_ by this transaction
};

}  // namespace daxcow::test
