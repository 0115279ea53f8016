// SPDX-License-Identifier: GPL-2.0-or-later
#include "fault/filler.hpp"

#include <algorithm>

#include "base/check.hpp"
#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "guest/ram_mapping.hpp"

namespace ramfold::fault {

using guest::Owner;
using guest::Tag;
using guest::Taken;
using guest::Word;
using sys::Outcome;
using sys::Wake;

namespace {

constexpr std::uint32_t kZeroWindowMax = 16;  // pages: 64 KiB (HAZARDS, Time)
constexpr unsigned kTriesMax = 200;           // of a call that failed for a passing reason
constexpr std::uint64_t kNapNs = 1'000'000;   // between them
constexpr unsigned kReturnedSoonPasses = 16;  // folded for fewer: the page came back too soon

constexpr PageRun one(PageIndex p) noexcept { return {p, PageCount{1}}; }

// Repeats a call while it fails for a passing reason, kTriesMax times at most. Ends when the
// address range or the VM is gone.
template <typename Call>
sys::UffdResult persist(Call call) noexcept {
  sys::UffdResult result;
  for (unsigned i = 0; i < kTriesMax; ++i) {
    result = call();
    if (result.outcome != Outcome::failed && result.outcome != Outcome::retry &&
        result.outcome != Outcome::no_memory) {
      break;
    }
    if (result.outcome != Outcome::retry) sleep_ns(kNapNs);
  }
  return result;
}

}  // namespace

Served Filler::serve(PageIndex p, Need need, store::FetchTicket ticket, FillerThread& me) noexcept {
  if (vm_.table().take_for_fill(p) == Taken::busy) return Served::busy;
  return serve_owned(p, need, ticket, me);
}

Served Filler::resume(PageIndex p, Need need, store::FetchTicket ticket,
                      FillerThread& me) noexcept {
  return serve_owned(p, need, ticket, me);
}

void Filler::give_up(PageIndex p) noexcept { release(p); }

Served Filler::serve_owned(PageIndex p, Need need, store::FetchTicket ticket,
                           FillerThread& me) noexcept {
  vm_.stir(p);
  const auto loaded = load(p);
  if (!loaded) return serve_damaged(p, loaded.error());
  if (loaded->tag() == Tag::mapped) return serve_mapped(p, need);
  const Word word = apply_discard(p, *loaded);
  switch (word.tag()) {
    case Tag::folded:
      // Also for a write event: a late one may meet a page that was folded since, and only the
      // attempt to copy tells a hole from a page that a crash left resident.
      return fill_content(p, word, need, ticket, me);
    case Tag::poisoned: return poison(p, word);
    case Tag::none:
    case Tag::observed:
    case Tag::clean:
    case Tag::mapped: break;
  }
  return need == Need::lift ? lift_guard(p, word) : fill_zero(p, need);
}

std::expected<Word, Filler::Damaged> Filler::load(PageIndex p) noexcept {
  guest::PageTable& table = vm_.table();
  const guest::LoadedWord loaded = table.load(p);
  if (loaded) return *loaded;
  const std::optional<bool> maps_pool = vm_.maps_pool(p);
  if (!maps_pool)
    return std::unexpected(vm_.is_fenced() ? Damaged::asked_again : Damaged::not_fenced);
  if (*maps_pool) return std::unexpected(Damaged::maps_pool);
  // In this order: if a discard removes the page between the two looks, its bit is set.
  const bool known = vm_.is_resident(p) || table.discarded(p);
  const Tag tag = known ? Tag::none : Tag::poisoned;
  if (!vm_.repair(p, loaded.error(), tag, Owner::filling))
    return std::unexpected(Damaged::asked_again);
  return Word{}.becomes(tag, 0u, 0, 0);
}

Word Filler::apply_discard(PageIndex p, Word word) noexcept {
  guest::PageTable& table = vm_.table();
  if (!table.discarded(p)) return word;
  vm_.counters().discards_seen.add();
  if (word.tag() == Tag::folded || word.tag() == Tag::poisoned) {
    drop(set_word(p, word, word.cleared()));
    const guest::LoadedWord now = table.load(p);
    // The bit stays while the word does not say that the hole is zero.
    if (!now || now->tag() != Tag::none) return Word{};
    word = *now;
  }
  table.clear_discard(p);
  return word;
}

Served Filler::fill_content(PageIndex p, Word word, Need need, store::FetchTicket ticket,
                            FillerThread& me) noexcept {
  switch (source_.get(group_, word.content(), me.bytes_of(p), ticket)) {
    case store::Got::pending: return Served::pending;
    case store::Got::failed: return Served::failed;
    case store::Got::corrupt: vm_.counters().corrupt.add(); return poison(p, word);
    case store::Got::done: break;
  }
  // A guest that writes would fault on each guarded neighbour anew.
  if (need == Need::read && bring_together(p, me)) return Served::filled;
  const Copied copied = copy(p, me, Patience::endless);
  if (copied.discarded) {
    (void)apply_discard(p, word);
    return fill_zero(p, need);
  }
  switch (copied.outcome) {
    case Outcome::done:
      TEST_POINT("fault.copied");
      if (need == Need::read) {
        (void)set_word(p, word, word.becomes(Tag::clean, word.content(), 0, word.backoff()));
        return finish(p, Served::filled);
      }
      break;
    case Outcome::present:
      // T1: the page is the truth. A crash left it guarded between word and punch, or this event is
      // late.
      if (need != Need::lift) return finish(p, Served::late);
      break;
    case Outcome::range_gone: return finish(p, Served::again);
    case Outcome::vm_gone:
      vm_.set_gone();
      release(p);
      return Served::abandoned;
    case Outcome::no_memory: release(p); return Served::abandoned;
    case Outcome::retry:
    case Outcome::failed: vm_.counters().errors.add(); return finish(p, Served::again);
  }
  // A write follows: the word must not name a content that the page no longer equals (T4).
  const Held held = set_word(p, word, word.cleared());
  TEST_POINT("fault.word");
  persist([&] { return vm_.uffd().lift(vm_.range_of(one(p)), Wake::no); });
  TEST_POINT("fault.lifted");
  const Served served =
      finish(p, copied.outcome == Outcome::done ? Served::filled : Served::lifted);
  TEST_POINT("fault.drop");
  drop(held);
  return served;
}

Filler::Copied Filler::copy(PageIndex p, FillerThread& me, Patience patience) noexcept {
  for (unsigned tries = 0, naps = 0;;) {
    const Installed installed = install(one(p), me);
    if (installed.discarded) {
      vm_.counters().discards_seen.add();
      return {Outcome::done, true};
    }
    const sys::UffdResult result = installed.result;
    if (result.outcome == Outcome::no_memory) {
      if (!nap_for_memory()) return {Outcome::no_memory, false};
      if (patience == Patience::some && ++naps == kTriesMax) return {Outcome::no_memory, false};
      continue;
    }
    if (result.outcome == Outcome::retry && ++tries < kTriesMax) continue;
    return {result.outcome, false};
  }
}

Filler::Installed Filler::install(PageRun run, FillerThread& me) noexcept {
  // T5: a discard that sets its bit after this look waits for the end of the section, then
  // removes the copy. Nothing in here may wait, because a thread of QEMU may wait for it.
  const guest::Filling::Section section(me.filling);
  for (PageIndex q = run.first; q < run.end(); q = q + PageCount{1}) {
    if (vm_.table().discarded(q)) return {{}, true};
  }
  TEST_POINT("fault.looked");
#ifdef RAMFOLD_TEST_NO_T4
  constexpr auto guard = sys::Guard::no;
  constexpr auto waking = Wake::yes;
#else
  constexpr auto guard = sys::Guard::yes;
  constexpr auto waking = Wake::no;
#endif
  const sys::UffdResult result = vm_.uffd().copy(vm_.address_of(run.first), me.bytes_of(run.first),
                                                 bytes(run.count), guard, waking);
  TEST_POINT("fault.filled");
  return {result, false};
}

Filler::Copied Filler::write(PageIndex p, FillerThread& me) noexcept {
  const guest::Filling::Section section(me.filling);  // T5, as in copy()
  if (vm_.table().discarded(p)) {
    vm_.counters().discards_seen.add();
    return {Outcome::done, true};
  }
  const Status written = vm_.write_hole(p, me.bytes_of(p));
  if (written) return {Outcome::done, false};
  return {written.error().code == ENOMEM || written.error().code == ENOSPC ? Outcome::no_memory
                                                                           : Outcome::failed,
          false};
}

Served Filler::fill_zero(PageIndex p, Need need) noexcept {
  guest::PageTable& table = vm_.table();
  // A clean word on a hole reads as zero (T3), but the page that comes now is not guarded (T4).
  const guest::LoadedWord word = table.load(p);
  if (word && word->names_content() && word->tag() != Tag::mapped)
    drop(set_word(p, *word, word->cleared()));
  const PageRun run{p, need == Need::lift ? PageCount{1} : own_zero_run(p)};
  Served served = Served::zeroed;
  sys::UffdResult result;
  for (unsigned tries = 0;;) {
    result = vm_.uffd().zero(vm_.range_of(run), Wake::no);
    if (result.outcome == Outcome::no_memory) {
      if (!nap_for_memory()) break;
      continue;
    }
    if (result.outcome == Outcome::retry && ++tries < kTriesMax) continue;
    break;
  }
  switch (result.outcome) {
    case Outcome::done: break;
    // A later page of the run may be the resident one; then the pages before it were filled.
    case Outcome::present: served = result.bytes > 0 ? Served::zeroed : Served::late; break;
    case Outcome::range_gone: served = Served::again; break;
    case Outcome::vm_gone:
      vm_.set_gone();
      served = Served::abandoned;
      break;
    case Outcome::no_memory: served = Served::abandoned; break;
    case Outcome::retry:
    case Outcome::failed:
      vm_.counters().errors.add();
      served = Served::again;
      break;
  }
  const std::uint64_t filled =
      result.outcome == Outcome::done ? run.count.value : result.bytes >> kPageShift;
  vm_.counters().zero_filled.add(filled);
  if (served != Served::abandoned) wake(run);
  for (PageIndex q = p; q < run.end(); q = q + PageCount{1}) release(q);
  return served;
}

PageCount Filler::own_zero_run(PageIndex p) noexcept {
  // Racing threads may spoil the window; it is a guess, and every page of the run is owned before
  // use.
  std::uint32_t window = 1;
  if (next_zero_.load(std::memory_order_relaxed) == p.value) {
    window = std::min(zero_window_.load(std::memory_order_relaxed) * 2, kZeroWindowMax);
  }
  const guest::Block& block = vm_.block_of(p);
  const std::uint64_t chunk_end =
      (p.value / guest::kChunkPages.value + 1) * guest::kChunkPages.value;
  const std::uint64_t end = std::min({p.value + window, block.end().value, chunk_end});
  guest::PageTable& table = vm_.table();
  PageIndex q = p + PageCount{1};
  const auto is_zero = [&table](PageIndex at) {
    const guest::LoadedWord word = table.load(at);
    return word && word->tag() == Tag::none && !table.discarded(at);
  };
  for (; q.value < end; q = q + PageCount{1}) {
    if (!is_zero(q) || !table.take_idle_for_fill(q)) break;
    if (!is_zero(q)) {
      release(q);
      break;
    }
  }
  zero_window_.store(window, std::memory_order_relaxed);
  next_zero_.store(q.value, std::memory_order_relaxed);
  return PageCount{q.value - p.value};
}

// A guard here is left of a run that its daemon did not end. The word stays: the address may map
// the pool (T2). Before the mappings are known a command of an earlier daemon may still run; a
// guard that is lifted, or a discard bit that is cleared, would then lose a write. Recovery wakes.
//
// A page that is missing: UFFDIO_ZEROPAGE works on a mapping that is registered for anything, and a
// page that maps the pool is registered for guards when it is to go back. Zeros over the pool would
// hide the page's bytes. So there are zeros only where the kernel says that the address maps the
// RAM file:
//   the RAM file: a discard has dropped the mapping. The hole is zero (T3, T5), also when the
//     discard failed and has cleared its bit. A wake alone would raise this event again and again.
//   anything else: the event is late, from before the page was mapped. Its thread needs a wake. It
//     then reads the pool, which raises no event, because a slot that is mapped has its page.
// A set discard bit alone says neither: the discard may not have dropped the mapping yet, and it
// may fail before it does. The answer stays true while p is owned: the agent maps no page without
// an owner, and a discard makes a mapping of the RAM file out of one of the pool, not the reverse.
Served Filler::serve_mapped(PageIndex p, Need need) noexcept {
  if (!vm_.mappings_known()) {
    release(p);
    return Served::busy;
  }
  if (need != Need::lift) {
    const auto range = vmas_.at(vm_.address_of(p));
    if (!range && range.error().code == ESRCH) {
      vm_.set_gone();
      release(p);
      return Served::abandoned;
    }
    if (!range) {
      vm_.counters().errors.add();
      return finish(p, Served::again);
    }
    if (*range && guest::maps_ram(vm_, p, **range)) return fill_zero(p, need);
    return finish(p, Served::late);
  }
  const auto result = persist([&] { return vm_.uffd().lift(vm_.range_of(one(p)), Wake::no); });
  if (result.outcome == Outcome::vm_gone) vm_.set_gone();
  return finish(p, result.outcome == Outcome::done ? Served::lifted : Served::again);
}

Served Filler::serve_damaged(PageIndex p, Damaged what) noexcept {
  switch (what) {
    case Damaged::not_fenced: release(p); return Served::busy;
    case Damaged::asked_again: sleep_ns(kNapNs); return retry(p);
    case Damaged::maps_pool: break;
  }
  // The guard is left of a run that its daemon did not end.
  (void)persist([&] { return vm_.uffd().lift(vm_.range_of(one(p)), Wake::no); });
  return finish(p, Served::lifted);
}

Served Filler::lift_guard(PageIndex p, Word word) noexcept {
  Held held;
  if (word.names_content() || word.tag() == Tag::observed) held = set_word(p, word, word.cleared());
  TEST_POINT("fault.word");
  const auto result = persist([&] { return vm_.uffd().lift(vm_.range_of(one(p)), Wake::no); });
  TEST_POINT("fault.lifted");
  if (result.outcome == Outcome::vm_gone) vm_.set_gone();
  if (result.outcome == Outcome::failed) vm_.counters().errors.add();
  const Served served = finish(p, result.outcome == Outcome::done ? Served::lifted : Served::again);
  TEST_POINT("fault.drop");
  drop(held);
  return served;
}

Served Filler::poison(PageIndex p, Word word) noexcept {
  // Never zeros (D14): the VM gets a memory error for this page, or waits where the kernel cannot
  // poison. A hole that was guarded still has the guard's mark in QEMU's page table, and the kernel
  // poisons only a page without a mark.
  (void)persist([&] { return vm_.uffd().lift(vm_.range_of(one(p)), Wake::no); });
  // A page that a crash left resident is the truth (T1). UFFDIO_POISON only checks whether it is
  // mapped, and would poison a page that is in swap.
  if (vm_.is_resident(p)) {
    const Held held = set_word(p, word, word.cleared());
    const Served served = finish(p, Served::late);
    drop(held);
    return served;
  }
  // `present`: the page is marked as poisoned already.
  const auto result = persist([&] { return vm_.uffd().poison(vm_.range_of(one(p)), Wake::no); });
  if (result.outcome == Outcome::vm_gone) vm_.set_gone();
  if (word.tag() == Tag::folded) {
    // The word gives up its reference. The store lets nobody use a corrupt content any more.
    drop(set_word(p, word, word.becomes(Tag::poisoned, 0u, 0, 0)));
  }
  if (result.outcome == Outcome::done || result.outcome == Outcome::present ||
      result.outcome == Outcome::range_gone) {
    return finish(p, Served::poisoned);
  }
  release(p);
  return Served::poisoned;
}

Served Filler::unfold(PageIndex p, store::FetchTicket ticket, FillerThread& me) noexcept {
  guest::PageTable& table = vm_.table();
  if (!table.take_idle_for_fill(p)) return Served::busy;
  vm_.stir(p);
  const auto loaded = load(p);
  if (!loaded || loaded->tag() == Tag::mapped) {  // not ours: it is put back, not filled
    release(p);
    return Served::busy;
  }
  const Word word = apply_discard(p, *loaded);
  if (word.tag() == Tag::poisoned) return poison(p, word);
  if (!word.names_content()) {
    release(p);
    return Served::late;
  }
  if (word.tag() == Tag::folded && word.content() != kZeroContent) {
    switch (source_.get(group_, word.content(), me.bytes_of(p), ticket)) {
      case store::Got::pending: release(p); return Served::pending;
      case store::Got::failed: release(p); return Served::again;
      case store::Got::corrupt: vm_.counters().corrupt.add(); return poison(p, word);
      case store::Got::done: break;
    }
    Copied copied = copy(p, me, Patience::some);
    // QEMU has unmapped the address range, or mapped over it. A new mapping of the RAM file must
    // find the page, so it is written into the file.
    if (copied.outcome == Outcome::range_gone) copied = write(p, me);
    if (!copied.discarded && copied.outcome != Outcome::done &&
        copied.outcome != Outcome::present) {
      if (copied.outcome == Outcome::vm_gone) vm_.set_gone();
      release(p);
      return copied.outcome == Outcome::vm_gone || copied.outcome == Outcome::no_memory
                 ? Served::abandoned
                 : Served::again;
    }
  }
  const Held held = set_word(p, word, word.cleared());
  release(p);
  drop(held);
  return Served::filled;
}

bool Filler::settle_damaged(PageIndex p) noexcept {
  if (!vm_.table().take_idle_for_fill(p)) return false;
  vm_.stir(p);
  const auto word = load(p);
  if (word && word->tag() == Tag::poisoned) {
    (void)poison(p, *word);
    return true;
  }
  release(p);
  return word || word.error() == Damaged::maps_pool;
}

Filler::Held Filler::set_word(PageIndex p, Word seen, Word next) noexcept {
  guest::VmCounters& counters = vm_.counters();
  bool soon = false;
  if (seen.tag() == Tag::folded && next.tag() != Tag::folded) {
    const unsigned passes = (vm_.pass_now() - seen.age()) & Word::kAgeMax;
    soon = passes < kReturnedSoonPasses;
    const unsigned backoff = soon ? std::min(seen.backoff() + 1, Word::kBackoffMax)
                                  : seen.backoff() - (seen.backoff() > 0 ? 1 : 0);
    next = next.becomes(next.tag(), next.payload(), next.age(), backoff);
  }
  if (!vm_.advance(p, seen, next, Owner::filling)) return {};
  if (soon) counters.returned_soon.add();
  // Recovery counts a page when it reaches it, with the word that the page has then.
  const bool counted = vm_.is_counted(p);
  if (counted && seen.tag() != next.tag()) {
    if (seen.tag() == Tag::folded)
      (seen.content() == kZeroContent ? counters.folded_zero : counters.folded_content).sub();
    if (seen.tag() == Tag::clean) counters.clean.sub();
    if (next.tag() == Tag::clean) counters.clean.add();
    if (seen.tag() == Tag::poisoned) counters.poisoned.sub();
    if (next.tag() == Tag::poisoned) counters.poisoned.add();
  }
  if (!seen.names_content() || next.names_content()) return {};
  return {seen.content(), counted};
}

void Filler::drop(Held held) noexcept {
  if (!held.counted || held.id == kZeroContent) return;
  if (source_.drop(group_, held.id) == store::Booked::done) return;
  vm_.stop_folding(guest::Inconsistency::references);
}

void Filler::wake(PageRun run) noexcept { vm_.wake(run); }

void Filler::release(PageIndex p) noexcept { vm_.release(p); }

Served Filler::retry(PageIndex p) noexcept { return finish(p, Served::again); }

Served Filler::finish(PageIndex p, Served served) noexcept {
  wake(one(p));
  release(p);
  return served;
}

bool Filler::nap_for_memory() noexcept {
  vm_.counters().no_memory_waits.add();
  sleep_ns(kNapNs);
  return !stopping_.load(std::memory_order_relaxed);
}

}  // namespace ramfold::fault
