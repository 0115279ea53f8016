// SPDX-License-Identifier: GPL-2.0-or-later
// userfaultfd driven from outside the process it belongs to.
// Documentation/admin-guide/mm/userfaultfd.rst, ioctl_userfaultfd(2). Expected outcomes are values;
// what each errno means is decided here, once.
// Threads: stateless over a descriptor; any thread. No allocation, no logging.
#pragma once

#include <linux/userfaultfd.h>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/fd.hpp"

namespace ramfold::sys {

// No call covers more: longer ones make vCPUs wait behind mmap_lock (HAZARDS, Time).
inline constexpr ByteCount kUffdCallMax{4u << 20};

enum class Outcome : std::uint8_t {
  done,
  present,     // EEXIST: the page is resident; T1, it is the truth
  range_gone,  // ENOENT, EINVAL on a range: unmapped or mapped over; the waiters must be woken (D8)
  vm_gone,     // ESRCH: the process is gone. Nothing else means that
  no_memory,   // ENOMEM: tried again later; the waiter stays (L6)
  retry,       // EAGAIN: try again at once
  failed,      // anything else, with errno in `code`
};

struct UffdResult {
  Outcome outcome = Outcome::done;
  int code = 0;             // errno when outcome is not done
  std::uint64_t bytes = 0;  // copied or zeroed before the call ended
};

enum class Guard : bool { no, yes };
enum class Wake : bool { no, yes };

struct UffdRange {
  HostVirt start;
  ByteCount size;
};

class Uffd {
 public:
  explicit Uffd(BorrowedFd fd) noexcept : fd_(fd.get()) {}

  // The features folding needs (WP and MISSING on shared memory, exact addresses, thread ids);
  // POISON is asked for when the kernel has it. Event features are never negotiated (L2).
  static constexpr std::uint64_t kFeaturesNeeded =
      UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_EXACT_ADDRESS |
      UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_PAGEFAULT_FLAG_WP;
  static constexpr std::uint64_t kFeaturePoison = std::uint64_t{1} << 14;
  // The features that the kernel offers. `probe`: a userfaultfd that is used for nothing else.
  static Result<std::uint64_t> offered_features(BorrowedFd probe);
  // Makes the handshake, unless it was made before: it can be made once in a userfaultfd's life,
  // and a VM that was detached may come back with the same one. In both cases the kernel is asked
  // for the features that the userfaultfd has, and they must equal `features`. With fewer it would
  // not guard. With more there could be events that nobody awaits; a fork event opens a descriptor
  // in the process that reads it. Errors: EOPNOTSUPP, the kernel refuses `features`; EPROTO, there
  // are others.
  Status handshake(std::uint64_t features) const;
  // The features of a userfaultfd, from its fdinfo; 0 before the handshake.
  Result<std::uint64_t> features() const;

  // MISSING | WP. Registering again is harmless.
  UffdResult register_range(UffdRange range) const noexcept;
  UffdResult unregister_range(UffdRange range) const noexcept;
  // Guards or lifts; lifting wakes the range's waiters when asked to.
  UffdResult guard(UffdRange range) const noexcept;
  UffdResult lift(UffdRange range, Wake wake) const noexcept;
  // Installs a page (or a run of them) into holes.
  UffdResult copy(HostVirt to, const std::byte* from, ByteCount size, Guard guard,
                  Wake wake) const noexcept;
  UffdResult zero(UffdRange range, Wake wake) const noexcept;
  UffdResult poison(UffdRange range, Wake wake) const noexcept;
  UffdResult wake(UffdRange range) const noexcept;

  // Registers the range for guards alone: for pages that map the pool, and for the proof that this
  // userfaultfd drives the memory of a certain process (guest::prove_owner). While nothing is
  // guarded there, no thread waits.
  UffdResult register_for_guards(UffdRange range) const noexcept;

  // Reads as many events as fit; 0 when there are none. Never waits, although the agent shares the
  // open file description and may clear O_NONBLOCK or read the events itself. Before Linux 6.10,
  // which has no RWF_NOWAIT for a userfaultfd, it may wait when the agent does that; a signal then
  // ends the wait.
  Result<std::size_t> read_events(std::span<uffd_msg> events) const;

  int fd() const noexcept { return fd_; }

 private:
  int fd_;
};

// Names of calls for the error-injection tests: those of Uffd, and the calls of fold and fault on
// RAM files.
enum class Call : std::uint8_t {
  reg,
  unreg,
  guard,
  lift,
  copy,
  zero,
  poison,
  wake,
  read,
  pread,
  punch,
  scan
};
// Test-only (builds with RAMFOLD_TEST_POINTS): returns an errno to fail the call with, or 0.
using Injector = int (*)(Call) noexcept;
void set_injector(Injector injector) noexcept;
int injected(Call call) noexcept;

}  // namespace ramfold::sys
