// SPDX-License-Identifier: GPL-2.0-or-later
// The figures of the store. A new figure is a member and a line in visit(), which exports it
// (docs/control-protocol.md, "Counters").
// Threads: values.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <ranges>
#include <string>
#include <vector>

#include "base/metric.hpp"
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
  ByteCount pool_allocated{};  // memory behind the pool of the group
};
// The group with this number; null: there is none. REQUIRES: `groups` are in the order of their
// numbers. The search is binary, so looking up the groups of all VMs stays cheap.
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
  ByteCount arena_allocated{};  // its memory, including memory kept for reuse
  ByteCount arena_in_slots{};   // slots in use, each at the size of its class
  ByteCount arena_stored{};     // encoded bytes in them
  ByteCount pool_allocated{};   // memory behind all pools
  ByteCount pool_stored{};      // contents in them
  std::uint64_t pool_mappings = 0;
  ByteCount header_bytes{};  // persistent metadata backed by host memory
  ByteCount note_bytes{};    // volatile reference counts and notes
  ByteCount index_bytes{};
  ByteCount slab_map_bytes{};
  ByteCount similarity_bytes{};  // index that finds similar pages, see Reformer
  std::uint64_t corrupt = 0;     // contents found damaged; freed only by the next recovery
  std::uint64_t unindexed = 0;   // contents for which the index had no room
  std::uint64_t collisions = 0;  // equal hash, different bytes
  // References taken or given up that no content had: a bug or damage.
  std::uint64_t miscounted = 0;

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

template <typename V, ConstOr<Stats> S>
constexpr void visit(V& v, S& s) {
  v.elsewhere(s.forms, s.groups);
  v(gauge("store_arena_max_bytes", "The most that the arena of stored pages may take."),
    s.arena_max);
  v(gauge("store_arena_allocated_bytes", "Memory behind the arena, with what it keeps for reuse."),
    s.arena_allocated);
  v(gauge("store_arena_in_slots_bytes", "Slots of the arena in use, at the size of their class."),
    s.arena_in_slots);
  v(gauge("store_arena_stored_bytes", "Encoded bytes of all contents in the arena."),
    s.arena_stored);
  v(gauge("store_pool_allocated_bytes", "Memory behind the pages that guests may share mapped."),
    s.pool_allocated);
  v(gauge("store_pool_stored_bytes", "Contents among these pages."), s.pool_stored);
  v(gauge("store_pool_mappings", "Guest pages that map one of these pages."), s.pool_mappings);
  v(gauge("store_content_headers_bytes", "Memory behind the headers of contents."), s.header_bytes);
  v(gauge("store_content_notes_bytes", "Reference counts and notes of contents."), s.note_bytes);
  v(gauge("store_index_bytes", "The index that finds equal pages."), s.index_bytes);
  v(gauge("store_slab_maps_bytes", "Maps of the slots of the arena and of the pools."),
    s.slab_map_bytes);
  v(gauge("store_similarity_bytes", "The index that finds similar pages."), s.similarity_bytes);
  v(counter("store_contents_damaged", "Contents that were found damaged; they are shared no more."),
    s.corrupt);
  v(counter("store_contents_unindexed", "Contents that the index had no room for."), s.unindexed);
  v(counter("store_hash_collisions", "Times that two different pages had the same hash."),
    s.collisions);
  v(counter("store_references_miscounted", "References taken or given up that no content had."),
    s.miscounted);
}

}  // namespace ramfold::store
