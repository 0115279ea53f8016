// SPDX-License-Identifier: GPL-2.0-or-later
// The states of the slots of a pool.
#include <algorithm>
#include <limits>
#include <utility>

#include "store/pool/pool.hpp"

namespace ramfold::store {

void Pool::set(std::uint32_t index, State state) noexcept {
  Slot& slot = slots_[index];
  const auto had_memory = slot.state != State::hole;
  const auto has_memory = state != State::hole;
  if (slot.state == State::home) homes_.fetch_sub(1, std::memory_order_relaxed);
  if (state == State::home) homes_.fetch_add(1, std::memory_order_relaxed);
  if (has_memory && !had_memory) backed_.fetch_add(1, std::memory_order_relaxed);
  if (!has_memory && had_memory) backed_.fetch_sub(1, std::memory_order_relaxed);
  const std::uint64_t bit = std::uint64_t{1} << (index % 64);
  if (has_memory) {
    used_[index / 64] |= bit;
  } else {
    used_[index / 64] &= ~bit;
  }
  slot.state = state;
  if (index >= top_.load(std::memory_order_relaxed)) {
    top_.store(index + 1, std::memory_order_relaxed);
  }
}

std::uint32_t Pool::find_run(std::uint32_t n) noexcept {
  // A longer run is searched for a while only. For a single slot all slots are looked at.
  std::uint32_t looks = n == 1 ? slots_max_ : std::min(kSearchMax, slots_max_);
  std::uint32_t run = 0;
  for (std::uint32_t at = search_; looks != 0;) {
    if (at >= slots_max_) {
      at = 1;
      run = 0;
    }
    if (at % 64 == 0 && used_[at / 64] == ~std::uint64_t{0}) {
      run = 0;
      at += 64;
      looks -= std::min(looks, 64u);
      continue;
    }
    run = is_used(at) ? 0 : run + 1;
    ++at;
    --looks;
    if (run == n) {
      search_ = at;
      return at - n;
    }
  }
  return 0;
}

bool Pool::take_holes(std::span<PoolSlot> out) noexcept {
  const MutexLock lock(mutex_);
  std::size_t filled = 0;
  auto wanted = static_cast<std::uint32_t>(out.size());
  while (filled < out.size()) {
    wanted = std::min(wanted, static_cast<std::uint32_t>(out.size() - filled));
    const std::uint32_t first = find_run(wanted);
    if (first != 0) {
      for (std::uint32_t i = 0; i < wanted; ++i) {
        set(first + i, State::taken);
        out[filled++] = PoolSlot{first + i};
      }
    } else if (wanted > 1) {
      wanted /= 2;
    } else {
      for (const PoolSlot slot : out.first(filled)) set(slot.value, State::hole);
      return false;
    }
  }
  return true;
}

bool Pool::settle(PoolSlot slot, ContentId owner) noexcept {
  const MutexLock lock(mutex_);
  if (!is_taken(slot)) return false;
  set(slot.value, State::home);
  slots_[slot.value].owner = owner.value;
  slots_[slot.value].link = 0;
  return true;
}

bool Pool::give_back(PoolSlot slot) noexcept {
  const MutexLock lock(mutex_);
  if (!is_taken(slot)) return false;
  retire_now(slot.value);
  return true;
}

Pool::Spare Pool::settle_spare(PoolSlot slot, PoolSlot home, ContentId owner) noexcept {
  const MutexLock lock(mutex_);
  if (!is_taken(slot)) return Spare::not_taken;
  if (!is_home(home, owner)) {
    retire_now(slot.value);
    return Spare::no_home;
  }
  unlink_spare(home.value);
  set(slot.value, State::spare);
  slots_[slot.value].link = home.value;
  slots_[slot.value].mappings = 1;
  slots_[home.value].link = slot.value;
  mappings_.fetch_add(1, std::memory_order_relaxed);
  return Spare::settled;
}

void Pool::unlink_spare(std::uint32_t home) noexcept {
  const std::uint32_t spare = std::exchange(slots_[home].link, 0);
  if (spare != 0) retire_now(spare);
}

void Pool::retire_now(std::uint32_t index) noexcept {
  set(index, State::retired);
  slots_[index].owner = slots_[index].link = 0;
  list_if_unmapped(index);
}

void Pool::list_if_unmapped(std::uint32_t index) noexcept {
  Slot& slot = slots_[index];
  if (slot.mappings != 0 || slot.listed) return;
  slot.listed = true;
  slot.link = std::exchange(to_punch_, index);
}

bool Pool::retire(PoolSlot home, ContentId owner) noexcept {
  const MutexLock lock(mutex_);
  if (exists(home) && slots_[home.value].state == State::frozen) return true;
  if (!is_home(home, owner)) return false;
  unlink_spare(home.value);
  retire_now(home.value);
  return true;
}

std::optional<PoolSlot> Pool::map(PoolSlot home, ContentId owner) noexcept {
  const MutexLock lock(mutex_);
  if (!known_ || !is_home(home, owner)) return std::nullopt;
  for (const std::uint32_t index : {home.value, slots_[home.value].link}) {
    if (index == 0 || slots_[index].mappings >= kMappingsMax) continue;
    ++slots_[index].mappings;
    mappings_.fetch_add(1, std::memory_order_relaxed);
    return PoolSlot{index};
  }
  return std::nullopt;
}

bool Pool::unmap(PoolSlot slot) noexcept {
  const MutexLock lock(mutex_);
  if (!exists(slot) || slots_[slot.value].mappings == 0) return false;
  Slot& at = slots_[slot.value];
  mappings_.fetch_sub(1, std::memory_order_relaxed);
  if (--at.mappings != 0) return true;
  if (at.state == State::spare) {
    unlink_spare(at.link);
  } else if (at.state == State::retired) {
    list_if_unmapped(slot.value);
  }
  return true;
}

bool Pool::is_mapped(PoolSlot home) noexcept {
  const MutexLock lock(mutex_);
  if (!known_) return true;
  return exists(home) && slots_[home.value].state == State::home &&
         (slots_[home.value].mappings != 0 || slots_[home.value].link != 0);
}

std::size_t Pool::unmapped_homes(std::span<Home> out, std::uint32_t& looks) noexcept {
  const MutexLock lock(mutex_);
  const std::uint32_t top = top_.load(std::memory_order_relaxed);
  if (!known_) looks = 0;
  std::size_t found = 0;
  for (looks = std::min(looks, top); looks != 0 && found < out.size(); --looks, ++walk_) {
    if (walk_ >= top) walk_ = 1;
    if (walk_ >= top) {
      looks = 0;
      break;
    }
    const Slot& slot = slots_[walk_];
    if (slot.state == State::home && slot.mappings == 0 && slot.link == 0) {
      out[found++] = {PoolSlot{walk_}, ContentId{slot.owner}};
    }
  }
  return found;
}

// Takes slots off the list. A slot that was mapped after it was listed comes back when it is
// unmapped.
std::size_t Pool::take_retired(std::span<std::uint32_t> out, bool& intact) noexcept {
  const MutexLock lock(mutex_);
  if (!known_) return 0;
  std::size_t taken = 0;
  while (to_punch_ != 0 && taken < out.size()) {
    const std::uint32_t index = to_punch_;
    Slot& slot = slots_[index];
    to_punch_ = std::exchange(slot.link, 0);
    slot.listed = false;
    if (slot.mappings != 0) continue;
    if (slot.state != State::retired) {
      intact = false;
      continue;
    }
    set(index, State::punching);
    out[taken++] = index;
  }
  return taken;
}

bool Pool::claim(PoolSlot slot, ContentId owner) noexcept {
  const MutexLock lock(mutex_);
  if (!exists(slot)) return false;
  Slot& at = slots_[slot.value];
  if (at.state == State::home || at.state == State::frozen) return false;
  // A mapping may have been noted before, and may have ended. It retired nothing, because until
  // mappings_known() a header may claim any slot.
  set(slot.value, State::home);
  at.owner = owner.value;
  at.link = 0;
  return true;
}

void Pool::freeze(PoolSlot slot) noexcept {
  const MutexLock lock(mutex_);
  if (exists(slot)) set(slot.value, State::frozen);
}

bool Pool::note_mapping(PoolSlot slot) noexcept {
  const MutexLock lock(mutex_);
  if (!exists(slot) || known_) return false;
  Slot& at = slots_[slot.value];
  if (at.mappings == std::numeric_limits<std::uint16_t>::max()) return false;
  ++at.mappings;
  mappings_.fetch_add(1, std::memory_order_relaxed);
  if (slot.value >= top_.load(std::memory_order_relaxed)) {
    top_.store(slot.value + 1, std::memory_order_relaxed);
  }
  return true;
}

}  // namespace ramfold::store
