// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/counting.hpp"

#include "base/test_points.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/nap.hpp"
#include "store/contents.hpp"

namespace ramfold::daemon {

using guest::Tag;

namespace {

constexpr std::uint64_t kFirstNapNs = 20'000;  // about the time for which a fault owns a page
constexpr unsigned kNaps = 8;                  // each twice as long: 5 ms together

// Takes ownership of p. False: another thread owns it, for longer than a fault does that waits for
// nothing.
bool own(guest::PageTable& table, PageIndex p) {
  std::uint64_t nap_ns = kFirstNapNs;
  for (unsigned naps = 0; !table.take_idle_for_fill(p); ++naps, nap_ns *= 2) {
    if (naps == kNaps) return false;
    sleep_ns(nap_ns);
  }
  return true;
}

}  // namespace

bool Counting::go_on(store::Contents& contents, const std::atomic<bool>& stop) {
  if (!count_rest(contents, stop)) return false;
  end();
  return true;
}

// It is enough to walk the backed parts of the table. Nothing of the VM is folded meanwhile, so
// only faults on pages with an empty word write into a hole, and such words hold no reference.
bool Counting::count_rest(store::Contents& contents, const std::atomic<bool>& stop) {
  guest::PageTable& table = vm_->vm->table();
  return vm_->vm->each_speaking(
      [&](PageIndex p) {
        next_ = p;
        if (stop.load(std::memory_order_relaxed) || !own(table, p)) return false;
        count_page(contents, p);
        TEST_POINT("recovery.count");
        return true;
      },
      next_);
}

void Counting::count_page(store::Contents& contents, PageIndex p) {
  guest::Vm& vm = *vm_->vm;
  guest::VmCounters& counters = vm.counters();
  const guest::LoadedWord word = vm.table().load(p);
  if (!word) {
    ++damaged_;
  } else if (word->names_content()) {
    if (contents.count(vm_->group, word->content()) == store::Booked::refused) ++refused_;
    if (word->tag() == Tag::clean) counters.clean.add();
    if (word->tag() == Tag::mapped) ++mapped_;
    if (word->tag() == Tag::folded) {
      (word->content() == kZeroContent ? counters.folded_zero : counters.folded_content).add();
    }
  } else if (word->tag() == Tag::poisoned) {
    counters.poisoned.add();
  }
  vm.set_counted(p + PageCount{1});
  vm.release(p);
}

void Counting::end() {
  guest::Vm& vm = *vm_->vm;
  if (damaged_ != 0) {
    log::error(
        "vm {}: {} words of its page table are damaged: those of its pages that are folded "
        "are lost",
        vm.name(), damaged_);
  }
  if (refused_ != 0) {
    log::error("vm {}: {} references of its page table are unknown to the store", vm.name(),
               refused_);
    vm.stop_folding(guest::Inconsistency::references);
  }
  // Before a command to map a page is sent, the page's word says `mapped`. So without such a word
  // no page maps the pool, nor will. A damaged word may have been one, also one that a fault has
  // repaired meanwhile.
  const bool any_damaged = damaged_ != 0 || vm.counters().damaged_words.get() != 0;
  if (mapped_ == 0 && (!any_damaged || !vm_->pool)) vm.set_mappings_known(true);
  vm.set_counted(PageIndex{vm.pages().value});
  vm_->counted.store(true);
  // Events on pages with damaged words were dropped until now.
  if (damaged_ != 0 && vm.mappings_known()) vm.wake_all();
}

}  // namespace ramfold::daemon
