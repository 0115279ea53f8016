// SPDX-License-Identifier: GPL-2.0-or-later
// The self-test's facts of pins: pages are held in several ways, and the kernel must say so.
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <array>

#include "sys/memory.hpp"
#include "sys/self_test_probe.hpp"

namespace ramfold::sys::self_test {
namespace {

bool touched(Probe& p) { return p.fill(kOld) && p.loads(kOld) && p.becomes(PinAnswer::quiet); }

bool pin_quiet(Probe& p) {
  // Touched, stored to, forgotten, and touched again.
  return touched(p) && p.stores(kNew) && p.becomes(PinAnswer::quiet) &&
         p.does(ProbeOp::forget, 0, 0) && p.becomes(PinAnswer::quiet) && p.loads(kNew) &&
         p.becomes(PinAnswer::quiet);
}
bool pin_hole(Probe& p) {
  return p.is(PinAnswer::hole) && touched(p) && p.punch() && p.is(PinAnswer::hole);
}
// The kernel has pinned the page for a write, and waits for a source that is slow: the other page,
// a hole. The guard comes after the pin, and the write does not heed it.
bool pin_of_write(Probe& p) {
  return touched(p) && p.ask(ProbeOp::write_from, p.other().value) &&
         p.faults(Fault::missing_read, p.other()) && p.guard() && p.is(PinAnswer::busy) &&
         p.done(p.driver().copy(p.other(), kNew, Guard::no, Wake::yes), "UFFDIO_COPY") &&
         p.answers(kPageSize) && p.file_holds(kNew) && p.becomes(PinAnswer::quiet);
}
// A write that comes after the guard waits for it, and holds nothing.
bool pin_waits_at_guard(Probe& p) {
  return touched(p) && p.fill(p.other(), kNew) && p.guard() &&
         p.ask(ProbeOp::write_from, p.other().value) && p.faults(Fault::guarded) &&
         p.is(PinAnswer::quiet) && p.file_holds(kOld) && p.lift(Wake::yes) &&
         p.answers(kPageSize) && p.file_holds(kNew);
}
bool pin_of_buffer(Probe& p) {
  if (!touched(p) || !p.ask(ProbeOp::register_buffer)) return false;
  const auto registered = p.process().answer(p.driver().patience_ms());
  if (!p.require(registered.has_value(), "io_uring_register never ended")) return false;
  if (*registered != 0) return p.skip("io_uring is not to be had here");
  return p.guard() && p.is(PinAnswer::busy) && p.lift(Wake::no) &&
         p.does(ProbeOp::unregister_buffer, 0, 0) && p.becomes(PinAnswer::quiet);
}
bool pin_second_mapping(Probe& p) {
  if (!touched(p)) return false;
  {
    const auto mapped = Mapping::shared(p.process().ram(), ByteCount{kPageSize},
                                        ByteCount{p.page().value << kPageShift});
    if (!mapped) return p.require(false, mapped.error().text());
    (void)*static_cast<volatile std::byte*>(mapped->data());
    if (!p.is(PinAnswer::mapped_more)) return false;
  }
  return p.becomes(PinAnswer::quiet);
}
bool pin_swapped(Probe& p) {
  struct sysinfo host{};
  if (::sysinfo(&host) != 0 || host.freeswap == 0) return p.skip("there is no swap");
  if (!touched(p) || !p.does(ProbeOp::page_out, 0, 0)) return false;
  // A cgroup without swap, or a busy page, stays.
  if (p.answer() == PinAnswer::quiet || p.answer() == PinAnswer::busy)
    return p.skip("the page did not go to swap");
  return p.is(PinAnswer::swapped) && p.loads(kOld) && p.becomes(PinAnswer::quiet);
}
bool pin_large(Probe& p) {
  constexpr ByteCount kLarge{2u << 20};
  constexpr ByteCount kSize{2 * kLarge.value};  // one lies aligned in it
  const auto file = make_memfd("ramfold-self-test-large", kSize, Sealed::no);
  if (!file) return p.require(false, file.error().text());
  const auto mapped = Mapping::shared(*file, kSize);
  if (!mapped) return p.require(false, mapped.error().text());
  (void)::madvise(mapped->data(), kSize.value, MADV_HUGEPAGE);
  for (std::size_t at = 0; at < kSize.value; at += kPageSize)
    static_cast<volatile std::byte*>(mapped->data())[at] = std::byte{1};
  const Pagemap own(::getpid(), BorrowedFd(-1));
  std::array<PageRegion, 1> found{};
  HostVirt walked;
  const HostVirt start{reinterpret_cast<std::uintptr_t>(mapped->data())};
  const auto n = own.scan({start, kSize}, kPageHuge, kPageHuge, found, walked);
  if (!n || *n == 0) return p.skip("shared memory gets no large folios here");
  const std::uint64_t first = (found[0].start - start.value) >> kPageShift;
  for (const std::uint64_t page : {first, first + 1, first + 511}) {
    if (!p.is(PinAnswer::large, *file, page)) return false;
  }
  return true;
}

constexpr std::array kFacts{
    Fact{"pin-quiet", pin_quiet, "a page that only its process maps is quiet"},
    Fact{"pin-hole", pin_hole, "a page that the file does not hold is a hole"},
    Fact{"pin-of-write", pin_of_write,
         "a write that pinned the page before its guard makes it busy"},
    Fact{"pin-waits-at-guard", pin_waits_at_guard,
         "a write that comes after the guard raises an event and pins nothing"},
    Fact{"pin-of-buffer", pin_of_buffer, "a registered buffer makes its page busy"},
    Fact{"pin-second-mapping", pin_second_mapping, "a second mapping of the page shows"},
    Fact{"pin-swapped", pin_swapped, "a page in swap shows as such"},
    Fact{"pin-large", pin_large, "a page of a large folio shows as such"},
};

}  // namespace

std::span<const Fact> pin_facts() noexcept { return kFacts; }

}  // namespace ramfold::sys::self_test
