// SPDX-License-Identifier: GPL-2.0-or-later
// Large folios under a range of a process, however its page table maps them: /proc/PID/pagemap
// names the frames, /proc/kpageflags says what they belong to
// (Documentation/admin-guide/mm/pagemap.rst).
// Threads: stateless.
#pragma once

#include <sys/types.h>

#include "base/result.hpp"
#include "sys/uffd.hpp"

namespace ramfold::sys {

// True when some present page of the range belongs to a large folio. About 0.3 us a page. Errors:
// ESRCH, the process is gone; EPERM without CAP_SYS_ADMIN, which frame numbers need.
Result<bool> has_large_folio(pid_t pid, UffdRange range);

}  // namespace ramfold::sys
