// SPDX-License-Identifier: GPL-2.0-or-later
// Which chunks a pass looks at: chunks in which nothing happens rest longer and longer.
#include "scan/rests.hpp"

#include <catch2/catch.hpp>
#include <set>
#include <vector>

using namespace ramfold;
using scan::Met;
using scan::Rests;

namespace {

constexpr std::size_t kChunks = 4;

struct Passes {
  Rests rests = std::move(*Rests::make(kChunks));
  std::set<std::size_t> stirred;
  Met met;
  // The chunks that a pass looks at. `longest`: what each look allows.
  std::vector<std::size_t> pass(unsigned longest, bool all = false) {
    std::vector<std::size_t> looked;
    met = {};
    for (std::size_t chunk = 0;; ++chunk) {
      chunk = rests.next_due(chunk, kChunks, all, met,
                             [&](std::size_t c) { return stirred.erase(c) != 0; });
      if (chunk == kChunks) return looked;
      looked.push_back(chunk);
      Met here;
      here.present = 10 + chunk;
      here.held = chunk;
      met.present += here.present;
      met.held += here.held;
      rests.looked(chunk, here, chunk == 3 ? 1 : longest);
    }
  }
};

const std::vector<std::size_t> kAll{0, 1, 2, 3};
const std::vector<std::size_t> kBusy{3};

}  // namespace

TEST_CASE("rests: each look that finds nothing doubles the time until the next one") {
  Passes passes;
  std::vector<int> looks;  // the passes that looked at the idle chunks
  for (int i = 0; i < 400; ++i) {
    const auto looked = passes.pass(1000);
    CHECK(looked == (looked.size() > 1 ? kAll : kBusy));
    if (looked.size() > 1) looks.push_back(i);
  }
  CHECK(looks == std::vector<int>{0, 2, 6, 14, 30, 62, 126, 254, 382});
}

TEST_CASE("rests: what chunks hold that a pass does not look at is counted all the same") {
  Passes passes;
  for (int i = 0; i < 20; ++i) {
    (void)passes.pass(1000);
    CHECK(passes.met.present == 46);
    CHECK(passes.met.held == 6);
  }
}

TEST_CASE("rests: a chunk waits no longer than the look allows, and is told how long it did") {
  Passes passes;
  for (int i = 0; i < 40; ++i) {
    Met met;
    if (passes.rests.next_due(0, 1, false, met, [](std::size_t) { return false; }) == 1) continue;
    CHECK(passes.rests.epochs(0) == (i == 0 ? 1 : i == 2 ? 2 : 3));
    CHECK((i == 0 || i % 3 == 2));
    passes.rests.looked(0, {}, 3);
  }
}

TEST_CASE("rests: an event ends the rest of its chunk, which then begins anew") {
  Passes passes;
  for (int i = 0; i < 200; ++i) (void)passes.pass(1000);
  REQUIRE(passes.pass(1000) == kBusy);
  passes.stirred.insert(1);
  CHECK(passes.pass(1000) == std::vector<std::size_t>{1, 3});
  CHECK(passes.pass(1000) == kBusy);
  CHECK(passes.pass(1000) == std::vector<std::size_t>{1, 3});
}

TEST_CASE("rests: when the terms change, one pass looks at all chunks") {
  Passes passes;
  for (int i = 0; i < 200; ++i) (void)passes.pass(1000);
  CHECK(passes.pass(1000, true) == kAll);
  CHECK(passes.pass(1000) == kBusy);
  CHECK(passes.pass(1, true) == kAll);
  CHECK(passes.pass(1) == kAll);
}
