// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/recovery.hpp"

#include <thread>

#include "base/test_points.hpp"

namespace ramfold::daemon {

using guest::Tag;
using guest::Word;

namespace {

// Takes p even from a fault that has it for a moment; a page that waits for the store can take
// long.
bool own(guest::PageTable& table, PageIndex p, const std::atomic<bool>& stop) {
  while (!table.take_idle_for_fill(p)) {
    if (stop.load(std::memory_order_relaxed)) return false;
    std::this_thread::yield();
  }
  return true;
}

void count_page(AttachedVm& vm, store::Contents& contents, PageIndex p) {
  guest::PageTable& table = vm.vm->table();
  const Word word = table.load(p);
  guest::VmCounters& counters = vm.vm->counters();
  if (word.names_content()) {
    if (word.content() != kZeroContent) contents.count(word.content());
    if (word.tag() == Tag::clean) counters.clean.add();
    if (word.tag() == Tag::folded) {
      (word.content() == kZeroContent ? counters.folded_zero : counters.folded_content).add();
    }
  }
  vm.vm->set_counted(p + PageCount{1});
  vm.vm->release(p);
}

}  // namespace

bool count_references(AttachedVm& vm, store::Contents& contents, const std::atomic<bool>& stop) {
  guest::PageTable& table = vm.vm->table();
  // Nothing is written to a hole of the table while nothing is folded, but for faults on pages
  // whose word says nothing; those hold no reference.
  const bool whole = vm.vm->each_naming([&](PageIndex p) {
    if (stop.load(std::memory_order_relaxed) || !own(table, p, stop)) return false;
    count_page(vm, contents, p);
    TEST_POINT("recovery.count");
    return true;
  });
  if (!whole) return false;
  vm.vm->set_counted(PageIndex{vm.vm->pages().value});
  vm.counted.store(true);
  return true;
}

}  // namespace ramfold::daemon
