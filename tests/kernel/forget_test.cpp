// SPDX-License-Identifier: GPL-2.0-or-later
// Pages that QEMU's page table has forgotten (MADV_DONTNEED): the RAM file keeps them, and they
// leave like others. A hole looks the same in the page table, and only the kernel's answer about
// the RAM file tells the two apart (D4, D11).
#include <catch2/catch.hpp>

#include <array>

#include "base/clock.hpp"
#include "kernel/at_point.hpp"
#include "kernel/fold_rig.hpp"

using namespace ramfold;
using guest::Tag;
using test::AtPoint;
using test::GuestProcess;
using test::kNine;
using test::Rig;
using test::soon;

namespace {

constexpr std::uint32_t kPages = 16;
constexpr std::uint16_t kAll = 0xffff;

std::uint64_t sum_of(std::uint64_t seed) { return GuestProcess::checksum(seed); }

struct ForgetRig : Rig {
  // All pages hold data and were observed, and nothing of them is in the page table.
  ForgetRig() : Rig(kPages) {
    for (std::uint64_t p = 0; p < kPages; ++p) process->store(PageIndex{p}, p + 100);
    pass();
    for (std::uint64_t p = 0; p < kPages; ++p) REQUIRE(tag(p) == Tag::observed);
    forget_all();
  }
  void forget_all() {
    process->forget(PageIndex{0}, kPages);
    REQUIRE(in_page_table() == 0);
  }
  std::size_t in_page_table() {
    std::array<sys::PageRegion, kPages> regions;
    HostVirt walked{};
    return vm->pagemap()
        .scan(vm->range_of({PageIndex{0}, PageCount{kPages}}), sys::kPagePresent, sys::kPagePresent,
              regions, walked)
        .value();
  }
  // Of pages that a scan has chosen, whatever has become of them since.
  void leave(std::uint16_t fold, std::uint16_t again) {
    sys::drain_page_batches();
    const scan::Window window{{PageIndex{0}, PageCount{kPages}}, 0, fold, again, 0};
    folder->leave(*vm, group, window, {});
  }
  // Tries again: a reader may hold a page for a moment.
  void leave_until_folded(std::uint16_t fold, std::uint16_t again) {
    REQUIRE(soon([&] {
      leave(fold, again);
      for (std::uint64_t p = 0; p < kPages; ++p) {
        if (tag(p) != Tag::folded) return false;
      }
      return true;
    }));
  }
  void make_clean() {
    leave_until_folded(kAll, 0);
    for (std::uint64_t p = 0; p < kPages; ++p)
      REQUIRE(process->load(PageIndex{p}) == sum_of(p + 100));
    REQUIRE(soon([&] {
      for (std::uint64_t p = 0; p < kPages; ++p) {
        if (tag(p) != Tag::clean) return false;
      }
      return true;
    }));
  }
  void check_all(std::uint64_t seed_of_nine = 109) {
    for (std::uint64_t p = 0; p < kPages; ++p) {
      INFO("page " << p);
      CHECK(process->load(PageIndex{p}) == sum_of(p == 9 ? seed_of_nine : p + 100));
    }
  }
};

}  // namespace

TEST_CASE("forgotten pages leave, and come back as they were") {
  ForgetRig rig;
  rig.leave_until_folded(kAll, 0);
  CHECK(rig.vm->counters().errors.get() == 0);
  rig.check_all();
}

TEST_CASE("a scan sees forgotten pages, and no hole beside them") {
  ForgetRig rig;
  rig.process->discard(kNine);  // unseen: no bit
  REQUIRE(soon([&] {
    rig.pass();
    for (std::uint64_t p = 0; p < kPages; ++p) {
      if (p != 9 && rig.tag(p) != Tag::folded) return false;
    }
    return true;
  }));
  CHECK(rig.tag(9) == Tag::observed);
  CHECK_FALSE(rig.vm->is_resident(kNine));
  rig.check_all(0);
}

TEST_CASE("forgotten clean pages leave again, and come back as they were") {
  ForgetRig rig;
  rig.make_clean();
  rig.forget_all();
  rig.leave_until_folded(0, kAll);
  CHECK(rig.vm->counters().folds_again.get() == kPages);
  CHECK(rig.vm->counters().errors.get() == 0);
  rig.check_all();
}

TEST_CASE("a forgotten page that was written since is not what it was observed to be") {
  ForgetRig rig;
  rig.process->store(kNine, 6);
  rig.process->forget(PageIndex{0}, kPages);
  REQUIRE(soon([&] {
    rig.leave(static_cast<std::uint16_t>(kAll & ~(1u << 9)), 0);
    return rig.tag(8) == Tag::folded && rig.tag(10) == Tag::folded;
  }));
  REQUIRE(soon([&] {
    rig.leave(1u << 9, 0);
    return rig.vm->counters().changed_while_cold.get() == 1;
  }));
  CHECK(rig.tag(9) == Tag::observed);
  rig.check_all(6);
}

TEST_CASE("D4: a hole that QEMU's page table shows like a forgotten page is not folded") {
  ForgetRig rig;
  SECTION("its last bytes were zeros, as pread gives for the hole") {
    const std::uint32_t before = rig.vm->table().load(kNine)->payload();
    rig.process->store(kNine, 0);
    rig.pass_until([&] { return rig.vm->table().load(kNine)->payload() != before; });
    REQUIRE(rig.tag(9) == Tag::observed);
    rig.forget_all();
    rig.process->discard(kNine);  // unseen: no bit
    rig.leave(1u << 9, 0);
    CHECK(rig.tag(9) == Tag::observed);
    rig.process->store(kNine, 6);
    CHECK(rig.process->load(kNine) == sum_of(6));
  }
  SECTION("its word says clean: its old bytes do not come back") {
    rig.make_clean();
    rig.process->discard(kNine);  // unseen: no bit
    rig.forget_all();
    REQUIRE(soon([&] {
      rig.leave(0, kAll);
      return rig.tag(8) == Tag::folded && rig.tag(10) == Tag::folded;
    }));
    CHECK(rig.tag(9) == Tag::clean);
    rig.check_all(0);
  }
}

TEST_CASE("D8: a forgotten page that is mapped over is not folded") {
  ForgetRig rig;
  const bool clean = GENERATE(false, true);
  if (clean) {
    rig.make_clean();
    rig.forget_all();
  }
  rig.process->map_over(kNine);
  for (int i = 0; i < 3; ++i) rig.leave(clean ? 0 : kAll, clean ? kAll : 0);
  CHECK(rig.tag(9) == (clean ? Tag::clean : Tag::observed));
  CHECK(rig.vm->is_resident(kNine));
  CHECK(rig.process->load(kNine) == sum_of(0));  // of what is mapped there now
}

TEST_CASE("a write, a discard or a forget in the middle of a forgotten page's fold") {
  ForgetRig rig;
  const bool clean = GENERATE(false, true);
  if (clean) {
    rig.make_clean();
    rig.forget_all();
  }
  for (const char* point :
       {"fold.guard", "fold.pread", "fold.encode", "fold.commit", "fold.word", "fold.punch"}) {
    DYNAMIC_SECTION((clean ? "clean, " : "") << "written, at " << point) {
      const AtPoint at(point, [&] { rig.process->store_apart(kNine, 7); });
      rig.leave(clean ? 0 : kAll, clean ? kAll : 0);
      CHECK(at.passed());
      CHECK(rig.process->collect(1000));
      rig.check_all(7);
    }
    DYNAMIC_SECTION((clean ? "clean, " : "") << "discarded, at " << point) {
      const AtPoint at(point, [&] {
        rig.set_discard_bit(9);
        rig.process->discard(kNine);
      });
      rig.leave(clean ? 0 : kAll, clean ? kAll : 0);
      CHECK(at.passed());
      rig.check_all(0);
    }
    DYNAMIC_SECTION((clean ? "clean, " : "") << "touched and forgotten, at " << point) {
      const AtPoint at(point, [&] {
        // A page that is folded already is not for this thread to wait for.
        if (rig.vm->is_resident(kNine)) (void)rig.process->load(kNine);
        rig.process->forget(PageIndex{0}, kPages);
      });
      rig.leave(clean ? 0 : kAll, clean ? kAll : 0);
      CHECK(at.passed());
      rig.check_all();
    }
  }
}

TEST_CASE("no write is lost beside folding and forgetting") {
  ForgetRig rig;
  std::uint64_t seed = 1000;
  unsigned folded = 0;
  const std::uint64_t until = monotonic_ns() + 2'000'000'000;
  while (monotonic_ns() < until) {
    const PageIndex page{seed * 7 % kPages};
    rig.process->store_apart(page, ++seed);
    rig.leave(kAll, kAll);
    rig.process->forget(PageIndex{0}, kPages);
    rig.leave(kAll, kAll);
    REQUIRE(rig.process->collect(5000));
    REQUIRE(rig.process->load(page) == sum_of(seed));
    if (seed % 4 == 0) rig.process->forget(PageIndex{0}, kPages);
    rig.leave(kAll, kAll);
    if (seed % 8 == 0) rig.pass();
    for (std::uint64_t p = 0; p < kPages; ++p) folded += rig.tag(p) == Tag::folded;
  }
  CHECK(folded > kPages);
  CHECK(rig.vm->counters().errors.get() == 0);
}
