// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/read_cost.hpp"

namespace ramfold::daemon {

double mean_read_ns(const std::array<store::FormStats, store::kForms>& forms,
                    const store::CostModel::ByForm<double>& decode_ns) noexcept {
  double plain = 0;
  double plain_ns = 0;
  double referring = 0;
  double referring_ns = 0;
  for (std::size_t i = 0; i < store::kForms; ++i) {
    const auto pages = static_cast<double>(forms[i].references);
    const bool refers = needs_reference(static_cast<store::Form>(i));
    (refers ? referring : plain) += pages;
    (refers ? referring_ns : plain_ns) += pages * decode_ns[i];
  }
  if (plain + referring == 0) return 0;
  const double reference_ns = plain == 0 ? 0 : plain_ns / plain;
  return (plain_ns + referring_ns + referring * reference_ns) / (plain + referring);
}

}  // namespace ramfold::daemon
