// SPDX-License-Identifier: GPL-2.0-or-later
// For tests that want many changes of form.
#pragma once

#include "store/reform/reformer.hpp"

namespace ramfold::store::test {

// Everything pays at once that saves a byte.
inline ReformPolicy greedy() noexcept {
  ReformPolicy policy;
  policy.economy = {.cpu_s_per_gib_hour = 1e12, .wait_weight = 0};
  return policy;
}

}  // namespace ramfold::store::test
