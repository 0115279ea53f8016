// SPDX-License-Identifier: GPL-2.0-or-later
#include "fold/leaving_run.hpp"

#include <bit>

#include "base/check.hpp"
#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "fold/mask.hpp"

namespace ramfold::fold {

using guest::Owner;
using guest::Tag;
using guest::Word;
using sys::Outcome;
using sys::Wake;

namespace {

bool fits(Word word, bool fresh) noexcept {
  if (!fresh) return word.tag() == Tag::clean || word.tag() == Tag::folded;
  return word.tag() == Tag::none || word.tag() == Tag::observed;
}

// When the proof is asked. Only test-only builds, which have to lose data, ask at another time.
enum class Asked : std::uint8_t { before_guard, after_guard, never };
#if defined(RAMFOLD_TEST_GATE_BEFORE_GUARD)
constexpr Asked kAsked = Asked::before_guard;
#elif defined(RAMFOLD_TEST_NO_GATE)
constexpr Asked kAsked = Asked::never;
#else
constexpr Asked kAsked = Asked::after_guard;
#endif

}  // namespace

LeavingRun::LeavingRun(guest::Vm& vm, guest::QuietProof& proof, const scan::Window& window,
                       Mask fresh, Mask again, Copies& copies) noexcept
    : vm_(vm), window_(window), pass_(vm.gate().enter()) {
  if (!pass_.holds()) {
    vm_.counters().aborted_by_gate.add();
    return;
  }
  own(fresh, true);
  own(again, false);
  if ((fresh_ | again_) == 0) return;
  if (kAsked == Asked::before_guard) {
    ask(proof);
    sleep_ns(3'000'000);  // time for a write to begin of which the answer says nothing
  }
  guard();
  verify_guarded();
  // These builds are to lose writes, and nothing else.
  if (kAsked != Asked::after_guard) undo(without(fresh_ | again_, mapped_));
  if (!pass_.holds()) {
    vm_.counters().aborted_by_gate.add();
    undo(fresh_ | again_);
    return;
  }
  TEST_POINT("fold.guard");
  if (kAsked == Asked::after_guard) ask(proof);
  read(copies);
  TEST_POINT("fold.pread");
}

LeavingRun::~LeavingRun() { undo(fresh_ | again_); }

void LeavingRun::own(Mask wanted, bool fresh) noexcept {
  guest::PageTable& table = vm_.table();
  for_each_bit(wanted, [&](unsigned i) {
    const PageIndex p = page(i);
    if (!table.take_for_fold(p)) return;
    const guest::LoadedWord loaded = table.load(p);
    if (!loaded) {  // a damaged word: the scan's next look repairs it
      table.give_up_fold(p);
      return;
    }
    const Word word = *loaded;
    const bool right = fits(word, fresh);
    // Of a page that maps the pool the bit stays: it tells that the mapping was dropped.
    if (table.discarded(p) && word.tag() != Tag::folded && word.tag() != Tag::mapped)
      table.clear_discard(p);
    if (!right || table.discarded(p)) {
      if (right) vm_.counters().aborted_by_discard.add();
      table.give_up_fold(p);
      return;
    }
    words_[i] = word;
    (fresh ? fresh_ : again_) |= bit(i);
  });
}

void LeavingRun::guard() noexcept {
  if (fresh_ == 0) return;
  if (vm_.ensure_registered(page(0)).outcome != Outcome::done ||
      vm_.ensure_registered(PageIndex{window_.pages.end().value - 1}).outcome != Outcome::done) {
    vm_.counters().errors.add();
    undo(fresh_);
    return;
  }
  for_each_run(fresh_, [&](unsigned first, unsigned count) {
    const PageRun run{page(first), PageCount{count}};
    // A failed call may have guarded some of the pages, so all of them are lifted (D8).
    const auto result = vm_.uffd().guard(vm_.range_of(run));
    const Mask pages = bits(first, count);
    guarded_ |= pages;
    if (result.outcome == Outcome::done) return;
    if (result.outcome == Outcome::vm_gone) vm_.set_gone();
    vm_.counters().errors.add();
    undo(pages);
  });
}

void LeavingRun::verify_guarded() noexcept {
  // A page without an entry in QEMU's page table is guarded by a marker, which shows as swapped. It
  // may be a hole all the same: see ask(). A place that shows as neither has nothing: no entry, no
  // guard (D8).
  std::array<sys::PageRegion, scan::kWindowPages> regions;
  HostVirt walked{};
  const sys::UffdRange range = vm_.range_of(window_.pages);
  const auto n = vm_.pagemap().scan(
      range, 0, sys::kPagePresent | sys::kPageSwapped | sys::kPageWritten | sys::kPageHuge, regions,
      walked);
  Mask guarded = 0;
  if (n) {
    for (std::size_t r = 0; r < *n; ++r) {
      const std::uint64_t categories = regions[r].categories;
      if ((categories & (sys::kPageWritten | sys::kPageHuge)) != 0) continue;
      if ((categories & (sys::kPagePresent | sys::kPageSwapped)) == 0) continue;
      const Mask pages = pages_of(regions[r], range);
      guarded |= pages;
      if ((categories & sys::kPagePresent) != 0) mapped_ |= pages;
    }
  } else {
    vm_.counters().errors.add();
  }
  undo(without(fresh_ | again_, guarded));
}

void LeavingRun::ask(guest::QuietProof& proof) noexcept {
  // Clean pages were guarded when their frame was new, so no device could pin it for writing: they
  // need not be quiet. But a clean page that QEMU has discarded unseen is a hole with a marker, and
  // must not get its old bytes back. What is in the page table is resident.
  const Mask asked = fresh_ | without(again_, mapped_);
  if (asked == 0) return;
  const auto first = static_cast<unsigned>(std::countr_zero(asked));
  const auto count = static_cast<unsigned>(std::bit_width(asked)) - first;
  const guest::ProofAnswer known = proof.ask(vm_, {page(first), PageCount{count}}, fresh_ >> first);
  const Mask quiet = known.quiet << first;
  const Mask resident = known.resident << first;
  if (const Mask held = without(fresh_, quiet); held != 0) {
    vm_.counters().aborted_not_quiet.add(static_cast<unsigned>(std::popcount(held)));
    undo(held);
  }
  undo(without(again_, mapped_ | resident));
}

void LeavingRun::read(Copies& copies) noexcept {
  for_each_run(fresh_, [&](unsigned first, unsigned count) {
    if (vm_.read_pages({page(first), PageCount{count}}, copies[first].bytes.data())) {
      copied_ |= bits(first, count);
    } else {
      vm_.counters().errors.add();
    }
  });
}

void LeavingRun::stage(unsigned i, store::Ref ref) noexcept {
  refs_[i] = std::move(ref);
  staged_ |= bit(i);
}

void LeavingRun::keep_observed(unsigned i, std::uint32_t hash_bits) noexcept {
  guest::PageTable& table = vm_.table();
  if ((fresh_ & bit(i)) == 0 || table.owner(page(i)) != Owner::folding) return;
  // The word may be written only as `punching`, because a fault can take a page that is `folding`
  // at any time. commit() makes it `punching`, unless a fault was faster.
  if (!table.commit(page(i))) {
    fresh_ = without(fresh_, bit(i));
    return;
  }
  (void)vm_.uffd().lift(vm_.range_of({page(i), PageCount{1}}), Wake::yes);
  fresh_ = without(fresh_, bit(i));
  copied_ = without(copied_, bit(i));
  const Word next = words_[i].tag() == Tag::observed
                        ? words_[i].becomes(Tag::observed, hash_bits, 0, words_[i].backoff())
                        : words_[i];
  if (next != words_[i]) (void)vm_.advance(page(i), words_[i], next, Owner::punching);
  vm_.release(page(i));
}

Committed LeavingRun::commit() noexcept {
  Committed result;
  if ((staged_ | again_) == 0) return result;
  if (!pass_.holds()) {
    vm_.counters().aborted_by_gate.add();
    result.gate = false;
    return result;
  }
  guest::PageTable& table = vm_.table();
  guest::VmCounters& counters = vm_.counters();
  Mask won = 0;
  Mask kept = 0;  // committed, but the word could not be changed
  unsigned zeros = 0, contents = 0, clean = 0;
  vm_.note_leaving();
  for_each_bit(staged_ | again_, [&](unsigned i) {
    const PageIndex p = page(i);
    if (table.discarded(p)) {
      counters.aborted_by_discard.add();
      return;  // the destructor undoes it
    }
    if (!table.commit(p)) {
      counters.aborted_by_write.add();
      ++result.stolen;
      fresh_ = without(fresh_, bit(i));
      again_ = without(again_, bit(i));
      return;
    }
    TEST_POINT("fold.commit");
    const Word seen = words_[i];
    const bool staged = (staged_ & bit(i)) != 0;
    const ContentId content = staged ? refs_[i].id() : seen.content();
    const Word next = seen.becomes(Tag::folded, content, vm_.pass_now(), seen.backoff());
    if (!vm_.advance(p, seen, next, Owner::punching)) {
      refs_[i].reset();
      kept |= bit(i);
      return;
    }
    if (staged) (void)refs_[i].release();
    TEST_POINT("fold.word");
    if (seen.tag() != Tag::folded) ++(content == kZeroContent ? zeros : contents);
    if (seen.tag() == Tag::clean) ++clean;
    won |= bit(i);
    ++result.pages;
  });
  // Before the pages are released: a fault then subtracts them.
  if (zeros != 0) counters.folded_zero.add(zeros);
  if (contents != 0) counters.folded_content.add(contents);
  if (clean != 0) counters.clean.sub(clean);
  fresh_ = without(fresh_, won | kept);
  again_ = without(again_, won | kept);
  lift_and_release(kept);
  for_each_run(won, [&](unsigned first, unsigned count) {
    // If a punch fails, the page stays resident, guarded and equal to its content. Faults on it
    // read right bytes (T1, T4), and the next pass punches it again.
    if (!vm_.punch_pages({page(first), PageCount{count}})) counters.errors.add();
    TEST_POINT("fold.punch");
    // At once: a fault on these pages does not wait for the punches of the others.
    for (unsigned i = first; i < first + count; ++i) vm_.release(page(i));
  });
  return result;
}

void LeavingRun::undo(Mask pages) noexcept {
  guest::PageTable& table = vm_.table();
  const Mask ours = pages & (fresh_ | again_);
  if (ours == 0) return;
  fresh_ = without(fresh_, ours);
  again_ = without(again_, ours);
  copied_ = without(copied_, ours);
  staged_ = without(staged_, ours);
  // Only the owner may lift a guard. A page is made `punching` first, so that no fault takes it in
  // the meantime.
  Mask held = 0;
  for_each_bit(ours, [&](unsigned i) {
    refs_[i].reset();
    if ((guarded_ & bit(i)) == 0) {
      table.give_up_fold(page(i));
    } else if (table.commit(page(i))) {
      held |= bit(i);
    }
  });
  lift_and_release(held);
}

void LeavingRun::lift_and_release(Mask held) noexcept {
  for_each_run(held, [&](unsigned first, unsigned count) {
    (void)vm_.uffd().lift(vm_.range_of({page(first), PageCount{count}}), Wake::yes);
  });
  for_each_bit(held, [&](unsigned i) { vm_.release(page(i)); });
}

}  // namespace ramfold::fold
