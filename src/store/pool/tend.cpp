// SPDX-License-Identifier: GPL-2.0-or-later
// Housekeeping of the pools: contents that are shared no more leave, retired slots are punched, and
// pools of groups that are gone are dropped.
#include <array>
#include <cstring>

#include "base/test_points.hpp"
#include "store/parts.hpp"

namespace ramfold::store {

void Parts::bring_back(Pool& pool, std::uint32_t looks) noexcept {
  moving.mutex.is_held();
  std::array<Pool::Home, Moving::kLeftMax> homes{};
  while (looks != 0) {
    const std::size_t found = pool.unmapped_homes(homes, looks);
    for (const Pool::Home& home : std::span(homes).first(found)) {
      const ContentId id = home.owner;
      if (!knows(id) || !headers->take_live(id)) continue;
      if (!bring_back(pool, home)) drop_uncounted(id);
    }
    settle();
  }
}

// True: settle() will give up the count of the content that the caller holds.
bool Parts::bring_back(Pool& pool, Pool::Home home) noexcept {
  moving.mutex.is_held();
  const ContentId id = home.owner;
  const GroupId group = pool.identity().group;
  const Where from = headers->where(id);
  if (!readable(from) || from.bits() != Where::in_pool(home.slot).bits() ||
      headers->group(id) != group || !headers->is_intact(id, from) || pages_of(id) > 2) {
    return false;  // one of the counted pages is this thread
  }
  const auto at = arena->allocate(kPageSize);
  if (!at) return false;
  const std::byte* const bytes = pool.data(home.slot);
  std::memcpy(arena->data(*at), bytes, kPageSize);
  const bool equal = std::memcmp(arena->data(*at), bytes, kPageSize) == 0;
  TEST_POINT("store.pool.back");
  const Where next(*at, Form::raw);
  if (!equal || !headers->switch_where(id, from, next)) {
    free(*at, group);
    return false;
  }
  TEST_POINT("store.pool.returned");
  moving.left.push_back({id, group, from});
  return true;
}

void Parts::tend_pools(std::uint32_t looks) noexcept {
  if (phase.load(std::memory_order_acquire) != Phase::ready) return;
  for (std::uint32_t i = 0; i < groups->limit(); ++i) {
    const GroupId group{static_cast<std::uint16_t>(i)};
    if (pools.find(group) == nullptr) continue;
    const MutexLock lock(moving.mutex);
    Pool* const pool = pools.find(group);
    if (pool == nullptr) continue;
    const auto pool_id = groups->pool_id(group);
    // An entry that was damaged while the daemon runs has no number, and keeps its pool.
    const bool is_gone =
        pool_id ? *pool_id != pool->identity().pool_id : groups->hasher(group) == nullptr;
    if (is_gone) {
      const auto old = pools.replace(group, nullptr);
      readers.wait();
      continue;
    }
    settle();
    if (is_stopped(group)) continue;
    bring_back(*pool, looks);
    if (!pool->punch_retired()) miscount(group);
  }
}

}  // namespace ramfold::store
