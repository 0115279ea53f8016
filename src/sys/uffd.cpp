// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/uffd.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <array>
#include <atomic>
#include <charconv>
#include <cstdio>
#include <string_view>

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

// The kernel sets this bit among the features once the handshake was made.
constexpr std::uint64_t kInitialized = std::uint64_t{1} << 31;

// Linux before 6.10 has no RWF_NOWAIT for a userfaultfd; found out at the first read.
std::atomic<bool> g_reads_nowait{true};

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

// Makes one call. `progress` is the field in which the kernel says how many bytes it has done, or a
// negative errno.
template <typename Arg>
UffdResult call(int fd, unsigned long request, Arg& arg, Call which,
                const __s64* progress = nullptr) noexcept {
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
  // EINVAL: the handshake was made before, or the kernel lacks a feature. The features that the
  // userfaultfd has now tell which.
  if (::ioctl(fd_, UFFDIO_API, &api) != 0 && errno != EINVAL) return fail_errno("UFFDIO_API");
  const auto has = this->features();
  if (!has) return std::unexpected(has.error());
  if (*has == features) return {};
  if (*has == 0)
    return fail("the kernel refuses the features that a userfaultfd needs", EOPNOTSUPP);
  return fail("the userfaultfd was set up with other features than the daemon asks for", EPROTO);
}

Result<std::uint64_t> Uffd::features() const {
  std::array<char, 64> path;
  std::snprintf(path.data(), path.size(), "/proc/self/fdinfo/%d", fd_);
  const Fd info(::open(path.data(), O_RDONLY | O_CLOEXEC));
  if (!info) return fail_errno("open a userfaultfd's fdinfo");
  // "API:\taa:80001120:1ff": protocol, features, calls (fs/userfaultfd.c).
  std::array<char, 1024> text;
  const ssize_t n = ::read(info.get(), text.data(), text.size());
  if (n < 0) return fail_errno("read a userfaultfd's fdinfo");
  std::string_view rest(text.data(), static_cast<std::size_t>(n));
  constexpr std::string_view kKey = "\nAPI:\taa:";
  const std::size_t at = rest.find(kKey);
  if (at == std::string_view::npos) return fail("a userfaultfd's fdinfo is not understood", EIO);
  rest.remove_prefix(at + kKey.size());
  std::uint64_t features = 0;
  const auto parsed = std::from_chars(rest.data(), rest.data() + rest.size(), features, 16);
  if (parsed.ec != std::errc{} || parsed.ptr == rest.data() + rest.size() || *parsed.ptr != ':') {
    return fail("a userfaultfd's fdinfo is not understood", EIO);
  }
  return features & ~kInitialized;
}

UffdResult Uffd::register_range(UffdRange range) const noexcept {
  uffdio_register arg{};
  arg.range = range_of(range);
  arg.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;
  return call(fd_, UFFDIO_REGISTER, arg, Call::reg);
}

UffdResult Uffd::register_for_guards(UffdRange range) const noexcept {
  uffdio_register arg{};
  arg.range = range_of(range);
  arg.mode = UFFDIO_REGISTER_MODE_WP;
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
  arg.mode = (wake == Wake::yes ? 0 : UFFDIO_COPY_MODE_DONTWAKE) |
             (guard == Guard::yes ? UFFDIO_COPY_MODE_WP : 0);
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
  int error = injected(Call::read);
  ssize_t n = -1;
  if (error == 0 && g_reads_nowait.load(std::memory_order_relaxed)) {
    const iovec into{events.data(), events.size_bytes()};
    n = ::preadv2(fd_, &into, 1, -1, RWF_NOWAIT);
    error = n < 0 ? errno : 0;
  } else if (error == 0) {
    error = EOPNOTSUPP;
  }
  if (error == EOPNOTSUPP) {
    g_reads_nowait.store(false, std::memory_order_relaxed);
    n = ::read(fd_, events.data(), events.size_bytes());
    error = n < 0 ? errno : 0;
  }
  if (error == 0) return static_cast<std::size_t>(n) / sizeof(uffd_msg);
  if (error == EAGAIN || error == EINTR) return 0;
  return fail("read userfaultfd", error);
}

}  // namespace ramfold::sys
