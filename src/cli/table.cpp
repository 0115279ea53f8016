// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/table.hpp"

#include <libsmartcols.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "base/check.hpp"

namespace ramfold::cli {
namespace {

// libsmartcols fails only when there is no memory.
void must(int result) {
  if (result != 0) throw std::bad_alloc();
}

using Scols = std::unique_ptr<libscols_table, decltype(&scols_unref_table)>;

Scols make_scols(const Style& style, Writing writing) {
  Scols table(scols_new_table(), scols_unref_table);
  if (!table) throw std::bad_alloc();
  must(scols_table_enable_colors(table.get(), style.coloured() ? 1 : 0));
  must(scols_table_enable_raw(table.get(), writing.raw ? 1 : 0));
  must(scols_table_enable_noheadings(table.get(), writing.headings ? 0 : 1));
  must(scols_table_enable_minout(table.get(), 1));  // no blanks at the end of a line
  const bool fit = style.width() != 0 && !writing.raw;
  must(
      scols_table_set_termforce(table.get(), fit ? SCOLS_TERMFORCE_ALWAYS : SCOLS_TERMFORCE_NEVER));
  if (fit) must(scols_table_set_termwidth(table.get(), style.width()));
  return table;
}

}  // namespace

void Table::row(std::vector<Cell> cells) {
  ENSURE(cells.size() == columns_.size());
  rows_.push_back({std::move(cells), {}});
}

void Table::note(std::string text) {
  ENSURE(!rows_.empty());
  rows_.back().notes.push_back(std::move(text));
}

std::string Table::text(const Style& style, Writing writing) const {
  const Utf8 utf8;  // or it would print names in other scripts as hexadecimal
  const Scols table = make_scols(style, writing);
  for (const Column& column : columns_) {
    const int flags = (column.align == Align::right ? SCOLS_FL_RIGHT : 0) |
                      (column.cut == Cut::when_narrow ? SCOLS_FL_TRUNC : 0);
    libscols_column* made = scols_table_new_column(table.get(), column.title.c_str(), 0, flags);
    if (made == nullptr) throw std::bad_alloc();
    if (style.coloured()) {
      const std::string bold(code_of(Colour::bold));
      must(scols_cell_set_color(scols_column_get_header(made), bold.c_str()));
    }
  }
  for (const Row& row : rows_) {
    libscols_line* line = scols_table_new_line(table.get(), nullptr);
    if (line == nullptr) throw std::bad_alloc();
    for (std::size_t i = 0; i < row.cells.size(); ++i) {
      const Cell& cell = row.cells[i];
      must(scols_line_set_data(line, i, cell.text.c_str()));
      if (cell.colour == Colour::none || !style.coloured()) continue;
      const std::string code(code_of(cell.colour));
      must(scols_cell_set_color(scols_line_get_cell(line, i), code.c_str()));
    }
  }
  char* printed = nullptr;
  must(scols_print_table_to_string(table.get(), &printed));
  const std::unique_ptr<char, decltype(&std::free)> owner(printed, std::free);

  // Each row is one line, because no cell holds a newline. The notes go between the lines.
  std::string out;
  std::string_view rest(printed);
  const auto next_line = [&] {
    const std::size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    while (line.ends_with(' ')) line.remove_suffix(1);
    out.append(line) += '\n';
  };
  if (writing.headings) next_line();
  for (const Row& row : rows_) {
    next_line();
    for (const std::string& note : row.notes) out += note + "\n";
  }
  return out;
}

}  // namespace ramfold::cli
