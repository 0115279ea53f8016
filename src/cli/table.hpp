// SPDX-License-Identifier: GPL-2.0-or-later
// Tables in columns, by libsmartcols, as lsblk(8) and zramctl(8) have them.
// Threads: values.
#pragma once

#include <string>
#include <vector>

#include "cli/text.hpp"

namespace ramfold::cli {

enum class Align : std::uint8_t { left, right };
// Whether a cell may be cut where the table is wider than the terminal.
enum class Cut : bool { never, when_narrow };
struct Column {
  std::string title;
  Align align = Align::left;
  Cut cut = Cut::never;
};

// How a table is written: for people, or for programs.
struct Writing {
  bool raw = false;  // one blank between cells, blanks in them as \x20
  bool headings = true;
};

// Columns stand one blank apart, each as wide as its widest cell. In a Style with a width, columns
// that may be cut are cut until the table fits.
class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  struct Cell {
    std::string text;
    Colour colour = Colour::none;
  };
  // REQUIRES: a cell for each column, printable.
  void row(std::vector<Cell> cells);
  // Lines below the row before them, on their own: not part of any column.
  void note(std::string text);
  std::string text(const Style& style, Writing writing = {}) const;

 private:
  struct Row {
    std::vector<Cell> cells;
    std::vector<std::string> notes;
  };
  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

}  // namespace ramfold::cli
