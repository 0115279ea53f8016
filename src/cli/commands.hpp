// SPDX-License-Identifier: GPL-2.0-or-later
// The subcommands that ask the daemon.
// Threads: one.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/client.hpp"
#include "cli/console.hpp"
#include "cli/exit_code.hpp"
#include "cli/list_view.hpp"
#include "control/service.hpp"

namespace ramfold::cli {

enum class Output : std::uint8_t { text, json };

struct CommandOptions {
  std::string socket = kControlSocketDefault;
  Output output = Output::text;
  std::optional<double> watch_seconds;  // status and list: again and again
  bool counters = false;                // status and show: all counters, and nothing else
};

ExitCode run_status(const CommandOptions& options, const Console& console);
ExitCode run_list(const CommandOptions& options, const Console& console, const ListOptions& shown);
ExitCode run_show(const CommandOptions& options, const Console& console, const std::string& vm);
ExitCode run_attach(const CommandOptions& options, const Console& console, const std::string& vm,
                    control::Incoming incoming);
// detach one VM, or everything: off.
enum class DryRun : bool { no, yes };
ExitCode run_unfold(const CommandOptions& options, const Console& console,
                    const std::optional<std::string>& vm, DryRun dry_run);
ExitCode run_policy_get(const CommandOptions& options, const Console& console,
                        const std::optional<std::string>& vm);
// `words`: a VM first, unless the first one is an assignment; then assignments.
ExitCode run_policy_set(const CommandOptions& options, const Console& console,
                        std::vector<std::string> words);
enum class Pausing : bool { resume, pause };
ExitCode run_pause(const CommandOptions& options, const Console& console,
                   const std::optional<std::string>& vm, Pausing pausing);

}  // namespace ramfold::cli
