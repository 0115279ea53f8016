// SPDX-License-Identifier: GPL-2.0-or-later
// A Service with a host of three VMs that really change state, for tests of the socket and the
// command.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "control/service.hpp"

namespace ramfold::control {

inline Reason locked_reason() {
  return {"locked_memory", "the VM's RAM is locked in memory",
          "start QEMU without -overcommit mem-lock=on (libvirt: no <locked/>)"};
}

inline VmView fake_vm(std::uint32_t id, const char* name, VmState state) {
  VmView vm;
  vm.id = VmId{id};
  vm.name = name;
  vm.uuid = "8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b4" + std::to_string(id);
  vm.pid = 4000 + id;
  vm.uid = 64055;
  vm.group = "uid-64055";
  vm.state = state;
  vm.gate = state == VmState::observe_only ? GateState::closed : GateState::pinned;
  vm.pages = {PageCount{131072}, PageCount{60000}, PageCount{22000}, PageCount{9000},
              PageCount{500},    PageCount{0},     PageCount{0},     PageCount{0}};
  if (state == VmState::folding) {
    vm.saved = {{PageCount{10000}, ByteCount{40960000}},
                {PageCount{20000}, ByteCount{81920000}},
                {PageCount{8000}, ByteCount{20000000}},
                140'000'000};
  }
  vm.faults = {{"zero", 120, 9000, 21000, 80000}, {"compressed", 44, 14000, 33000, 120000}};
  vm.kept = {ByteCount{1u << 20}, ByteCount{20480},      ByteCount{12288},
             ByteCount{9u << 20}, ByteCount{512u << 20}, 6};
  vm.backoff = {PageCount{7}, 31};
  vm.stall_share = 0.0012;
  vm.fault_events = 164;
  vm.passes = 12;
  vm.pass_seconds = 30.2;
  vm.counters = {{"faults_late", 3}, {"folds_zero", 12'345'678}};
  vm.blocks = {{"pc.ram", HostVirt{0x7f0000000000}, ByteCount{512ull << 20}, ByteCount{0}, 77}};
  return vm;
}

class FakeService : public Service {
 public:
  FakeService() {
    view_.vms = {fake_vm(1, "web", VmState::folding), fake_vm(2, "db", VmState::observe_only),
                 fake_vm(3, "idle", VmState::idle)};
    view_.vms[1].reasons = {locked_reason(),
                            {"ram_fd_elsewhere", "a vhost-user device maps the guest's RAM",
                             "use a virtio-net device with a tap backend"}};
    view_.vms[2].reasons = {{"memory-plentiful", "memory plentiful", ""}};
    HostView& host = view_.host;
    host.state = HostState::folding;
    host.version = "0.1.0";
    host.kernel = "6.18.0";
    host.referenced = "forget";
    host.self_test = {{"guard", CheckOutcome::passed, "0.2 us a page", ""}};
    host.keeper = {KeeperState::holding, 12, ""};
    host.ram_total = ByteCount{8ull << 30};
    host.ram_available = ByteCount{5ull << 30};
    host.keep_available = ByteCount{1717986918};
    host.saved = view_.vms[0].saved;
    host.spent.arena_used = ByteCount{12768000};
    host.spent.arena_allocated = ByteCount{14000000};
    host.spent.index = ByteCount{320000};
    host.promise = {ByteCount{150'000'000}, ByteCount{5ull << 30}, ByteCount{400ull << 20}, {}};
    host.cpu = {1.5, 2.25, 0.125};
    host.uptime_seconds = 3725;
    host.restarts = 1;
    host.vms_attached = 3;
    host.vms_observe_only = 1;
    host.contents = 8100;
    host.counters = {{"folds_zero", 23'456'789}, {"store_hash_collisions", 2}};
  }

  Snapshot snapshot() override {
    const std::lock_guard lock(mutex_);
    looks_ns_.push_back(monotonic_ns());
    return view_;
  }
  Answer<VmView> show(const VmSelector& vm) override {
    const std::lock_guard lock(mutex_);
    const auto found = find(vm);
    if (!found) return std::unexpected(found.error());
    return **found;
  }
  Answer<VmView> attach(const VmSelector& vm, Incoming incoming) override {
    const std::lock_guard lock(mutex_);
    const auto found = find(vm);
    if (!found) return std::unexpected(found.error());
    if ((*found)->state != VmState::detached) {
      if (incoming == Incoming::finished) return **found;
      return refuse(Failure::conflict, "'" + vm.text + "' is attached already");
    }
    (*found)->state = VmState::folding;
    return **found;
  }
  Answer<UnfoldPlan> plan_detach(const VmSelector& vm) override {
    const std::lock_guard lock(mutex_);
    const auto found = find(vm);
    if (!found) return std::unexpected(found.error());
    return plan_of((*found)->saved);
  }
  Answer<UnfoldPlan> plan_off() override {
    const std::lock_guard lock(mutex_);
    return plan_of(view_.host.saved);
  }
  Answer<void> detach(const VmSelector& vm, const ProgressSink& progress) override {
    unfold(progress);
    const std::lock_guard lock(mutex_);
    const auto found = find(vm);
    if (!found) return std::unexpected(found.error());
    (*found)->state = VmState::detached;
    (*found)->saved = {};
    return {};
  }
  Answer<void> off(const ProgressSink& progress) override {
    unfold(progress);
    const std::lock_guard lock(mutex_);
    view_.host.state = HostState::off;
    view_.host.saved = {};
    for (VmView& vm : view_.vms) vm.saved = {};
    return {};
  }
  Answer<PolicyView> policy(const VmsSelector& vms) override {
    const std::lock_guard lock(mutex_);
    PolicyView view{"/etc/ramfold/ramfold.toml", {}};
    const std::string key = vms ? "lz4" : "fold.lz4";
    const bool is_set = !lz4_.empty();
    view.keys.push_back({key, is_set ? lz4_ : "true",
                         is_set ? PolicyOrigin::set : PolicyOrigin::preset, PolicyTakes::at_once,
                         "for pages that leave from then on", ""});
    view.keys.push_back({"runtime_dir", "/run/ramfold", PolicyOrigin::file, PolicyTakes::at_start,
                         "the sockets are made at a start", "/run/mine"});
    return view;
  }
  Answer<PolicyView> set_policy(const VmsSelector& vms, const std::vector<std::string>& assignments,
                                const ProgressSink& progress) override {
    progress({PageCount{1}, PageCount{2}, 3});
    const std::string key = vms ? "lz4=" : "fold.lz4=";
    for (const std::string& assignment : assignments) {
      if (assignment.starts_with(key)) {
        const std::lock_guard lock(mutex_);
        lz4_ = assignment.substr(key.size());
      } else {
        return refuse(Failure::bad_request, assignment + ": unknown key", "did you mean lz4?");
      }
    }
    return policy(vms);
  }
  Answer<void> pause(const VmsSelector& vms) override { return set_state(vms, true); }
  Answer<void> resume(const VmsSelector& vms) override { return set_state(vms, false); }

  // --- what a test arranges ---
  void change(const std::function<void(Snapshot&)>& edit) {
    const std::lock_guard lock(mutex_);
    edit(view_);
  }
  // When snapshots were asked for.
  std::vector<std::uint64_t> looks_ns() {
    const std::lock_guard lock(mutex_);
    return looks_ns_;
  }
  std::atomic<ByteCount> available{ByteCount{5ull << 30}};  // a test sets it beside a server
  std::atomic<int> unfold_ms{0};
  std::atomic<bool> hurry{false};  // ends what unfold_ms keeps waiting

 private:
  Answer<VmView*> find(const VmSelector& wanted) {
    for (VmView& vm : view_.vms) {
      if (wanted.text == vm.name || wanted.text == std::to_string(vm.id.value) ||
          wanted.text == std::to_string(vm.pid) || wanted.text == vm.uuid) {
        return &vm;
      }
    }
    return refuse(Failure::not_found, "there is no VM '" + wanted.text + "'",
                  "ramfold list shows them");
  }
  UnfoldPlan plan_of(const Savings& saved) const {
    return {saved.folded_pages(), bytes(saved.folded_pages()), available.load(), 1.5};
  }
  void unfold(const ProgressSink& progress) {
    constexpr int kSteps = 20;
    for (int step = 1; step <= kSteps; ++step) {
      for (int ms = 0; ms < unfold_ms / kSteps && !hurry; ++ms) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      progress({PageCount{static_cast<std::uint64_t>(step) * 100}, PageCount{kSteps * 100}, 0.1});
    }
  }
  Answer<void> set_state(const VmsSelector& vms, bool paused) {
    const std::lock_guard lock(mutex_);
    if (!vms) {
      view_.host.state = paused ? HostState::paused : HostState::folding;
      return {};
    }
    const auto found = find(*vms);
    if (!found) return std::unexpected(found.error());
    (*found)->state = paused ? VmState::paused : VmState::folding;
    return {};
  }

  std::mutex mutex_;
  std::vector<std::uint64_t> looks_ns_;
  Snapshot view_;
  std::string lz4_;  // as set; empty: not set
};

}  // namespace ramfold::control
