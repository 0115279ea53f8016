// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/bring_back/off_switch.hpp"

#include "base/clock.hpp"
#include "daemon/custody/adopter.hpp"
#include "daemon/log.hpp"
#include "store/contents.hpp"

namespace ramfold::daemon {

using control::Answer;
using control::Failure;

namespace {

constexpr const char* kTask = "off";
// Waits for VMs that are ending, or that another operation unfolds.
constexpr unsigned kBusyWaits = 400;
constexpr unsigned kKeptWaits = 20;
constexpr std::uint64_t kNapNs = 50'000'000;

bool only_lost_left(const AttachedVm& vm) { return vm.let_go && vm.lost() != 0; }

}  // namespace

std::unexpected<control::OperationError> not_taken_back(const Error& error) {
  return control::refuse(
      Failure::failed,
      "the decision stays in force, because its end cannot be written: " + error.text(),
      "make state_dir writable, then try again");
}

Answer<control::UnfoldPlan> OffSwitch::plan() const { return p_.detach.plan(p_.vms.all()); }

std::optional<control::OperationError> OffSwitch::lacking() const {
  std::vector<VmHandle> vms = p_.vms.all();
  std::erase_if(vms, [](const VmHandle& vm) {
    return has_ended(vm->vm->files().pidfd) || only_lost_left(*vm);
  });
  // The pages of a VM that is not counted are not known. Detach::run() tells of such a VM.
  for (const VmHandle& vm : vms) p_.detach.wait_counted(*vm);
  return p_.room.lacking(vms, Reserve::left_alone);
}

Status OffSwitch::decide() {
  p_.state.off.store(true);
  return p_.decisions.decide(HostDecision::off);
}

Answer<void> OffSwitch::off(const control::ProgressSink& progress) {
  p_.judge();
  p_.agents.finish_offers();
  Answer<void> done = bring_all_back(progress);
  if (!done && p_.state.off && lost_left().empty()) go_on();
  p_.judge();
  return done;
}

void OffSwitch::go_on() {
  if (retried_.exchange(true)) return;
  p_.retries.add({kTask, Retries::kHost,
                  [this]() -> Status {
                    const auto again = bring_all_back([](const control::UnfoldProgress&) {});
                    // Trying again does not bring lost pages back.
                    if (again || !lost_left().empty()) return {};
                    return fail(again.error().text + ": " + again.error().remedy);
                  },
                  [this] { return p_.state.off && !p_.state.off_done; },
                  [this](bool) { retried_.store(false); }, 0});
}

void OffSwitch::tend() {
  if (!p_.state.off || p_.state.off_done || !lost_left().empty()) return;
  if (!bringing_back_.try_lock()) return;  // bring_all_back() runs
  const MutexLock lock(bringing_back_, std::adopt_lock);
  go_on();
}

std::vector<VmHandle> OffSwitch::lost_left() const {
  std::vector<VmHandle> left;
  if (!p_.state.off) return left;
  for (const VmHandle& vm : p_.vms.all()) {
    if (has_ended(vm->vm->files().pidfd)) continue;
    if (!only_lost_left(*vm)) return {};
    left.push_back(vm);
  }
  return left;
}

Answer<void> OffSwitch::bring_all_back(const control::ProgressSink& progress) {
  const MutexLock lock(bringing_back_);
  if (!p_.state.off) return control::refuse(Failure::conflict, "folding was resumed meanwhile", "");
  if (p_.state.off_done) return {};
  if (auto no = lacking()) return std::unexpected(std::move(*no));
  for (unsigned waits = 0; p_.vms.size() != 0; ++waits) {
    std::size_t held = 0;
    std::vector<VmHandle> let_go;
    for (const VmHandle& vm : p_.vms.all()) {
      if (has_ended(vm->vm->files().pidfd)) continue;
      // If an error ends this, pages that are back stay back. The other VMs stay attached and
      // served, and nothing more is folded.
      if (!only_lost_left(*vm)) {
        auto done = p_.detach.run(vm, progress);
        if (done || !vm->vm->alive()) continue;
        if (vm->held == 0 && !only_lost_left(*vm) && done.error().failure != Failure::conflict)
          return done;
      }
      if (vm->held != 0) {
        ++held;  // goes on with the other VMs
      } else if (only_lost_left(*vm)) {
        let_go.push_back(vm);
      }
    }
    if (held != 0 && held + let_go.size() == p_.vms.size()) return held_up();
    // These VMs need nothing of the store. But the keeper holds no VM without a store, so the store
    // stays.
    if (!let_go.empty() && let_go.size() == p_.vms.size()) {
      if (!p_.state.recovering) p_.contents.trim_all();
      log::warn("off: everything is back but {}", tell_lost(let_go));
      return all_but_lost(let_go);
    }
    if (p_.stopping || waits == kBusyWaits) {
      return control::refuse(Failure::failed,
                             "some VMs are busy: being unfolded, or cleared away after their end",
                             "try again");
    }
    if (p_.vms.size() != 0) sleep_ns(kNapNs);
  }
  // Waits for the recovery: the store cannot be given up while its indexes are rebuilt, nor while
  // words are not counted.
  const auto needed = [this] { return p_.state.recovering || p_.contents.has_uncounted(); };
  for (unsigned i = 0; i < kBusyWaits && needed() && !p_.stopping; ++i) sleep_ns(kNapNs);
  p_.departures.drain();
  if (p_.contents.has_uncounted()) {
    return control::refuse(Failure::failed,
                           "a VM that an earlier daemon folded is not counted, and may need the "
                           "store",
                           "end this VM: `ramfold doctor` names it");
  }
  Status dropped = p_.keeping.drop_store();
  // A VM that was handed over just as it was detached may stay with the keeper for a moment.
  for (unsigned i = 0; i < kKeptWaits && !dropped && dropped.error().code == EBUSY; ++i) {
    sleep_ns(kNapNs);
    dropped = p_.keeping.drop_store();
  }
  if (!dropped) {
    return control::refuse(
        Failure::failed,
        "everything is back, but the keeper still holds the store: " + dropped.error().text(),
        "systemctl start ramfold-keeper");
  }
  p_.contents.trim_all();
  p_.state.off_done.store(true);
  log::info("off: everything is back, nothing of any VM is held any more");
  return {};
}

Answer<void> OffSwitch::resume() {
  if (!bringing_back_.try_lock()) {
    return control::refuse(Failure::conflict, "everything is being brought back",
                           "wait for `ramfold off` to end");
  }
  const MutexLock lock(bringing_back_, std::adopt_lock);
  if (Status written = p_.decisions.take_back_host(); !written) {
    return not_taken_back(written.error());
  }
  p_.state.paused.store(false);
  p_.state.off_done.store(false);
  if (p_.state.off.exchange(false)) {
    for (const VmHandle& vm : p_.vms.all()) {
      if (!p_.decisions.since(VmDecision::detached, key_of(p_.decisions, *vm))) take_up(*vm);
    }
  }
  p_.agents.invite_all();
  p_.judge();
  return {};
}

std::optional<std::string> OffSwitch::trouble() const {
  const auto trouble = p_.retries.trouble(kTask);
  return trouble ? std::optional(trouble->why) : std::nullopt;
}

}  // namespace ramfold::daemon
