#include "tools/text.h"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <ctime>
#include <iostream>

#include "engine/check.h"
#include "fuse/one_line.h"

namespace daxcow::tools {

Result<std::uint64_t> parse_number(std::string_view text) {
  const std::string_view digits = text.starts_with("0x") ? text.substr(2) : text;
  std::uint64_t number = 0;
  auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), number, digits.size() == text.size() ? 10 : 16);
  if (error != std::errc() || end != digits.data() + digits.size())
    return ::daxcow::fail(ErrorCode::kInvalid, fmt::format("'{}' is not a number", text));
  return number;
}

Result<std::uint64_t> parse_size(std::string_view text) {
  const auto wrong = [&](const char* why) {
    return ::daxcow::fail(ErrorCode::kInvalid,
                          fmt::format("'{}' is not a size{}; write it like 4096, 64M or 1.5GiB", text, why));
  };
  std::size_t digits = 0;
  while (digits < text.size() && (std::isdigit(static_cast<unsigned char>(text[digits])) || text[digits] == '.'))
    ++digits;
  std::string unit(text.substr(digits));
  if (digits == 0) return wrong("");
  std::uint64_t scale = 1;
  if (!unit.empty() && unit != "B") {
    constexpr std::string_view letters = "KMGTPE";
    const auto power = letters.find(static_cast<char>(std::toupper(static_cast<unsigned char>(unit[0]))));
    const std::string_view rest = std::string_view(unit).substr(1);
    if (power == std::string_view::npos || !(rest.empty() || rest == "iB" || rest == "B")) return wrong("");
    for (std::size_t i = 0; i <= power; ++i) scale *= rest == "B" ? 1000 : 1024;
  }
  const std::string_view number = text.substr(0, digits);
  if (number.find('.') == std::string_view::npos) {  // exact
    auto whole = parse_number(number);
    if (!whole) return wrong("");
    std::uint64_t bytes = 0;
    if (__builtin_mul_overflow(*whole, scale, &bytes)) return wrong(" that fits into 64 bits");
    return bytes;
  }
  double fraction = 0;
  auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), fraction);
  if (error != std::errc() || end != number.data() + number.size()) return wrong("");
  const double bytes = std::floor(fraction * static_cast<double>(scale));
  if (!(bytes < 18446744073709551615.0)) return wrong(" that fits into 64 bits");
  return static_cast<std::uint64_t>(bytes);
}

std::string human_size(std::uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  double value = static_cast<double>(bytes);
  while (value >= 1024 && unit + 1 < std::size(kUnits)) value /= 1024, ++unit;
  if (value == std::floor(value)) return fmt::format("{:.0f} {}", value, kUnits[unit]);
  return fmt::format("{:.{}f} {}", value, value < 100 ? 1 : 0, kUnits[unit]);
}

std::string local_time(std::int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  char text[64];
  if (!localtime_r(&time, &parts) || std::strftime(text, sizeof text, "%F %T", &parts) == 0)
    return std::to_string(seconds);
  return text;
}

std::string counted(std::uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string printable(std::string_view text) { return one_line(text); }

void print_json(const nlohmann::json& value, int indent) {
  std::cout << value.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  if (indent < 0) std::cout.flush();
}

// --- tables ----------------------------------------------------------------------------------------------------------

namespace {
// Columns a text takes on a terminal, near enough: its UTF-8 characters.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}
}  // namespace

void Table::add(std::vector<std::string> row) {
  CHECK(row.size() == columns_.size());
  for (std::string& cell : row) cell = printable(cell);
  rows_.push_back(std::move(row));
}

void Table::print() const {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    std::size_t width = width_of(columns_[i].title);
    for (const auto& row : rows_) width = std::max(width, width_of(row[i]));
    widths.push_back(width);
  }
  const auto print_row = [&](auto&& cell_of) {
    std::string line;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const std::string& cell = cell_of(i);
      const std::string padding(widths[i] - width_of(cell), ' ');
      if (i) line += "  ";
      line += columns_[i].align == Align::kRight ? padding + cell : cell + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    std::cout << line << '\n';
  };
  print_row([&](std::size_t i) -> const std::string& { return columns_[i].title; });
  for (const auto& row : rows_) print_row([&](std::size_t i) -> const std::string& { return row[i]; });
}

}  // namespace daxcow::tools
