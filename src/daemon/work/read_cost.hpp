// SPDX-License-Identifier: GPL-2.0-or-later
// The mean time to read a stored page, from the forms in which pages are stored. It is used to
// estimate how long an unfold takes.
// Threads: pure.
#pragma once

#include <array>

#include "store/reform/cost_model.hpp"
#include "store/stats.hpp"

namespace ramfold::daemon {

// Mean over all pages that name a content, in nanoseconds; 0 if nothing is stored. A page costs
// decode_ns of its form. If that form needs a reference, it costs also the mean of all pages whose
// form needs none.
double mean_read_ns(const std::array<store::FormStats, store::kForms>& forms,
                    const store::CostModel::ByForm<double>& decode_ns) noexcept;

}  // namespace ramfold::daemon
