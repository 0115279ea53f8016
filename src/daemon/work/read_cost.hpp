// SPDX-License-Identifier: GPL-2.0-or-later
// What reading a stored page takes on the average, by the forms in which pages are kept: what an
// unfold is expected to take goes by it.
// Threads: pure.
#pragma once

#include <array>

#include "store/reform/cost_model.hpp"
#include "store/stats.hpp"

namespace ramfold::daemon {

// In nanoseconds; 0 where nothing is stored. Every page that names a content counts. A form that
// needs a reference takes, besides, what reading a content without one takes on the average.
double mean_read_ns(const std::array<store::FormStats, store::kForms>& forms,
                    const store::CostModel::ByForm<double>& decode_ns) noexcept;

}  // namespace ramfold::daemon
