// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/recovery.hpp"

#include <thread>
#include <unistd.h>

#include "base/test_points.hpp"

namespace ramfold::daemon {

using guest::Tag;
using guest::Word;

namespace {

// Words lie in a sparse file: a page of it that was never written holds 512 words that say nothing.
constexpr std::uint64_t kWordsAPage = kPageSize / sizeof(std::uint64_t);

// Takes p even from a fault that has it for a moment; a page that waits for the store can take long.
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
  if (table.release(p) == guest::Released::contended) vm.vm->wake({p, PageCount{1}});
}

}  // namespace

bool count_references(AttachedVm& vm, store::Contents& contents, const std::atomic<bool>& stop) {
  guest::PageTable& table = vm.vm->table();
  const std::uint64_t pages = vm.vm->pages().value;
  const int words = vm.vm->files().words.get();
  for (std::uint64_t at = 0; at < pages;) {
    if (stop.load(std::memory_order_relaxed)) return false;
    // Nothing is written to a hole of the table while nothing is folded, but for faults on pages whose
    // word says nothing; those hold no reference.
    const off_t data = ::lseek(words, static_cast<off_t>(at * sizeof(std::uint64_t)), SEEK_DATA);
    const std::uint64_t next = data < 0 ? pages : static_cast<std::uint64_t>(data) / kPageSize * kWordsAPage;
    if (next > at) at = next;
    const std::uint64_t end = std::min(at + kWordsAPage, pages);
    for (; at < end; ++at) {
      const PageIndex p{at};
      if (!table.load(p).names_content()) continue;
      if (!own(table, p, stop)) return false;
      count_page(vm, contents, p);
      TEST_POINT("recovery.count");
    }
  }
  vm.vm->set_counted(PageIndex{pages});
  vm.counted.store(true);
  return true;
}

}  // namespace ramfold::daemon
