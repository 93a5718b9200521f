#include "test/exercise/file_model.h"

#include <algorithm>
#include <cstring>

namespace daxcow::exercise {

FileModel::FileModel(std::uint64_t maximum_bytes, std::uint64_t block_bytes)
    : block_bytes_(block_bytes), bytes_(maximum_bytes), possible_((maximum_bytes + block_bytes - 1) / block_bytes) {}

void FileModel::write(std::uint64_t offset, std::span<const std::byte> data) {
  std::memmove(bytes_.data() + offset, data.data(), data.size());
  size_ = std::max(size_, offset + data.size());
  occupy(offset, data.size());
}

void FileModel::truncate(std::uint64_t size) {
  if (size < size_) {  // blocks behind the end that were allocated ahead go too
    clear(size, size_ - size);
    std::fill(possible_.begin() + static_cast<std::ptrdiff_t>((size + block_bytes_ - 1) / block_bytes_), possible_.end(), false);
  }
  size_ = size;
}

void FileModel::punch(std::uint64_t offset, std::uint64_t length) {
  clear(offset, length);
  const auto first = (offset + block_bytes_ - 1) / block_bytes_, end = (offset + length) / block_bytes_;
  for (auto block = first; block < end; ++block) possible_[block] = false;
}

void FileModel::zero(std::uint64_t offset, std::uint64_t length, bool keep_size) {
  clear(offset, length);
  allocate(offset, length, keep_size);
}

void FileModel::allocate(std::uint64_t offset, std::uint64_t length, bool keep_size) {
  occupy(offset, length);
  if (!keep_size) size_ = std::max(size_, offset + length);
}

void FileModel::become(const FileModel& source) {
  bytes_ = source.bytes_;
  size_ = source.size_;
  const std::size_t blocks = (size_ + block_bytes_ - 1) / block_bytes_;
  for (std::size_t block = 0; block < possible_.size(); ++block)
    possible_[block] = source.possible_[block] || (block >= blocks && possible_[block]);
  if (size_ != 0) occupy(size_ - 1, 1);
}

std::uint64_t FileModel::needed_blocks() const {
  std::uint64_t needed = 0;
  for (std::uint64_t offset = 0; offset < size_; offset += block_bytes_) {
    const auto block = bytes(offset, std::min(block_bytes_, maximum() - offset));
    // All bytes are zero if the first one is, and each equals the next.
    const bool zeros = block[0] == std::byte{0} && std::memcmp(block.data(), block.data() + 1, block.size() - 1) == 0;
    if (!zeros) ++needed;
  }
  return needed;
}

std::uint64_t FileModel::possible_blocks() const {
  return static_cast<std::uint64_t>(std::ranges::count(possible_, true));
}

void FileModel::occupy(std::uint64_t offset, std::uint64_t length) {
  if (length == 0) return;
  for (auto block = offset / block_bytes_; block <= (offset + length - 1) / block_bytes_; ++block) possible_[block] = true;
}

void FileModel::clear(std::uint64_t offset, std::uint64_t length) {
  std::memset(bytes_.data() + offset, 0, length);
}

}  // namespace daxcow::exercise
