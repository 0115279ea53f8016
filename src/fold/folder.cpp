// SPDX-License-Identifier: GPL-2.0-or-later
#include "fold/folder.hpp"

#include <algorithm>
#include <cerrno>
#include <span>

#include "base/test_points.hpp"
#include "fold/mask.hpp"
#include "store/contents.hpp"

namespace ramfold::fold {

using guest::Owner;
using guest::Tag;
using guest::Word;

namespace {

// Unique among the pages of attached VMs: no VM has 2^32 pages.
std::uint64_t origin_of(const guest::Vm& vm, PageIndex p) noexcept {
  return std::uint64_t{vm.id().value} << 32 | static_cast<std::uint32_t>(p.value);
}

}  // namespace

void Folder::look(guest::Vm& vm, GroupId group, const scan::Window& window,
                  unsigned epochs) noexcept {
  if (window.age != 0) age(vm, window, epochs);
  if (window.observe != 0) observe(vm, group, window);
}

void Folder::leave(guest::Vm& vm, GroupId group, const scan::Window& window,
                   const classify::Policy& policy, store::Admit admit) noexcept {
  store_full_ = false;
  if ((window.fold | window.again) != 0) fold(vm, group, window, policy, admit);
}

void Folder::age(guest::Vm& vm, const scan::Window& window, unsigned epochs) noexcept {
  guest::PageTable& table = vm.table();
  for_each_bit(window.age, [&](unsigned i) {
    const PageIndex p{window.pages.first.value + i};
    if (!table.take_for_fold(p)) return;
    // The word is written as `punching`, which no fault can interrupt.
    if (!table.commit(p)) return;
    const guest::LoadedWord word = table.load(p);
    if (word && (word->tag() == Tag::clean || word->tag() == Tag::observed)) {
      (void)vm.advance(p, *word, word->with_age(scan::aged(*word, epochs)), Owner::punching);
    }
    vm.release(p);
  });
}

void Folder::observe(guest::Vm& vm, GroupId group, const scan::Window& window) noexcept {
  guest::PageTable& table = vm.table();
  for_each_run(window.observe, [&](unsigned first, unsigned count) {
    const PageIndex start{window.pages.first.value + first};
    if (!vm.read_pages({start, PageCount{count}}, copies_[first].bytes.data())) {
      vm.counters().errors.add();
      return;
    }
    for (unsigned i = first; i < first + count; ++i) {
      const PageIndex p{window.pages.first.value + i};
      const std::uint32_t bits = classify::observed_bits(contents_.hash(group, copies_[i]));
      if (!table.take_for_fold(p) || !table.commit(p)) continue;
      if (const guest::LoadedWord word = table.load(p); word) {
        note(vm, group, p, *word, bits);
      } else if (vm.maps_pool(p) == false && (vm.is_resident(p) || table.discarded(p))) {
        // A page that is there is the truth (T1), unless its address maps the pool (T2). No
        // reference is given up: nobody knows which content the damaged word named.
        (void)vm.repair(p, word.error(), Tag::none, Owner::punching);
      }
      vm.release(p);
    }
    vm.counters().observed.add(count);
  });
}

void Folder::note(guest::Vm& vm, GroupId group, PageIndex p, Word word,
                  std::uint32_t bits) noexcept {
  Word next = word;
  if (word.tag() == Tag::none) {
    next = word.becomes(Tag::observed, bits, 0, word.backoff());
  } else if (word.tag() == Tag::observed) {
    const bool same = word.payload() == bits;
    next = word.becomes(Tag::observed, bits, same ? std::min(word.age() + 1, Word::kAgeMax) : 0,
                        word.backoff());
  } else if (word.tag() == Tag::clean) {
    // The page has lost its guard, against T4: it may no longer equal the content.
    next = word.cleared();
    vm.counters().errors.add();
  }
  if (next == word || !vm.advance(p, word, next, Owner::punching)) return;
  if (word.tag() != Tag::clean) return;
  vm.counters().clean.sub();
  if (contents_.drop(group, word.content()) == store::Booked::refused)
    vm.stop_folding(guest::Inconsistency::references);
}

void Folder::fold(guest::Vm& vm, GroupId group, const scan::Window& window,
                  const classify::Policy& policy, store::Admit admit) noexcept {
  guest::VmCounters& counters = vm.counters();
  LeavingRun run(vm, proof_, window, window.fold, window.again, copies_);
  std::size_t wanted = 0;
  unsigned zeros = 0;
  for_each_bit(run.copied(), [&](unsigned i) {
    const PageCopy& copy = copies_[i];
    const ContentHash hash = contents_.hash(group, copy);
    const Word word = run.word(i);
    const auto verdict =
        classify::classify(copy, hash, word.tag() == Tag::observed, word.payload(), policy);
    if (verdict.changed) counters.changed_while_cold.add();
    if (!verdict.may_leave) {
      run.keep_observed(i, classify::observed_bits(hash));
    } else if (verdict.kind == classify::Kind::zero) {
      run.stage(i, store::Ref(contents_, group, kZeroContent));
      ++zeros;
    } else {
      requests_[wanted] = {&copy, hash, origin_of(vm, run.page(i))};
      page_of_[wanted++] = i;
    }
  });
  TEST_POINT("fold.encode");
  unsigned shared = 0;
  unsigned stored = 0;
  if (wanted != 0) {
    contents_.put_run(group, std::span(requests_).first(wanted), std::span(results_).first(wanted),
                      admit);
    for (std::size_t k = 0; k < wanted; ++k) {
      Result<store::PutResult>& result = results_[k];
      if (!result) {
        const int code = result.error().code;
        if (code == ENOSPC || code == ENOMEM) {
          store_full_ = true;
        } else {
          counters.errors.add();
        }
        continue;
      }
      if (!result->ref) continue;  // not admitted
      (result->existed ? shared : stored) += 1;
      run.stage(page_of_[k], std::move(result->ref));
    }
  }
  const Committed done = run.commit();
  if (done.pages == 0) return;
  counters.folds_zero.add(zeros);
  counters.folds_shared.add(shared);
  counters.folds_stored.add(stored);
  const unsigned fresh = zeros + shared + stored;
  if (done.pages > fresh) counters.folds_again.add(done.pages - fresh);
}

}  // namespace ramfold::fold
