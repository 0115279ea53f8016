// SPDX-License-Identifier: GPL-2.0-or-later
// The program that asks the kernel who holds a page, loaded once for all rigs of a test. Where the
// kernel loads none the test is skipped.
// Threads: any.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "patience.hpp"
#include "sys/page_batches.hpp"
#include "sys/pin_test.hpp"

namespace ramfold::test {

inline const sys::PinTest& pin_test() {
  static const auto loaded = sys::PinTest::load(sys::Procfs());
  if (!loaded) {
    std::printf("%s\n", loaded.error().text().c_str());
    std::exit(77);
  }
  return *loaded;
}

// soon() for what the daemon's own workers fold. A page that was just touched, or that the daemon
// has read twice, may lie in a CPU's batch, which holds it; where nothing else runs, nothing else
// empties the batch.
template <typename Condition>
bool soon_quiet(Condition condition) {
  return soon([&] {
    sys::drain_page_batches();
    return condition();
  });
}

}  // namespace ramfold::test
