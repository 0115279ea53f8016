// SPDX-License-Identifier: GPL-2.0-or-later
// Scheduling of the calling thread. setpriority(2): on Linux a nice value is a thread's own.
#pragma once

#include <sys/resource.h>

namespace ramfold::sys {

// For threads that guests wait for: they run before ordinary work. Needs CAP_SYS_NICE; without it
// nothing changes.
inline void prefer_this_thread() noexcept { (void)::setpriority(PRIO_PROCESS, 0, -10); }
// For threads that nobody waits for: they take the CPU time that others leave, within their budget.
inline void yield_this_thread() noexcept { (void)::setpriority(PRIO_PROCESS, 0, 10); }

}  // namespace ramfold::sys
