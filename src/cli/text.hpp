// SPDX-License-Identifier: GPL-2.0-or-later
// Text for people: figures with units, tables, colour.
// Threads: pure functions and values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/printable.hpp"
#include "base/types.hpp"

namespace ramfold::cli {

// "0 B", "1023 B", "4.0 KiB", "1.5 GiB": three digits that matter.
std::string human(ByteCount bytes);
std::string human_signed(std::int64_t bytes);
std::string human_count(std::uint64_t count);     // "1,234,567"
std::string human_duration_ns(std::uint64_t ns);  // "850 ns", "14.0 us", "3.2 ms", "1.5 s"
std::string human_duration_s(double seconds);     // "12 s", "5 min", "3 h 20 min", "2 d 4 h"
std::string human_share(double share);            // "0.12 %"

// Columns that a text takes: code points, which is right for the names in use.
std::size_t width_of(std::string_view text);

enum class Colour : std::uint8_t { none, red, green, yellow, bold, dim };

class Style {
 public:
  explicit Style(bool coloured) noexcept : coloured_(coloured) {}
  std::string paint(Colour colour, std::string_view text) const;
  bool coloured() const noexcept { return coloured_; }

 private:
  bool coloured_;
};

enum class Align : std::uint8_t { left, right };
struct Column {
  std::string title;
  Align align = Align::left;
};

// Columns two blanks apart, as wide as their widest cell; the last one is not padded.
class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  struct Cell {
    std::string text;
    Colour colour = Colour::none;
  };
  void row(std::vector<Cell> cells);
  // A line below the row before it, on its own: not part of any column.
  void note(std::string text);
  std::string text(const Style& style) const;

 private:
  struct Row {
    std::vector<Cell> cells;
    std::vector<std::string> notes;
  };
  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

}  // namespace ramfold::cli
