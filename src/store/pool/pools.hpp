// SPDX-License-Identifier: GPL-2.0-or-later
// The pools, by group.
// Threads: find() from any, replace() from one at a time. REQUIRES of find(): while the caller uses
// the pool, it holds a use of the group or is in a section of the store's readers. The thread that
// replaced a pool waits for those readers before it destroys the old one.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <utility>

#include "store/group.hpp"
#include "store/pool/pool.hpp"

namespace ramfold::store {

class Pools {
 public:
  Pools() noexcept = default;
  Pools(const Pools&) = delete;
  Pools& operator=(const Pools&) = delete;
  ~Pools() {
    for (auto& pool : pools_) delete pool.load(std::memory_order_relaxed);
  }

  // nullptr: the group has no pool.
  Pool* find(GroupId group) const noexcept {
    if (group.value >= pools_.size()) return nullptr;
    return pools_[group.value].load(std::memory_order_acquire);
  }
  // Returns the old pool.
  std::unique_ptr<Pool> replace(GroupId group, std::unique_ptr<Pool> pool) noexcept {
    return std::unique_ptr<Pool>(
        pools_[group.value].exchange(pool.release(), std::memory_order_acq_rel));
  }

 private:
  std::array<std::atomic<Pool*>, kGroupsMax> pools_{};
};

}  // namespace ramfold::store
