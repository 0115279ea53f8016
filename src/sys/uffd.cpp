// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/uffd.hpp"

#include <atomic>
#include <sys/ioctl.h>

// Newer than the kernel headers we build with (6.6).
struct ramfold_uffdio_poison {
  uffdio_range range;
  __u64 mode;
  __s64 updated;
};
static_assert(sizeof(ramfold_uffdio_poison) == 32);
#ifndef UFFDIO_POISON
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, ramfold_uffdio_poison)
#endif
static constexpr __u64 kPoisonDontWake = 1;

namespace ramfold::sys {
namespace {

#ifdef RAMFOLD_TEST_POINTS
std::atomic<Injector> g_injector{nullptr};
#endif

uffdio_range range_of(UffdRange r) noexcept { return {r.start.value, r.size.value}; }

Outcome outcome_of(int error) noexcept {
  switch (error) {
    case 0: return Outcome::done;
    case EEXIST: return Outcome::present;
    case ENOENT:
    case EINVAL: return Outcome::range_gone;
    case ESRCH: return Outcome::vm_gone;
    case ENOMEM: return Outcome::no_memory;
    case EAGAIN: return Outcome::retry;
    default: return Outcome::failed;
  }
}

// One call, with what it had done in `progress` (negative values are an errno of the kernel's).
template <typename Arg>
UffdResult call(int fd, unsigned long request, Arg& arg, Call which, const __s64* progress = nullptr) noexcept {
  int error = injected(which);
  if (error == 0 && ::ioctl(fd, request, &arg) != 0) error = errno;
  UffdResult result{outcome_of(error), error, 0};
  if (progress != nullptr && *progress > 0) result.bytes = static_cast<std::uint64_t>(*progress);
  return result;
}

}  // namespace

#ifdef RAMFOLD_TEST_POINTS
void set_injector(Injector injector) noexcept { g_injector.store(injector); }
int injected(Call which) noexcept {
  const Injector injector = g_injector.load(std::memory_order_relaxed);
  return injector == nullptr ? 0 : injector(which);
}
#else
void set_injector(Injector) noexcept {}
int injected(Call) noexcept { return 0; }
#endif

Result<std::uint64_t> Uffd::offered_features(BorrowedFd probe) {
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  if (::ioctl(probe.get(), UFFDIO_API, &api) != 0) return fail_errno("UFFDIO_API");
  return api.features;
}

Status Uffd::handshake(std::uint64_t features) const {
  uffdio_api api{.api = UFFD_API, .features = features, .ioctls = 0};
  if (::ioctl(fd_, UFFDIO_API, &api) == 0 || errno == EINVAL) return {};
  return fail_errno("UFFDIO_API");
}

UffdResult Uffd::register_range(UffdRange range) const noexcept {
  uffdio_register arg{};
  arg.range = range_of(range);
  arg.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;
  return call(fd_, UFFDIO_REGISTER, arg, Call::reg);
}

UffdResult Uffd::unregister_range(UffdRange range) const noexcept {
  uffdio_range arg = range_of(range);
  return call(fd_, UFFDIO_UNREGISTER, arg, Call::unreg);
}

UffdResult Uffd::guard(UffdRange range) const noexcept {
  uffdio_writeprotect arg{};
  arg.range = range_of(range);
  arg.mode = UFFDIO_WRITEPROTECT_MODE_WP;
  return call(fd_, UFFDIO_WRITEPROTECT, arg, Call::guard);
}

UffdResult Uffd::lift(UffdRange range, Wake wake) const noexcept {
  uffdio_writeprotect arg{};
  arg.range = range_of(range);
  arg.mode = wake == Wake::yes ? 0 : UFFDIO_WRITEPROTECT_MODE_DONTWAKE;
  return call(fd_, UFFDIO_WRITEPROTECT, arg, Call::lift);
}

UffdResult Uffd::copy(HostVirt to, const std::byte* from, ByteCount size, Guard guard,
                      Wake wake) const noexcept {
  uffdio_copy arg{};
  arg.dst = to.value;
  arg.src = reinterpret_cast<std::uintptr_t>(from);
  arg.len = size.value;
  arg.mode = (wake == Wake::yes ? 0 : UFFDIO_COPY_MODE_DONTWAKE) | (guard == Guard::yes ? UFFDIO_COPY_MODE_WP : 0);
  return call(fd_, UFFDIO_COPY, arg, Call::copy, &arg.copy);
}

UffdResult Uffd::zero(UffdRange range, Wake wake) const noexcept {
  uffdio_zeropage arg{};
  arg.range = range_of(range);
  arg.mode = wake == Wake::yes ? 0 : UFFDIO_ZEROPAGE_MODE_DONTWAKE;
  return call(fd_, UFFDIO_ZEROPAGE, arg, Call::zero, &arg.zeropage);
}

UffdResult Uffd::poison(UffdRange range, Wake wake) const noexcept {
  ramfold_uffdio_poison arg{};
  arg.range = range_of(range);
  arg.mode = wake == Wake::yes ? 0 : kPoisonDontWake;
  return call(fd_, UFFDIO_POISON, arg, Call::poison, &arg.updated);
}

UffdResult Uffd::wake(UffdRange range) const noexcept {
  uffdio_range arg = range_of(range);
  return call(fd_, UFFDIO_WAKE, arg, Call::wake);
}

Result<std::size_t> Uffd::read_events(std::span<uffd_msg> events) const {
  const int error = injected(Call::read);
  const ssize_t n = error != 0 ? -1 : ::read(fd_, events.data(), events.size_bytes());
  if (n >= 0) return static_cast<std::size_t>(n) / sizeof(uffd_msg);
  if (error != 0) return fail("read userfaultfd", error);
  if (errno == EAGAIN || errno == EINTR) return 0;
  return fail_errno("read userfaultfd");
}

}  // namespace ramfold::sys
