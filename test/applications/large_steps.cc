// What the steps have in common, and the program.
#include "test/applications/large_steps.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <string_view>

namespace daxcow::large {

void fail(const std::string& what) { throw Failure(what); }
void fail_call(const std::string& what) { throw Failure(what + ": " + std::strerror(errno)); }
void require(bool condition, const std::string& what) {
  if (!condition) fail(what);
}

FileDescriptor open_at(int directory, const std::string& path, int flags, mode_t mode) {
  FileDescriptor file(openat(directory, path.c_str(), flags | O_CLOEXEC, mode));
  if (!file) fail_call("opening " + path);
  return file;
}
FileDescriptor open_directory(const std::string& path, int base) {
  return open_at(base, path, O_RDONLY | O_DIRECTORY);
}

void write_at(int file, std::uint64_t offset, std::span<const char> bytes) {
  while (!bytes.empty()) {
    const auto done = pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done <= 0) fail_call("pwrite");
    offset += static_cast<std::uint64_t>(done);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

void read_at(int file, std::uint64_t offset, std::span<char> bytes) {
  while (!bytes.empty()) {
    const auto done = pread(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0) fail_call("pread");
    if (done == 0) fail(fmt::format("the file ends at {:#x}", offset));
    offset += static_cast<std::uint64_t>(done);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

void list(int directory, const std::function<void(const dirent&)>& visit) {
  DIR* const stream = fdopendir(openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (stream == nullptr) fail_call("fdopendir");
  const std::unique_ptr<DIR, int (*)(DIR*)> closed(stream, closedir);
  for (;;) {
    errno = 0;
    const dirent* const entry = readdir(stream);
    if (entry == nullptr) break;
    if (std::string_view(entry->d_name) != "." && std::string_view(entry->d_name) != "..") visit(*entry);
  }
  if (errno != 0) fail_call("readdir");
}

void fill(std::vector<std::uint64_t>& words, std::uint64_t offset, std::uint64_t seed) {
  for (auto& word : words) {
    std::uint64_t value = offset + seed;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
    word = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
    offset += sizeof(word);
  }
}

void Figures::add(const std::string& name, std::uint64_t count) {
  const double seconds = std::chrono::duration<double>(Clock::now() - last_).count();
  text_ += fmt::format("{}{} {:.2f} s", text_.empty() ? "" : ", ", name, seconds);
  if (count != 0) text_ += fmt::format(" ({:.1f} us each)", seconds * 1e6 / static_cast<double>(count));
  last_ = Clock::now();
}

void Figures::note(const std::string& text) { text_ += (text_.empty() ? "" : ", ") + text; }

void Figures::print() const { fmt::print("{}\n", text_); }

namespace {

struct Step {
  std::size_t arguments;
  void (*run)(const Arguments&);
  const char* usage;
};
const std::map<std::string, Step> kSteps = {
    {"entries", {2, entries, "DIRECTORY COUNT"}},
    {"make-tree", {2, make_tree, "DIRECTORY FILES"}},
    {"walk-tree", {3, walk_tree, "DIRECTORY FILES look|remove"}},
    {"deep", {2, deep, "DIRECTORY LEVELS"}},
    {"sparse", {2, sparse, "FILE BYTES"}},
    {"largest", {1, largest, "FILE"}},
    {"write", {2, write_whole, "FILE BYTES"}},
    {"read", {2, read_whole, "FILE BYTES"}},
    {"clones", {2, clones, "DIRECTORY COUNT"}},
    {"one-file", {4, one_file, "FILE PROCESSES THREADS ROUNDS"}},
    {"one-directory", {4, one_directory, "DIRECTORY PROCESSES THREADS ROUNDS"}},
};

}  // namespace

}  // namespace daxcow::large

int main(int argc, char** argv) {
  using namespace daxcow::large;
  const auto step = argc > 1 ? kSteps.find(argv[1]) : kSteps.end();
  const Arguments arguments(argv + std::min(argc, 2), argv + argc);
  if (step == kSteps.end() || arguments.size() != step->second.arguments) {
    std::cerr << "Usage:\n";
    for (const auto& [name, what] : kSteps) std::cerr << "  daxcow_large " << name << " " << what.usage << "\n";
    return 2;
  }
  try {
    step->second.run(arguments);
  } catch (const std::exception& error) {
    std::cerr << "daxcow_large " << argv[1] << ": " << error.what() << "\n";
    return 1;
  }
}
