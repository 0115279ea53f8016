// SPDX-License-Identifier: GPL-2.0-or-later
// The persistent structures of the store (docs/store-format.md) and their places in the files.
// Everything is little-endian and of fixed width. All places follow from the two limits in the
// superblock, which are checked when a file is opened.
// Threads: plain data; the atomics are in a file that only one daemon maps.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/types.hpp"
#include "store/group.hpp"
#include "store/where.hpp"

namespace ramfold::store {

static_assert(std::endian::native == std::endian::little);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free &&
              sizeof(std::atomic<std::uint64_t>) == 8);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free &&
              sizeof(std::atomic<std::uint32_t>) == 4);

inline constexpr std::uint64_t kContentsMagic = 0x31'54'4e'43'44'4c'46'52;  // "RFLDCNT1"
inline constexpr std::uint64_t kGroupsMagic = 0x31'50'52'47'44'4c'46'52;    // "RFLDGRP1"
inline constexpr std::uint64_t kPoolMagic = 0x31'4c'4f'50'44'4c'46'52;      // "RFLDPOL1"
inline constexpr std::uint32_t kFormatVersion = 5;
// A store of version 4 is read, too, and stays of this version: no place of it is in a pool.
inline constexpr std::uint32_t kFormatWithoutPools = 4;
constexpr bool is_known_format(std::uint32_t version) noexcept {
  return version == kFormatVersion || version == kFormatWithoutPools;
}
// Larger offsets do not fit into a Where.
inline constexpr ByteCount kArenaMax{std::uint64_t{1} << 40};

// Counters that grow after a file was made have their complement beside them, so that damage is
// seen. With a damaged limit an id or a group could be given out twice, and a guest would get the
// bytes of another.
constexpr std::uint64_t self_checked(std::uint32_t value) noexcept {
  return value | std::uint64_t{~value} << 32;
}
constexpr bool is_self_checked(std::uint64_t bits) noexcept {
  return bits == self_checked(static_cast<std::uint32_t>(bits));
}

// The first page of the contents file. The checksum is XXH3-64 of the bytes before it.
struct Superblock {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t contents_max;  // ids are below this; a multiple of kIdChunk
  std::uint64_t arena_bytes;   // size of the arena file; a multiple of kSlabBytes
  std::uint64_t store_id;      // random; the groups file carries the same
  std::uint64_t checksum;
  std::uint64_t reserved[3];
  std::atomic<std::uint64_t> id_limit;  // self-checked; ids below this have memory behind them
  // Self-checked. Versions before it was there left it 0, so a value without its check means 0.
  std::atomic<std::uint64_t> take_overs;
};
static_assert(offsetof(Superblock, version) == 8 && offsetof(Superblock, contents_max) == 12);
static_assert(offsetof(Superblock, arena_bytes) == 16 && offsetof(Superblock, store_id) == 24);
static_assert(offsetof(Superblock, checksum) == 32 && offsetof(Superblock, id_limit) == 64);
static_assert(offsetof(Superblock, take_overs) == 72 && sizeof(Superblock) == 80);

// A header keeps the hash XOR a number that depends on the id; the same function gives the hash
// back. So a header that damage has copied over another one does not match the bytes that it names.
constexpr std::uint64_t bound_to(ContentId id, std::uint64_t hash) noexcept {
  return hash ^ (id.value * std::uint64_t{0x9e37'79b9'7f4a'7c15});
}

// One content. While the id is free, `where` is 0, and `hash` is a link of the volatile free list.
struct Header {
  // XXH3-64 of the 4096 decoded bytes, seeded by the group, bound to the id.
  std::atomic<std::uint64_t> hash;
  std::atomic<std::uint64_t> where;  // a Where
};
static_assert(sizeof(Header) == 16 && offsetof(Header, where) == 8);

// The first page of the groups file. The checksum is XXH3-64 of the bytes before it.
struct GroupsHead {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t groups_max;
  std::uint64_t store_id;
  std::uint64_t checksum;
  std::uint64_t reserved[4];
  std::atomic<std::uint64_t> limit;  // self-checked; entries from here on were never used
};
static_assert(offsetof(GroupsHead, store_id) == 16 && offsetof(GroupsHead, checksum) == 24);
static_assert(offsetof(GroupsHead, limit) == 64 && sizeof(GroupsHead) == 72);

// One group. While the id is free, all bytes are zero. An entry that is neither zero nor matches
// its checksum is damaged, or the process ended while it wrote the entry.
struct GroupEntry {
  std::uint64_t checksum;  // XXH3-64 of the bytes after it
  std::uint64_t seed;
  std::uint32_t name_length;
  std::uint32_t reserved;
  char name[kGroupNameMax];
  std::uint64_t pool_id;  // random; the pool of the group carries the same
};
static_assert(sizeof(GroupEntry) == 128 && offsetof(GroupEntry, name) == 24);
static_assert(offsetof(GroupEntry, pool_id) == 120);

// The first page of a pool. QEMUs of the group can read it. The checksum is XXH3-64 of the bytes
// before it. The other pages of a pool are slots: raw pages and holes.
struct PoolHead {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t group;
  std::uint64_t store_id;
  std::uint64_t pool_id;  // that of the group's entry
  std::uint64_t checksum;
};
static_assert(offsetof(PoolHead, pool_id) == 24 && offsetof(PoolHead, checksum) == 32);

// Headers and groups of this many contents get their memory together: 16 and 2 pages. The 4 pages
// for their references follow when the first of these contents gets a reference.
inline constexpr std::uint32_t kIdChunk = 4096;
// If contents are smaller than this on average, the ids are used up before the arena is full.
inline constexpr std::uint64_t kMeanContentBytesMin = 64;

// Byte offsets within the contents file.
struct ContentsLayout {
  std::uint64_t headers = 0;
  std::uint64_t groups = 0;      // u16 a content
  std::uint64_t references = 0;  // u32 a content: the id that a patch or delta refers to
  std::uint64_t end = 0;

  constexpr explicit ContentsLayout(std::uint32_t contents_max) noexcept
      : headers(kPageSize),
        groups(headers + std::uint64_t{contents_max} * sizeof(Header)),
        references(groups + std::uint64_t{contents_max} * sizeof(std::uint16_t)),
        end(references + std::uint64_t{contents_max} * sizeof(std::uint32_t)) {}
};

constexpr std::uint32_t contents_max_for(ByteCount arena) noexcept {
  constexpr std::uint64_t kLeast = 16 * kIdChunk;
  constexpr std::uint64_t kMost = (std::uint64_t{1} << 32) - kIdChunk;
  const std::uint64_t wanted = arena.value / kMeanContentBytesMin / kIdChunk * kIdChunk;
  return static_cast<std::uint32_t>(wanted < kLeast ? kLeast : wanted > kMost ? kMost : wanted);
}

}  // namespace ramfold::store
