// SPDX-License-Identifier: GPL-2.0-or-later
// The facts that decide whether a VM may be folded (the gate of docs/design.md), read from /proc
// and /sys for stock QEMU and joined with what its agent reported. Every fact that does not hold is
// a Reason with a text and a remedy for the operator; a VM without reasons is foldable.
//
// These reads are a check at attach and an alarm afterwards. Between two reads the agent delays a
// call that would begin a hazard until everything is unfolded. A process may lie about its command
// line; that harms nobody but itself.
//
// Threads: ProcFacts is immutable; any thread may call it. Nothing here is fast enough for the
// fault path: read() costs about a millisecond, other_uses() grows with the processes on the host.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/procfs.hpp"
#include "sys/subordinate_ids.hpp"

namespace ramfold::guest {

// Why a VM is only observed. The order is the order in which reasons are shown.
enum class ReasonCode : std::uint8_t {
  // The host.
  kernel_too_old,    // below 6.7
  self_test_failed,  // a kernel fact that folding stands on does not hold here
  no_pin_test,       // the kernel cannot be asked who holds a page
  // The VM and its agent.
  agent_silent,        // no agent, or it does not answer
  agent_incomplete,    // it lacks a capability that the gate needs
  unreadable,          // a fact could not be read, or there is too much to check
  ram_layout,          // RAM is not mapped exactly where the agent said, shared, once
  hugetlb,             // RAM on hugetlbfs
  large_folios,        // large folios may appear in the RAM file (D7)
  locked_memory,       // mlock
  confidential_guest,  // SEV, TDX
  incoming_migration,  // started with -incoming, not known to have ended
  other_userfaultfd,   // QEMU's own: postcopy, background snapshot
  // Another consumer of the RAM file (D13), or one that cannot wait for a page (D21).
  other_mapper,        // another process maps the RAM file
  ram_fd_elsewhere,    // another process holds its descriptor (vhost-user)
  other_consumer,      // vfio, vdpa, udmabuf, a GPU, RDMA
  exec_in_process,     // the process was replaced under the agent
  unknown_descriptor,  // a device or kernel object that may be such a consumer
  // Its page state.
  lost_pages,    // pages of it cannot be brought back (D14)
  inconsistent,  // something of it does not add up (Inconsistency)
};
inline constexpr std::size_t kReasonCodes = 20;
// The code's stable name for JSON and metrics, e.g. "hugetlb".
std::string_view name(ReasonCode code) noexcept;
// The reason means that RAM is, or is about to be, used by somebody who does not know holes:
// everything is unfolded, not only folding stopped.
bool demands_unfold(ReasonCode code) noexcept;

struct Reason {
  ReasonCode code{};
  std::string text;    // what is so, in plain words, with the descriptor or file that shows it
  std::string remedy;  // what the operator can do about it
};

// With the code's remedy.
Reason reason_of(ReasonCode code, std::string text);

struct RamFileId {
  dev_t device = 0;
  ino_t inode = 0;
  friend bool operator==(const RamFileId&, const RamFileId&) noexcept = default;
};

// One RAM block where the checked offer says that it is mapped.
struct RamBlock {
  RamFileId file;
  HostVirt address;
  ByteCount size;
  ByteCount offset;  // into the file
};

// Why the kernel cannot be asked who holds a page (sys::PinTestRefusal).
struct NoPinTest {
  std::string text;
  std::string remedy;
};

// What is known about the host once for all VMs (sys::self_test, sys::Procfs::kernel_version).
struct HostFacts {
  std::string kernel;        // "6.18.44"
  bool kernel_folds = true;  // 6.7 or newer
  bool self_test_passed = true;
  std::string self_test_failure;  // which fact, for the reason's text
  std::optional<NoPinTest> no_pin_test;
};

// A process other than its QEMU that uses a RAM file, found by other_uses().
struct OtherUse {
  enum class How : std::uint8_t { maps, holds_descriptor };
  RamFileId file;
  pid_t pid = 0;
  std::string command;  // its comm
  How how = How::maps;
};
struct OtherUses {
  std::vector<OtherUse> uses;
  // Owners of processes with more mappings or descriptors than are checked: a reason for the VMs of
  // the same owner only, or any user could stop folding for the whole host.
  std::vector<uid_t> unchecked_uids;
  std::size_t processes = 0;
};

// What the smaps of a VM said at a full read; lets the frequent reads skip them (they walk the page
// tables of all of RAM). Valid while locked bytes, huge page settings and the RAM's mappings are
// equal.
struct SlowFacts {
  ByteCount locked;
  std::string shmem_huge;
  std::size_t ram_vmas = 0;
  bool smaps_read = false;
  bool ram_locked = false;
  bool huge_excluded = false;    // MADV_NOHUGEPAGE holds on all of RAM
  std::uint64_t large_made = 0;  // sys::Procfs::large_shmem_folios_made()
  // Whether RAM holds large folios. While MADV_NOHUGEPAGE holds, RAM that held none gets none,
  // whatever others on the host make: any local user can.
  enum class Folios : std::uint8_t {
    unknown,
    small_by_then,  // none when the host had made `large_made`, and more were not excluded
    small,          // none, and they are excluded
    large
  };
  Folios folios = Folios::unknown;
};

enum class Depth : std::uint8_t { quick, full };

// One VM to check. Everything but pid and blocks has a default that is right for an attached VM.
struct VmToCheck {
  pid_t pid = 0;
  std::uint64_t start_ticks = 0;  // of the process that was attached (Procfs::start_ticks); 0: any
  std::span<const RamBlock> blocks;
  std::optional<RamFileId> pool{};  // that its pages may map
  std::uint32_t agent_hazards = 0;  // RF_HAZARD_* that cannot end any more: rf_shared.sticky
  std::uint64_t agent_capabilities = ~std::uint64_t{0};  // RF_CAP_*
  bool agent_answers = true;
  std::size_t agent_uffds = 1;        // descriptors of its own userfaultfd; 0 before the offer
  bool incoming_finished = false;     // the operator or libvirt says that the migration has ended
  const OtherUses* others = nullptr;  // of the last scan; null: not part of this read
  const SlowFacts* last = nullptr;    // of an earlier read
  Depth depth = Depth::quick;         // full: at attach and now and then, reads smaps anew
};

struct Facts {
  bool gone = false;            // the process has ended (or its pid is another's now)
  std::vector<Reason> reasons;  // at most one a code and subject, at most kReasonsMax
  SlowFacts slow;               // to be handed in as `last` next time
  ByteCount ram_beside;         // RAM that was plugged in after the offer: it is not folded
  // QEMU has a userfaultfd of its own open at this moment, or that is not known.
  bool own_userfaultfd = true;
  std::size_t vcpus = 0;  // 0: not known

  bool foldable() const noexcept { return !gone && reasons.empty(); }
  // Another consumer of RAM exists or is about to (D13): unfold everything, then stay observe-only.
  bool must_unfold() const noexcept;
  // The same, for more than a userfaultfd of QEMU's own, which lasts as long as its descriptor.
  bool must_stay_unfolded() const noexcept;
};
inline constexpr std::size_t kReasonsMax = 64;

// Who has RAM files for us. The keeper is told by what it holds, not by its pid: one that was
// killed has everything back from its service manager before the daemon can know of the new
// process.
struct Custody {
  pid_t daemon = -1;
  // A file of the store. Daemon, keeper and the service manager hold it, with whatever they forked
  // a moment ago; nobody else is ever given it, and no RAM is kept without it.
  RamFileId store;
};

// A pass over all processes, for somebody who watches it: where it is, since when, and whom to
// leave out, as if they could not be checked.
struct LookAt {
  std::atomic<pid_t> pid{0};
  std::atomic<std::uint64_t> since_ns{0};
  std::atomic<bool> ended{false};  // the watcher's
  std::vector<pid_t> leave_out;
  std::vector<sys::IdRange> leave_out_users;
};

class ProcFacts {
 public:
  // `procfs` must outlive this.
  ProcFacts(const sys::Procfs& procfs, HostFacts host);

  Facts read(const VmToCheck& vm) const;

  // One pass over all processes: who else maps one of `files` or holds its descriptor? `owners` are
  // the QEMU processes themselves. A process that ends meanwhile is left out.
  struct OwnedFile {
    RamFileId file;
    pid_t owner = 0;
  };
  // Any process can hold the pass up, as long as it holds its own mmap_lock: `at` says which it is.
  OtherUses other_uses(std::span<const OwnedFile> files, const Custody& custody,
                       LookAt* at = nullptr) const;

 private:
  const sys::Procfs& procfs_;
  HostFacts host_;
};

}  // namespace ramfold::guest
