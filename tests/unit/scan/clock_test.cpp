// SPDX-License-Identifier: GPL-2.0-or-later
// The clock alone: classes and verdicts by history, without any page.
#include "scan/clock.hpp"

#include <catch2/catch.hpp>

#include "scan/history.hpp"

using namespace ramfold;
using guest::Tag;
using guest::Word;
using scan::ColdRule;
using scan::PageClass;
using scan::SeenPage;
using scan::Touches;
using scan::Verdict;
using Known = scan::Touches::Known;

namespace {

constexpr ColdRule kRule{.passes = 3, .passes_max = 24};
constexpr SeenPage kMapped{PageIndex{0}, true, false};
constexpr SeenPage kGuarded{PageIndex{0}, true, true};

Word word(Tag tag, unsigned age, unsigned backoff = 0) {
  return Word{}.becomes(tag, 7u, age, backoff);
}

}  // namespace

TEST_CASE("a page that was modified lately is left alone, referenced or not") {
  for (const Known known : {Known::nothing, Known::not_asked, Known::touched, Known::untouched}) {
    CHECK(kRule.class_of(word(Tag::observed, 1), {known, 200}) == PageClass::recently_modified);
    CHECK(kRule.class_of(Word{}, {known, 200}) == PageClass::recently_modified);
  }
  CHECK(kRule.judge(word(Tag::observed, 1), kMapped, {}) == Verdict::observe);
  CHECK(kRule.judge(Word{}, kMapped, {}) == Verdict::observe);
}

TEST_CASE("where nobody asks who is referenced, what is not modified is cold") {
  CHECK(kRule.class_of(word(Tag::observed, 2), {}) == PageClass::not_referenced);
  CHECK(kRule.judge(word(Tag::observed, 2), kMapped, {}) == Verdict::fold);
  CHECK(kRule.judge(word(Tag::clean, 2), kGuarded, {}) == Verdict::again);
  CHECK(kRule.judge(word(Tag::clean, 1), kGuarded, {}) == Verdict::age);
}

TEST_CASE("a page that is read stays, however long nobody has written to it") {
  for (const unsigned age : {2u, 50u, Word::kAgeMax}) {
    CHECK(kRule.class_of(word(Tag::observed, age), {Known::touched, 0}) == PageClass::referenced);
    CHECK(kRule.judge(word(Tag::observed, age), kMapped, {Known::touched, 0}) == Verdict::observe);
    CHECK(kRule.judge(word(Tag::clean, age), kGuarded, {Known::touched, 0}) == Verdict::age);
  }
}

TEST_CASE("a page leaves when it was not referenced for as long as it must not be modified") {
  for (unsigned epochs = 0; epochs < 6; ++epochs) {
    const bool cold = epochs >= 3;
    CHECK(kRule.class_of(word(Tag::observed, 9), {Known::untouched, epochs}) ==
          (cold ? PageClass::not_referenced : PageClass::referenced));
    CHECK((kRule.judge(word(Tag::observed, 9), kMapped, {Known::untouched, epochs}) ==
           Verdict::fold) == cold);
  }
  // The back-off doubles both.
  CHECK(kRule.class_of(word(Tag::observed, 9, 1), {Known::untouched, 5}) == PageClass::referenced);
  CHECK(kRule.class_of(word(Tag::observed, 9, 1), {Known::untouched, 6}) ==
        PageClass::not_referenced);
}

TEST_CASE("what nobody has touched since it was forgotten is not read again") {
  const SeenPage forgotten{PageIndex{0}, false, false};
  CHECK(kRule.judge(word(Tag::observed, 0), forgotten, {Known::untouched, 1}) == Verdict::age);
  CHECK(kRule.judge(word(Tag::observed, 0), forgotten, {Known::untouched, 0}) == Verdict::observe);
  CHECK(kRule.judge(word(Tag::observed, 0), forgotten, {Known::not_asked, 0}) == Verdict::observe);
  CHECK(kRule.judge(Word{}, forgotten, {Known::untouched, 1}) == Verdict::observe);
}

TEST_CASE("a page that came back is asked about before it leaves again") {
  const Touches not_asked{Known::not_asked, 0};
  CHECK(kRule.class_of(word(Tag::observed, 2), not_asked) == PageClass::not_referenced);
  CHECK(kRule.class_of(word(Tag::clean, 2), not_asked) == PageClass::referenced);
  CHECK(kRule.class_of(word(Tag::observed, 5, 1), not_asked) == PageClass::referenced);
  CHECK(kRule.class_of(word(Tag::clean, 5), {Known::untouched, 3}) == PageClass::not_referenced);
  // If the budget for questions is small, time decides in the end.
  CHECK(kRule.class_of(word(Tag::clean, 22), not_asked) == PageClass::referenced);
  CHECK(kRule.class_of(word(Tag::clean, 23), not_asked) == PageClass::not_referenced);
  constexpr ColdRule slow{.passes = 200, .passes_max = 255};
  CHECK(slow.class_of(word(Tag::clean, Word::kAgeMax), not_asked) == PageClass::not_referenced);
}

TEST_CASE("verdicts that do not depend on the clock") {
  for (const Touches touches : {Touches{}, Touches{Known::touched, 0}}) {
    CHECK(kRule.judge(word(Tag::clean, 200), kMapped, touches) == Verdict::observe);  // lost guard
    CHECK(kRule.judge(word(Tag::folded, 0), kGuarded, touches) == Verdict::again);
    CHECK(kRule.judge(word(Tag::folded, 0), kMapped, touches) == Verdict::leave);
    CHECK(kRule.judge(word(Tag::poisoned, 0), kGuarded, touches) == Verdict::leave);
  }
}

TEST_CASE("history: a page is touched when it is in the page table again") {
  auto history = scan::History::make(PageCount{2});
  REQUIRE(history.has_value());
  constexpr PageIndex p{1};
  CHECK(history->touches(p).known == Known::not_asked);
  CHECK_FALSE(history->see(p, true));
  CHECK_FALSE(history->is_asked(p));
  history->ask(p);
  CHECK(history->is_asked(p));
  for (unsigned epochs = 1; epochs < 400; ++epochs) {
    CHECK_FALSE(history->see(p, false));
    CHECK(history->touches(p).known == Known::untouched);
    CHECK(history->touches(p).epochs == std::min(epochs, 246u));
    history->ask(p);  // its neighbours were asked about: what is known of it stays
  }
  CHECK(history->see(p, true));
  for (int looks = 0; looks < 8; ++looks) {
    CHECK(history->touches(p).known == Known::touched);
    CHECK_FALSE(history->see(p, true));
  }
  CHECK(history->touches(p).known == Known::not_asked);
  CHECK(history->touches(PageIndex{0}).known == Known::not_asked);
}

TEST_CASE("after a rest of its chunk a page that did not change is older by all of it") {
  constexpr ColdRule rested{.passes = 3, .passes_max = 24, .epochs = 10};
  CHECK(rested.judge(word(Tag::clean, 1, 2), kGuarded, {}) == Verdict::age);
  CHECK(rested.judge(word(Tag::clean, 2, 2), kGuarded, {}) == Verdict::again);
  CHECK(scan::aged(word(Tag::clean, 2), 10) == 12);
  CHECK(scan::aged(word(Tag::clean, 250), 10) == Word::kAgeMax);
  // A page of age 0 may have come at any time of the rest.
  CHECK(rested.judge(word(Tag::clean, 0), kGuarded, {}) == Verdict::age);
  CHECK(scan::aged(word(Tag::clean, 0), 10) == 1);
}

TEST_CASE("it is known when a page becomes cold if nothing happens to it") {
  CHECK(kRule.epochs_to_cold(word(Tag::clean, 0)) == 2);
  CHECK(kRule.epochs_to_cold(word(Tag::clean, 1)) == 1);
  CHECK(kRule.epochs_to_cold(word(Tag::clean, 9)) == 1);
  CHECK(kRule.epochs_to_cold(word(Tag::clean, 4, 2)) == 7);
  for (unsigned age = 0; age < 12; ++age) {
    const Word now = word(Tag::clean, age, 2);  // cold after 12 epochs
    const unsigned left = kRule.epochs_to_cold(now);
    const Word then = word(Tag::clean, scan::aged(now, 1), 2);
    ColdRule rule = kRule;
    rule.epochs = left;
    CHECK(rule.judge(then, kGuarded, {}) == Verdict::again);
    if (left > 1) {
      rule.epochs = left - 1;
      CHECK(rule.judge(then, kGuarded, {}) == Verdict::age);
    }
  }
}

TEST_CASE("a page that stays may map the pool when it is clean, or referenced and not modified") {
  constexpr ColdRule rule{.passes = 3, .passes_max = 24, .maps = true};
  // Clean: known to be unmodified, however short ago it came back.
  for (const unsigned age : {0u, 1u}) {
    CHECK(rule.stays_and_may_map(word(Tag::clean, age), kGuarded, {}));
    CHECK(rule.judge(word(Tag::clean, age), kGuarded, {}) == Verdict::age);
    CHECK_FALSE(kRule.stays_and_may_map(word(Tag::clean, age), kGuarded, {}));
  }
  CHECK_FALSE(rule.stays_and_may_map(word(Tag::clean, 1), kMapped, {}));  // its guard is lost
  // Cold: it leaves.
  CHECK_FALSE(rule.stays_and_may_map(word(Tag::clean, 2), kGuarded, {}));
  CHECK(rule.judge(word(Tag::clean, 2), kGuarded, {}) == Verdict::again);
  // What is read and was observed for long enough.
  CHECK(rule.stays_and_may_map(word(Tag::observed, 2), kMapped, {Known::touched, 0}));
  CHECK_FALSE(rule.stays_and_may_map(word(Tag::observed, 1), kMapped, {Known::touched, 0}));
  CHECK_FALSE(rule.stays_and_may_map(word(Tag::observed, 2), kMapped, {}));
  for (const Tag tag : {Tag::none, Tag::folded, Tag::mapped, Tag::poisoned})
    CHECK_FALSE(rule.stays_and_may_map(word(tag, 0), kGuarded, {Known::touched, 0}));
}

TEST_CASE("a clean page that has just come back is mapped before it is folded again") {
  constexpr ColdRule at_once{.passes = 1, .passes_max = 1, .maps = true};
  CHECK(at_once.judge(word(Tag::clean, 0), kGuarded, {}) == Verdict::age);
  CHECK(at_once.stays_and_may_map(word(Tag::clean, 0), kGuarded, {}));
  CHECK(at_once.judge(word(Tag::clean, 1), kGuarded, {}) == Verdict::again);
  constexpr ColdRule maps_not{.passes = 1, .passes_max = 1};
  CHECK(maps_not.judge(word(Tag::clean, 0), kGuarded, {}) == Verdict::again);
}
