// Changes of metadata blocks for a repair: journalled and atomic as those of a Transaction, but without the reverse
// map, which may be what is damaged. Whoever uses it makes the reverse map right afterwards (repair_records.h).
//
// Works on a medium that nobody else uses; one thread. Pending changes are seen by read(); commit() makes them durable
// in one journal record, abort() forgets them. A block freed by one commit is free for the next.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "engine/block.h"
#include "engine/format.h"
#include "engine/journal.h"
#include "engine/medium.h"
#include "engine/metadata.h"
#include "engine/result.h"
#include "engine/types.h"

namespace daxcow {

// Stores a whole block; one that is poisoned is cleared on the device first. Not drained.
Result<> store_mended(Medium& medium, BlockNumber at, std::span<const std::byte> content);

class RawEditor final : public BlockEditor {
 public:
  RawEditor(Medium& medium, Metadata& metadata, Journal& journal)
      : medium_(medium), metadata_(metadata), journal_(journal) {}

  // BlockEditor; allocate() takes any free metadata block (kNeedChunk when there is none), release() frees any block.
  Result<BlockPtr> read(BlockNumber block, format::BlockType type) override;
  Result<Block*> edit(BlockNumber block, format::BlockType type) override;
  Result<BlockNumber> allocate(format::BlockType type, std::uint8_t level, format::LeafKind leaf_kind) override;
  void release(BlockNumber block) override;

  // The descriptor as pending changes have it.
  format::BlockDescriptor descriptor(BlockNumber block) const;
  // Gives a block this type and content, whatever it was and whether or not it could be read.
  void put(BlockNumber block, const format::BlockDescriptor& descriptor, const Block& content);
  // The same for content that is in both copies already: only the chunk's header changes.
  void describe(BlockNumber block, const format::BlockDescriptor& descriptor, const Block& content);
  // The same for content that is lost: no checksum fits it.
  void describe_lost(BlockNumber block, const format::BlockDescriptor& descriptor);
  // Writes the header of a chunk whole with the next commit: what is on the medium is not known.
  void rewrite_header(BlockNumber base) { whole_headers_.insert(base.value); }
  // As Transaction::link_chunk.
  void link_chunk(BlockNumber last, BlockNumber next) { linked_chunk_ = {last, next}; }

  bool pending() const { return !dirty_.empty() || !whole_headers_.empty() || linked_chunk_.second.value != 0; }
  // True when what is pending should be committed before much more is added.
  bool large() const { return dirty_.size() >= kLargeBlocks; }
  Result<> commit();
  void abort();

 private:
  static constexpr std::size_t kLargeBlocks = 128;  // all of their lines fit a record, with their headers

  struct Dirty {
    std::shared_ptr<Block> copy;
    BlockPtr before;  // null: unknown, all lines are written
    format::BlockDescriptor descriptor{};
    bool is_new = false;  // was free: written home before the record
    bool freed = false;
    bool described = false;  // the descriptor changes, the content need not
    bool lost = false;       // with described: there is no content
    std::uint64_t line_mask = 0;
    bool changed() const { return is_new || described || line_mask != 0; }  // of those not freed
  };
  struct Header {
    std::shared_ptr<Block> content;
    std::uint64_t line_mask = 0;
  };

  std::uint32_t crc_of_neither(BlockNumber block, const format::BlockDescriptor& descriptor) const;
  void seal();
  void make_headers();
  Result<> write_new_blocks();
  void publish();
  Result<> write_home();
  Result<> write_lines(BlockNumber block, std::uint64_t mask, const Block& content);

  Medium& medium_;
  Metadata& metadata_;
  Journal& journal_;
  std::map<std::uint64_t, Dirty> dirty_;
  std::set<std::uint64_t> whole_headers_;
  std::map<std::uint64_t, Header> headers_;
  std::vector<BlockNumber> taken_;  // from the free ones
  std::pair<BlockNumber, BlockNumber> linked_chunk_{};
};

}  // namespace daxcow
