// SPDX-License-Identifier: GPL-2.0-or-later
// Values that come so often that a sample must not leave them to chance: a fill pattern may be a
// tenth of a host's RAM. Counts with a bounded table: each slot keeps one value, others that fall
// into it wear its count down (Misra and Gries, "Finding repeated elements", 1982, a slot at a
// time). A count is never too high. Threads: one owner.
#pragma once

#include <cstdint>
#include <vector>

namespace ramfold::estimate {

class Frequent {
 public:
  // Copies from which on a value is looked at, sample or not.
  static constexpr std::uint32_t kOften = 64;

  // One more of it; how many there were at least, 0 when it is not kept count of.
  std::uint32_t count(std::uint64_t hash) {
    Slot& slot = slots_[hash >> (64 - kSlotsLog2)];
    if (slot.count != 0 && slot.hash != hash) {
      --slot.count;
      return 0;
    }
    slot.hash = hash;
    return ++slot.count;
  }

 private:
  static constexpr unsigned kSlotsLog2 = 20;  // 16 MiB
  struct Slot {
    std::uint64_t hash = 0;
    std::uint32_t count = 0;
  };
  std::vector<Slot> slots_{std::size_t{1} << kSlotsLog2};
};

}  // namespace ramfold::estimate
