// SPDX-License-Identifier: GPL-2.0-or-later
// Counts why a page that was to leave has to stay: the answer about it is not the one that a proof
// needs.
// Threads: any.
#pragma once

#include "guest/vm_counters.hpp"
#include "sys/pin_test.hpp"

namespace ramfold::guest {

inline void count_not_quiet(VmCounters& counters, sys::PinAnswer answer) noexcept {
  switch (answer) {
    case sys::PinAnswer::busy: counters.not_quiet_busy.add(); break;
    case sys::PinAnswer::mapped_more: counters.not_quiet_mapped_more.add(); break;
    case sys::PinAnswer::large: counters.not_quiet_large.add(); break;
    case sys::PinAnswer::quiet:
    case sys::PinAnswer::hole:
    case sys::PinAnswer::unanswered:
    case sys::PinAnswer::swapped:
    case sys::PinAnswer::again: counters.not_quiet_other.add(); break;
  }
}

}  // namespace ramfold::guest
