// SPDX-License-Identifier: GPL-2.0-or-later
// `ramfold list`: a row for each VM, in the columns that are asked for.
// Threads: pure functions.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <vector>

#include "cli/table.hpp"
#include "control/views.hpp"

namespace ramfold::cli {

struct ListOptions {
  // Empty: the usual ones, and a reason below a VM that saves nothing or is not folded.
  std::vector<std::string> columns;
  Writing writing;
  bool bytes = false;  // amounts of memory as plain numbers

  // Otherwise a program reads the table: it gets rows only.
  bool for_people() const noexcept { return columns.empty() && !writing.raw; }
};

// Names of columns, separated by commas: "ID,NAME". The error names a column that is unknown, and
// one with a similar name.
std::expected<std::vector<std::string>, std::string> parse_columns(std::string_view list);
std::vector<std::string> all_columns();
// What the columns are, a line each.
std::string describe_columns();

std::string render_list(const control::Snapshot& snapshot, const Style& style,
                        const ListOptions& options = {});

}  // namespace ramfold::cli
