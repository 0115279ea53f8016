// SPDX-License-Identifier: GPL-2.0-or-later
// Finds page values with very many copies. A sample must not leave them to chance: one fill pattern
// may be a tenth of a host's RAM. The table is bounded: each slot counts one value, and every other
// value of the same slot lowers the count by one (Misra and Gries, "Finding repeated elements",
// 1982, for each slot). A count is never too high.
// Threads: one owner.
#pragma once

#include <cstdint>
#include <vector>

namespace ramfold::estimate {

class Frequent {
 public:
  // A value with this many copies is looked at, also outside the sample.
  static constexpr std::uint32_t kOften = 64;

  // Counts one more copy. Returns how many copies there were at least; 0 when the slot counts
  // another value.
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
