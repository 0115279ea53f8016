// SPDX-License-Identifier: GPL-2.0-or-later
// A VM as the daemon runs it: its page state, its fault service, why it may or may not be folded,
// and where the scan stands. Plain parts; the modules of daemon/ each work on one of them.
// Threads: flags are atomic; `facts` and `cursor` have locks of their own.
#pragma once

#include <poll.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/published.hpp"
#include "base/thread_annotations.hpp"
#include "fault/server.hpp"
#include "guest/facts.hpp"
#include "guest/vm.hpp"
#include "policy/targets.hpp"
#include "scan/plan.hpp"
#include "store/group.hpp"

namespace ramfold::daemon {

// The process of a pidfd has ended.
inline bool has_ended(sys::BorrowedFd pidfd) noexcept {
  pollfd p{pidfd.get(), POLLIN, 0};
  return ::poll(&p, 1, 0) == 1 && (p.revents & POLLIN) != 0;
}

// Which chunk a worker takes next. A pass ends when every chunk was taken and given back, or
// skipped because its RAM file holds nothing there; a chunk is worked on by one worker at a time
// because a new pass begins only then.
struct ScanCursor {
  Mutex mutex{"ScanCursor"};
  std::size_t next GUARDED_BY(mutex) = 0;
  std::size_t in_work GUARDED_BY(mutex) = 0;
  std::uint64_t began_ns GUARDED_BY(mutex) = 0;
  scan::Met met GUARDED_BY(mutex);              // so far in this pass
  scan::Met met_last GUARDED_BY(mutex);         // in the last whole pass
  std::uint64_t pass_ns GUARDED_BY(mutex) = 0;  // how long that took
  std::uint64_t passes GUARDED_BY(mutex) = 0;
  std::uint64_t chunks GUARDED_BY(mutex) = 0;  // that were looked at, in all passes
};

struct FactState {
  Mutex looking ACQUIRED_BEFORE(mutex){"FactState::looking"};  // one look at a time
  std::atomic<std::uint64_t> looked_at_since_ns{0};  // by the housekeeper; 0: no look is under way
  Mutex mutex{"FactState"};
  bool held_said GUARDED_BY(mutex) = false;  // that its process cannot be looked at
  std::vector<guest::Reason> reasons GUARDED_BY(mutex);
  // The first reason that demanded that everything comes back; may be gone by now.
  std::string unfolded_for GUARDED_BY(mutex);
  ByteCount ram_beside GUARDED_BY(mutex);  // guest::Facts
  guest::SlowFacts slow GUARDED_BY(mutex);
  bool slow_known GUARDED_BY(mutex) = false;
  bool read_once GUARDED_BY(mutex) = false;
  std::uint32_t hello_hazards GUARDED_BY(mutex) = 0;  // RF_HAZARD_* from before the attach
  std::uint64_t capabilities GUARDED_BY(mutex) = 0;   // RF_CAP_*
  guest::Gate::Mode opened_as GUARDED_BY(looking) =
      guest::Gate::Mode::closed;  // the last time that the gate was opened
  // Since when every look, one after the other, has found that it could be attached anew; 0: the
  // last one has not.
  std::uint64_t renewable_since_ns GUARDED_BY(looking) = 0;
};

// What it makes the daemon keep in memory, in bytes, and whether that is too much.
enum class TooMuch : std::uint8_t {
  nothing,
  of_vm,     // nothing more is stored for it: pages of zeros leave all the same
  of_owner,  // the same
  of_tables  // nothing leaves: what is folded keeps its word, also a page of zeros
};
struct Keeps {
  std::atomic<std::uint64_t> page_table{0};
  std::atomic<std::uint64_t> bitmap{0};
  std::atomic<std::uint64_t> stored{0};
  std::atomic<std::uint64_t> limit{0};
  std::atomic<TooMuch> too_much{TooMuch::nothing};
  std::uint64_t all() const noexcept { return page_table + bitmap + stored; }
};

struct AttachedVm {
  std::unique_ptr<guest::Vm> vm;
  std::unique_ptr<fault::Server> faults;  // ends before the Vm does
  store::GroupUse group;
  Published<policy::VmTargets> targets;
  std::vector<guest::RamBlock> ram;
  std::string uuid;
  std::uint64_t attached_ns = 0;

  std::atomic<bool> kept{false};         // the keeper has acknowledged all of it
  std::atomic<int> keep_error{0};        // why not, at the last try: an errno; 0: none failed
  std::atomic<bool> agent_ready{false};  // the agent stands before every hazard now
  std::atomic<bool> counted{true};       // its references are known (false during recovery)
  std::atomic<bool> paused{false};
  std::atomic<bool> unfolding{false};
  // Pages that unfolding has brought back, in all attempts, and when the last one came.
  std::atomic<std::uint64_t> came_back{0};
  std::atomic<std::uint64_t> came_back_ns{0};
  // Other consumers of its RAM (D13): how many wait to begin, or were let begin, and whether a look
  // found one. With any of them it is not folded until it is attached anew.
  std::atomic<std::uint32_t> consumers{0};
  std::atomic<bool> consumer_found{false};
  // One of them was more than a userfaultfd of QEMU's own, whose end /proc shows.
  std::atomic<bool> consumer_lasts{false};
  std::atomic<bool> renewal_due{false};  // it is to be attached anew (bring_back/renewal.hpp)
  std::atomic<bool> detached{false};     // nothing is folded, the range is unregistered
  // Detached, but some of its pages are lost: it is served for their sake, and not folded before it
  // is attached again. In its record too.
  std::atomic<bool> let_go{false};
  std::atomic<bool> only_lost_left{false};  // what the last unfolding came to
  std::atomic<bool> lost_said{false}, damaged_said{false}, inconsistent_said{false};

  // Threads of ours that its process holds up and that were given up; said once.
  std::atomic<std::uint32_t> held{0};
  std::atomic<bool> held_said{false};
  std::atomic<bool> faults_stopped{false};

  // Bounds on what an agent's messages make us do.
  std::atomic<std::uint32_t> unfolds_asked{0};  // not answered yet
  std::atomic<bool> look_asked{false};          // a look at its facts is due and has not begun

  // The operator says so of the migration it began with.
  std::atomic<bool> incoming_finished{false};

  FactState facts;
  ScanCursor cursor;
  Keeps keeps;

  bool stays_unfolded() const noexcept { return consumers != 0 || consumer_found; }
  // It stays unfolded for nothing but userfaultfds of QEMU's own, and nobody waits for an answer:
  // once they are closed it may be attached anew.
  bool is_renewable() const noexcept {
    return stays_unfolded() && !consumer_lasts && unfolds_asked == 0 && agent_ready && counted &&
           !unfolding && !detached && !let_go && held == 0 && lost() == 0 && vm->alive();
  }
  // Nothing but the facts stands against folding.
  bool wants_folding() const noexcept {
    return kept && agent_ready && counted && !paused && !unfolding && !stays_unfolded() &&
           !detached && !let_go && held == 0 && targets.load().fold && vm->alive() && lost() == 0 &&
           vm->inconsistency() == guest::Inconsistency::none;
  }
  // Pages whose bytes cannot be had any more. They stay so until QEMU discards them or ends.
  std::uint64_t lost() const noexcept { return vm->counters().poisoned.get(); }
};

using VmHandle = std::shared_ptr<AttachedVm>;

// Memory of a file in tmpfs that the host really backs.
ByteCount backed(sys::BorrowedFd file) noexcept;

// Ends its fault service; waits for its threads at most `patience_ns`. False: its process holds one
// up there, which leaves when it may.
bool stop_faults(const VmHandle& vm, std::uint64_t patience_ns);

}  // namespace ramfold::daemon
