// SPDX-License-Identifier: GPL-2.0-or-later
// Brings one page back: takes ownership, looks its word up, installs the bytes, wakes the threads
// that wait. A page that is read may bring folded neighbours (NeighbourWindows). Each is owned
// before its word is looked up. One COPY installs them all, and the order of steps holds for each.
// A neighbour that cannot come stays folded: only a fault on it decides what becomes of it.
// Order (docs/design.md, Truth): COPY with MODE_WP and DONTWAKE -> word (clean, or none) -> guard
// lifted if it was a write -> WAKE -> reference dropped. A write event: word cleared -> guard
// lifted -> WAKE.
// Threads: any number of threads may serve the same VM, each with its own FillerThread. No
// allocation, no lock, no logging; waits only for memory that the host has not got (no_memory).
// The kernel is asked what a page's address maps only when the word is damaged, or says `mapped`
// and the page is missing.
#pragma once

#include <array>
#include <atomic>
#include <expected>

#include "base/page_copy.hpp"
#include "fault/neighbour_windows.hpp"
#include "guest/vm.hpp"
#include "store/content_source.hpp"
#include "sys/vma_query.hpp"

namespace ramfold::fault {

// Why a thread of the VM waits.
enum class Need : std::uint8_t {
  read,   // missing page, for reading
  write,  // missing page, for writing
  lift,   // guarded page, for writing
};

enum class Served : std::uint8_t {
  filled,     // the page was brought back
  lifted,     // its guard was lifted
  zeroed,     // a hole that is zero
  late,       // the page was resident: the event was an old one
  busy,       // somebody else owns the page and will wake its waiters
  pending,    // the store is fetching: the page stays owned; call resume() when the ticket is ready
  failed,     // the store cannot read it now: the page stays owned; call resume() in a while
  poisoned,   // its bytes are lost (D14)
  again,      // a call failed: the waiters were woken and will fault again
  abandoned,  // the VM is gone, or the daemon stops: nothing was woken
};

// What each thread that fills pages has of its own.
struct FillerThread {
  // To be made on that thread: it allocates what reading contents needs, so that filling allocates
  // nothing.
  explicit FillerThread(guest::Filling& own) : filling(own) { store::prepare_to_read(); }

  guest::Filling& filling;  // of no other thread
  // For a page and those in its window, side by side.
  std::array<PageCopy, NeighbourWindows::kPagesMax> buffer;
  std::byte* bytes_of(PageIndex p) noexcept { return buffer[p.value % buffer.size()].bytes.data(); }
};

class Filler {
 public:
  // `group`: of the VM's contents.
  Filler(guest::Vm& vm, store::ContentSource& source, GroupId group,
         const std::atomic<bool>& stopping) noexcept
      : vm_(vm),
        source_(source),
        group_(group),
        stopping_(stopping),
        vmas_(vm.pid(), vm.files().pidfd) {}

  // Serves one event. `me` is the calling thread's.
  Served serve(PageIndex p, Need need, store::FetchTicket ticket, FillerThread& me) noexcept;
  // Goes on with a page that serve() or resume() left pending or failed. REQUIRES: nobody else
  // resumes it.
  Served resume(PageIndex p, Need need, store::FetchTicket ticket, FillerThread& me) noexcept;
  // Releases such a page instead; the threads that wait for it go on waiting.
  void give_up(PageIndex p) noexcept;
  // Brings p back for good (detach): afterwards its word is none. It stays guarded until its range
  // is unregistered. `busy`: a fault has it; try again later. `poisoned`: it is lost, its word says
  // so, and QEMU's page table has the mark. `abandoned` while the VM lives: there is no memory, and
  // nobody waits for the page. REQUIRES: the gate is closed and drained.
  Served unfold(PageIndex p, store::FetchTicket ticket, FillerThread& me) noexcept;
  // Repairs p's word if it is damaged, although no thread waits for p: if the page is lost, its
  // word says so from now on. The word of a page that maps the pool stays damaged (T2). False: p
  // has another owner, or the kernel does not tell now; try again later. The VM's process can make
  // this wait. REQUIRES: vm.is_fenced().
  [[nodiscard]] bool settle_damaged(PageIndex p) noexcept;

 private:
  struct Copied {
    sys::Outcome outcome;
    bool discarded;  // a discard came before: nothing was copied
  };

  Served serve_owned(PageIndex p, Need need, store::FetchTicket ticket, FillerThread& me) noexcept;
  Served fill_content(PageIndex p, guest::Word word, Need need, store::FetchTicket ticket,
                      FillerThread& me) noexcept;
  Served fill_zero(PageIndex p, Need need) noexcept;
  Served serve_mapped(PageIndex p, Need need) noexcept;
  Served lift_guard(PageIndex p, guest::Word word) noexcept;
  Served poison(PageIndex p, guest::Word word) noexcept;
  // Why a damaged word stays as it is.
  enum class Damaged : std::uint8_t {
    not_fenced,   // the page may come to map the pool. As for `mapped`, recovery wakes the waiters
    maps_pool,    // the mapping is the truth (T2)
    asked_again,  // that could not be found out, or the repair failed
  };
  // p's word. A damaged one is repaired first: it becomes `none` if the page is resident (T1) or
  // discarded (T5), else `poisoned`.
  std::expected<guest::Word, Damaged> load(PageIndex p) noexcept;
  Served serve_damaged(PageIndex p, Damaged what) noexcept;
  // Takes ownership of zero pages after p, to fill them with p. Returns how many pages to fill, p
  // included. The window grows while faults come in sequence.
  PageCount own_zero_run(PageIndex p) noexcept;
  // How long to wait for memory. endless: a vCPU waits for the page. some: a fifth of a second.
  enum class Patience : bool { endless, some };
  Copied copy(PageIndex p, FillerThread& me, Patience patience) noexcept;
  // One attempt to install the run's bytes, guarded, with nobody woken. Nothing is tried if a page
  // is discarded. REQUIRES: the caller owns all its pages; they are in one window.
  struct Installed {
    sys::UffdResult result;
    bool discarded;
  };
  Installed install(PageRun run, FillerThread& me) noexcept;
  // Brings p and folded neighbours back, and releases them. False: p did not come with them, and is
  // still owned. REQUIRES: p is owned, its word is `folded`, its bytes are in me.bytes_of(p), and
  // its waiters read.
  bool bring_together(PageIndex p, FillerThread& me) noexcept;
  // Takes ownership of p's neighbours within the window, and their bytes. Returns the run with p.
  PageRun own_neighbours(PageIndex p, PageRun window, FillerThread& me) noexcept;
  bool own_neighbour(PageIndex q, FillerThread& me) noexcept;
  // Writes the page into the RAM file itself, when its address range is gone.
  Copied write(PageIndex p, FillerThread& me) noexcept;
  // T5: if p is discarded, its word becomes one that says "zero" for a hole, and its bit is
  // cleared. Returns the word.
  guest::Word apply_discard(PageIndex p, guest::Word word) noexcept;
  // A reference that a word held. It is noted while p is owned, and given up after the waiters were
  // woken. `counted`: recovery has counted it; else there is nothing to give up.
  struct Held {
    ContentId id = kZeroContent;
    bool counted = false;
  };
  // Changes the word to `next`. Returns the reference that `seen` held, unless `next` keeps it.
  // None when the word could not be changed: it keeps its reference.
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
  sys::VmaQuery vmas_;  // asked when a page whose word says `mapped` is missing
  std::atomic<std::uint64_t> next_zero_{0};  // page after the last zero fill
  std::atomic<std::uint32_t> zero_window_{1};
  NeighbourWindows windows_;
};

}  // namespace ramfold::fault
