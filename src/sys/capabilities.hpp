// SPDX-License-Identifier: GPL-2.0-or-later
// Capabilities of the calling thread, and of another process (capabilities(7)). The kernel keeps
// them for each thread: a new thread begins with those of the thread that starts it.
// Threads: any, each for itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace ramfold::sys {

// Gives up these capabilities (CAP_*) for good: effective, permitted, inheritable and ambient, and
// the bounding set where CAP_SETPCAP allows it. Without CAP_SETPCAP a program that this thread
// executes as root could have them again, unless no_new_privs is set, as the unit does.
Status drop_capabilities(std::span<const int> capabilities);

// The capabilities that some thread of the process has, or may get: permitted, inheritable and
// ambient. Bit n: capability n (CAP_*). Those of a user namespace count as those of the host.
// `root`: as of Procfs. Errors: ESRCH the process is gone, EIO the kernel's text is not understood,
// and others.
Result<std::uint64_t> capabilities_of(pid_t pid, const std::string& root = {});
// Of the text of a status file.
Result<std::uint64_t> parse_capabilities(std::string_view status);

}  // namespace ramfold::sys
