// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/console.hpp"

#include <unistd.h>

#include <cstdlib>

namespace ramfold::cli {

Console standard_console() {
  const char* no_colour = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  const bool wanted = (no_colour == nullptr || *no_colour == '\0') &&
                      (terminal == nullptr || std::string_view(terminal) != "dumb");
  Console console;
  console.tty = ::isatty(STDOUT_FILENO) == 1;
  console.style = Style(wanted && console.tty);
  console.error_style = Style(wanted && ::isatty(STDERR_FILENO) == 1);
  return console;
}

}  // namespace ramfold::cli
