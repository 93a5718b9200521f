// Numbers, sizes, times and tables for people; JSON for programs.
//
// Nothing that comes from a pool (names, paths) may reach a terminal unescaped: see printable().
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/result.h"

namespace daxcow::tools {

// "4096", "64K", "64KiB" (1024 each), "64kB", "64KB" (1000 each), up to E. kInvalid with a message for people.
Result<std::uint64_t> parse_size(std::string_view text);
// A plain number, decimal or 0x...; kInvalid.
Result<std::uint64_t> parse_number(std::string_view text);
// "1.5 GiB"; exact multiples without a fraction.
std::string human_size(std::uint64_t bytes);
// Local time, "2024-05-01 12:00:00".
std::string local_time(std::int64_t seconds);
// "1 block", "2 blocks".
std::string counted(std::uint64_t count, std::string_view noun);
// Control characters and backslashes as \n, \t, \\, \xHH: safe for a terminal, one line.
std::string printable(std::string_view text);

// One JSON value on standard output; bytes that are not UTF-8 are replaced. `indent` -1: one line, flushed.
void print_json(const nlohmann::json& value, int indent = 2);

// Rows in aligned columns for people; two blanks between columns.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> row);
  bool empty() const { return rows_.empty(); }
  void print() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace daxcow::tools
