// SPDX-License-Identifier: GPL-2.0-or-later
#include <catch2/catch.hpp>

#include "fault/neighbour_windows.hpp"

using namespace ramfold;
using fault::NeighbourWindows;

namespace {

// Brings every page of the window that is not there yet.
class Sweep {
 public:
  explicit Sweep(std::uint64_t pages) : there_(pages) {}
  void touch(std::uint64_t p) {
    if (there_[p]) return;
    ++events;
    const auto guess = windows.guess(PageIndex{p});
    REQUIRE(guess.window.first.value <= p);
    REQUIRE(p < guess.window.end().value);
    std::uint64_t first = p, end = p + 1;
    while (end < guess.window.end().value && end < there_.size() && !there_[end]) ++end;
    while (first > guess.window.first.value && !there_[first - 1]) --first;
    for (std::uint64_t q = first; q < end; ++q) there_[q] = true;
    brought = end - first;
    windows.note(guess, {PageIndex{first}, PageCount{end - first}});
  }
  NeighbourWindows windows;
  std::uint64_t events = 0;
  std::uint64_t brought = 0;  // with the last event

 private:
  std::vector<bool> there_;
};

}  // namespace

TEST_CASE("a row of touches gets the widest window, upwards and downwards") {
  constexpr std::uint64_t kPages = 4096;
  Sweep sweep(kPages);
  const bool is_upward = GENERATE(true, false);
  for (std::uint64_t i = 0; i < kPages; ++i) sweep.touch(is_upward ? i : kPages - 1 - i);
  CHECK(sweep.events <= kPages / 16 + 4);
}

TEST_CASE("eight rows at once get it too") {
  constexpr std::uint64_t kPages = 8 * 1024;
  Sweep sweep(kPages);
  for (std::uint64_t i = 0; i < 1024; ++i) {
    for (std::uint64_t row = 0; row < 8; ++row) sweep.touch(row * 1024 + i);
  }
  CHECK(sweep.events <= kPages / 16 + 8 * 4);
}

TEST_CASE("the first window is wide while clusters are touched, and one page afterwards") {
  constexpr std::uint64_t kPages = 65536, kCluster = 16;
  Sweep sweep(kPages);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    for (std::uint64_t p = 0; p < kCluster; ++p) sweep.touch(i * 29 % 2048 * kCluster + p);
  }
  CHECK(sweep.events <= 1000 * kCluster / 8 + 16);
  std::uint64_t more = 0;
  for (std::uint64_t i = 0; i < 100; ++i) {
    sweep.touch(32768 + i * 331 % 32768);
    more += sweep.brought - 1;
    if (i >= 32) REQUIRE(sweep.brought == 1);
  }
  CHECK(more < 200);
}

TEST_CASE("touches at random bring one page each") {
  Sweep sweep(1 << 20);
  for (std::uint64_t i = 0; i < 10'000; ++i) {
    sweep.touch(i * 514'229 % (1 << 20));
    REQUIRE(sweep.brought == 1);
  }
}
