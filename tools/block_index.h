// Where blocks of 4 KiB were seen, by a hash of their content, in bounded memory.
//
// When the memory is full, only hashes that are multiples of 2 are kept from then on, then of 4, and so on. A run of equal blocks
// is still found by any one of its blocks, so what is lost first are short runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace daxcow::tools {

class BlockIndex {
 public:
  explicit BlockIndex(std::uint64_t memory_bytes);

  struct Place {
    std::uint32_t file;
    std::uint64_t block;
  };
  // The number by which add() and path() know a file.
  std::uint32_t add_file(std::string path);
  // Whether a block with this hash is looked for at all; few are when memory is short.
  bool wants(std::uint64_t hash) const { return hash % interval_ == 0; }
  std::optional<Place> find(std::uint64_t hash) const;
  // Adds the first place of a hash that it wants and does not know.
  void add(std::uint64_t hash, Place place);
  const std::string& path(std::uint32_t file) const { return files_.at(file).path; }
  // The file has been seen whole: it is forgotten once no block of it is known.
  void end_file(std::uint32_t file);
  // One block in so many is kept.
  std::uint64_t interval() const { return interval_; }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    std::uint64_t block = kEmpty;
    std::uint32_t file = 0;
  };
  struct File {
    std::string path;
    std::uint64_t blocks = 0;
    bool ended = false;
  };
  static constexpr std::uint64_t kEmpty = ~0ull;
  std::size_t slot_of(std::uint64_t hash) const;
  std::uint64_t memory_used() const;
  void resize(std::size_t slots);
  void thin_out();

  const std::uint64_t memory_bytes_;
  std::vector<Slot> slots_;  // open addressing
  std::size_t used_ = 0;
  std::uint64_t interval_ = 1;
  std::unordered_map<std::uint32_t, File> files_;
  std::uint64_t path_bytes_ = 0;
  std::uint32_t next_file_ = 0;
};

}  // namespace daxcow::tools
