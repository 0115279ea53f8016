// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/recovery.hpp"

#include <fmt/format.h>
#include <algorithm>

#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "daemon/custody/mapping_recovery.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/nap.hpp"
#include "store/contents.hpp"

namespace ramfold::daemon {

using guest::Tag;

namespace {

constexpr std::uint64_t kPauseFirstNs = 250'000'000;
constexpr std::uint64_t kPauseMaxNs = 30'000'000'000;

constexpr std::uint64_t kFirstNapNs = 20'000;  // about the time for which a fault owns a page
constexpr std::uint64_t kNapMaxNs = 20'000'000;

// Takes ownership of p. Waits while a fault owns it; that can take long if the fault waits for
// memory or for the store, so the naps get longer.
bool own(guest::PageTable& table, PageIndex p, const std::atomic<bool>& stop) {
  for (std::uint64_t nap_ns = kFirstNapNs; !table.take_idle_for_fill(p);
       nap_ns = std::min(nap_ns * 2, kNapMaxNs)) {
    if (stop.load(std::memory_order_relaxed)) return false;
    sleep_ns(nap_ns);
  }
  return true;
}

struct Found {
  std::uint64_t mapped = 0;   // words that say so
  std::uint64_t damaged = 0;  // words; recover_mappings() or a fault repairs them
  std::uint64_t refused = 0;  // references that the store does not know
};

void count_page(AttachedVm& vm, store::Contents& contents, PageIndex p, Found& found) {
  guest::VmCounters& counters = vm.vm->counters();
  const guest::LoadedWord word = vm.vm->table().load(p);
  if (!word) {
    ++found.damaged;
  } else if (word->names_content()) {
    if (contents.count(vm.group, word->content()) == store::Booked::refused) ++found.refused;
    if (word->tag() == Tag::clean) counters.clean.add();
    if (word->tag() == Tag::mapped) ++found.mapped;
    if (word->tag() == Tag::folded) {
      (word->content() == kZeroContent ? counters.folded_zero : counters.folded_content).add();
    }
  } else if (word->tag() == Tag::poisoned) {
    counters.poisoned.add();
  }
  vm.vm->set_counted(p + PageCount{1});
  vm.vm->release(p);
}

void tell(const AttachedVm& vm, const Found& found) {
  if (found.damaged != 0) {
    log::error(
        "vm {}: {} words of its page table are damaged: those of its pages that are folded "
        "are lost",
        vm.vm->name(), found.damaged);
  }
  if (found.refused != 0) {
    log::error("vm {}: {} references of its page table are unknown to the store", vm.vm->name(),
               found.refused);
  }
}

}  // namespace

bool count_references(AttachedVm& vm, store::Contents& contents, const std::atomic<bool>& stop) {
  guest::PageTable& table = vm.vm->table();
  // It is enough to walk the backed parts of the table. Nothing is folded meanwhile, so only faults
  // on pages with an empty word write into a hole, and such words hold no reference.
  Found found;
  const bool whole = vm.vm->each_speaking([&](PageIndex p) {
    if (stop.load(std::memory_order_relaxed) || !own(table, p, stop)) return false;
    count_page(vm, contents, p, found);
    TEST_POINT("recovery.count");
    return true;
  });
  tell(vm, found);
  if (!whole) return false;
  if (found.refused != 0) vm.vm->stop_folding(guest::Inconsistency::references);
  // Before a command to map a page is sent, the page's word says `mapped`. So without such a word
  // no page maps the pool, nor will. A damaged word may have been one, also one that a fault has
  // repaired meanwhile.
  const bool any_damaged = found.damaged != 0 || vm.vm->counters().damaged_words.get() != 0;
  if (found.mapped == 0 && (!any_damaged || !vm.pool)) vm.vm->set_mappings_known(true);
  vm.vm->set_counted(PageIndex{vm.vm->pages().value});
  vm.counted.store(true);
  // Events on pages with damaged words were dropped until now.
  if (found.damaged != 0 && vm.vm->mappings_known()) vm.vm->wake_all();
  return true;
}

bool Recovery::run() {
  const std::uint64_t began_ns = monotonic_ns();
  // A store without VMs is swept too: no word names the last contents that a dead daemon stored.
  bool complete = true;
  for (VmHandle& vm : vms_.all()) {
    if (!vm->counted) complete = count_references(*vm, adopter_.contents(), stopping_) && complete;
    vm.reset();  // gives up this reference, so that the VM may be buried
  }
  TEST_POINT("recovery.counted");
  // The sweep frees every content that no counted word names, so all VMs must be counted before it.
  if (!complete) return false;
  const auto adopt = [this](KeptVm kept) { return adopt_late(std::move(kept)); };
  if (!left_behind_.wait_until_none(keeping_, adopt, stopping_)) return false;
  if (!adopter_.contents().recovering()) return true;
  if (!recover_store()) return false;
  log::info("store: recovered in {:.1f} ms", static_cast<double>(monotonic_ns() - began_ns) / 1e6);
  return true;
}

Result<VmHandle> Recovery::adopt_late(KeptVm kept) {
  const pid_t pid = kept.record.pid;
  auto vm = adopter_.adopt(std::move(kept));
  if (!vm) return vm;
  vms_.add(*vm);
  agents_.call_back(pid);
  (void)count_references(**vm, adopter_.contents(), stopping_);
  return vm;
}

bool Recovery::recover_store() {
  std::uint64_t pause_ns = kPauseFirstNs;
  for (unsigned attempts = 1; !stopping_; ++attempts) {
    const Status done = adopter_.contents().finish_recovery();
    if (done) {
      if (attempts != 1) log::info("store: recovered by {} attempts", attempts);
      return true;
    }
    const std::string why = done.error().text();
    if (attempts == 1) {
      log::error("store: not recovered, nothing is folded until it is: {}: trying again", why);
    }
    {
      const MutexLock lock(mutex_);
      trouble_ = why;
    }
    stopping_.sleep(pause_ns);
    pause_ns = std::min(pause_ns * 2, kPauseMaxNs);
  }
  return false;
}

std::string Recovery::trouble() const {
  const MutexLock lock(mutex_);
  return trouble_;
}

}  // namespace ramfold::daemon
