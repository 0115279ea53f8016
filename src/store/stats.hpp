// SPDX-License-Identifier: GPL-2.0-or-later
// What the store tells of itself. Threads: values.
#pragma once

#include <array>
#include <cstdint>
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
struct Stats {
  std::array<FormStats, kForms> forms;  // sums over the groups; zeros are not counted here
  std::vector<GroupStats> groups;
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
