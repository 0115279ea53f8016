// SPDX-License-Identifier: GPL-2.0-or-later
// Makes the views for the operator: host, VMs and stored forms at this moment.
#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "base/clock.hpp"
#include "daemon/custody/hand_over.hpp"
#include "daemon/custody/mappings.hpp"
#include "daemon/judge/host_words.hpp"
#include "daemon/judge/quota.hpp"
#include "daemon/judge/stall_watch.hpp"
#include "daemon/report/figures.hpp"
#include "daemon/report/held_pages.hpp"
#include "daemon/report/service.hpp"
#include "store/stats.hpp"
#include "version.hpp"

namespace ramfold::daemon {

using control::VmState;

namespace {

// Descriptors of a VM with the keeper beside its RAM: userfaultfd, page table, shared memory,
// record, watch.
constexpr std::uint64_t kKeptBesideRam = 5;

double seconds(std::uint64_t ns) { return static_cast<double>(ns) / 1e9; }

}  // namespace

control::HostView HostService::host_view(const std::vector<VmHandle>& vms,
                                         const guest::VmCounters& gone,
                                         const Account& account) const {
  control::HostView view;
  view.version = kVersion;
  const auto version = p_.procfs.kernel_version();
  if (version) view.kernel = version->text;
  const auto memory = p_.procfs.memory_info();
  if (memory) {
    view.ram_total = memory->total;
    view.ram_available = memory->available;
  }
  const HostVerdict verdict = p_.state.verdict();
  view.reasons = verdict.reasons;
  view.promise = verdict.promise;
  view.keep_available = verdict.keep_available;
  view.self_test = p_.state.self_test();
  const bool cannot = verdict.has("self-test") || verdict.has("no-keeper") ||
                      verdict.has("no-pin-test") || verdict.has("config") || verdict.has("state");
  // Where there is no VM, it is told whether the next one would be folded.
  const bool folds = vms.empty() ? verdict.may_fold_when(p_.policy.config()->fold.when)
                                 : std::ranges::any_of(vms, [&](const VmHandle& vm) {
                                     return verdict.may_fold_when(vm->targets.load().when);
                                   });
  const bool is_off = p_.state.off_done || !p_.off.lost_left().empty();
  view.state = is_off                                           ? control::HostState::off
               : p_.state.recovering || verdict.has("starting") ? control::HostState::starting
               : p_.state.off                                   ? control::HostState::unfolding
               : cannot                                         ? control::HostState::observe_only
               : p_.state.paused                                ? control::HostState::paused
               : folds                                          ? control::HostState::folding
                                                                : control::HostState::idle;
  view.notices = p_.policy.notices();
  view.notices.insert(view.notices.end(), verdict.notices.begin(), verdict.notices.end());
  Work::Asked asked = p_.work.asked();
  view.referenced = asked.source;
  if (asked.refusal) view.notices.push_back(std::move(*asked.refusal));
  if (const auto why = p_.decisions.unsaved()) {
    view.notices.push_back({"state", "the operator's decisions are not on the disk: " + *why,
                            "make state_dir writable; the daemon tries again by itself"});
  }
  view.keeper.state = !p_.keeping.connected()  ? control::KeeperState::absent
                      : p_.keeping.held() != 0 ? control::KeeperState::holding
                                               : control::KeeperState::connected;
  view.keeper.descriptors = p_.keeping.held();
  view.keeper.detail = p_.keeping.silent()   ? "there, and does not answer"
                       : p_.keeping.backed() ? "backed by systemd's descriptor store"
                                             : "";
  view.saved = account.saved;
  view.spent = account.spent;
  std::uint64_t faults = p_.departures.fault_cpu_ns();
  for (const VmHandle& vm : vms) faults += vm->faults->cpu_ns();
  view.cpu.fault_seconds = seconds(faults);
  const Work::Cpu cpu = p_.work.cpu();
  view.cpu.scan_seconds = seconds(cpu.scan_ns);
  view.cpu.fold_seconds = seconds(cpu.fold_ns);
  view.cpu.reform_seconds = seconds(cpu.reform_ns);
  view.uptime_seconds = seconds(monotonic_ns() - p_.started_ns);
  view.restarts = p_.contents.take_overs();
  view.vms_attached = vms.size();
  view.vms_observe_only = static_cast<std::uint64_t>(std::count_if(
      vms.begin(), vms.end(), [](const VmHandle& vm) { return !vm->vm->gate().is_open(); }));
  view.contents = account.contents;
  view.reform = reform_view(account.store, std::nullopt);
  const auto reform = p_.work.reform();
  const store::ReformFigures reformed = reform ? reform->figures : store::ReformFigures{};
  std::vector<const guest::VmCounters*> counted;
  counted.reserve(vms.size());
  for (const VmHandle& vm : vms) counted.push_back(&vm->vm->counters());
  view.counters = counters_of({account.store, reformed, p_.fault_pool.figures()}, counted, gone);
  return view;
}

control::ReformView HostService::reform_view(const store::Stats& stats,
                                             std::optional<GroupId> group) const {
  control::ReformView view;
  const auto* kept_of = &stats.forms;
  if (group) {
    if (const auto* own = store::find_group(stats.groups, *group)) kept_of = &own->forms;
  }
  const auto& kept = *kept_of;
  const auto reform = p_.work.reform();
  const store::ReformFigures figures = reform ? reform->figures : store::ReformFigures{};
  if (reform) view.cpu_s_per_gib_hour = reform->cpu_s_per_gib_hour;
  view.attempts = figures.tried;
  view.moved = figures.moved;
  view.rewritten = figures.rewritten;
  // Computed for a content with the mean length of its form.
  const auto after = [&](store::Stage stage, std::size_t form) {
    const std::uint64_t mean =
        kept[form].contents == 0 ? kPageSize / 2 : kept[form].stored.value / kept[form].contents;
    const std::size_t band = store::band_of(static_cast<std::uint32_t>(mean));
    return figures.costs.pays_after_s[static_cast<std::size_t>(stage)][form][band];
  };
  for (std::size_t form = 1; form < store::kForms; ++form) {  // zeros are not stored
    view.forms.push_back({.form = std::string(name_of(static_cast<store::Form>(form))),
                          .contents = kept[form].contents,
                          .stored = kept[form].stored,
                          .decode_ns = figures.costs.decode_ns[form],
                          .decode_columns_ns = figures.costs.decode_columns_ns[form],
                          .given = figures.given[form],
                          .patch_after_s = after(store::Stage::patched, form),
                          .dense_after_s = after(store::Stage::dense, form),
                          .densest_after_s = after(store::Stage::densest, form),
                          .mixed_after_s = after(store::Stage::mixed, form)});
  }
  return view;
}

control::VmView HostService::vm_view(const VmHandle& vm, const Account& account,
                                     const std::vector<VmHandle>& vms) const {
  const guest::VmRecord& record = vm->vm->record();
  guest::VmCounters& c = vm->vm->counters();
  control::VmView view;
  view.id = vm->vm->id();
  view.name = record.name;
  view.uuid = vm->uuid;
  view.pid = record.pid;
  view.uid = record.uid;
  view.group = record.group;
  view.saved = vm_savings(*vm, account, vms);
  view.reform = reform_view(account.store, vm->group);
  view.kept = {ByteCount{vm->keeps.page_table}, ByteCount{vm->keeps.bitmap},
               ByteCount{vm->keeps.notes},      ByteCount{vm->keeps.stored},
               ByteCount{vm->keeps.limit},      vm->vm->files().rams.size() + kKeptBesideRam};
  view.pages.total = vm->vm->pages();
  view.pages.resident = resident(*vm->vm);
  view.pages.clean = PageCount{c.clean.get()};
  view.pages.mapped = vm->mapped();
  view.pages.poisoned = PageCount{c.poisoned.get()};
  view.pages.touched = PageCount{view.pages.resident.value + c.folded_zero.get() +
                                 c.folded_content.get() + view.pages.mapped.value};
  {
    const MutexLock lock(vm->cursor.mutex);
    view.pass_seconds = seconds(vm->cursor.pass_ns);
    view.passes = vm->cursor.passes;
    view.pages.observed = PageCount{vm->cursor.met_last.present};
    view.pages.held = PageCount{vm->cursor.busy_last};
    view.backoff.held = PageCount{vm->cursor.met_last.held};
  }
  view.backoff.returns = c.returned_soon.get();
  view.faults = faults_of(c);
  view.counters = counters_of(c);
  view.fault_events = c.faults_zero.get() + c.faults_content.get() + c.faults_write_guarded.get() +
                      c.faults_late.get() + c.faults_busy.get();
  view.fault_errors = c.errors.get();
  const std::uint64_t wall = monotonic_ns() - vm->attached_ns;
  const std::uint64_t stalled = c.stalled_ns();
  view.stall_share = wall == 0 ? 0 : static_cast<double>(stalled) / static_cast<double>(wall);
  view.stalled_seconds = seconds(stalled);
  view.stall_budget = vm->targets.load().stall_budget;
  view.vcpus = vm->vcpus.load(std::memory_order_relaxed);
  for (const guest::RamBlock& b : vm->ram)
    view.blocks.push_back({"", b.address, b.size, b.offset, b.file.inode});

  const auto because = [&](std::string code, std::string text, std::string remedy) {
    view.reasons.push_back({std::move(code), std::move(text), std::move(remedy)});
  };
  bool open = false;
  std::vector<guest::Reason> facts_reasons;
  std::string unfolded_for;
  ByteCount ram_beside;
  bool facts_known = false;
  bool stays_unfolded = false;
  bool is_renewable = false;
  {
    // Read under one lock, so that the gate and the facts belong together: the gate is closed
    // before the facts that opened it change.
    const MutexLock lock(vm->facts.mutex);
    open = vm->vm->gate().is_open();
    facts_reasons = vm->facts.reasons;
    unfolded_for = vm->facts.unfolded_for;
    ram_beside = vm->facts.ram_beside;
    facts_known = vm->facts.read_once;
    stays_unfolded = vm->stays_unfolded();
    is_renewable = vm->is_renewable();
  }
  view.gate = open ? control::GateState::pinned : control::GateState::closed;
  if (const auto why = why_not_mapped(*vm)) view.notices.push_back(*why);
  if (!vm->kept) view.reasons.push_back(why_not_kept(*vm));
  if (!vm->agent_ready) {
    because("agent-silent", "its agent does not answer, so nothing is folded",
            "see the VM's log; the agent reconnects by itself");
  }
  if (!vm->counted) {
    because("recovering", "its pages are being counted after a restart of the daemon", "wait");
  }
  if (vm->held != 0) {
    because("held-up", "its process holds up a thread of the daemon",
            "end the VM, or what holds its memory map or its RAM file: a file system that does not "
            "answer?");
  }
  for (const guest::Reason& r : facts_reasons) {
    if (r.code == guest::ReasonCode::agent_silent && !vm->agent_ready) continue;  // told above
    because(std::string(guest::name(r.code)), r.text, r.remedy);
  }
  const bool shown = std::ranges::any_of(
      facts_reasons, [](const guest::Reason& r) { return guest::demands_unfold(r.code); });
  if (stays_unfolded && !shown && is_renewable) {
    because("other_userfaultfd", "it was unfolded for a userfaultfd of QEMU's own, which is closed",
            "wait: it is folded again soon");
  } else if (stays_unfolded && !shown) {
    because("other-consumer",
            fmt::format("it was unfolded for good: {}",
                        unfolded_for.empty() ? "its RAM was wanted by a device" : unfolded_for),
            "restart the VM without this use of its RAM to have it folded again");
  }
  if (const auto trouble = p_.consumers.trouble(*vm)) {
    because("unfold-failed",
            fmt::format("another consumer of its RAM is there or waits, and its pages could not be "
                        "brought back ({} attempts): {}",
                        trouble->attempts, trouble->why),
            fmt::format("it is tried again by itself, in {:.0f} s at the latest",
                        std::ceil(trouble->next_seconds)));
  }
  // After what closes the gate: these only slow folding, or are what the operator wanted.
  if (!vm->targets.load().fold)
    because("policy", "fold = false for this VM",
            fmt::format("`ramfold policy set {} fold=true`; `ramfold policy get {}` tells where it "
                        "is from",
                        vm->vm->id().value, vm->vm->id().value));
  if (const auto why = why_keeps_too_much(*vm)) view.reasons.push_back(*why);
  if (const auto why = why_held_back(*vm)) view.reasons.push_back(*why);
  if (vm->paused)
    because("paused", "paused by the operator",
            fmt::format("`ramfold resume {}`", vm->vm->id().value));
  const HostVerdict verdict = p_.state.verdict();
  const policy::FoldWhen when = vm->targets.load().when;
  const bool folding = p_.state.may_fold(when);
  if (vm->let_go) {
    because("let-go",
            fmt::format("it was detached, but has {} lost pages, so the daemon still serves it",
                        vm->lost()),
            "restart the VM");
  }
  const bool failed = vm->lost() != 0 || vm->vm->inconsistency() != guest::Inconsistency::none;
  view.state = vm->unfolding  ? VmState::unfolding
               : vm->let_go   ? VmState::detached
               : failed       ? VmState::failed
               : !facts_known ? VmState::attaching
               : vm->paused   ? VmState::paused
               : !open        ? VmState::observe_only
               : folding      ? VmState::folding
                              : VmState::idle;
  if (open) {  // also while it is folded: the store may be full
    for (const control::Reason& r : verdict.reasons) {
      if (r.code != "memory-plentiful") view.reasons.push_back(r);
    }
    if (!policy::needs_folding(when, verdict.memory)) {
      view.reasons.push_back(host_words::memory_plentiful(
          "set `when = \"eager\"` for this VM to fold it all the same"));
    }
  }
  if (open || vm->counts_held()) {
    if (const auto why = why_pages_stay(view.pages, view.gate)) view.reasons.push_back(*why);
  }
  if (ram_beside.value != 0) {
    because("ram-added",
            fmt::format("{} MiB of RAM that were added after its start are not folded; "
                        "the rest is as it was",
                        ram_beside.value >> 20),
            "restart the VM with all of its RAM");
  }
  return view;
}

}  // namespace ramfold::daemon
