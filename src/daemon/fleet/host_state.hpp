// SPDX-License-Identifier: GPL-2.0-or-later
// What holds for the whole host: the operator's switches, which take effect at once, and the last
// verdict (judge/host_judge.hpp) on whether anything may be folded, and if not, why.
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

namespace ramfold::daemon {

struct HostVerdict {
  bool may_observe = false;  // scanning at all makes sense
  bool may_fold = false;
  bool may_reform = false;
  std::vector<control::Reason> reasons;  // against folding, or some of it
  control::Promise promise;
  ByteCount keep_available;

  bool has(std::string_view code) const noexcept {
    return std::ranges::any_of(reasons, [&](const auto& reason) { return reason.code == code; });
  }
};

class HostState {
 public:
  // The operator's.
  std::atomic<bool> paused{false};
  std::atomic<bool> off{false};
  std::atomic<bool> off_done{false};  // everything is back, and the keeper has let go of the store
  // Pages are still being counted after a start.
  std::atomic<bool> recovering{true};

  bool may_fold() const noexcept { return may_fold_ && switched_on(); }
  bool may_observe() const noexcept { return may_observe_ && switched_on(); }
  // What is stored may be given other forms.
  bool may_reform() const noexcept { return may_reform_ && switched_on(); }

  // The store had no room for a new content: for so long it is asked for none, and only zeros and
  // pages that are stored already leave.
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
  // Fact by fact; empty while the self-test has not run.
  std::vector<control::SelfTestView> self_test() const {
    const MutexLock lock(mutex_);
    return self_test_;
  }
  void publish(HostVerdict verdict) {
    const MutexLock lock(mutex_);
    may_fold_.store(verdict.may_fold);
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
  std::atomic<bool> may_observe_{false};
  std::atomic<bool> may_reform_{false};
  std::atomic<std::uint64_t> store_full_until_ns_{0};
  mutable Mutex mutex_{"HostState"};
  HostVerdict verdict_ GUARDED_BY(mutex_);
  std::vector<control::SelfTestView> self_test_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
