// What is known of each byte of a file that is being rescued, kept in a file that GNU ddrescue and ddrescuelog read.
//
// The file, after comments, has a line "position status pass" and then, without gaps, a line "position size status" for
// each run, in bytes, in hexadecimal: '?' not tried, '*' failed as part of something larger, '-' lost, '+' copied. ('/'
// of other programs is taken for '*'.) The manual of GNU ddrescue describes it in the chapter "Mapfile structure".
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "engine/function_ref.h"
#include "engine/result.h"

namespace daxcow::tools {

enum class RescueState : char { kNotTried = '?', kFailed = '*', kLost = '-', kCopied = '+' };

class RescueMap {
 public:
  // All of the file is in one state.
  explicit RescueMap(std::uint64_t size_bytes, RescueState state = RescueState::kNotTried);
  // kInvalid, with the number of the line, for what is no such map.
  static Result<RescueMap> parse(std::string_view text);
  // `comments` are lines without '#'. `position`: where the copying is.
  std::string text(const std::string& comments, std::uint64_t position) const;

  std::uint64_t size_bytes() const { return size_bytes_; }
  void set(std::uint64_t offset, std::uint64_t length, RescueState state);
  // Cuts off, or adds what was not tried.
  void resize(std::uint64_t size_bytes);
  std::uint64_t bytes_in(RescueState state) const;

  struct Run {
    std::uint64_t offset = 0, length = 0;
    RescueState state{};
    std::uint64_t end() const { return offset + length; }
  };
  // The first run in that state that ends behind `from`; its part from there on. Length 0 if there is none.
  Run next(std::uint64_t from, RescueState state) const;
  void for_each(FunctionRef<void(const Run&)> visit) const;

 private:
  void split(std::uint64_t at);

  std::uint64_t size_bytes_ = 0;
  std::map<std::uint64_t, RescueState> starts_;  // of maximal runs; the last ends at size_bytes_
};

}  // namespace daxcow::tools
