// The memory that a fuzzed pool lives in: a base image that can be damaged, used as a medium, and put back in microseconds,
// because only the blocks that were stored to are copied back.
//
// The memory lies between pages that nobody may touch: an access beyond the pool ends the process. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "engine/block.h"
#include "engine/medium.h"
#include "engine/types.h"

namespace daxcow::fuzz {

class WorkingImage {
 public:
  // The base must outlive this; multiple of a block.
  explicit WorkingImage(std::span<const std::byte> base);
  ~WorkingImage();
  WorkingImage(const WorkingImage&) = delete;
  WorkingImage& operator=(const WorkingImage&) = delete;

  // The base's content again, and no bad blocks.
  void reset();
  std::span<const std::byte> bytes() const { return {memory_, size_bytes_}; }
  std::uint64_t block_count() const { return size_bytes_ / kBlockBytes; }

  const Block& look(BlockNumber block) const { return *reinterpret_cast<const Block*>(memory_ + byte_offset(block)); }
  Block& edit(BlockNumber block);

  // From now on the block cannot be read or stored to until it is cleared, and the medium lists it.
  void make_bad(BlockNumber block) { bad_.insert(block.value); }
  // The content at the last moment at which a journal record was durable and what it says was not yet home; empty if
  // there was none. Costs a copy of the image for each commit, so it is off at first.
  void capture_commits() { capturing_ = true; }
  const std::vector<std::byte>& captured() const { return captured_; }

  // A medium on this memory. Any number one after the other; none may outlive this.
  std::unique_ptr<Medium> medium(bool read_only = false);

 private:
  class View;
  void note_store(std::uint64_t offset, std::uint64_t length_bytes);

  std::span<const std::byte> base_;
  std::uint64_t size_bytes_;
  std::byte* memory_;  // with guard pages around it
  std::vector<bool> dirty_;
  std::vector<std::uint64_t> dirty_list_;
  std::set<std::uint64_t> bad_;
  bool capturing_ = false, journal_stored_ = false;
  std::vector<std::byte> captured_;
};

}  // namespace daxcow::fuzz
