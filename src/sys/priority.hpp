// SPDX-License-Identifier: GPL-2.0-or-later
// Scheduling of the calling thread. setpriority(2): on Linux a nice value is a thread's own.
#pragma once

#include <sys/resource.h>

namespace ramfold::sys {

// Guest threads wait for these: before everything that is not interactive. Needs CAP_SYS_NICE;
// without it the thread stays as it is.
inline void prefer_this_thread() noexcept { (void)::setpriority(PRIO_PROCESS, 0, -10); }
// Nobody waits for these: they get what others leave, within their budget.
inline void yield_this_thread() noexcept { (void)::setpriority(PRIO_PROCESS, 0, 10); }

}  // namespace ramfold::sys
