// SPDX-License-Identifier: GPL-2.0-or-later
// State of the whole host: the operator's switches, which take effect at once, and the last verdict
// (judge/host_judge.hpp): whether the daemon may fold, and the reasons if not.
// Threads: any.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "base/thread_annotations.hpp"
#include "control/views.hpp"
#include "policy/pressure.hpp"

namespace ramfold::daemon {

struct HostVerdict {
  bool may_observe = false;  // VMs may be scanned
  bool may_fold = false;  // VMs that are folded eagerly; for the others memory has to be short, too
  bool may_reform = false;
  std::vector<control::Reason> reasons;  // against folding, or against part of it
  std::vector<control::Reason> notices;  // faults that do not stop folding
  policy::Memory memory = policy::Memory::enough;
  control::Promise promise;
  ByteCount keep_available;

  bool may_fold_when(policy::FoldWhen when) const noexcept {
    return may_fold && policy::needs_folding(when, memory);
  }
  bool has(std::string_view code) const noexcept {
    return std::ranges::any_of(reasons, [&](const auto& reason) { return reason.code == code; });
  }
};

class HostState {
 public:
  // The operator's switches.
  std::atomic<bool> paused{false};
  std::atomic<bool> off{false};
  std::atomic<bool> off_done{false};  // everything is back, and the keeper has given up the store
  // After a start, until all references are counted.
  std::atomic<bool> recovering{true};

  // A VM that is folded then may be folded now.
  bool may_fold(policy::FoldWhen when) const noexcept {
    return may_fold_ && policy::needs_folding(when, memory_) && switched_on();
  }
  bool may_observe() const noexcept { return may_observe_ && switched_on(); }
  // Stored contents may get other forms.
  bool may_reform() const noexcept { return may_reform_ && switched_on(); }

  // Call it when the store had no room for a new content. For `for_ns` no new content is stored:
  // only zeros, and pages whose content is stored already, are folded.
  void rest_store(std::uint64_t for_ns) noexcept {
    store_full_until_ns_.store(monotonic_ns() + for_ns, std::memory_order_relaxed);
  }
  bool store_full() const noexcept {
    return monotonic_ns() < store_full_until_ns_.load(std::memory_order_relaxed);
  }

  void publish_self_test(std::vector<control::SelfTestView> views) {
    const MutexLock lock(mutex_);
    self_test_ = std::move(views);
  }
  // One entry per fact; empty until the self-test has run.
  std::vector<control::SelfTestView> self_test() const {
    const MutexLock lock(mutex_);
    return self_test_;
  }
  void publish(HostVerdict verdict) {
    const MutexLock lock(mutex_);
    may_fold_.store(verdict.may_fold);
    memory_.store(verdict.memory);
    may_observe_.store(verdict.may_observe);
    may_reform_.store(verdict.may_reform);
    verdict_ = std::move(verdict);
  }
  HostVerdict verdict() const {
    const MutexLock lock(mutex_);
    return verdict_;
  }

 private:
  bool switched_on() const noexcept {
    return !paused.load(std::memory_order_relaxed) && !off.load(std::memory_order_relaxed);
  }

  std::atomic<bool> may_fold_{false};
  std::atomic<policy::Memory> memory_{policy::Memory::enough};
  std::atomic<bool> may_observe_{false};
  std::atomic<bool> may_reform_{false};
  std::atomic<std::uint64_t> store_full_until_ns_{0};
  mutable Mutex mutex_{"HostState"};
  HostVerdict verdict_ GUARDED_BY(mutex_);
  std::vector<control::SelfTestView> self_test_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
