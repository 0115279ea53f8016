// SPDX-License-Identifier: GPL-2.0-or-later
// Threads for what a hostile process can hold up for as long as it likes. Whoever reads its
// mappings, drives or closes its userfaultfd waits for its mmap_lock, and a process can hold that
// for ever (a page of a FUSE file whose server is silent does), uninterruptibly for who waits. Such
// a thread is left where it is; nobody joins it, and what it uses it owns. Threads: any.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace ramfold::daemon {

// Runs `errand` on a thread of its own; false: there is no thread to be had, and nothing ran.
bool run_apart(std::function<void()> errand);
// The same, and waits for it, at most for `patience_ns`.
enum class Ended { yes, goes_on, never_ran };
Ended run_apart_for(std::uint64_t patience_ns, std::function<void()> errand);
// Destroys `what` on such a thread when this is its last owner.
void let_go_apart(std::shared_ptr<void> what);
// Errands that have not ended. While there are any, what they refer to must stay: the process may
// only end, by _exit.
unsigned count_apart() noexcept;

}  // namespace ramfold::daemon
