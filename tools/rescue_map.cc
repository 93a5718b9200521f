#include "tools/rescue_map.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <sstream>
#include <vector>

namespace daxcow::tools {

namespace {

// As constants of C: 0x1F, 017, 15.
bool to_number(std::string_view text, std::uint64_t& number) {
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
  }
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  return problem == std::errc() && end == text.data() + text.size();
}

std::vector<std::string> words_of(std::string line) {
  for (const std::size_t from : {line.starts_with('#') ? std::size_t{0} : line.find(" #"), line.find("\t#")})
    if (from != std::string::npos) line.resize(std::min(from, line.size()));
  std::istringstream words(line);
  std::vector<std::string> list;
  for (std::string word; words >> word;) list.push_back(word);
  return list;
}

}  // namespace

RescueMap::RescueMap(std::uint64_t size_bytes, RescueState state) : size_bytes_(size_bytes) {
  if (size_bytes != 0) starts_.emplace(0, state);
}

Result<RescueMap> RescueMap::parse(std::string_view text) {
  RescueMap map(0);
  std::istringstream lines{std::string(text)};
  bool has_status = false;
  std::uint64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const auto wrong = [&](const char* why) {
      return fail(ErrorCode::kInvalid, fmt::format("line {}: {}", number, why));
    };
    const auto words = words_of(line);
    if (words.empty()) continue;
    if (!has_status) {
      has_status = true;
      std::uint64_t position;
      if (words.size() < 2 || words.size() > 3 || !to_number(words[0], position))
        return wrong("the map's status (position, status, pass) is wanted");
      continue;
    }
    std::uint64_t offset, length;
    if (words.size() != 3 || !to_number(words[0], offset) || !to_number(words[1], length) || words[2].size() != 1)
      return wrong("a position, a size and a status are wanted");
    if (offset != map.size_bytes_ || length == 0 || length > INT64_MAX - offset)
      return wrong("does not go on where the line before it ended");
    char state = words[2][0];
    if (state == '/') state = '*';
    if (std::string_view("?*-+").find(state) == std::string_view::npos) return wrong("the status is none of ? * / - +");
    map.size_bytes_ += length;
    map.starts_.emplace(offset, static_cast<RescueState>(state));
    map.set(offset, length, static_cast<RescueState>(state));
  }
  if (!has_status) return fail(ErrorCode::kInvalid, "is empty");
  return map;
}

std::string RescueMap::text(const std::string& comments, std::uint64_t position) const {
  std::string text;
  std::istringstream lines(comments);
  for (std::string line; std::getline(lines, line);) text += "# " + line + "\n";
  const bool finished = bytes_in(RescueState::kNotTried) == 0 && bytes_in(RescueState::kFailed) == 0;
  text += "# current_pos  current_status  current_pass\n";
  text += fmt::format("0x{:08X}     {}               1\n", position, finished ? '+' : '?');
  text += "#      pos        size  status\n";
  for_each([&](const Run& run) {
    text += fmt::format("0x{:08X}  0x{:08X}  {}\n", run.offset, run.length, static_cast<char>(run.state));
  });
  return text;
}

void RescueMap::split(std::uint64_t at) {
  if (at >= size_bytes_) return;
  const auto run = std::prev(starts_.upper_bound(at));
  if (run->first != at) starts_.emplace(at, run->second);
}

void RescueMap::set(std::uint64_t offset, std::uint64_t length, RescueState state) {
  if (length == 0) return;
  split(offset);
  split(offset + length);
  const auto first = starts_.find(offset);
  first->second = state;
  starts_.erase(std::next(first), starts_.lower_bound(offset + length));
  const auto behind = std::next(first);
  if (behind != starts_.end() && behind->second == state) starts_.erase(behind);
  if (first != starts_.begin() && std::prev(first)->second == state) starts_.erase(first);
}

void RescueMap::resize(std::uint64_t size_bytes) {
  const std::uint64_t before = size_bytes_;
  if (size_bytes < before) {
    starts_.erase(starts_.lower_bound(size_bytes), starts_.end());
    size_bytes_ = size_bytes;
  } else if (size_bytes > before) {
    size_bytes_ = size_bytes;
    starts_.emplace(before, RescueState::kNotTried);
    set(before, size_bytes - before, RescueState::kNotTried);
  }
}

std::uint64_t RescueMap::bytes_in(RescueState state) const {
  std::uint64_t bytes = 0;
  for_each([&](const Run& run) {
    if (run.state == state) bytes += run.length;
  });
  return bytes;
}

RescueMap::Run RescueMap::next(std::uint64_t from, RescueState state) const {
  Run found;
  if (from >= size_bytes_) return found;
  for (auto run = std::prev(starts_.upper_bound(from)); run != starts_.end(); ++run) {
    if (run->second != state) continue;
    const auto behind = std::next(run);
    found.offset = std::max(from, run->first);
    found.length = (behind == starts_.end() ? size_bytes_ : behind->first) - found.offset;
    found.state = state;
    return found;
  }
  return found;
}

void RescueMap::for_each(FunctionRef<void(const Run&)> visit) const {
  for (auto run = starts_.begin(); run != starts_.end(); ++run) {
    const auto behind = std::next(run);
    visit({run->first, (behind == starts_.end() ? size_bytes_ : behind->first) - run->first, run->second});
  }
}

}  // namespace daxcow::tools
