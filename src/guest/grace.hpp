// SPDX-License-Identifier: GPL-2.0-or-later
// The clock of the grace mode, in which a VM is folded although device writes may be in flight. A
// cold page is guarded and left alone for a period. It leaves only if it stayed guarded and its
// bytes stayed the same. The period gives writes that had pinned the page before its guard the time
// to end; it proves nothing (docs/design.md, The gate).
//
// For each window it keeps the time at which a page was last guarded for this. It does not keep it
// in the page table, so a new daemon waits anew. In this mode guards are made for waiting only
// (fold::Purpose::hold), so a page that is guarded now has been guarded since its window's time, or
// since begin().
// Threads: begin() while the gate is closed and drained; guarded() by the worker of the chunk;
// over() and idle() by any thread that saw the gate open for grace.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/memory.hpp"

namespace ramfold::guest {

class Grace {
 public:
  static constexpr std::uint64_t kWindowPages = 16;

  // From now on pages wait for `wait_ns`; those that are guarded already, from now.
  Status begin(PageCount pages, std::uint64_t wait_ns, std::uint64_t now_ns) {
    if (stamps_.data() == nullptr) {
      // Anonymous: windows that are never guarded cost nothing.
      auto made = sys::Mapping::anonymous(
          ByteCount{(pages.value / kWindowPages + 1) * sizeof(std::uint64_t)});
      if (!made) return std::unexpected(made.error());
      stamps_ = std::move(*made);
    }
    since_ns_.store(now_ns, std::memory_order_relaxed);
    wait_ns_.store(wait_ns, std::memory_order_relaxed);
    return {};
  }
  // Call it after a page of p's window was guarded.
  void guarded(PageIndex p, std::uint64_t now_ns) noexcept {
    stamp(p).store(now_ns, std::memory_order_relaxed);
  }
  // Every guarded page of p's window has waited long enough.
  bool over(PageIndex p, std::uint64_t now_ns) const noexcept {
    const std::uint64_t last = std::max(stamp(p).load(std::memory_order_relaxed),
                                        since_ns_.load(std::memory_order_relaxed));
    return now_ns >= last && now_ns - last >= wait_ns_.load(std::memory_order_relaxed);
  }
  // No page of p's window still waits, so others may begin to wait.
  bool idle(PageIndex p, std::uint64_t now_ns) const noexcept {
    const std::uint64_t last = stamp(p).load(std::memory_order_relaxed);
    return last == 0 ||
           (now_ns >= last && now_ns - last >= wait_ns_.load(std::memory_order_relaxed));
  }
  double wait_seconds() const noexcept {
    return static_cast<double>(wait_ns_.load(std::memory_order_relaxed)) / 1e9;
  }

 private:
  std::atomic_ref<std::uint64_t> stamp(PageIndex p) const noexcept {
    return std::atomic_ref<std::uint64_t>(stamps_.as<std::uint64_t>()[p.value / kWindowPages]);
  }

  sys::Mapping stamps_;
  std::atomic<std::uint64_t> since_ns_{0};
  std::atomic<std::uint64_t> wait_ns_{0};
};

}  // namespace ramfold::guest
