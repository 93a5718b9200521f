// The steps of test/applications/large. Each checks what it does, throws Failure at the first thing that is not as it should
// be, and prints its figures in one line. They use nothing of daxcow, so that other filesystems can be compared.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/file_descriptor.h"

namespace daxcow::large {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] void fail(const std::string& what);
[[noreturn]] void fail_call(const std::string& what);  // with errno
void require(bool condition, const std::string& what);

FileDescriptor open_at(int directory, const std::string& path, int flags, mode_t mode = 0644);
FileDescriptor open_directory(const std::string& path, int base = AT_FDCWD);
// All of it.
void write_at(int file, std::uint64_t offset, std::span<const char> bytes);
void read_at(int file, std::uint64_t offset, std::span<char> bytes);
// Calls `visit` for each name but "." and "..".
void list(int directory, const std::function<void(const dirent&)>& visit);

// Words that tell where they are, and of what.
inline constexpr std::uint64_t kPiece = 1 << 20;
void fill(std::vector<std::uint64_t>& words, std::uint64_t offset, std::uint64_t seed);
inline std::span<char> as_characters(std::vector<std::uint64_t>& words) {
  return {reinterpret_cast<char*>(words.data()), words.size() * sizeof(std::uint64_t)};
}

// Times of the parts of a step, for its line of figures.
class Figures {
 public:
  void add(const std::string& name, std::uint64_t count = 0);
  void note(const std::string& text);
  void print() const;

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point last_ = Clock::now();
  std::string text_;
};

using Arguments = std::vector<std::string>;
inline std::uint64_t number(const Arguments& arguments, std::size_t index) { return std::stoull(arguments.at(index)); }

// large_directories.cc
void entries(const Arguments& arguments);
void make_tree(const Arguments& arguments);
void walk_tree(const Arguments& arguments);
void deep(const Arguments& arguments);
// large_files.cc
void sparse(const Arguments& arguments);
void largest(const Arguments& arguments);
void write_whole(const Arguments& arguments);
void read_whole(const Arguments& arguments);
void clones(const Arguments& arguments);
// large_crowds.cc
void one_file(const Arguments& arguments);
void one_directory(const Arguments& arguments);

}  // namespace daxcow::large
