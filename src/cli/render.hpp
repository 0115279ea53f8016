// SPDX-License-Identifier: GPL-2.0-or-later
// Makes text for people from the views. ramfold(1) documents the output.
// Threads: pure functions.
#pragma once

#include <string>
#include <vector>

#include "cli/text.hpp"
#include "control/service.hpp"
#include "control/views.hpp"

namespace ramfold::cli {

std::string render_status(const control::Snapshot& snapshot, const Style& style);
std::string render_vm(const control::VmView& vm, const Style& style);
// One line per counter, with plain numbers.
std::string render_counters(const std::vector<control::CounterView>& counters, const Style& style);
std::string render_plan(const control::UnfoldPlan& plan, std::string_view what, const Style& style);
std::string render_progress(const control::UnfoldProgress& progress);
// The error, the missing memory if any, and the remedy.
std::string render_error(const control::OperationError& error, const Style& style);

// Also used by list_view.cpp.
Colour colour_of(control::VmState state);
std::string reason_line(const control::Reason& reason, const Style& style);

}  // namespace ramfold::cli
