// SPDX-License-Identifier: GPL-2.0-or-later
// How much one owner may have of a resource that all owners share: VMs, connections, names with the
// keeper, memory of the store. An owner is a user with its subordinate ids.
//
//   left         = all - others
//   most(others) = left - left / reserve_one_in
//
// So every owner leaves a part for the next one. Example: of 1024 places, with reserve_one_in = 2,
// the first owner may have 512, the second 256, and so on.
// Threads: values.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ramfold {

class OwnerShare {
 public:
  static constexpr std::uint64_t kHalf = 2;
  static constexpr std::uint64_t kEighth = 8;

  // REQUIRES: reserve_one_in > 0.
  constexpr OwnerShare(std::uint64_t all, std::uint64_t reserve_one_in) noexcept
      : all_(all), reserve_one_in_(reserve_one_in) {}

  // The most that an owner may have while all other owners together have `others`.
  constexpr std::uint64_t most(std::uint64_t others) const noexcept {
    const std::uint64_t left = all_ - std::min(all_, others);
    return left - left / reserve_one_in_;
  }
  // An owner that has `own` may take `more`.
  constexpr bool allows(std::uint64_t others, std::uint64_t own,
                        std::uint64_t more) const noexcept {
    const std::uint64_t limit = most(others);
    return own <= limit && more <= limit - own;
  }

 private:
  std::uint64_t all_;
  std::uint64_t reserve_one_in_;
};

}  // namespace ramfold
