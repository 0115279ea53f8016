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
  std::vector<std::string> columns;  // names of columns; empty: the usual ones, and why below a VM
  Writing writing;
  bool bytes = false;  // amounts of memory as plain numbers
};

// Names of columns, separated by commas: "ID,NAME". An unknown one is named in the error, with what
// is close to it.
std::expected<std::vector<std::string>, std::string> parse_columns(std::string_view list);
std::vector<std::string> all_columns();
// What the columns are, a line each.
std::string describe_columns();

std::string render_list(const control::Snapshot& snapshot, const Style& style,
                        const ListOptions& options = {});

}  // namespace ramfold::cli
