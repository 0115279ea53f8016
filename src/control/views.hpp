// SPDX-License-Identifier: GPL-2.0-or-later
// The data that the daemon shows to an operator. The daemon fills these structs; they travel as
// JSON (docs/control-protocol.md); the command `ramfold` shows them. The type or the name of each
// figure states its unit. A field that the daemon does not know keeps its default.
// Threads: values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/types.hpp"

namespace ramfold::control {

// The reason for a state, and the operator's remedy.
struct Reason {
  std::string code;    // stable, for programs: "hugetlb", "agent_silent", "memory_plentiful", ...
  std::string text;    // one sentence for people
  std::string remedy;  // what to do; empty when nothing needs doing
  friend bool operator==(const Reason&, const Reason&) = default;
};

// The folded pages that one mechanism accounts for, and the bytes that it saves, before ramfold's
// own memory is subtracted. Every folded page counts under exactly one mechanism:
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
  std::int64_t net_bytes = 0;  // gross() minus ramfold's own memory; may be negative

  PageCount folded_pages() const noexcept {
    return PageCount{zero.pages.value + shared.pages.value + compressed.pages.value};
  }
  ByteCount gross() const noexcept {
    return ByteCount{zero.saved.value + shared.saved.value + compressed.saved.value};
  }
  friend bool operator==(const Savings&, const Savings&) = default;
};

// Memory that ramfold uses. arena_allocated - arena_used is fragmentation. Savings.compressed has
// subtracted the blobs (arena_used) already, so `net` subtracts only overhead().
struct Spent {
  ByteCount arena_used;       // bytes of blobs
  ByteCount arena_allocated;  // bytes of memory behind them
  ByteCount content_headers;
  ByteCount index;
  ByteCount page_tables;  // ramfold's page tables
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
  // Memory that unfolding everything needs, minus memory that it frees.
  ByteCount needed_if_all_back;
  ByteCount available;     // MemAvailable now, and free swap that is not on zram
  ByteCount reserve;       // never counted on
  ByteCount unbacked_max;  // memory that the operator allows beyond that

  ByteCount limit() const noexcept {
    const std::uint64_t backed =
        available.value > reserve.value ? available.value - reserve.value : 0;
    return ByteCount{backed + unbacked_max.value};
  }
  bool kept() const noexcept { return needed_if_all_back <= limit(); }
  friend bool operator==(const Promise&, const Promise&) = default;
};

// A counter or gauge of a part of the daemon. docs/control-protocol.md, "Counters", tells its kind
// and meaning.
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
// The result of the start-up self-test for one fact about the kernel.
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

// The contents that are stored in one form.
struct FormView {
  std::string form;  // "raw", "lz4", "zstd", "patch", "delta", "mix", "mix_delta"
  std::uint64_t contents = 0;
  ByteCount stored;              // encoded, before rounding to slots
  double decode_ns = 0;          // measured; without the time to decode the reference
  double decode_columns_ns = 0;  // for pages encoded by columns; 0: this form has none
  std::uint64_t given = 0;       // how often a stored content got this form, since the start
  double patch_after_s = 0;      // a content of this form is tried as a patch after so long
  double dense_after_s = 0;      // with zstd
  double densest_after_s = 0;    // with zstd's slowest level
  double mixed_after_s = 0;      // mixed
  friend bool operator==(const FormView&, const FormView&) = default;
};
// The work that gives cold contents smaller forms.
struct ReformView {
  // CPU time that a GiB freed for an hour is worth; 0: contents keep their forms.
  double cpu_s_per_gib_hour = 0;
  std::vector<FormView> forms;  // in a VmView: those of its group
  std::uint64_t attempts = 0;
  std::uint64_t moved = 0;      // contents moved to denser slabs of the arena
  std::uint64_t rewritten = 0;  // contents of which only patches still needed the reference

  bool active() const noexcept { return cpu_s_per_gib_hour > 0; }
  friend bool operator==(const ReformView&, const ReformView&) = default;
};

struct HostView {
  HostState state = HostState::starting;
  std::vector<Reason> reasons;  // the first is the one that matters most
  std::vector<Reason> notices;  // problems that do not stop folding
  std::string version;
  std::string kernel;  // uname -r
  // The source that tells which pages guests touch: "forget" or "page_idle"; "off": none.
  std::string referenced;
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
  std::uint64_t restarts = 0;  // how often a daemon took VMs over from the one before
  std::uint64_t vms_attached = 0;
  std::uint64_t vms_observe_only = 0;
  std::uint64_t contents = 0;         // distinct contents stored
  std::vector<CounterView> counters;  // sorted by name; with the events of VMs that have left
  friend bool operator==(const HostView&, const HostView&) = default;
};

enum class VmState : std::uint8_t {
  connected,  // its agent is connected, its RAM is not attached
  attaching,
  observe_only,  // attached, must not be folded: see the reasons
  idle,          // may be folded, but is not folded now: see the reasons
  folding,
  paused,
  unfolding,
  detached,  // by the operator
  failed,    // it has lost pages, or its page state is inconsistent: see the reasons
};

enum class GateState : std::uint8_t {
  unknown,
  pinned,  // a page may leave when the kernel says that no device holds it
  closed,  // nothing may leave: see the reasons
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
  PageCount touched;  // resident now, folded or mapped
  PageCount resident;
  PageCount observed;
  PageCount clean;
  PageCount mapped;  // counted as folded, too
  PageCount poisoned;
  PageCount held;  // by a device, in the last pass
  friend bool operator==(const PagesView&, const PagesView&) = default;
};

struct RamBlockView {
  std::string name;  // QEMU's id; empty if unknown
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

// The memory that ramfold keeps for one VM, and its limit.
struct KeptView {
  ByteCount page_table;
  ByteCount discard_bitmap;
  ByteCount notes;          // in the daemon's own memory
  ByteCount stored;         // its part of the stored bytes of its group
  ByteCount limit;          // for the sum of the four
  std::uint64_t names = 0;  // descriptors with the keeper

  ByteCount total() const noexcept {
    return ByteCount{page_table.value + discard_bitmap.value + notes.value + stored.value};
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
  std::vector<Reason> reasons;  // why it saves nothing or too little; most important first
  std::vector<Reason> notices;  // what stands against mapping pages; folding goes on
  PagesView pages;
  Savings saved;  // net_bytes: with this VM's share of the memory spent
  std::vector<FaultKindView> faults;
  KeptView kept;
  BackoffView backoff{};
  ReformView reform;
  double stall_share = 0;  // time that its threads waited for ramfold / wall time since the attach
  double stalled_seconds = 0;  // that time, summed over its threads
  double stall_budget = 0;     // share of wall time per vCPU
  unsigned vcpus = 0;          // 0: not known, counted as 1
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

// Where the value of a key is from.
enum class PolicyOrigin : std::uint8_t {
  preset,  // the default: nobody gave it
  file,
  set,  // by `ramfold policy set`
};
// From when on a change of a key holds.
enum class PolicyTakes : std::uint8_t { at_once, at_attach, at_start };

// One key of the configuration, and the value that is in force.
struct PolicyKeyView {
  std::string key;       // "fold.lz4"; of a VM "lz4"
  std::string in_force;  // its value
  PolicyOrigin origin = PolicyOrigin::preset;
  PolicyTakes takes = PolicyTakes::at_once;
  std::string how;      // how a change is taken up, or why not sooner
  std::string pending;  // the value that holds from then on; empty: the same
  friend bool operator==(const PolicyKeyView&, const PolicyKeyView&) = default;
};
struct PolicyView {
  std::string file;  // of the configuration
  std::vector<PolicyKeyView> keys;
  friend bool operator==(const PolicyView&, const PolicyView&) = default;
};

// The estimate for unfolding one VM, or all VMs, before it begins.
struct UnfoldPlan {
  PageCount pages;
  ByteCount needed;     // memory that it needs, minus memory that it frees meanwhile
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
