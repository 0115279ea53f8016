// SPDX-License-Identifier: GPL-2.0-or-later
// The place of the proof in a run (guest/quiet_proof.hpp): after the guard, before the read. Pages
// that it does not call quiet stay as they are. A double answers in the place of the kernel.
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "kernel/fold_rig.hpp"

using namespace ramfold;
using namespace ramfold::test;
using guest::Owner;
using guest::PageMask;
using guest::ProofAnswer;
using guest::Tag;

namespace {

constexpr std::uint64_t kPages = 100;  // a window, and a part of one

// Calls every page quiet but those that are held. All are resident.
struct Double final : guest::QuietProof {
  ProofAnswer ask(guest::Vm&, PageRun run, PageMask) noexcept override {
    runs.push_back(run);
    ProofAnswer answer{guest::all_pages(run.count), guest::all_pages(run.count)};
    for (const std::uint64_t p : held) {
      if (p < run.first.value || p >= run.end().value) continue;
      answer.quiet &= ~(PageMask{1} << (p - run.first.value));
    }
    if (asked) asked(run);
    return answer;
  }
  std::vector<std::uint64_t> held;
  std::vector<PageRun> runs;
  std::function<void(PageRun)> asked;
};

// All pages hold data, and were observed: the next pass sends them down.
struct ProofRig : Rig {
  ProofRig() : Rig(kPages) {
    folder = std::make_unique<fold::Folder>(*contents, kernel);
    for (std::uint64_t p = 0; p < kPages; ++p) process->store(PageIndex{p}, p + 1);
    pass();
    for (std::uint64_t p = 0; p < kPages; ++p) REQUIRE(tag(p) == Tag::observed);
    REQUIRE(kernel.runs.empty());  // nothing was leaving
  }
  bool is_guarded(std::uint64_t p) {
    std::array<sys::PageRegion, 1> region;
    HostVirt walked{};
    const auto n = vm->pagemap().scan(vm->range_of({PageIndex{p}, PageCount{1}}), sys::kPagePresent,
                                      sys::kPagePresent | sys::kPageWritten, region, walked);
    return n && *n == 1 && (region[0].categories & sys::kPageWritten) == 0;
  }
  guest::Word word(std::uint64_t p) { return vm->table().load(PageIndex{p}).value(); }
  // No fault tells of it: the device had pinned the page before.
  void device_write(std::uint64_t p, std::uint64_t seed) {
    PageCopy page;
    fill_page(seed, page.bytes.data());
    REQUIRE(::pwrite(process->ram(), page.bytes.data(), kPageSize,
                     static_cast<off_t>(p * kPageSize)) == static_cast<ssize_t>(kPageSize));
  }
  std::uint64_t not_quiet() { return vm->counters().aborted_not_quiet.get(); }

  Double kernel;
};

}  // namespace

TEST_CASE("D1: pages that are not quiet are not folded, and nothing of them is left behind") {
  ProofRig rig;
  rig.kernel.held = {0, 5, 6, 31, 32, 63, 64, 99};
  rig.pass();
  for (std::uint64_t p = 0; p < kPages; ++p) {
    const bool held = std::ranges::count(rig.kernel.held, p) != 0;
    INFO("page " << p);
    CHECK(rig.tag(p) == (held ? Tag::observed : Tag::folded));
    CHECK(rig.vm->table().owner(PageIndex{p}) == Owner::idle);
    if (held) CHECK_FALSE(rig.is_guarded(p));
  }
  CHECK(rig.not_quiet() == 8);
  CHECK(rig.vm->counters().errors.get() == 0);
  SECTION("they leave in a later pass, when nothing holds them any more") {
    rig.pass();
    CHECK(rig.not_quiet() == 16);
    rig.kernel.held.clear();
    rig.fold_until(kPages);
    CHECK(rig.not_quiet() == 16);
  }
  for (std::uint64_t p = 0; p < kPages; ++p)
    CHECK(rig.process->load(PageIndex{p}) == GuestProcess::checksum(p + 1));
}

TEST_CASE("D1: the proof is asked once, of pages that are owned and guarded") {
  ProofRig rig;
  rig.kernel.asked = [&](PageRun run) {
    for (std::uint64_t p = run.first.value; p < run.end().value; ++p) {
      CHECK(rig.is_guarded(p));
      CHECK(rig.vm->table().owner(PageIndex{p}) == Owner::folding);
    }
  };
  rig.pass();
  CHECK(rig.kernel.runs.size() == 2);  // once a window
  std::vector<unsigned> asked(kPages);
  for (const PageRun run : rig.kernel.runs) {
    CHECK(run.count <= guest::kProofPagesMax);
    for (std::uint64_t p = run.first.value; p < run.end().value; ++p) ++asked[p];
  }
  for (std::uint64_t p = 0; p < kPages; ++p) {
    CHECK(asked[p] == 1);
    CHECK(rig.tag(p) == Tag::folded);
  }
}

TEST_CASE("D1: a page is read after the answer") {
  ProofRig rig;
  rig.kernel.asked = [&](PageRun run) {
    if (run.first.value <= 5 && 5 < run.end().value) rig.device_write(5, 500);
  };
  const std::uint64_t observed = rig.word(5).payload();
  SECTION("the last write of the device ended before: it is in the copy") {
    rig.pass();
    CHECK(rig.tag(5) == Tag::observed);
    CHECK(rig.word(5).payload() != observed);
    CHECK(rig.vm->counters().changed_while_cold.get() == 1);
  }
  SECTION("a page that is held is not read") {
    rig.kernel.held = {5};
    rig.pass();
    CHECK(rig.word(5).payload() == observed);
    CHECK(rig.vm->counters().changed_while_cold.get() == 0);
  }
  CHECK(rig.process->load(PageIndex{5}) == GuestProcess::checksum(500));
}

TEST_CASE("a guest's write while the proof is asked takes the page, whatever the answer") {
  ProofRig rig;
  const bool held = GENERATE(false, true);
  if (held) rig.kernel.held = {5};
  rig.kernel.asked = [&](PageRun run) {
    if (run.first.value <= 5 && 5 < run.end().value) rig.process->store(PageIndex{5}, 500);
  };
  rig.pass();
  CHECK(rig.tag(5) == Tag::none);
  CHECK(rig.tag(4) == Tag::folded);
  CHECK(rig.tag(6) == Tag::folded);
  CHECK(rig.process->load(PageIndex{5}) == GuestProcess::checksum(500));
  // Its owner has let go of it.
  rig.kernel.held.clear();
  rig.kernel.asked = nullptr;
  rig.fold_until(kPages);
  CHECK(rig.process->load(PageIndex{5}) == GuestProcess::checksum(500));
}

TEST_CASE("clean pages leave without the proof: their guard is as old as their frame") {
  ProofRig rig;
  rig.pass();
  for (std::uint64_t p = 0; p < kPages; ++p) REQUIRE(rig.tag(p) == Tag::folded);
  // Some come with the page before them.
  for (std::uint64_t p = 0; p < kPages; ++p)
    CHECK(rig.process->load(PageIndex{p}) == GuestProcess::checksum(p + 1));
  for (std::uint64_t p = 0; p < kPages; ++p) REQUIRE(rig.tag(p) == Tag::clean);
  rig.kernel.runs.clear();
  for (std::uint64_t p = 0; p < kPages; ++p) rig.kernel.held.push_back(p);
  rig.fold_until(kPages);
  CHECK(rig.kernel.runs.empty());
  CHECK(rig.not_quiet() == 0);
}
