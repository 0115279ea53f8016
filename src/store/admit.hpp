// SPDX-License-Identifier: GPL-2.0-or-later
// Which pages a put may add to the store. Threads: a value.
#pragma once

#include <cstdint>

namespace ramfold::store {

// Pages of zeros, and pages that equal a stored content, are always taken.
enum class Admit : std::uint8_t {
  all,       // every other page is stored, as an LZ4 block or raw
  shared,    // of the others, a page is stored when an equal page has asked before; raw
  existing,  // no other page is stored
};

}  // namespace ramfold::store
