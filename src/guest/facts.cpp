// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/facts.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "agent/wire.h"
#include "guest/command_line.hpp"
#include "guest/descriptor_facts.hpp"
#include "guest/ram_mapping.hpp"
#include "guest/reasons.hpp"

namespace ramfold::guest {
namespace {

struct Hazard {
  std::uint32_t bit;
  ReasonCode code;
  std::string_view text;
};
// Older agents report O_DIRECT descriptors, foreign file systems, SG_IO and registered buffers. The
// kernel tells who holds a page, so these stand against nothing.
constexpr std::uint32_t kHazardsInFlight = 1 | 2 | 4 | 8;
constexpr std::array<Hazard, 6> kHazards{{
    {RF_HAZARD_RAM_FD_PASSED, ReasonCode::ram_fd_elsewhere,
     "the agent saw the RAM file's descriptor passed to another process"},
    {RF_HAZARD_DEVICE, ReasonCode::other_consumer,
     "the agent saw a device opened that uses guest RAM"},
    {RF_HAZARD_EXEC, ReasonCode::exec_in_process, "the agent saw an execve"},
    {RF_HAZARD_REMAP, ReasonCode::ram_layout, "the agent saw RAM unmapped or mapped over"},
    {RF_HAZARD_LOCK, ReasonCode::locked_memory, "the agent saw memory being locked"},
    {RF_HAZARD_OTHER_UFFD, ReasonCode::other_userfaultfd,
     "the agent saw a userfaultfd of QEMU's own"},
}};
constexpr std::uint64_t kCapabilitiesNeeded = RF_CAP_DISCARD | RF_CAP_CONSUMERS | RF_CAP_FILLS;

// One read of one VM. The order of the checks is from cheap and decisive to slow.
class VmRead {
 public:
  VmRead(const sys::Procfs& procfs, const HostFacts& host, const VmToCheck& vm) noexcept
      : procfs_(procfs), host_(host), vm_(vm) {}

  Facts run() {
    if (!same_process()) return gone();
    check_host();
    check_agent();
    const auto status = procfs_.status(vm_.pid);
    if (!status) {
      could_not_read("its status", status.error());
    } else {
      slow_.locked = status->locked;
      check_others(status->uid);
    }
    check_mappings();
    check_large_folios_and_locks();
    const DescriptorFacts descriptors = check_descriptors(procfs_, vm_.pid, reasons_);
    if (descriptors.seen != sys::Seen::all) seen("its descriptors", descriptors.seen);
    const bool own_userfaultfd = descriptors.userfaultfds > vm_.agent_uffds;
    if (own_userfaultfd) {
      reasons_.add(ReasonCode::other_userfaultfd,
                   "QEMU has " + std::to_string(descriptors.userfaultfds - vm_.agent_uffds) +
                       " userfaultfd beside the agent's (postcopy or a background snapshot)");
    }
    check_command_line();
    // A pid that was given to another process meanwhile has told us of the wrong one.
    if (gone_ || !same_process()) return gone();
    return Facts{.gone = false,
                 .reasons = reasons_.take(),
                 .slow = std::move(slow_),
                 .ram_beside = ram_beside_,
                 .own_userfaultfd = own_userfaultfd || descriptors.seen != sys::Seen::all,
                 .vcpus = descriptors.vcpus};
  }

 private:
  static Facts gone() {
    Facts facts;
    facts.gone = true;
    return facts;
  }

  bool same_process() const {
    const auto ticks = procfs_.start_ticks(vm_.pid);
    if (!ticks) return ticks.error().code != ESRCH;
    return vm_.start_ticks == 0 || *ticks == vm_.start_ticks;
  }

  void could_not_read(std::string_view what, const Error& error) {
    if (error.code == ESRCH) {
      gone_ = true;
      return;
    }
    if (error.code == E2BIG) {
      reasons_.add(ReasonCode::unreadable, std::string(what) + ": too many to check");
      return;
    }
    reasons_.add(ReasonCode::unreadable, std::string(what) + " cannot be read: " + error.text());
  }
  void seen(std::string_view what, sys::Seen outcome) {
    if (outcome != sys::Seen::all) could_not_read(what, Error{"/proc", sys::errno_of(outcome)});
  }

  void check_host() {
    if (!host_.kernel_folds) {
      reasons_.add(ReasonCode::kernel_too_old, "Linux " + host_.kernel + " lacks PAGEMAP_SCAN");
    }
    if (!host_.self_test_passed) {
      reasons_.add(ReasonCode::self_test_failed,
                   "the self-test failed on this kernel: " + host_.self_test_failure);
    }
    if (host_.no_pin_test) {
      reasons_.add({ReasonCode::no_pin_test,
                    "the kernel cannot be asked who holds a page: " + host_.no_pin_test->text,
                    host_.no_pin_test->remedy});
    }
  }

  void check_agent() {
    if (!vm_.agent_answers) {
      reasons_.add(ReasonCode::agent_silent, "no agent in QEMU answers");
    } else if ((vm_.agent_capabilities & kCapabilitiesNeeded) != kCapabilitiesNeeded) {
      reasons_.add(ReasonCode::agent_incomplete, "the agent cannot hold every hazard back");
    }
    std::uint32_t unknown = vm_.agent_hazards & ~kHazardsInFlight;
    for (const Hazard& hazard : kHazards) {
      if ((vm_.agent_hazards & hazard.bit) != 0) reasons_.add(hazard.code, hazard.text);
      unknown &= ~hazard.bit;
    }
    if (unknown != 0) {
      reasons_.add(ReasonCode::agent_incomplete,
                   "the agent reports a hazard unknown to this daemon");
    }
  }

  void check_others(uid_t uid) {
    if (vm_.others == nullptr) return;
    for (const OtherUse& use : vm_.others->uses) {
      const bool ours = std::ranges::any_of(
          vm_.blocks, [&](const RamBlock& block) { return block.file == use.file; });
      if (!ours || use.pid == vm_.pid) continue;
      const std::string who =
          "process " + std::to_string(use.pid) + " (" + printable(use.command) + ")";
      if (use.how == OtherUse::How::maps) {
        reasons_.add(ReasonCode::other_mapper, who + " maps the VM's RAM");
      } else {
        reasons_.add(ReasonCode::ram_fd_elsewhere, who + " holds the RAM file's descriptor");
      }
    }
    if (std::ranges::find(vm_.others->unchecked_uids, uid) != vm_.others->unchecked_uids.end()) {
      reasons_.add(ReasonCode::unreadable,
                   "another process of user " + std::to_string(uid) +
                       " has too many mappings or descriptors to check whether it uses the RAM");
    }
  }

  void check_mappings() {
    if (vm_.blocks.empty()) return;
    const RamMapping ram = look_at_ram(procfs_, vm_.pid, vm_.blocks, vm_.pool);
    slow_.ram_vmas = ram.vmas;
    ram_beside_ = ram.beside;
    if (ram.seen != sys::Seen::all) return seen("its mappings", ram.seen);
    if (!ram.exact) {
      reasons_.add(
          ReasonCode::ram_layout,
          "the RAM file is not mapped exactly where the agent said, shared, writable, once");
    }
    if (ram.hugetlb) reasons_.add(ReasonCode::hugetlb, "QEMU has memory on hugetlbfs");
  }

  // What only smaps tell is read when there is something to tell, and again when that changed:
  // smaps walk the page tables of all of RAM under mmap_lock.
  void check_large_folios_and_locks() {
    const auto huge = procfs_.shmem_huge();
    if (!huge) return could_not_read("the host's large folio settings", huge.error());
    slow_.shmem_huge = huge->text;
    if (vm_.blocks.empty()) return;
    const std::uint64_t made = procfs_.large_shmem_folios_made();
    const bool large_matters = huge->possible || made != 0;
    if (smaps_hold(made, huge->possible, large_matters)) {
      slow_ = *vm_.last;
    } else if (slow_.locked.value != 0 || large_matters) {
      read_smaps();
    }
    slow_.large_made = made;
    if (slow_.ram_locked)
      reasons_.add(ReasonCode::locked_memory, "the VM's RAM is locked in memory");
    if (huge->possible && (huge->forced || !slow_.huge_excluded)) {
      reasons_.add(ReasonCode::large_folios,
                   "the host may give the RAM file large folios (" + slow_.shmem_huge + ")");
    }
    check_large_folios_of_before();
  }

  // What the last look found in smaps is true still.
  bool smaps_hold(std::uint64_t made, bool possible, bool large_matters) const {
    const SlowFacts* last = vm_.last;
    if (last == nullptr || !last->smaps_read || last->locked != slow_.locked ||
        last->shmem_huge != slow_.shmem_huge || last->ram_vmas != slow_.ram_vmas) {
      return false;
    }
    if (large_matters && !last->huge_excluded) return false;
    // Any local user can make large folios all the time: that costs no more than a full look does.
    return vm_.depth == Depth::quick ||
           (slow_.locked.value == 0 && !possible && last->large_made == made);
  }

  // Whatever the settings are now: a punch that cannot split a large folio zeroes the page and
  // leaves it present (D7). The host's counter tells only that there is something to look for.
  void check_large_folios_of_before() {
    using Folios = SlowFacts::Folios;
    const Folios before = vm_.last != nullptr ? vm_.last->folios : Folios::unknown;
    const bool unchanged = vm_.last != nullptr && vm_.last->large_made == slow_.large_made;
    const bool from_the_first = (vm_.agent_capabilities & RF_CAP_SMALL_FOLIOS) != 0;
    const bool none_by_then =
        unchanged && (before == Folios::small || before == Folios::small_by_then);
    const bool none_since = slow_.huge_excluded && (from_the_first || before == Folios::small);
    // The agent answers only after it has excluded them.
    const bool excluded = slow_.huge_excluded || (slow_.large_made == 0 && vm_.agent_answers);
    if (slow_.large_made == 0 || none_by_then || none_since) {
      slow_.folios = excluded ? Folios::small : Folios::small_by_then;
    } else if (before == Folios::large && (unchanged || vm_.depth == Depth::quick)) {
      slow_.folios = Folios::large;
    } else {
      slow_.folios = look_at_frames(excluded ? Folios::small : Folios::small_by_then);
    }
    if (slow_.folios == Folios::large) {
      reasons_.add(ReasonCode::large_folios,
                   "its RAM holds large folios that the host gave it before it was attached");
    }
  }

  SlowFacts::Folios look_at_frames(SlowFacts::Folios when_small) {
    for (const RamBlock& block : vm_.blocks) {
      const auto large = procfs_.has_large_folio(vm_.pid, block.address, block.size);
      if (!large) {
        could_not_read("whether its RAM holds large folios from before the agent kept them out",
                       large.error());
        return SlowFacts::Folios::unknown;
      }
      if (*large) return SlowFacts::Folios::large;
    }
    return when_small;
  }

  void read_smaps() {
    slow_.huge_excluded = true;
    slow_.smaps_read = true;
    seen("its memory maps",
         procfs_.smaps(vm_.pid, [&](const sys::MapEntry& entry, std::string_view flags) {
           if (!is_ram(entry, vm_.blocks)) return true;
           const std::string words = " " + std::string(flags) + " ";
           const auto has = [&](const char* flag) { return words.find(flag) != std::string::npos; };
           slow_.ram_locked = slow_.ram_locked || has(" lo ");
           slow_.huge_excluded = slow_.huge_excluded && has(" nh ");
           return true;
         }));
  }

  void check_command_line() {
    const auto arguments = procfs_.arguments(vm_.pid);
    if (!arguments) return could_not_read("its command line", arguments.error());
    const CommandLine line = read_command_line(*arguments);
    if (line.incoming && !vm_.incoming_finished) {
      reasons_.add(ReasonCode::incoming_migration,
                   "QEMU was started with -incoming; whether the migration has ended is not known");
    }
    if (line.confidential) {
      reasons_.add(ReasonCode::confidential_guest, "the guest's memory is encrypted (SEV or TDX)");
    }
    if (line.vhost_user) {
      reasons_.add(ReasonCode::ram_fd_elsewhere,
                   "a vhost-user device shares RAM with its back-end");
    }
  }

  const sys::Procfs& procfs_;
  const HostFacts& host_;
  const VmToCheck& vm_;
  ReasonList reasons_;
  SlowFacts slow_;
  ByteCount ram_beside_;
  bool gone_ = false;
};

}  // namespace

ProcFacts::ProcFacts(const sys::Procfs& procfs, HostFacts host)
    : procfs_(procfs), host_(std::move(host)) {}

Facts ProcFacts::read(const VmToCheck& vm) const { return VmRead(procfs_, host_, vm).run(); }

}  // namespace ramfold::guest
