// SPDX-License-Identifier: GPL-2.0-or-later
// Where the command writes: results to stdout, errors to stderr.
// Threads: one.
#pragma once

#include <cstdio>
#include <string_view>

#include "cli/text.hpp"

namespace ramfold::cli {

// Below this a table cannot be laid out.
inline constexpr std::size_t kColumnsMin = 40;

struct Console {
  std::FILE* out = stdout;
  std::FILE* err = stderr;
  bool tty = false;    // stdout is a terminal: progress in place, --watch clears the screen
  Style style{false};  // of stdout
  Style error_style{false};

  void print(std::string_view text) const { std::fwrite(text.data(), 1, text.size(), out); }
  void complain(std::string_view text) const { std::fwrite(text.data(), 1, text.size(), err); }
};

// Lines fit the terminal. Without a terminal they are not broken, unless $COLUMNS gives a width.
// Colour only on a terminal, and not under NO_COLOR (no-color.org) or TERM=dumb.
Console standard_console();

}  // namespace ramfold::cli
