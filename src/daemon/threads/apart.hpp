// SPDX-License-Identifier: GPL-2.0-or-later
// Threads for what a hostile process can hold up for as long as it likes. Whoever reads its
// mappings, drives or closes its userfaultfd waits for its mmap_lock, and a process can hold that
// for ever (a page of a FUSE file whose server is silent does), uninterruptibly for who waits. Such
// a thread is left where it is; nobody joins it, and what it uses it owns.
// Threads: any; tend_apart() from one, now and then.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace ramfold::daemon {

// Runs `errand` on a thread of its own; false: there is no thread to be had, and nothing ran. Then
// `errand` is destroyed on the calling thread: what it owns and a process may hold up is one of
// share_apart()'s.
bool run_apart(std::function<void()> errand);
// The same, and waits for it, at most for `patience_ns`.
enum class Ended { yes, goes_on, never_ran };
Ended run_apart_for(std::uint64_t patience_ns, std::function<void()> errand);

// Calls destroy(what) on such a thread. While there is no thread to be had, `what` is kept, and
// tend_apart() tries again. Bound: kKeptMax things are kept; what comes beyond that is leaked,
// because descriptors can be spared and the calling thread cannot.
inline constexpr std::size_t kKeptMax = 4096;
void destroy_apart(void* what, void (*destroy)(void* what) noexcept);
// Returns how many things are kept still.
std::size_t tend_apart();

// Destroys `what` on such a thread.
template <typename T>
void let_go_apart(std::unique_ptr<T> what) {
  if (what) destroy_apart(what.release(), [](void* p) noexcept { delete static_cast<T*>(p); });
}
// Whoever is the last to let go of it, it is destroyed on such a thread.
template <typename T>
std::shared_ptr<T> share_apart(std::unique_ptr<T> what) {
  return {what.release(), [](T* p) { let_go_apart(std::unique_ptr<T>(p)); }};
}

// Errands that have not ended, and what is kept. While there are any, what they refer to must stay:
// the process may only end, by _exit.
unsigned count_apart() noexcept;

}  // namespace ramfold::daemon
