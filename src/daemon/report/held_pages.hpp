// SPDX-License-Identifier: GPL-2.0-or-later
// When it is worth telling that a device holds pages of a VM.
// Threads: any; pure.
#pragma once

#include <optional>

#include "control/views.hpp"

namespace ramfold::daemon {

// The reason `held-pages`: at least an eighth of the resident pages is held, so that folding the
// rest saves notably less. A few pages are held at most times: reads in flight, and pages that the
// kernel has not sorted in since they were touched. `gate`: while it is closed nothing is folded,
// whoever holds it.
std::optional<control::Reason> why_pages_stay(const control::PagesView& pages,
                                              control::GateState gate);

}  // namespace ramfold::daemon
