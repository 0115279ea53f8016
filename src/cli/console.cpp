// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/console.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace ramfold::cli {
namespace {

// The width of the terminal behind `fd`, in columns. $COLUMNS overrides it, also when `fd` is no
// terminal. 0: not known.
std::size_t columns_of(int fd) {
  const char* text = std::getenv("COLUMNS");
  std::size_t columns = 0;
  if (text != nullptr) {
    const std::string_view digits(text);
    std::from_chars(digits.data(), digits.data() + digits.size(), columns);
  }
  winsize size{};
  if (columns == 0 && ::isatty(fd) == 1 && ::ioctl(fd, TIOCGWINSZ, &size) == 0) {
    columns = size.ws_col;
  }
  return columns == 0 ? 0 : std::max(columns, kColumnsMin);
}

}  // namespace

Console standard_console() {
  const char* no_colour = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  const bool wanted = (no_colour == nullptr || *no_colour == '\0') &&
                      (terminal == nullptr || std::string_view(terminal) != "dumb");
  Console console;
  console.tty = ::isatty(STDOUT_FILENO) == 1;
  console.style = Style(wanted && console.tty, columns_of(STDOUT_FILENO));
  console.error_style = Style(wanted && ::isatty(STDERR_FILENO) == 1, columns_of(STDERR_FILENO));
  return console;
}

}  // namespace ramfold::cli
