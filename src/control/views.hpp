// SPDX-License-Identifier: GPL-2.0-or-later
// What the daemon tells an operator: plain snapshots, filled by the daemon, carried as JSON
// (docs/control-protocol.md), shown by the `ramfold` command. Every figure states its unit by its
// type or its name. A field the daemon does not know stays at its default.
// Threads: values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/types.hpp"

namespace ramfold::control {

// Why something is as it is, and what the operator can do about it.
struct Reason {
  std::string code;    // stable, for programs: "direct_io", "agent_silent", "memory_plentiful", ...
  std::string text;    // one sentence for people
  std::string remedy;  // what to do; empty when nothing needs doing
  friend bool operator==(const Reason&, const Reason&) = default;
};

// What one mechanism achieves: folded pages it accounts for, and the bytes saved by it before
// anything that ramfold spends on tables is subtracted. Every folded page counts under exactly one:
//   zero        its bytes are zeros: 4096 bytes each
//   shared      another folded page names the same content and stands for it: 4096 bytes each. Of n
//               pages that name one content, n-1 count here.
//   compressed  the one page that stands for its content: 4096 minus the stored blob
struct Mechanism {
  PageCount pages;
  ByteCount saved;
  friend bool operator==(const Mechanism&, const Mechanism&) = default;
};
struct Savings {
  Mechanism zero;
  Mechanism shared;
  Mechanism compressed;
  std::int64_t net_bytes = 0;  // all of the above minus what is spent; may be negative

  PageCount folded_pages() const noexcept {
    return PageCount{zero.pages.value + shared.pages.value + compressed.pages.value};
  }
  ByteCount gross() const noexcept {
    return ByteCount{zero.saved.value + shared.saved.value + compressed.saved.value};
  }
  friend bool operator==(const Savings&, const Savings&) = default;
};

// What ramfold spends. arena_allocated - arena_used is fragmentation; only what savings.compressed
// does not already count (it subtracts the blobs themselves) is subtracted for `net`.
struct Spent {
  ByteCount arena_used;       // bytes of blobs
  ByteCount arena_allocated;  // bytes of memory behind them
  ByteCount content_headers;
  ByteCount index;
  ByteCount page_tables;  // ramfold's words
  ByteCount discard_bitmaps;
  ByteCount kernel_page_tables;
  ByteCount kernel_mappings;
  ByteCount processes;  // other memory of daemon and keeper: code, stacks, heaps

  // Everything but the blobs themselves.
  ByteCount overhead() const noexcept {
    const std::uint64_t fragmentation =
        arena_allocated.value > arena_used.value ? arena_allocated.value - arena_used.value : 0;
    return ByteCount{fragmentation + content_headers.value + index.value + page_tables.value +
                     discard_bitmaps.value + kernel_page_tables.value + kernel_mappings.value +
                     processes.value};
  }
  friend bool operator==(const Spent&, const Spent&) = default;
};

// The no-OOM contract: needed_if_all_back <= available - reserve + unbacked_max.
struct Promise {
  ByteCount
      needed_if_all_back;  // memory that unfolding everything would take, net of what it frees
  ByteCount available;     // MemAvailable now, and free swap that is not on zram
  ByteCount reserve;       // never counted on
  ByteCount unbacked_max;  // what the operator allows beyond

  ByteCount limit() const noexcept {
    const std::uint64_t backed =
        available.value > reserve.value ? available.value - reserve.value : 0;
    return ByteCount{backed + unbacked_max.value};
  }
  bool kept() const noexcept { return needed_if_all_back <= limit(); }
  friend bool operator==(const Promise&, const Promise&) = default;
};

// A figure that a part of the daemon counts, by the name that this part has given it. Programs find
// kind and meaning in docs/control-protocol.md, "Counters".
struct CounterView {
  std::string name;
  std::uint64_t value = 0;
  friend bool operator==(const CounterView&, const CounterView&) = default;
};

enum class HostState : std::uint8_t {
  starting,  // recovering or testing; faults are served
  idle,      // nothing needs folding now; the reason says why
  folding,
  paused,        // by the operator
  observe_only,  // may not fold at all; the reason says why
  unfolding,     // off is under way
  off,           // everything is back, nothing will be folded
};

enum class CheckOutcome : std::uint8_t { passed, failed, skipped, not_run };
// One fact of the kernel that the start-up self-test proved or did not.
struct SelfTestView {
  std::string name;
  CheckOutcome outcome = CheckOutcome::not_run;
  std::string detail;
  std::string remedy;
  friend bool operator==(const SelfTestView&, const SelfTestView&) = default;
};

enum class KeeperState : std::uint8_t { absent, connected, holding };
struct KeeperView {
  KeeperState state = KeeperState::absent;  // holding: it has acknowledged descriptors
  std::uint64_t descriptors = 0;
  std::string detail;
  friend bool operator==(const KeeperView&, const KeeperView&) = default;
};

struct CpuView {
  double scan_seconds = 0;
  double fold_seconds = 0;
  double fault_seconds = 0;
  double reform_seconds = 0;
  friend bool operator==(const CpuView&, const CpuView&) = default;
};

// Contents that are kept in one form.
struct FormView {
  std::string form;  // "raw", "lz4", "zstd", "patch", "delta", "mix", "mix_delta"
  std::uint64_t contents = 0;
  ByteCount stored;              // encoded, before rounding to slots
  double decode_ns = 0;          // as learnt; without what the reference takes
  double decode_columns_ns = 0;  // of pages that were encoded by columns; 0: none in this form
  std::uint64_t given = 0;       // times since the start that a stored content was given it
  double patch_after_s = 0;      // a content in this form is tried as a patch after so long
  double dense_after_s = 0;      // with zstd
  double densest_after_s = 0;    // at zstd's dearest level
  double mixed_after_s = 0;      // mixed
  friend bool operator==(const FormView&, const FormView&) = default;
};
// How stored contents become smaller as they stay cold.
struct ReformView {
  double cpu_s_per_gib_hour = 0;  // what memory is worth; 0: everything keeps its form
  std::vector<FormView> forms;    // of a VM: of its group
  std::uint64_t attempts = 0;
  std::uint64_t moved = 0;      // to denser slabs of the arena
  std::uint64_t rewritten = 0;  // because only they needed their reference any more

  bool active() const noexcept { return cpu_s_per_gib_hour > 0; }
  friend bool operator==(const ReformView&, const ReformView&) = default;
};

struct HostView {
  HostState state = HostState::starting;
  std::vector<Reason> reasons;  // the first is the one that matters most
  std::vector<Reason> notices;  // to be mended, though none of them keeps memory from being folded
  std::string version;
  std::string kernel;  // uname -r
  std::vector<SelfTestView> self_test;
  KeeperView keeper;
  ByteCount ram_total;
  ByteCount ram_available;
  ByteCount keep_available;  // the target under when = "pressure"
  Savings saved;
  Spent spent;
  Promise promise;
  CpuView cpu;
  ReformView reform;
  double uptime_seconds = 0;
  std::uint64_t restarts = 0;  // times a daemon took VMs over from its predecessor
  std::uint64_t vms_attached = 0;
  std::uint64_t vms_observe_only = 0;
  std::uint64_t contents = 0;         // distinct contents kept
  std::vector<CounterView> counters;  // by name; events of VMs that have left are in the sums
  friend bool operator==(const HostView&, const HostView&) = default;
};

enum class VmState : std::uint8_t {
  connected,  // an agent is there, RAM is not attached
  attaching,
  observe_only,  // attached, may not be folded: see the reasons
  idle,          // foldable, nothing is being folded now: see the reasons
  folding,
  paused,
  unfolding,
  detached,  // by the operator
  failed,    // pages of it are lost, or its page state does not add up: see the reasons
};

enum class GateState : std::uint8_t {
  unknown,
  buffered,  // device writes go through the page cache
  tracked,   // device writes in flight are counted
  grace,     // a wait instead of a proof: the operator accepted the risk
  closed,    // nothing may leave: see the reasons
};

struct FaultKindView {
  std::string kind;  // "zero", "content", "write"
  std::uint64_t count = 0;
  std::uint64_t p50_ns = 0;
  std::uint64_t p99_ns = 0;
  std::uint64_t max_ns = 0;
  friend bool operator==(const FaultKindView&, const FaultKindView&) = default;
};

struct PagesView {
  PageCount total;
  PageCount touched;  // ever: resident now or folded
  PageCount resident;
  PageCount observed;
  PageCount clean;
  PageCount poisoned;
  friend bool operator==(const PagesView&, const PagesView&) = default;
};

struct RamBlockView {
  std::string name;  // may be empty: QEMU's id when it is known
  HostVirt address;
  ByteCount size;
  ByteCount file_offset;
  std::uint64_t inode = 0;
  friend bool operator==(const RamBlockView&, const RamBlockView&) = default;
};

struct BackoffView {
  PageCount held;         // present in the last pass; must stay unchanged for longer than `passes`
  std::uint64_t returns;  // how often a folded page came back soon, since the daemon's start
  friend bool operator==(const BackoffView&, const BackoffView&) = default;
};

// What a VM makes ramfold keep for it, and how much that may be.
struct KeptView {
  ByteCount page_table;
  ByteCount discard_bitmap;
  ByteCount stored;         // its part of the stored pages of its group
  ByteCount limit;          // of the three together
  std::uint64_t names = 0;  // descriptors with the keeper

  ByteCount total() const noexcept {
    return ByteCount{page_table.value + discard_bitmap.value + stored.value};
  }
  friend bool operator==(const KeptView&, const KeptView&) = default;
};

struct VmView {
  VmId id;
  std::string name;
  std::string uuid;
  std::int64_t pid = 0;
  std::uint32_t uid = 0;
  std::string group;
  VmState state = VmState::connected;
  GateState gate = GateState::unknown;
  std::vector<Reason> reasons;  // why it saves nothing, or less than it could; most important first
  PagesView pages;
  Savings saved;  // net: with this VM's share of what is spent
  std::vector<FaultKindView> faults;
  KeptView kept;
  BackoffView backoff{};
  ReformView reform;
  double stall_share = 0;  // of wall time since the attach that its threads waited for ramfold
  std::uint64_t fault_events = 0;
  std::uint64_t fault_errors = 0;
  double pass_seconds = 0;  // how long the last scan pass took
  std::uint64_t passes = 0;
  std::vector<RamBlockView> blocks;
  std::vector<CounterView> counters;  // by name
  friend bool operator==(const VmView&, const VmView&) = default;
};

struct Snapshot {
  HostView host;
  std::vector<VmView> vms;
  friend bool operator==(const Snapshot&, const Snapshot&) = default;
};

// What unfolding (one VM, or everything) would take; told before it begins.
struct UnfoldPlan {
  PageCount pages;
  ByteCount needed;     // memory it takes, net of what it frees on the way
  ByteCount available;  // memory that may be used for it: available - reserve
  double seconds = 0;   // estimate

  ByteCount missing() const noexcept {
    return ByteCount{needed > available ? needed.value - available.value : 0};
  }
  friend bool operator==(const UnfoldPlan&, const UnfoldPlan&) = default;
};

struct UnfoldProgress {
  PageCount done;
  PageCount total;
  double seconds_left = 0;
  friend bool operator==(const UnfoldProgress&, const UnfoldProgress&) = default;
};

}  // namespace ramfold::control
