// What a file must hold: its bytes, its size, and which blocks it may and must occupy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace daxcow::exercise {

class FileModel {
 public:
  FileModel(std::uint64_t maximum_bytes, std::uint64_t block_bytes);

  std::uint64_t size() const { return size_; }
  std::uint64_t maximum() const { return bytes_.size(); }
  std::span<const std::byte> bytes(std::uint64_t offset, std::uint64_t length) const {
    return std::span(bytes_).subspan(offset, length);
  }

  void write(std::uint64_t offset, std::span<const std::byte> data);
  void truncate(std::uint64_t size);
  // The range reads as zeros; what is behind the end stays there. The first gives whole blocks back, the second takes them.
  void punch(std::uint64_t offset, std::uint64_t length);
  void zero(std::uint64_t offset, std::uint64_t length, bool keep_size);
  void allocate(std::uint64_t offset, std::uint64_t length, bool keep_size);
  // The content of another file. The last block may be copied instead of shared, and what is allocated behind the end stays.
  void become(const FileModel& source);

  // Blocks with something in them, and blocks that can have been allocated since they were last given back.
  std::uint64_t needed_blocks() const;
  std::uint64_t possible_blocks() const;
  std::uint64_t block_bytes() const { return block_bytes_; }
  bool block_is_possible(std::uint64_t block) const { return possible_[block]; }

 private:
  void occupy(std::uint64_t offset, std::uint64_t length);
  void clear(std::uint64_t offset, std::uint64_t length);

  std::uint64_t size_ = 0;
  std::uint64_t block_bytes_;
  std::vector<std::byte> bytes_;  // of the largest possible size; zeros behind size_
  std::vector<bool> possible_;
};

}  // namespace daxcow::exercise
