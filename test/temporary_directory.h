// What tests of media and their files share: a directory that goes away, text files, results that must be there.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <type_traits>
#include <utility>

#include "engine/result.h"
#include "test/catch.h"

namespace daxcow::test {

namespace fs = std::filesystem;

class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(const fs::path& base) {
    std::string name = base / "daxcow-test-XXXXXX";
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::string operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

inline void write_text(const std::string& path, const std::string& text, std::ios::openmode mode = std::ios::trunc) {
  std::ofstream out(path, std::ios::out | mode);
  out << text;
  out.close();
  REQUIRE(out.good());
}

inline std::string read_text(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <class T>
T need(Result<T> result) {
  if (!result) FAIL(describe(result.error()));
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

template <class T>
ErrorCode error_of(const Result<T>& result) {
  REQUIRE(!result);
  return result.error().code;
}

}  // namespace daxcow::test
