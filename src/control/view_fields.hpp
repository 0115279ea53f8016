// SPDX-License-Identifier: GPL-2.0-or-later
// Describes the fields of the views: for each its name in JSON, and for a figure also its kind and
// one sentence. JSON in both directions and tables are made from this description; a test compares
// it with docs/control-protocol.md.
// Threads: pure functions.
#pragma once

#include "base/metric.hpp"
#include "control/service.hpp"
#include "control/views.hpp"

namespace ramfold::control {

template <typename V, ConstOr<Reason> S>
constexpr void visit(V& v, S& s) {
  v(named("code"), s.code);
  v(named("text"), s.text);
  v(named("remedy"), s.remedy);
}

template <typename V, ConstOr<Mechanism> S>
constexpr void visit(V& v, S& s) {
  v(gauge("pages", "Folded pages that count under this mechanism."), s.pages);
  v(gauge("saved_bytes", "Memory that they save, before ramfold's own is subtracted."), s.saved);
}

template <typename V, ConstOr<Savings> S>
constexpr void visit(V& v, S& s) {
  v(named("zero"), s.zero);
  v(named("shared"), s.shared);
  v(named("compressed"), s.compressed);
  v(gauge("net_bytes", "`gross_bytes` minus all that ramfold spends; it may be negative."),
    s.net_bytes);
  v.derived(gauge("folded_pages", "Folded pages of all mechanisms."),
            [&] { return s.folded_pages(); });
  v.derived(gauge("gross_bytes", "Memory that all mechanisms save."), [&] { return s.gross(); });
}

template <typename V, ConstOr<Spent> S>
constexpr void visit(V& v, S& s) {
  v(gauge("arena_used_bytes", "Stored pages."), s.arena_used);
  v(gauge("arena_allocated_bytes", "Memory behind the stored pages."), s.arena_allocated);
  v(gauge("content_headers_bytes", "Headers, reference counts and notes of contents."),
    s.content_headers);
  v(gauge("index_bytes", "The indexes that find equal and similar pages."), s.index);
  v(gauge("page_tables_bytes", "ramfold's page tables of VMs."), s.page_tables);
  v(gauge("discard_bitmaps_bytes", "Memory that is shared with agents."), s.discard_bitmaps);
  v(gauge("kernel_page_tables_bytes", "The kernel's page tables of the daemon."),
    s.kernel_page_tables);
  v(gauge("kernel_mappings_bytes", "The kernel's descriptions of mappings."), s.kernel_mappings);
  v(gauge("processes_bytes", "Other memory of the daemon and the keeper: code, stacks, heaps."),
    s.processes);
  v.derived(gauge("overhead_bytes", "All of this but the stored pages themselves."),
            [&] { return s.overhead(); });
}

template <typename V, ConstOr<Promise> S>
constexpr void visit(V& v, S& s) {
  v(gauge("needed_if_all_back_bytes", "Memory that is needed if every folded page comes back."),
    s.needed_if_all_back);
  v(gauge("available_bytes", "Available memory and free swap that is not on zram."), s.available);
  v(gauge("reserve_bytes", "Memory that is never counted on."), s.reserve);
  v(gauge("unbacked_max_bytes", "Memory that the operator allows beyond what is available."),
    s.unbacked_max);
  v.derived(gauge("limit_bytes", "`available_bytes` - `reserve_bytes` + `unbacked_max_bytes`."),
            [&] { return s.limit(); });
  v.derived(named("kept"), [&] { return s.kept(); });
}

template <typename V, ConstOr<SelfTestView> S>
constexpr void visit(V& v, S& s) {
  v(named("name"), s.name);
  v(named("outcome"), s.outcome);
  v(named("detail"), s.detail);
  v(named("remedy"), s.remedy);
}

template <typename V, ConstOr<KeeperView> S>
constexpr void visit(V& v, S& s) {
  v(named("state"), s.state);
  v(gauge("descriptors", "Descriptors that the keeper holds."), s.descriptors);
  v(named("detail"), s.detail);
}

template <typename V, ConstOr<CpuView> S>
constexpr void visit(V& v, S& s) {
  v(counter("scan_seconds", "CPU time for planning, reading and hashing."), s.scan_seconds);
  v(counter("fold_seconds", "CPU time for guarding, storing and punching."), s.fold_seconds);
  v(counter("fault_seconds", "CPU time for serving faults."), s.fault_seconds);
  v(counter("reform_seconds", "CPU time for giving stored contents cheaper forms."),
    s.reform_seconds);
}

template <typename V, ConstOr<FormView> S>
constexpr void visit(V& v, S& s) {
  v(named("form"), s.form);
  v(gauge("contents", "Contents that are kept in this form."), s.contents);
  v(gauge("stored_bytes", "Their encoded bytes, before rounding to slots."), s.stored);
  v(gauge("decode_ns", "Time to decode one, as learnt, without its reference."), s.decode_ns);
  v(gauge("decode_columns_ns", "The same of pages encoded by columns; 0: the form has none."),
    s.decode_columns_ns);
  v(counter("given", "Times that a stored content was given this form."), s.given);
  v(gauge("patch_after_seconds",
          "A content in this form is tried as a patch when it has been "
          "cold for so long."),
    s.patch_after_s);
  v(gauge("dense_after_seconds", "The same for zstd."), s.dense_after_s);
  v(gauge("densest_after_seconds", "The same for the densest level of zstd."), s.densest_after_s);
  v(gauge("mixed_after_seconds", "The same for mixed contexts."), s.mixed_after_s);
}

template <typename V, ConstOr<ReformView> S>
constexpr void visit(V& v, S& s) {
  v.derived(named("active"), [&] { return s.active(); });
  v(gauge("cpu_seconds_per_gib_hour",
          "CPU time that a GiB kept free for an hour is worth; 0: contents keep their form."),
    s.cpu_s_per_gib_hour);
  v(named("forms"), s.forms);
  v(counter("attempts", "Contents that were tried in another form."), s.attempts);
  v(counter("moved", "Contents that were moved to denser slabs."), s.moved);
  v(counter("rewritten",
            "Contents that were rewritten because only patches still needed their reference."),
    s.rewritten);
}

template <typename V, ConstOr<HostView> S>
constexpr void visit(V& v, S& s) {
  v(named("state"), s.state);
  v(named("reasons"), s.reasons);
  v(named("notices"), s.notices);
  v(named("version"), s.version);
  v(named("kernel"), s.kernel);
  v(named("referenced"), s.referenced);
  v(named("self_test"), s.self_test);
  v(named("keeper"), s.keeper);
  v(gauge("ram_total_bytes", "Memory of the host."), s.ram_total);
  v(gauge("ram_available_bytes", "Memory of the host that is available (MemAvailable)."),
    s.ram_available);
  v(gauge("keep_available_bytes", "The target of `fold.keep_available`."), s.keep_available);
  v(named("saved"), s.saved);
  v(named("spent"), s.spent);
  v(named("promise"), s.promise);
  v(named("cpu"), s.cpu);
  v(named("reform"), s.reform);
  v(gauge("uptime_seconds", "Time since the daemon's start."), s.uptime_seconds);
  v(gauge(
        "restarts",
        "Times that a daemon took VMs over from its predecessor, since the store was made: a boot "
        "begins at 0, and so does a start after `off`."),
    s.restarts);
  v(gauge("vms_attached", "Attached VMs."), s.vms_attached);
  v(gauge("vms_observe_only", "Attached VMs whose gate is closed."), s.vms_observe_only);
  v(gauge("contents", "Distinct contents that are stored."), s.contents);
  v(named("counters"), s.counters);
}

template <typename V, ConstOr<FaultKindView> S>
constexpr void visit(V& v, S& s) {
  v(named("kind"), s.kind);
  v(counter("count", "Faults of this kind."), s.count);
  v(gauge("p50_ns", "Half of them took no longer."), s.p50_ns);
  v(gauge("p99_ns", "99 of 100 took no longer."), s.p99_ns);
  v(gauge("max_ns", "None took longer."), s.max_ns);
}

template <typename V, ConstOr<PagesView> S>
constexpr void visit(V& v, S& s) {
  v(gauge("total", "Pages of RAM."), s.total);
  v(gauge("touched", "Pages that were ever touched: resident now, or folded."), s.touched);
  v(gauge("resident", "Pages in memory."), s.resident);
  v(gauge("observed", "Pages that were present in the last pass."), s.observed);
  v(gauge("clean", "Resident pages that are known to be equal to a stored content."), s.clean);
  v(gauge("mapped", "Pages that share one page of memory with others, and can be read as before."),
    s.mapped);
  v(gauge("poisoned", "Pages that cannot be read back."), s.poisoned);
  v(gauge("held",
          "Pages that a device held: cold ones that the last pass wanted to fold, or all where "
          "another consumer of RAM keeps the VM unfolded."),
    s.held);
}

template <typename V, ConstOr<RamBlockView> S>
constexpr void visit(V& v, S& s) {
  v(named("name"), s.name);
  v(named("address"), s.address);
  v(gauge("size_bytes", "Size of the block."), s.size);
  v(named("file_offset_bytes"), s.file_offset);
  v(named("inode"), s.inode);
}

template <typename V, ConstOr<BackoffView> S>
constexpr void visit(V& v, S& s) {
  v(gauge("held_pages",
          "Pages that were present in the last pass and must stay unchanged for "
          "longer than `fold.passes`."),
    s.held);
  v(counter("returns", "Times that a folded page came back soon."), s.returns);
}

template <typename V, ConstOr<KeptView> S>
constexpr void visit(V& v, S& s) {
  v(gauge("page_table_bytes", "Its page table."), s.page_table);
  v(gauge("discard_bitmap_bytes", "Memory that is shared with its agent."), s.discard_bitmap);
  v(gauge("notes_bytes", "What the daemon notes of its pages: owners, touches, rests, slots."),
    s.notes);
  v(gauge("stored_bytes", "Its part of its group's stored pages, by the number of its own."),
    s.stored);
  v.derived(gauge("total_bytes", "The sum of these four."), [&] { return s.total(); });
  v(gauge("limit_bytes", "What the sum may be (`host.vm_kept_factor_max`)."), s.limit);
  v(gauge("names", "Descriptors with the keeper."), s.names);
}

template <typename V, ConstOr<VmView> S>
constexpr void visit(V& v, S& s) {
  v(named("id"), s.id);
  v(named("name"), s.name);
  v(named("uuid"), s.uuid);
  v(named("pid"), s.pid);
  v(named("uid"), s.uid);
  v(named("group"), s.group);
  v(named("state"), s.state);
  v(named("gate"), s.gate);
  v(named("reasons"), s.reasons);
  v(named("notices"), s.notices);
  v(named("pages"), s.pages);
  v(named("saved"), s.saved);
  v(named("faults"), s.faults);
  v(named("kept"), s.kept);
  v(named("backoff"), s.backoff);
  v(named("reform"), s.reform);
  v(gauge("stall_share",
          "Share of wall time since the attach that the VM's threads waited for "
          "ramfold: 0 to 1 and above."),
    s.stall_share);
  v(counter("stalled_seconds", "That time, summed over the VM's threads."), s.stalled_seconds);
  v(gauge("stall_budget", "Share of wall time per vCPU that its threads may wait for ramfold."),
    s.stall_budget);
  v(gauge("vcpus", "Its vCPUs; 0: not known, which counts as one."), s.vcpus);
  v(counter("fault_events", "Fault events that were served."), s.fault_events);
  v(counter("fault_errors", "Calls to the kernel or the store that failed."), s.fault_errors);
  v(gauge("pass_seconds", "How long the last scan pass took."), s.pass_seconds);
  v(counter("passes", "Scan passes that are done."), s.passes);
  v(named("blocks"), s.blocks);
  v(named("counters"), s.counters);
}

template <typename V, ConstOr<Snapshot> S>
constexpr void visit(V& v, S& s) {
  v(named("host"), s.host);
  v(named("vms"), s.vms);
}

template <typename V, ConstOr<PolicyKeyView> S>
constexpr void visit(V& v, S& s) {
  v(named("key"), s.key);
  v(named("value"), s.in_force);
  v(named("origin"), s.origin);
  v(named("takes"), s.takes);
  v(named("how"), s.how);
  v(named("pending"), s.pending);
}

template <typename V, ConstOr<PolicyView> S>
constexpr void visit(V& v, S& s) {
  v(named("file"), s.file);
  v(named("keys"), s.keys);
}

template <typename V, ConstOr<UnfoldPlan> S>
constexpr void visit(V& v, S& s) {
  v(gauge("pages", "Pages that would come back."), s.pages);
  v(gauge("needed_bytes", "Memory that this takes, less what it frees on the way."), s.needed);
  v(gauge("available_bytes", "Memory that may be used for it."), s.available);
  v(gauge("seconds", "How long it takes, by estimate."), s.seconds);
  v.derived(gauge("missing_bytes", "Memory that is missing for it."), [&] { return s.missing(); });
}

template <typename V, ConstOr<UnfoldProgress> S>
constexpr void visit(V& v, S& s) {
  v(gauge("done_pages", "Pages that are back."), s.done);
  v(gauge("total_pages", "Pages that are to come back."), s.total);
  v(gauge("seconds_left", "How long the rest takes, by estimate."), s.seconds_left);
}

template <typename V, ConstOr<OperationError> S>
constexpr void visit(V& v, S& s) {
  v(named("failure"), s.failure);
  v(named("text"), s.text);
  v(named("remedy"), s.remedy);
  v(gauge("missing_bytes", "With `refused` for lack of memory: how much is missing."), s.missing);
}

}  // namespace ramfold::control
