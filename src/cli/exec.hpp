// SPDX-License-Identifier: GPL-2.0-or-later
// `ramfold exec -- CMD...`: becomes CMD with the agent loaded. Whatever is wrong with ramfold, CMD
// starts. Threads: one.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/console.hpp"
#include "cli/exit_code.hpp"

namespace ramfold::cli {

struct ExecOptions {
  std::vector<std::string> command;  // at least the program
  std::optional<std::string> agent_socket;
};

// Where the agent's library is: $RAMFOLD_AGENT_LIB, else beside this binary in the build tree, else
// where it is installed. If it is not there, `problem` says where it was sought.
struct AgentLibrary {
  std::string path;
  std::string problem;  // empty when path is usable
};
AgentLibrary find_agent();

// A value for LD_PRELOAD: the agent, then the libraries in `before`. If `before` names the agent,
// it stays as it is.
std::string preload_with(std::string_view agent, std::string_view before);

// Returns only when CMD cannot be executed.
ExitCode run_exec(const ExecOptions& options, const Console& console);

}  // namespace ramfold::cli
