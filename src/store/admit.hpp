// SPDX-License-Identifier: GPL-2.0-or-later
// What a put may add to the store. Threads: a value.
#pragma once

#include <cstdint>

namespace ramfold::store {

// Which pages may be added to what is stored. Zeros and pages that are there already always may.
enum class Admit : std::uint8_t {
  all,       // in the quickest form that is smaller than the page
  shared,    // only where two pages are equal: the second that asks is kept, raw
  existing,  // none
};

}  // namespace ramfold::store
