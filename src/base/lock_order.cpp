// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/lock_order.hpp"

#ifdef RAMFOLD_DENSURE

#include <array>
#include <atomic>
#include <bit>
#include <cstdio>
#include <string_view>

#include "base/check.hpp"

namespace ramfold {
namespace {

constexpr unsigned kNamesMax = 64;

// `second` may be locked while `first` is held, and so may the mutexes that follow `second`.
struct Order {
  std::string_view first;
  std::string_view second;
};

// The same rows stand in src/README.md ("Locks"), and tests/tidy compares them.
constexpr std::array kAllowed{
    Order{"HostService::deciding", "OffSwitch::bringing_back"},
    Order{"HostService::deciding", "Agents"},
    Order{"HostService::deciding", "Decisions::writing"},
    Order{"OffSwitch::bringing_back", "Loop::judging"},
    Order{"OffSwitch::bringing_back", "Agents"},
    Order{"OffSwitch::bringing_back", "Decisions::writing"},
    Order{"OffSwitch::bringing_back", "Departures::leaving"},
    Order{"OffSwitch::bringing_back", "Keeping"},
    Order{"OffSwitch::bringing_back", "Moving"},
    Order{"Loop::judging", "HostState"},
    Order{"Loop::judging", "LeftBehind"},
    Order{"Loop::judging", "Retries"},
    Order{"Loop::judging", "ScanCursor"},
    Order{"Loop::judging", "LivePolicy"},
    Order{"Loop::judging", "policy::Current"},
    Order{"Retries", "apart"},
    Order{"Decisions::writing", "Decisions"},
    Order{"Agents::offers", "Agents"},
    Order{"Agents::offers", "LivePolicy::applying"},
    Order{"Agents", "FactState"},
    Order{"Agents", "LookDesk"},
    Order{"Agents", "LeftBehind"},
    Order{"Agents", "CommandChannel"},
    Order{"Agents", "Refusals"},
    Order{"Agents", "LivePolicy"},
    Order{"LookDesk", "apart"},
    Order{"LivePolicy::changing", "LivePolicy::applying"},
    Order{"LivePolicy::changing", "Decisions::writing"},
    Order{"LivePolicy::changing", "Work::reform"},
    Order{"LivePolicy::changing", "Loop::judging"},
    Order{"LivePolicy::applying", "LivePolicy"},
    Order{"LivePolicy::applying", "VmSet"},
    Order{"LivePolicy::applying", "policy::Current"},
    Order{"Work::reform", "StopFlag"},
    Order{"ChunkQueue", "ScanCursor"},
    Order{"ChunkQueue", "VmSet"},
    Order{"ScanWorkers", "ChunkQueue"},
    Order{"MappingState", "Agents"},
    Order{"MappingState", "Moving"},
    Order{"MappingState", "ScanCursor"},
    Order{"MappingState", "MapQueue"},
    Order{"MappingState", "CommandChannel"},
    Order{"Keeping", "Keeping::known"},
    Order{"Departures::leaving", "VmSet"},
    Order{"Moving", "Index::grow"},
    Order{"Index::grow", "Index::Stripe"},
};

constexpr std::uint64_t bit_at(unsigned i) noexcept { return std::uint64_t{1} << i; }

// kAllowed with numbers instead of names, and with the orders that follow from several rows.
struct Table {
  std::array<std::string_view, kNamesMax> names{};
  unsigned count = 0;
  // Bit j of entry i: j may be locked while i is held. 0: i is a leaf.
  std::array<std::uint64_t, kNamesMax> after{};

  constexpr unsigned number_of(std::string_view name) noexcept {
    unsigned i = 0;
    while (i < count && names[i] != name) ++i;
    if (i == count) names[count++] = name;
    return i;
  }

  constexpr bool has_cycle() const noexcept {
    for (unsigned i = 0; i < count; ++i) {
      if ((after[i] & bit_at(i)) != 0) return true;
    }
    return false;
  }
};

constexpr Table make_table() noexcept {
  Table table;
  for (const Order& order : kAllowed) {
    const unsigned first = table.number_of(order.first);
    table.after[first] |= bit_at(table.number_of(order.second));
  }
  for (unsigned between = 0; between < table.count; ++between) {
    for (std::uint64_t& after : table.after) {
      if ((after & bit_at(between)) != 0) after |= table.after[between];
    }
  }
  return table;
}

constexpr Table kTable = make_table();
static_assert(!kTable.has_cycle(), "two rows of kAllowed contradict each other");

// A mutex that is first in no row is a leaf: it is locked last. So it may be locked while any mutex
// is held that is no leaf.
constexpr bool may_lock(unsigned mine, unsigned held) noexcept {
  const std::uint64_t after = kTable.after[held];
  return after != 0 && (kTable.after[mine] == 0 || (after & bit_at(mine)) != 0);
}

// The names that no row has, from kTable.count on.
std::array<std::atomic<const char*>, kNamesMax> g_leaves{};

thread_local std::uint64_t t_held = 0;

std::uint64_t bit_of(const char* name) noexcept {
  for (unsigned i = 0; i < kTable.count; ++i) {
    if (kTable.names[i] == name) return bit_at(i);
  }
  for (unsigned i = kTable.count; i < kNamesMax; ++i) {
    const char* there = nullptr;
    if (g_leaves[i].compare_exchange_strong(there, name) || std::string_view(there) == name) {
      return bit_at(i);
    }
  }
  ENSURE(!"more names of mutexes than the lock order knows");
  return 0;
}

const char* name_at(unsigned i) noexcept {
  // The table's names are literals, so they end with a 0.
  return i < kTable.count ? kTable.names[i].data() : g_leaves[i].load();
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
  const auto mine = static_cast<unsigned>(std::countr_zero(bit()));
  for (std::uint64_t todo = t_held; todo != 0; todo &= todo - 1) {
    const auto held = static_cast<unsigned>(std::countr_zero(todo));
    if (may_lock(mine, held)) continue;
    static std::array<char, 256> text;
    std::snprintf(text.data(), text.size(),
                  "lock order: '%s' is locked while '%s' is held, and no row allows it", name_,
                  name_at(held));
    check_failed(__FILE__, __LINE__, text.data());
  }
}

void LockOrder::locked() const noexcept { t_held |= bit(); }
void LockOrder::unlocked() const noexcept { t_held &= ~bit(); }

}  // namespace ramfold

#endif
