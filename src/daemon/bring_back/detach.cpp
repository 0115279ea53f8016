// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/bring_back/detach.hpp"

#include <fmt/format.h>
#include <algorithm>

#include "base/clock.hpp"
#include "base/printable.hpp"
#include "daemon/bring_back/unfold.hpp"
#include "daemon/custody/adopter.hpp"
#include "daemon/log.hpp"

namespace ramfold::daemon {

using control::Answer;
using control::Failure;

namespace {

// A detach fails if no page comes back for this time. On a host that swaps one page takes some ms.
constexpr std::uint64_t kPatienceNs = 20'000'000'000;
constexpr std::uint64_t kNapNs = 50'000'000;
constexpr unsigned kCountWaits = 1200;  // of kNapNs: one minute
constexpr std::size_t kVmsToldMax = 8;  // `ramfold list` has all
constexpr const char* kLostRemedy =
    "restart the VMs that have lost pages; until they end, ramfold has to run and serve them";

std::unexpected<control::OperationError> still_counting() {
  return control::refuse(Failure::conflict, "its pages are still being counted after a restart",
                         "try again");
}

std::unexpected<control::OperationError> cut_short() {
  return control::refuse(Failure::failed,
                         "the daemon was told to end before everything was back; nothing is lost",
                         "the next daemon goes on with it");
}

// The VM stays attached and its faults are served: a hole that nobody serves reads as zeros.
void let_go(AttachedVm& vm) {
  if (vm.let_go.exchange(true)) return;
  log::warn("vm {}: detached, but {} of its pages are lost: the daemon serves it until it ends",
            vm.vm->name(), vm.lost());
  if (Status noted = vm.vm->note_flags(guest::kRecordLetGo); !noted)
    log::error("vm {}: {}", vm.vm->name(), noted.error().text());
}

}  // namespace

void take_up(AttachedVm& vm) {
  if (!vm.let_go.exchange(false)) return;
  log::info("vm {}: attached again", vm.vm->name());
  if (Status noted = vm.vm->note_flags(0, guest::kRecordLetGo); !noted)
    log::error("vm {}: {}", vm.vm->name(), noted.error().text());
}

std::string tell_lost(const std::vector<VmHandle>& vms) {
  std::uint64_t sum = 0;
  std::string each;
  for (std::size_t i = 0; i < vms.size(); ++i) {
    const AttachedVm& vm = *vms[i];
    const std::uint64_t lost = vm.lost();
    sum += lost;
    if (i >= kVmsToldMax) continue;
    each += fmt::format("{}{} of vm {} (id {})", each.empty() ? "" : ", ", lost,
                        printable(vm.vm->name()), vm.vm->id().value);
  }
  if (vms.size() > kVmsToldMax) {
    each += fmt::format(", the rest of {} more VMs", vms.size() - kVmsToldMax);
  }
  return fmt::format("{} pages, which are lost: {}", sum, each);
}

std::unexpected<control::OperationError> all_but_lost(const std::vector<VmHandle>& vms) {
  return control::refuse(Failure::failed,
                         fmt::format("everything is back but {}; an access to them gets a memory "
                                     "error",
                                     tell_lost(vms)),
                         kLostRemedy);
}

std::unexpected<control::OperationError> held_up() {
  return control::refuse(
      Failure::failed, "the VM's process holds the daemon up: its pages do not come back",
      "end the VM, or what holds its memory map or its RAM file: a file system that does "
      "not answer?");
}

bool Detach::wait_counted(const AttachedVm& vm) const {
  for (unsigned i = 0; i < kCountWaits && !vm.counted && !stopping_; ++i) sleep_ns(kNapNs);
  return vm.counted;
}

Answer<control::UnfoldPlan> Detach::plan(std::span<const VmHandle> vms) const {
  for (const VmHandle& vm : vms) {
    if (!wait_counted(*vm)) return still_counting();
  }
  return room_.plan(vms, Reserve::left_alone);
}

Answer<void> Detach::run(const VmHandle& vm, const control::ProgressSink& progress,
                         Afterwards afterwards) {
  const auto unfolding = std::make_shared<Unfolding>(vm);
  if (!unfolding->first()) {
    if (vm->held != 0) return held_up();
    return control::refuse(Failure::conflict, "the VM is being unfolded already",
                           "wait for it to end");
  }
  if (!wait_counted(*vm)) return stopping_ ? cut_short() : still_counting();
  if (auto no = room_.lacking({&vm, 1}, Reserve::left_alone))
    return std::unexpected(std::move(*no));
  const PageCount pages{vm->vm->counters().folded_content.get() + vm->mapped().value};
  const std::uint64_t began = monotonic_ns();
  const auto tell = [&](std::uint64_t done) {
    const double spent = static_cast<double>(monotonic_ns() - began) / 1e9;
    const double left =
        done == 0 || done >= pages.value
            ? 0
            : spent * static_cast<double>(pages.value - done) / static_cast<double>(done);
    progress({PageCount{std::min(done, pages.value)}, pages, left});
  };
  if (Status done = unfold_apart(unfolding, kPatienceNs, tell, stopping_); !done) {
    if (done.error().code == ETIMEDOUT) return held_up();
    if (done.error().code == EIO && vm->only_lost_left) {
      let_go(*vm);
      return all_but_lost({vm});
    }
    if (stopping_) return cut_short();
    return control::refuse(Failure::failed, done.error().text(),
                           "the VM is attached and served as before");
  }
  // The words of an ended VM still name contents; Departures::bury_dead() gives them up.
  if (!vm->vm->alive()) return control::refuse(Failure::conflict, "the VM has ended", "");
  vm->detached.store(true);
  agents_.send_detached(*vm, afterwards);
  departures_.let_go(vm, kPatienceNs);
  if (afterwards == Afterwards::stays_away) log::info("vm {}: detached", vm->vm->name());
  return {};
}

void go_on_detaching(const std::vector<VmHandle>& vms, const Decisions& decisions, Detach& detach,
                     Retries& retries) {
  for (const VmHandle& vm : vms) {
    const auto wanted = [vm, &decisions] {
      return vm->vm->alive() && !vm->detached && !vm->let_go &&
             decisions.since(VmDecision::detached, key_of(decisions, *vm));
    };
    if (!wanted()) continue;
    retries.add({fmt::format("vm {} (id {}): detaching it", vm->vm->name(), vm->vm->id().value),
                 vm->vm->record().uid,
                 [vm, &detach]() -> Status {
                   const auto done = detach.run(vm, [](const control::UnfoldProgress&) {});
                   // Trying again does not bring lost pages back.
                   if (done || vm->let_go) return {};
                   return fail(done.error().text + ": " + done.error().remedy);
                 },
                 wanted, nullptr, 0});
  }
}

}  // namespace ramfold::daemon
