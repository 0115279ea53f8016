// SPDX-License-Identifier: GPL-2.0-or-later
// `ramfold estimate`: how much of the RAM of running QEMUs and of dumps could be saved, and what
// must be changed for that. Needs no daemon and no agent, and only reads.
// Threads: one.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "cli/doctor.hpp"
#include "estimate/figures.hpp"
#include "estimate/ram_dump.hpp"

namespace ramfold::cli {

struct EstimateOptions {
  Output output = Output::text;
  // Process ids, else files; empty: every QEMU of this host.
  std::vector<std::string> targets;
  // How much RAM is looked at closely; the rest is taken to be like it. 4 GiB take about half a
  // minute. Nothing: all RAM.
  std::optional<ByteCount> sample = ByteCount{4ull << 30};
  estimate::TakenAs files = estimate::TakenAs::what_it_is;
};

// 0; 1 when something cannot be read, which is told on stderr with its remedy.
ExitCode run_estimate(const EstimateOptions& options, const Console& console);

// What is shown of one QEMU or dump, beside the census' figures.
struct Estimated {
  std::string label;          // "web (pid 123)", or the file's path
  std::optional<pid_t> pid;   // nothing for a dump
  std::vector<Check> checks;  // of a QEMU, as doctor has them
};
std::string render_estimate(const std::vector<Estimated>& what, const estimate::Census& census,
                            const Style& style);
// {"estimate": {"vms": [...], "together": {...}, ...}}
std::string json_of(const std::vector<Estimated>& what, const estimate::Census& census);

}  // namespace ramfold::cli
