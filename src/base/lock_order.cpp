// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/lock_order.hpp"

#ifdef RAMFOLD_DENSURE

#include <array>
#include <atomic>
#include <bit>
#include <cstdio>
#include <cstring>

#include "base/check.hpp"

namespace ramfold {
namespace {

constexpr unsigned kNamesMax = 64;

std::array<std::atomic<const char*>, kNamesMax> g_names{};
// Bit j of entry i: j was locked while i was held.
std::array<std::atomic<std::uint64_t>, kNamesMax> g_after{};

thread_local std::uint64_t t_held = 0;

std::uint64_t bit_of(const char* name) noexcept {
  for (unsigned i = 0; i < kNamesMax; ++i) {
    const char* there = nullptr;
    if (g_names[i].compare_exchange_strong(there, name) || std::strcmp(there, name) == 0) {
      return std::uint64_t{1} << i;
    }
  }
  ENSURE(!"more names of mutexes than the lock order knows");
  return 0;
}

// Everything that was locked, directly or through others, while one of `from` was held.
std::uint64_t all_after(std::uint64_t from) noexcept {
  std::uint64_t found = 0;
  for (std::uint64_t todo = from; todo != 0;) {
    const auto i = static_cast<unsigned>(std::countr_zero(todo));
    todo &= todo - 1;
    const std::uint64_t next = g_after[i].load() & ~found;
    found |= next;
    todo |= next;
  }
  return found;
}

}  // namespace

std::uint64_t LockOrder::bit() const noexcept {
  std::uint64_t known = bit_.load(std::memory_order_relaxed);
  if (known != 0 || name_ == nullptr) return known;
  known = bit_of(name_);
  bit_.store(known, std::memory_order_relaxed);
  return known;
}

void LockOrder::check() const noexcept {
  if (name_ == nullptr || t_held == 0) return;
  const std::uint64_t mine = bit();
  for (std::uint64_t todo = t_held & ~mine; todo != 0; todo &= todo - 1) {
    const auto holder = static_cast<unsigned>(std::countr_zero(todo));
    if ((g_after[holder].fetch_or(mine) & mine) != 0) continue;  // known
    // Noted first: of two threads that contradict each other at one time, one sees the other.
    if ((all_after(mine) & (std::uint64_t{1} << holder)) == 0) continue;
    static std::array<char, 256> text;
    std::snprintf(text.data(), text.size(),
                  "lock order: '%s' is locked while '%s' is held, and elsewhere the other way",
                  name_, g_names[holder].load());
    check_failed(__FILE__, __LINE__, text.data());
  }
}

void LockOrder::locked() const noexcept { t_held |= bit(); }
void LockOrder::unlocked() const noexcept { t_held &= ~bit(); }

}  // namespace ramfold

#endif
