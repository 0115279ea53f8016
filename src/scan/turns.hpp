// SPDX-License-Identifier: GPL-2.0-or-later
// Which VM is scanned next: deficit round robin, first over owners, then over the VMs of an owner
// (Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round Robin", 1996). In contrast
// to the paper, the cost of a piece of work is known only after the work. So a member may fall into
// debt; it then waits until the rounds have paid the debt. Every owner gets the same time, however
// many VMs it has and however large they are.
// Threads: one at a time.
// Invariants: a member without work keeps no credit. A member does not wait while no other member
// has work.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <span>

#include "base/types.hpp"

namespace ramfold::scan {

// About ten chunks: long enough that neighbours in RAM are scanned one after the other.
inline constexpr std::int64_t kQuantumNs = 10'000'000;

// Deficit round robin over one set of members: the owners, or the VMs of one owner.
template <typename Key>
class RoundRobin {
 public:
  void add(const Key& key) { members_.try_emplace(key, 0); }
  // Forgets the member's debt, too.
  void remove(const Key& key) { members_.erase(key); }
  bool owes(const Key& key) const {
    const auto it = members_.find(key);
    return it != members_.end() && it->second < 0;
  }
  void charge(const Key& key, std::int64_t cost_ns) {
    if (const auto it = members_.find(key); it != members_.end()) it->second -= cost_ns;
  }

  // Calls take(key) for members in turn until a call returns true: it has taken work. Stays with a
  // member until its credit is used up. Returns false when no member has work.
  template <typename Take>
  bool next(Take take) {
    if (const auto it = turn_ ? members_.find(*turn_) : members_.end();
        it != members_.end() && it->second > 0) {
      if (take(it->first)) return true;
      it->second = 0;
    }
    for (;;) {
      std::int64_t least_debt = INT64_MAX;
      auto it = after_turn();
      for (std::size_t i = 0; i < members_.size(); ++i, it = following(it)) {
        auto& [key, credit] = *it;
        credit += kQuantumNs;
        if (credit <= 0) {
          least_debt = std::min(least_debt, -credit);
        } else if (take(key)) {
          turn_ = key;
          return true;
        } else {
          credit = 0;
        }
      }
      if (least_debt == INT64_MAX) return false;
      // The rounds in which every member with work would still be in debt, all at once.
      const std::int64_t rounds = least_debt / kQuantumNs;
      for (auto& [key, credit] : members_) {
        if (credit < 0) credit += rounds * kQuantumNs;
      }
    }
  }

 private:
  using Members = std::map<Key, std::int64_t>;  // credit in ns; below 0: debt
  typename Members::iterator following(typename Members::iterator it) {
    ++it;
    return it == members_.end() ? members_.begin() : it;
  }
  typename Members::iterator after_turn() {
    const auto it = turn_ ? members_.upper_bound(*turn_) : members_.end();
    return it == members_.end() ? members_.begin() : it;
  }

  Members members_;
  std::optional<Key> turn_;
};

class Turns {
 public:
  struct Member {
    VmId vm;
    uid_t owner = 0;
  };

  // The members from now on. A member that was there before keeps its credit or debt. An owner in
  // debt stays until the debt is paid: to end a VM and start another is no way out of it.
  void set(std::span<const Member> members) {
    std::map<uid_t, std::set<VmId>> now;
    for (const Member& member : members) now[member.owner].insert(member.vm);
    for (auto it = vms_.begin(); it != vms_.end();) {
      const auto owner = now.find(it->first);
      for (const VmId vm : it->second.known) {
        if (owner == now.end() || !owner->second.contains(vm)) it->second.turns.remove(vm);
      }
      it->second.known.clear();
      if (owner == now.end() && !owners_.owes(it->first)) {
        owners_.remove(it->first);
        it = vms_.erase(it);
      } else {
        ++it;
      }
    }
    for (auto& [owner, vms] : now) {
      owners_.add(owner);
      Vms& of_owner = vms_[owner];
      for (const VmId vm : vms) of_owner.turns.add(vm);
      of_owner.known = std::move(vms);
    }
  }

  // Calls take(vm) for VMs in turn until a call returns true: it has taken work. Returns false when
  // no VM has work.
  template <typename Take>
  bool next(Take take) {
    return owners_.next([&](uid_t owner) { return vms_.at(owner).turns.next(take); });
  }

  // Charges a piece of work to the VM and to its owner.
  void charge(const Member& member, std::uint64_t cost_ns) {
    const auto cost = static_cast<std::int64_t>(std::min<std::uint64_t>(cost_ns, INT64_MAX / 4));
    owners_.charge(member.owner, cost);
    if (const auto it = vms_.find(member.owner); it != vms_.end()) {
      it->second.turns.charge(member.vm, cost);
    }
  }

 private:
  struct Vms {
    RoundRobin<VmId> turns;
    std::set<VmId> known;
  };
  RoundRobin<uid_t> owners_;
  std::map<uid_t, Vms> vms_;
};

}  // namespace ramfold::scan
