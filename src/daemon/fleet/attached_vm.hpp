// SPDX-License-Identifier: GPL-2.0-or-later
// The daemon's data about one VM: page state, fault service, reasons against folding, position of
// the scan. Each room of daemon/ works on its own part.
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
#include "daemon/fleet/mapping_state.hpp"
#include "daemon/fleet/told_reason.hpp"
#include "fault/server.hpp"
#include "fold/vm_pool.hpp"
#include "guest/facts.hpp"
#include "guest/vm.hpp"
#include "policy/targets.hpp"
#include "policy/vm_controller.hpp"
#include "scan/plan.hpp"
#include "scan/rests.hpp"
#include "store/group.hpp"

namespace ramfold::daemon {

// The process of a pidfd has ended.
inline bool has_ended(sys::BorrowedFd pidfd) noexcept {
  pollfd p{pidfd.get(), POLLIN, 0};
  return ::poll(&p, 1, 0) == 1 && (p.revents & POLLIN) != 0;
}

// The chunk that a worker takes next. A pass ends when every chunk was taken and given back, or was
// skipped because the RAM file has a hole there. A new pass begins only after that, and nobody
// takes a chunk that another has. So only one worker at a time works on a chunk.
struct ScanCursor {
  Mutex mutex{"ScanCursor"};
  std::size_t next GUARDED_BY(mutex) = 0;
  std::size_t in_work GUARDED_BY(mutex) = 0;
  // The chunks that workers have, and the one in which pages are mapped or put back.
  std::vector<std::size_t> taken GUARDED_BY(mutex);
  std::uint64_t began_ns GUARDED_BY(mutex) = 0;
  scan::Met met GUARDED_BY(mutex);       // in this pass so far
  scan::Met met_last GUARDED_BY(mutex);  // in the last whole pass
  // The source of `history`, and which pages were touched lately; nothing where no source is asked.
  // Made once, then each page's part belongs to the worker that has its chunk.
  const scan::ReferencedSource* source GUARDED_BY(mutex) = nullptr;
  std::optional<scan::History> history GUARDED_BY(mutex);
  scan::Sampling sampling GUARDED_BY(mutex);  // of the pass that runs
  // Chunks that passes do not look at; nothing before the first pass, and when memory is short.
  std::optional<scan::Rests> rests GUARDED_BY(mutex);
  // What decides when a page leaves, as at the beginning of the pass. When it changes, one pass
  // looks at every chunk.
  struct Terms {
    bool folds = false;  // pages may leave
    unsigned passes = 0;
    unsigned passes_max = 0;
    friend bool operator==(const Terms&, const Terms&) = default;
  };
  Terms terms GUARDED_BY(mutex);
  bool looks_at_all GUARDED_BY(mutex) = false;  // this pass does
  std::uint64_t pass_ns GUARDED_BY(mutex) = 0;  // duration of the last whole pass
  std::uint64_t passes GUARDED_BY(mutex) = 0;
  // Pages that something held in the last whole pass: those that were to leave, or all where pages
  // are only counted (AttachedVm::counts_held()).
  std::uint64_t busy_last GUARDED_BY(mutex) = 0;
  std::uint64_t busy_before GUARDED_BY(mutex) = 0;   // not_quiet_busy when this pass began
  std::uint64_t busy_counted GUARDED_BY(mutex) = 0;  // in this pass so far
  std::uint64_t chunks GUARDED_BY(mutex) = 0;        // taken by workers, in all passes
};

// Requests for looks at a VM's facts (judge/fact_watch.hpp). One thread at a time looks. A look
// answers all requests that were made before it began.
struct Looks {
  std::uint64_t asked = 0;     // the number of the last request
  std::uint64_t answered = 0;  // of the last request that was answered
  // What requests that no look has begun for want beyond a quick look.
  bool full = false;
  bool counted = false;        // the look's CPU time counts as that of regular looks
  bool runs = false;           // a thread looks, or has been asked of the kernel
  std::uint64_t since_ns = 0;  // while it runs: when its look began
};

struct FactState {
  Mutex mutex{"FactState"};
  Looks looks GUARDED_BY(mutex);
  CondVar look_ended;
  // When the last look began that was quick enough to count. 0: there was none.
  std::uint64_t read_ns GUARDED_BY(mutex) = 0;
  std::vector<guest::Reason> reasons GUARDED_BY(mutex);
  ToldReason told GUARDED_BY(mutex);
  // The first reason for which everything had to come back. It may no longer hold.
  std::string unfolded_for GUARDED_BY(mutex);
  ByteCount ram_beside GUARDED_BY(mutex);  // as in guest::Facts
  guest::SlowFacts slow GUARDED_BY(mutex);
  bool slow_known GUARDED_BY(mutex) = false;
  bool read_once GUARDED_BY(mutex) = false;
  std::uint32_t hello_hazards GUARDED_BY(mutex) = 0;  // RF_HAZARD_* from before the attach
  std::uint64_t capabilities GUARDED_BY(mutex) = 0;   // RF_CAP_*
  // Every look since this time found that the VM can be attached anew. 0: the last look did not.
  std::uint64_t renewable_since_ns = 0;  // for the thread that looks
};

// The memory that the daemon keeps for one VM, in bytes, compared with its limits.
enum class TooMuch : std::uint8_t {
  nothing,
  of_vm,     // the VM's quota is used up: only its pages of zeros are folded
  of_owner,  // the owner's share of the store is used up: only pages of zeros are folded
  of_tables  // the owner's share for page tables is used up: nothing is folded
};
struct Keeps {
  std::atomic<std::uint64_t> page_table{0};
  std::atomic<std::uint64_t> bitmap{0};
  std::atomic<std::uint64_t> notes{0};
  std::atomic<std::uint64_t> stored{0};
  std::atomic<std::uint64_t> limit{0};
  std::atomic<TooMuch> too_much{TooMuch::nothing};
  std::uint64_t all() const noexcept { return page_table + bitmap + notes + stored; }
};

// How many pages of a VM may be folded until its controller decides again
// (judge/stall_watch.hpp). Workers take before they fold, and settle afterwards. Pages that are
// taken and not settled may still be resident, so giving subtracts them.
// Threads: take() and settle() from any; one thread gives.
class FoldAllowance {
 public:
  // How many of these pages may be folded now; they are taken.
  std::uint64_t take(std::uint64_t pages) noexcept {
    taken_.fetch_add(pages);  // first: give() must not miss pages that have left `left_`
    std::uint64_t left = left_.load();
    std::uint64_t got = 0;
    do {
      got = std::min(left, pages);
    } while (!left_.compare_exchange_weak(left, left - got));
    taken_.fetch_sub(pages - got);
    return got;
  }
  void settle(std::uint64_t pages) noexcept { settled_.fetch_add(pages); }

  // Read it before the VM's resident memory is looked at.
  std::uint64_t settled() const noexcept { return settled_.load(); }
  void give(std::uint64_t more, std::uint64_t most, std::uint64_t settled) noexcept {
    std::uint64_t left = left_.load();
    std::uint64_t next = 0;
    do {
      const std::uint64_t on_the_way = taken_.load() - settled;
      next = std::min(left + more, most - std::min(most, on_the_way));
    } while (!left_.compare_exchange_weak(left, next));
  }
  void give_nothing() noexcept { left_.store(0); }

 private:
  std::atomic<std::uint64_t> left_{policy::kPagesNoLimit};
  std::atomic<std::uint64_t> taken_{0};
  std::atomic<std::uint64_t> settled_{0};
};

// Why no page begins to map the pool.
enum class MapObstacle : std::uint8_t {
  nothing,
  off,        // `map` is off for the VM
  kernel,     // before Linux 6.12, or it does not tell what an address maps
  root,       // QEMU runs as the daemon's user, or has capabilities to open the pool for writing
  agent,      // it cannot map, or is not there
  store,      // it is of a version without pools
  keeper,     // it has not got the pool, or the VM
  not_known,  // which pages map the pool is not known yet
  stops,      // the VM is being unfolded, or is damaged, or has ended
  failed,     // no memory or no descriptor for the pool; tried again
};

struct AttachedVm {
  // Destroyed last, after all descriptors of the VM are closed. VmSet watches it.
  std::shared_ptr<const bool> exists = std::make_shared<const bool>(true);
  std::unique_ptr<guest::Vm> vm;
  std::unique_ptr<fault::Server> faults;  // destroyed before the Vm
  store::GroupUse group;
  // What its pages map of the group's pool. Null: nothing. Not open: nothing, unless the group has
  // a pool that could not be opened. Set before the VM is in the set of VMs.
  std::unique_ptr<fold::VmPool> pool;
  Published<policy::VmTargets> targets;
  std::vector<guest::RamBlock> ram;
  std::string uuid;
  std::uint64_t attached_ns = 0;

  std::atomic<bool> kept{false};         // the keeper holds all of its descriptors
  std::atomic<int> keep_error{0};        // errno of the last failed attempt; 0: none
  std::atomic<bool> agent_ready{false};  // the agent now stops every dangerous call
  std::atomic<bool> counted{true};       // its references are counted (false during recovery)
  std::atomic<bool> paused{false};
  std::atomic<bool> unfolding{false};
  // Pages that unfolding has brought back, over all attempts, and the time of the last one.
  std::atomic<std::uint64_t> came_back{0};
  std::atomic<std::uint64_t> came_back_ns{0};
  // Other consumers of its RAM (D13): how many wait for permission or have it, and whether a look
  // found one. After any of these the VM is not folded until it is attached anew.
  std::atomic<std::uint32_t> consumers{0};
  std::atomic<bool> consumer_found{false};
  // One consumer was not a userfaultfd of QEMU's own. /proc shows the end of such a userfaultfd,
  // but of no other consumer.
  std::atomic<bool> consumer_lasts{false};
  std::atomic<bool> renewal_due{false};  // it will be attached anew (bring_back/renewal.hpp)
  std::atomic<bool> detached{false};     // nothing is folded, its RAM is unregistered
  // Detached, but it has lost pages. It is still served, so that these pages stay unreadable, and
  // not folded until it is attached again. The VM's record says so too.
  std::atomic<bool> let_go{false};
  std::atomic<bool> only_lost_left{false};  // the last unfolding brought back all but lost pages
  std::atomic<bool> lost_said{false}, damaged_said{false}, inconsistent_said{false};

  // Threads of this daemon that its process holds up, and that were replaced. `held_said`: logged.
  std::atomic<std::uint32_t> held{0};
  std::atomic<bool> held_said{false};
  std::atomic<bool> faults_stopped{false};

  // Mapping (custody/mappings.hpp).
  std::atomic<bool> fenced{false};     // its agent has answered a fence of this daemon
  std::atomic<bool> pool_sent{false};  // the connected agent was given the pool
  // A thread finds out what its pages map. That thread alone uses `pool` meanwhile.
  std::atomic<bool> finding_mappings{false};
  // Pages map the pool, or a lost one, and no word says which: damage. It stays unknown.
  std::atomic<bool> unnamed_mappings{false};
  std::atomic<MapObstacle> map_obstacle{MapObstacle::off};

  // Bounds the work that an agent's messages can cause.
  std::atomic<std::uint32_t> unfolds_asked{0};  // not answered yet

  // The VM started with -incoming, and the operator says that this migration has finished.
  std::atomic<bool> incoming_finished{false};

  FactState facts;
  ScanCursor cursor;
  MappingState mapping;  // destroyed before the pool and the Vm
  Keeps keeps;
  FoldAllowance allowance;
  std::atomic<policy::VmActs::Because> held_back{policy::VmActs::Because::nothing};  // why
  std::atomic<unsigned> vcpus{0};                                                    // 0: not known

  // Pages may be put back: it is known which map the pool.
  bool may_restore() const noexcept { return pool && pool->is_open() && vm->mappings_known(); }
  // Further pages may map the pool.
  bool may_map() const noexcept {
    return map_obstacle == MapObstacle::nothing && pool_sent && may_restore() && wants_folding();
  }
  // Pages that map the pool of its group, or are about to.
  PageCount mapped() const noexcept { return pool ? pool->mapped() : PageCount{0}; }

  bool stays_unfolded() const noexcept { return consumers != 0 || consumer_found; }
  // It stays unfolded only because of userfaultfds of QEMU's own, and no agent waits for an answer.
  // After these are closed it may be attached anew.
  bool is_renewable() const noexcept {
    return stays_unfolded() && !consumer_lasts && unfolds_asked == 0 && agent_ready && counted &&
           !unfolding && !detached && !let_go && held == 0 && lost() == 0 && vm->alive();
  }
  // Folding is wanted; only the facts (the gate) may still forbid it.
  bool wants_folding() const noexcept {
    return kept && agent_ready && counted && !paused && !unfolding && !stays_unfolded() &&
           !detached && !let_go && held == 0 && targets.load().fold && vm->alive() && lost() == 0 &&
           vm->inconsistency() == guest::Inconsistency::none;
  }
  // It is unfolded for another consumer of its RAM until it is attached anew. A pass only counts
  // which of its pages something holds, for the operator.
  bool counts_held() const noexcept {
    return stays_unfolded() && consumer_lasts && !unfolding && !detached && !let_go && held == 0 &&
           vm->alive();
  }
  // Pages whose bytes are lost. A page stays lost until QEMU discards it or ends.
  std::uint64_t lost() const noexcept { return vm->counters().poisoned.get(); }
};

using VmHandle = std::shared_ptr<AttachedVm>;

// Who the VM claims to be. Nobody vouches for it. The names are the VM's own.
policy::VmClaim claim_of(const AttachedVm& vm) noexcept;

// The memory allocated for a file in tmpfs.
ByteCount backed(sys::BorrowedFd file) noexcept;

// The VM's pages in memory, those in swap not counted.
PageCount resident(const guest::Vm& vm) noexcept;

// Ends the VM's fault service. Waits at most `patience_ns` for its threads. False: the VM's process
// holds a thread up; that thread leaves later.
bool stop_faults(const VmHandle& vm, std::uint64_t patience_ns);

}  // namespace ramfold::daemon
