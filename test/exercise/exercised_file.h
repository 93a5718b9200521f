// One file under exercise: its descriptors and mapping, its model, and everything that is done to it and checked of it.
//
// Every operation picks its range and variant with the process's random numbers, notes itself in the history, does the system
// calls, holds the answers against the model, and changes the model. The first difference is a Failure.
#pragma once

#include <sys/stat.h>
#include <time.h>

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>

#include "engine/file_descriptor.h"
#include "test/exercise/context.h"
#include "test/exercise/file_model.h"
#include "test/exercise/territory.h"

namespace daxcow::exercise {

class ExercisedFile {
 public:
  // `directory` is a descriptor, and names are relative to it. The file itself is made by create() or found by open().
  ExercisedFile(Context& context, int directory, unsigned world, unsigned number, FileModel model, Territory territory);
  ~ExercisedFile();
  ExercisedFile(const ExercisedFile&) = delete;
  ExercisedFile& operator=(const ExercisedFile&) = delete;

  void create(const std::string& name);
  void open(const std::string& name, bool read_only = false);

  unsigned number() const { return number_; }
  const FileModel& model() const { return model_; }
  const Territory& territory() const { return territory_; }
  // A file without names is unlinked and still open.
  std::set<std::string>& names() { return names_; }
  const std::set<std::string>& names() const { return names_; }
  const std::string& a_name();

  // exercised_file_data.cc
  void read(Kind way);
  void write(Kind way);
  void read_mapped();
  void store_mapped();
  void store_private();
  void touch_behind_end();
  void truncate();
  void allocate(Kind way);
  void copy_from(ExercisedFile& source, Kind way);
  void copy_overlapping();
  void compare_all(Kind way);
  // For what somebody else does with the file by its name: the content becomes that of `source`.
  void become_clone_of(const ExercisedFile& source);

  // exercised_file.cc
  void sync();
  void write_stores();  // those that a mapping has and the filesystem does not know of
  void unmap();
  void drop_pages();
  void reopen();
  void check_sparse();
  void check_attributes();
  void set_times();
  void set_mode();
  // A name of it came or went; a move may change the time of change, the others must.
  void link_changed(bool must_move);
  void names_change_begins() { before_names_change_ = now(); }

 private:
  static timespec now();
  std::uint64_t note(Kind kind, Range range, unsigned variant = 0, const ExercisedFile* other = nullptr,
                     std::uint64_t other_offset = 0);
  void look_at_first();
  std::string proc_path() const;
  int descriptor(FileDescriptor& kept, int flags);
  std::optional<Range> aligned(Range range) const;
  std::byte* mapping();
  void compare(Range range, std::span<const std::byte> got);
  void check_blocks(const struct stat& status);
  void ask_for_times(struct stat& status) const;

  // Times. `before` was taken before the operation began.
  void content_changed(timespec before);
  void stores_written();
  void everything_written() {
    stores_written();
    unsynced_stores_ = false;
  }

  Context& context_;
  const int directory_;
  const unsigned world_, number_;
  FileModel model_;
  const Territory territory_;
  std::set<std::string> names_;

  FileDescriptor file_, direct_, append_, sync_;
  std::byte* mapping_ = nullptr;
  bool unsynced_stores_ = false;  // through a mapping, mostly: the filesystem may not know of them yet
  ino_t inode_ = 0;
  mode_t mode_ = 0644;

  // The times that were seen last; whether they may differ by now; and the least that they must be if they may.
  struct Times {
    timespec modification{}, change{};
    bool modification_may_move = true, change_may_move = true;
    timespec least_modification{}, least_change{};
    std::optional<timespec> first_store;  // through a mapping, since everything was written
  } times_;
  timespec before_names_change_{};
};

}  // namespace daxcow::exercise
