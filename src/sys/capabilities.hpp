// SPDX-License-Identifier: GPL-2.0-or-later
// Capabilities of the calling thread (capabilities(7)). The kernel keeps them for each thread: a
// new thread begins with those of the thread that starts it.
// Threads: any, each for itself.
#pragma once

#include <span>

#include "base/result.hpp"

namespace ramfold::sys {

// Gives up these capabilities (CAP_*) for good: effective, permitted, inheritable and ambient, and
// the bounding set where CAP_SETPCAP allows it. Without CAP_SETPCAP a program that this thread
// executes as root could have them again, unless no_new_privs is set, as the unit does.
Status drop_capabilities(std::span<const int> capabilities);

}  // namespace ramfold::sys
