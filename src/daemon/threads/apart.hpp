// SPDX-License-Identifier: GPL-2.0-or-later
// Threads for calls that a hostile process can hold up as long as it likes. To read the mappings of
// a process, or to use or close its userfaultfd, a thread takes that process's mmap_lock. The
// process can hold this lock for ever (for example by a fault on a FUSE file whose server does not
// answer), and the wait cannot be interrupted. Such a thread is abandoned: nobody joins it, and it
// owns everything that it uses.
// Threads: any; tend_apart() from one, regularly.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

namespace ramfold::daemon {

// Runs `errand` on a thread of its own. False: the kernel gave no thread, and nothing ran; `errand`
// is then destroyed on the calling thread. So objects in it whose destruction a process can hold up
// must come from share_apart().
bool run_apart(std::function<void()> errand);
// As run_apart(), and waits at most `patience_ns` for the end of `errand`.
enum class Ended { yes, goes_on, never_ran };
Ended run_apart_for(std::uint64_t patience_ns, std::function<void()> errand);

// The account of the user who sent the descriptors in an object (sys/subordinate_ids.hpp). None: a
// bound elsewhere limits how many such objects a user can have destroyed, as that on VMs does.
using Sender = std::optional<uid_t>;
// Most threads that destroy objects of one sender, and of all senders. Further objects are kept
// until such a thread has ended.
inline constexpr std::size_t kClosingOfSenderMax = 16;
inline constexpr std::size_t kClosingMax = 128;
// Calls destroy(what) on a thread of its own. If the kernel gives no thread, `what` is kept, and
// tend_apart() tries again. At most kKeptMax objects are kept; more are leaked: a leaked descriptor
// is better than a blocked calling thread.
inline constexpr std::size_t kKeptMax = 4096;
void destroy_apart(void* what, void (*destroy)(void* what) noexcept, Sender sender);
// Begins with objects that are kept. False: the kernel gives no thread for one.
bool tend_apart();
// True: so many objects of the sender are not destroyed yet that nothing more may be received from
// it. Otherwise the number of kept objects, and of the descriptors in them, would have no bound.
bool is_closing_much(uid_t sender);

// Destroys `what` on a thread of its own.
template <typename T>
void let_go_apart(std::unique_ptr<T> what, Sender sender = std::nullopt) {
  if (!what) return;
  destroy_apart(what.release(), [](void* p) noexcept { delete static_cast<T*>(p); }, sender);
}
// A shared pointer whose object is destroyed on a thread of its own, whichever owner is the last.
template <typename T>
std::shared_ptr<T> share_apart(std::unique_ptr<T> what, Sender sender = std::nullopt) {
  return {what.release(), [sender](T* p) { let_go_apart(std::unique_ptr<T>(p), sender); }};
}

// The number of errands that have not ended, plus objects that are kept. While it is not 0, all
// objects that they refer to must stay: the process may end only by _exit.
unsigned count_apart() noexcept;

}  // namespace ramfold::daemon
