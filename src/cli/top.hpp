// SPDX-License-Identifier: GPL-2.0-or-later
// `ramfold top`: asks the daemon again and again and shows what changed. On a terminal it draws
// a screen and takes keys; otherwise it prints rows.
// Threads: one.
#pragma once

#include <optional>
#include <string>

#include "cli/console.hpp"
#include "cli/exit_code.hpp"

namespace ramfold::cli {

struct TopOptions {
  std::string socket;
  double delay_seconds = 2;
  std::optional<unsigned> count;  // empty: without end on a terminal, else once
};

ExitCode run_top(const TopOptions& options, const Console& console);

}  // namespace ramfold::cli
