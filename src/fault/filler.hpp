// SPDX-License-Identifier: GPL-2.0-or-later
// The way up for one page: own it, look its word up, bring the bytes back, wake who waits.
// Order (docs/design.md, Truth): COPY with MODE_WP and DONTWAKE -> word (clean, or none) -> guard
// lifted if it was a write -> WAKE -> reference dropped. A write event: word cleared -> guard
// lifted -> WAKE.
// Threads: any number of threads may serve the same VM, each with its own FillerThread. No
// allocation, no lock, no logging; waits only for memory that the host has not got (no_memory).
#pragma once

#include <atomic>
#include <optional>

#include "base/page_copy.hpp"
#include "guest/vm.hpp"
#include "store/content_source.hpp"

namespace ramfold::fault {

// Why a thread of the VM waits.
enum class Need : std::uint8_t {
  read,   // missing page, for reading
  write,  // missing page, for writing
  lift,   // guarded page, for writing
};

enum class Served : std::uint8_t {
  filled,     // the page was brought back
  lifted,     // its guard was
  zeroed,     // a hole that is zero
  late,       // the page was resident: the event was an old one
  busy,       // somebody else owns the page and will wake its waiters
  pending,    // the store is fetching: the page stays owned; call resume() when the ticket is ready
  failed,     // the store cannot read it now: the page stays owned; call resume() in a while
  poisoned,   // its bytes cannot be had (D14)
  again,      // a call failed: the waiters were woken and will fault again
  abandoned,  // the VM is gone, or the daemon stops: nothing was woken
};

// What a thread that fills brings along.
struct FillerThread {
  // On that thread: takes what reading contents needs, so that filling allocates nothing.
  explicit FillerThread(guest::Filling& own) : filling(own) { store::prepare_to_read(); }

  guest::Filling& filling;  // of no other thread
  PageCopy buffer;
};

class Filler {
 public:
  // `group`: of the VM's contents.
  Filler(guest::Vm& vm, store::ContentSource& source, GroupId group,
         const std::atomic<bool>& stopping) noexcept
      : vm_(vm), source_(source), group_(group), stopping_(stopping) {}

  // Serves one event. `me` is the calling thread's.
  Served serve(PageIndex p, Need need, store::FetchTicket ticket, FillerThread& me) noexcept;
  // Goes on with a page that serve() or resume() left pending or failed. REQUIRES: nobody else
  // resumes it.
  Served resume(PageIndex p, Need need, store::FetchTicket ticket, FillerThread& me) noexcept;
  // Lets go of such a page instead; who waits for it goes on waiting.
  void give_up(PageIndex p) noexcept;
  // Brings p back for good (detach): afterwards its word is none. It stays guarded until its range
  // is unregistered. `busy`: a fault has it; try again later. `poisoned`: it is lost, its word says
  // so, and the kernel has its mark. `abandoned` while the VM lives: there
  // is no memory, and nobody waits for the page. REQUIRES: the gate is closed and drained.
  Served unfold(PageIndex p, store::FetchTicket ticket, FillerThread& me) noexcept;

 private:
  struct Copied {
    sys::Outcome outcome;
    bool discarded;  // a discard came before: nothing was copied
  };

  Served serve_owned(PageIndex p, Need need, store::FetchTicket ticket, FillerThread& me) noexcept;
  Served fill_content(PageIndex p, guest::Word word, Need need, store::FetchTicket ticket,
                      FillerThread& me) noexcept;
  Served fill_zero(PageIndex p, Need need) noexcept;
  Served lift_guard(PageIndex p, guest::Word word) noexcept;
  Served poison(PageIndex p, guest::Word word) noexcept;
  // What p's word says, after it was repaired if it was damaged: a page that is there is the truth
  // (T1), a discarded one is zero (T5), and what any other hole held nobody knows. Nothing: the
  // word changes under its owner.
  std::optional<guest::Word> load(PageIndex p) noexcept;
  // Zero pages after p that may be filled with it: the window grows while faults come in sequence.
  PageCount own_zero_run(PageIndex p) noexcept;
  // Waits for memory as long as it takes, where a vCPU waits for the page, else for a fifth of a
  // second.
  enum class Patience : bool { endless, some };
  Copied copy(PageIndex p, FillerThread& me, Patience patience) noexcept;
  // Into the RAM file itself, for a page whose address range is gone.
  Copied write(PageIndex p, FillerThread& me) noexcept;
  // T5: drops what a discarded page's word says of its hole.
  guest::Word apply_discard(PageIndex p, guest::Word word) noexcept;
  // The reference that a word held: taken note of while p is owned, given up after the waiters are
  // awake. A page that recovery has not counted yet holds none that was counted.
  struct Held {
    ContentId id = kZeroContent;
    bool counted = false;
  };
  // The word is `next` from now on, and the reference that `seen` held is the caller's, unless
  // `next` names the same content. None when the word could not be changed: it keeps what it names.
  Held set_word(PageIndex p, guest::Word seen, guest::Word next) noexcept;
  Served retry(PageIndex p) noexcept;  // the waiters fault again
  void drop(Held held) noexcept;
  void wake(PageRun run) noexcept;
  void release(PageIndex p) noexcept;
  Served finish(PageIndex p, Served served) noexcept;
  bool nap_for_memory() noexcept;  // false: give up, the daemon stops

  guest::Vm& vm_;
  store::ContentSource& source_;
  GroupId group_;
  const std::atomic<bool>& stopping_;
  std::atomic<std::uint64_t> next_zero_{0};  // page after the last zero fill
  std::atomic<std::uint32_t> zero_window_{1};
};

}  // namespace ramfold::fault
