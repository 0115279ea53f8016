// SPDX-License-Identifier: GPL-2.0-or-later
// The clock by idle page tracking: a real guest process, and files that stand for the kernel's
// bitmap and for the frames of the guest's pages. The test clears a page's bit where the kernel
// would, because the guest touches the page.
#include "scan/idle_source.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "kernel/fold_rig.hpp"

using namespace ramfold;
using guest::Tag;
using scan::Verdict;

namespace {

constexpr std::uint64_t kPages = 64;
constexpr std::uint64_t kFrame = 5000;  // of page 0; the next pages have the next frames

struct FakeFiles {
  sys::Fd bitmap{::memfd_create("bitmap", MFD_CLOEXEC)};
  sys::Fd pagemap{::memfd_create("pagemap", MFD_CLOEXEC)};

  FakeFiles() {
    REQUIRE(::ftruncate(bitmap.get(), 4096) == 0);
    set_frame(sys::IdlePages::probe(), 1);
  }
  static std::string path(const sys::Fd& fd) { return "/proc/self/fd/" + std::to_string(fd.get()); }
  void set_frame(HostVirt page, std::uint64_t frame) const {
    const std::uint64_t entry = frame == 0 ? 0 : std::uint64_t{1} << 63 | frame;
    REQUIRE(::pwrite(pagemap.get(), &entry, 8,
                     static_cast<off_t>((page.value >> kPageShift) * 8)) == 8);
  }
  std::uint64_t word(std::uint64_t frame) const {
    std::uint64_t word = 0;
    REQUIRE(::pread(bitmap.get(), &word, 8, static_cast<off_t>(frame / 64 * 8)) == 8);
    return word;
  }
  void touch(std::uint64_t page) const {
    const std::uint64_t frame = kFrame + page;
    const std::uint64_t now = word(frame) & ~(std::uint64_t{1} << frame % 64);
    REQUIRE(::pwrite(bitmap.get(), &now, 8, static_cast<off_t>(frame / 64 * 8)) == 8);
  }
  bool is_idle(std::uint64_t page) const {
    return (word(kFrame + page) >> (kFrame + page) % 64 & 1) != 0;
  }
};

struct IdleRig : test::Rig {
  FakeFiles files;
  scan::History history = std::move(*scan::History::make(PageCount{kPages}));
  scan::Sampling sampling;
  scan::IdleSource source{std::move(*sys::IdlePages::open(
                              {FakeFiles::path(files.bitmap), FakeFiles::path(files.pagemap)})),
                          [this](const guest::Vm& of, PageRun run, std::span<std::uint64_t> into) {
                            return sys::read_frames(files.pagemap, of.range_of(run), into);
                          }};
  scan::Planner planner{proof};
  std::array<scan::Window, scan::kChunkWindows> windows;

  IdleRig() : Rig(kPages) {
    rule = {.passes = 3, .passes_max = 3};
    for (std::uint64_t p = 0; p < kPages; ++p) {
      process->store(PageIndex{p}, p + 1);
      files.set_frame(vm->address_of(PageIndex{p}), kFrame + p);
    }
    sampling.next(1'000'000'000, {kPages, 0, 0}, {});
    REQUIRE(sampling.share() == 1);
  }
  // A pass of which the guest touches the first `hot` pages after it.
  void pass(std::uint64_t hot) {
    sys::drain_page_batches();
    vm->next_pass();
    const scan::Asking asking{source, history};
    const auto n = planner.plan(*vm, 0, rule, windows, &asking);
    REQUIRE(n.has_value());
    for (std::size_t i = 0; i < *n; ++i) {
      folder->look(*vm, group, windows[i]);
      folder->leave(*vm, group, windows[i], {});
    }
    const auto question = scan::choose(*vm, planner.seen(), sampling);
    (void)source.ask(*vm, nullptr, question, planner.seen(), history);
    for (std::uint64_t p = 0; p < hot; ++p) files.touch(p);
  }
  bool are_folded(std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t p = first; p < end; ++p) {
      if (tag(p) != Tag::folded) return false;
    }
    return true;
  }
};

}  // namespace

TEST_CASE("page_idle: pages that the guest only reads stay, and those that it leaves alone go") {
  constexpr std::uint64_t kHot = 20;
  IdleRig rig;
  REQUIRE(test::soon([&] {
    rig.pass(kHot);
    return rig.are_folded(kHot, kPages);
  }));
  for (int i = 0; i < 8; ++i) rig.pass(kHot);
  for (std::uint64_t p = 0; p < kHot; ++p) CHECK(rig.tag(p) == Tag::observed);
  CHECK(rig.vm->counters().errors.get() == 0);
  // The guest leaves them alone from now on.
  REQUIRE(test::soon([&] {
    rig.pass(0);
    return rig.are_folded(0, kPages);
  }));
  for (std::uint64_t p = 0; p < kPages; ++p)
    CHECK(rig.process->load(PageIndex{p}) == test::GuestProcess::checksum(p + 1));
}

TEST_CASE("page_idle: nothing is asked about pages that change") {
  IdleRig rig;
  for (std::uint64_t round = 0; round < 4; ++round) {
    for (std::uint64_t p = 0; p < kPages; ++p)
      rig.process->store(PageIndex{p}, 100 * (round + 1) + p);
    rig.pass(0);
  }
  for (std::uint64_t p = 0; p < kPages; ++p) CHECK_FALSE(rig.files.is_idle(p));
}

TEST_CASE("page_idle: a page whose frame is not known counts as touched") {
  constexpr std::uint64_t kHidden = 7;
  IdleRig rig;
  for (int i = 0; i < 3; ++i) rig.pass(0);
  REQUIRE(rig.history.is_asked(PageIndex{kHidden}));
  rig.files.set_frame(rig.vm->address_of(PageIndex{kHidden}), 0);
  rig.pass(0);
  CHECK(rig.history.touches(PageIndex{kHidden}).known == scan::Touches::Known::touched);
  CHECK(rig.history.touches(PageIndex{kHidden + 1}).known == scan::Touches::Known::untouched);
}

TEST_CASE("page_idle: when the kernel's bitmap cannot be read, every page counts as touched") {
  IdleRig rig;
  for (int i = 0; i < 4; ++i) rig.pass(0);
  REQUIRE(rig.history.touches(PageIndex{3}).epochs != 0);
  REQUIRE(::ftruncate(rig.files.bitmap.get(), 0) == 0);
  rig.pass(0);  // and asks anew
  for (std::uint64_t p = 0; p < kPages; ++p) CHECK(rig.tag(p) == Tag::observed);
  CHECK(rig.history.touches(PageIndex{3}).epochs == 0);
}
