// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/held_pages.hpp"

#include <catch2/catch.hpp>

using namespace ramfold;

namespace {

std::optional<control::Reason> of(std::uint64_t held, std::uint64_t resident,
                                  control::GateState gate = control::GateState::pinned) {
  control::PagesView pages;
  pages.held = PageCount{held};
  pages.resident = PageCount{resident};
  return daemon::why_pages_stay(pages, gate);
}

}  // namespace

TEST_CASE("held pages are told from an eighth of the resident ones on") {
  CHECK_FALSE(of(124, 1000));
  CHECK(of(125, 1000));
  CHECK(of(1000, 1000));
  SECTION("an eighth that is no whole number") {
    CHECK_FALSE(of(125, 1001));
    CHECK(of(126, 1001));
  }
  SECTION("of a VM without a page nothing is told; one held page of few is enough") {
    CHECK_FALSE(of(0, 0));
    CHECK_FALSE(of(0, 1));
    CHECK(of(1, 8));
    CHECK_FALSE(of(1, 9));
  }
}

TEST_CASE("the reason says how many pages are held, and that nobody has to act") {
  const auto why = of(300, 2000);
  REQUIRE(why);
  CHECK(why->code == "held-pages");
  CHECK(why->text == "300 pages are held by a device");
  CHECK(why->remedy.starts_with("nothing to do: "));
}

TEST_CASE("of a VM that is not folded the reason promises no folding") {
  const auto why = of(300, 2000, control::GateState::closed);
  REQUIRE(why);
  CHECK(why->text == "300 pages are held by a device");
  CHECK(why->remedy.starts_with("another reason tells "));
}
