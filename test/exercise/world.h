// The files of one exercising process, in a directory of their own, and what is done to their names.
//
// A snapshot's copy of the directory is a world too: it begins with what the models said when the snapshot was made.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine/file_descriptor.h"
#include "test/exercise/context.h"
#include "test/exercise/exercised_file.h"

namespace daxcow::exercise {

// A world as it was at some moment, to be compared with later.
struct Memory {
  struct File {
    unsigned number;
    std::set<std::string> names;
    FileModel model;
    Territory territory;
  };
  std::vector<File> files;
  std::uint64_t names_made = 0;  // so that new ones differ from all that are there
};

class World {
 public:
  // Makes the directory and its files. The file that all processes share is in the directory above, already.
  World(Context& context, const std::string& directory);
  // Finds there what is remembered.
  World(Context& context, const std::string& directory, unsigned number, const Memory& memory, bool read_only);

  // One operation of this kind, on any of the files. A kind that the file is not made for becomes another one.
  void step(Kind kind);
  // Everything that can be seen is as the models say.
  void compare(Kind way = Kind::kCompare);
  Memory remember() const;
  void write_stores();  // of all files

  // The file that the current operation is about.
  unsigned current() const { return current_; }
  const std::string& directory() const { return directory_; }

 private:
  ExercisedFile& any_file();
  std::string fresh_name();
  void note(Kind kind, const ExercisedFile& file, const ExercisedFile* other = nullptr);
  void rename(ExercisedFile& file);
  void rename_over(ExercisedFile& file);
  void exchange(ExercisedFile& file);
  void link(ExercisedFile& file);
  void unlink(ExercisedFile& file);
  void replace(ExercisedFile& file);
  void clone(ExercisedFile& file);
  void list();
  bool has_names(const ExercisedFile& file) const { return file.territory().is_whole() && !file.names().empty(); }

  Context& context_;
  const std::string directory_;
  const unsigned number_;
  FileDescriptor root_;
  std::vector<std::unique_ptr<ExercisedFile>> files_;
  unsigned current_ = 0;
  std::uint64_t names_made_ = 0;
};

}  // namespace daxcow::exercise
