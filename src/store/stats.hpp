// SPDX-License-Identifier: GPL-2.0-or-later
// What the store tells of itself. Threads: values.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <ranges>
#include <string>
#include <vector>

#include "base/types.hpp"
#include "store/form.hpp"

namespace ramfold::store {

struct FormStats {
  std::uint64_t contents = 0;
  std::uint64_t references = 0;
  ByteCount stored{};  // encoded bytes, without padding to the size class
};
struct GroupStats {
  GroupId group{};
  std::string name;
  std::array<FormStats, kForms> forms;
};
// The group of this number; null: there is none. `groups` are in the order of their numbers, so
// that a look at each VM's group costs no pass over all groups.
template <std::ranges::random_access_range Groups>
constexpr auto find_group(Groups& groups, GroupId id) noexcept {
  const auto found =
      std::ranges::lower_bound(groups, id.value, {}, [](const auto& g) { return g.group.value; });
  return found != std::ranges::end(groups) && (*found).group == id ? &*found : nullptr;
}

struct Stats {
  std::array<FormStats, kForms> forms;  // sums over the groups; zeros are not counted here
  std::vector<GroupStats> groups;       // in the order of their numbers
  ByteCount arena_max{};
  ByteCount arena_allocated{};  // the memory behind it, what is kept for reuse included
  ByteCount arena_in_slots{};   // slots in use, at the size of their class
  ByteCount arena_stored{};     // encoded bytes in them
  ByteCount header_bytes{};     // persistent metadata backed by host memory
  ByteCount note_bytes{};       // volatile reference counts and notes
  ByteCount index_bytes{};
  ByteCount slab_map_bytes{};
  ByteCount similarity_bytes{};  // index of references, see Reformer
  std::uint64_t corrupt = 0;     // contents marked bad; never freed before the next recovery
  std::uint64_t unindexed = 0;   // contents kept but not found as duplicates (index bounds)
  std::uint64_t collisions = 0;  // equal hash, different bytes
  std::uint64_t miscounted =
      0;  // references counted or dropped that no content had: a bug or damage

  ByteCount metadata() const noexcept {
    return ByteCount{header_bytes.value + note_bytes.value + index_bytes.value +
                     slab_map_bytes.value + similarity_bytes.value};
  }
  // Share of the allocated arena that holds no encoded bytes.
  double fragmentation() const noexcept {
    if (arena_allocated.value == 0) return 0;
    return 1 - static_cast<double>(arena_stored.value) / static_cast<double>(arena_allocated.value);
  }
};

}  // namespace ramfold::store
