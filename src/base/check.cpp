// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/check.hpp"

#include <unistd.h>
#include <cstdio>
#include <cstdlib>

namespace ramfold {

void check_failed(const char* file, int line, const char* what) noexcept {
  char text[512];
  const int n =
      std::snprintf(text, sizeof text, "ramfold: ENSURE failed at %s:%d: %s\n", file, line, what);
  if (n > 0) {
    const auto length =
        static_cast<std::size_t>(n) < sizeof text ? static_cast<std::size_t>(n) : sizeof text - 1;
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text, length);
  }
  std::abort();
}

}  // namespace ramfold
