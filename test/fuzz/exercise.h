// Uses a pool as a daemon and its tools would: looks at everything, within bounds, and carries out the operations of an
// input. Errors are ignored, for the image may be hostile: what counts is that each call returns.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/pool.h"
#include "test/fuzz/base_images.h"
#include "test/fuzz/input.h"

namespace daxcow::fuzz {

class Exercise {
 public:
  // `base` is what the pool was made from, and its memory.
  Exercise(Pool& pool, BaseImage& base) : pool_(pool), base_(base) {}
  // Gives all volumes back.
  ~Exercise();

  // Mounts volumes, at most kMaximumVolumes of them.
  void mount(bool read_only);
  // Looks at everything that can be reached from the volumes' roots.
  void walk();
  void operate(const Record& record);
  // A little of everything, for inputs that only edit.
  void operate_a_little();

 private:
  struct File {
    std::shared_ptr<Volume> volume;
    InodeNumber inode;
    InodeNumber directory;  // 0: the root
    std::string name;
    std::uint32_t mode = 0;
    std::uint64_t size_bytes = 0;
  };
  static constexpr std::size_t kMaximumVolumes = 6, kMaximumFiles = 300;

  void list(const std::shared_ptr<Volume>& volume, InodeNumber directory);
  void look(const File& file);
  void look_at_data(const File& file);
  void look_at_attributes(const File& file);
  void read(const File& file, std::uint64_t offset, std::uint64_t length);
  void read_zeros(const File& file, std::uint64_t offset, std::uint64_t length);
  bool operate_on_pool(const Record& record);
  void survey(const Record& record);
  void patrol(const Record& record);
  void go_bad(const Record& record);
  void account(const Record& record);
  void reflink(const Record& record, const File& from, const File& to);
  void set_policy(const Record& record, const File& file);
  const File* file(std::uint64_t which) const { return files_.empty() ? nullptr : &files_[which % files_.size()]; }

  Pool& pool_;
  BaseImage& base_;
  std::vector<std::shared_ptr<Volume>> volumes_;
  std::vector<std::string> volume_names_;
  std::vector<File> files_;
  std::vector<BlockNumber> blocks_;  // that files were seen to use
};

}  // namespace daxcow::fuzz
