// SPDX-License-Identifier: GPL-2.0-or-later
// Remembers pages that asked to be stored and were not (Admit::shared). So the second of two equal
// pages is recognised while the first is still in its guest.
//
// A set-associative table with 8 bytes for each page: bits of its hash, and of the number of the
// page. The table forgets: in a full bucket a new entry replaces an old one, and half of the
// entries are lost when the table doubles. A forgotten page asks again in its next pass. The table
// may be wrong: once in about a billion pages, or when the first page has changed meanwhile. Then a
// page is stored that no other page shares.
//
// Threads: any; no locks. Memory: none before the first call; then about twice as much as its
// entries need, and at most 8 bytes for every page that the arena has room for.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class Twins {
 public:
  static Result<Twins> make(ByteCount arena_max);
  Twins(Twins&& other) noexcept;
  Twins& operator=(Twins&&) = delete;

  // A page with this hash asks. True: another page with this hash has asked before; its entry is
  // removed. False: the table remembers this page. `origin` is the number of the page: the same at
  // every call, and different for every other page that may ask.
  bool asked_before(std::uint64_t hash, std::uint64_t origin) noexcept;
  // Forgets all pages and gives the memory back. Pages that ask at the same time may be forgotten,
  // too.
  void forget() noexcept;
  // Memory behind the table.
  ByteCount bytes() const noexcept;

 private:
  static constexpr std::uint64_t kWays = 8;  // a cache line
  static constexpr std::uint64_t kBucketsMin = 512;

  Twins(sys::Mapping memory, std::uint64_t buckets_max) noexcept;

  sys::Mapping memory_;
  std::atomic<std::uint64_t>* entries_;
  std::uint64_t buckets_max_;
  std::atomic<std::uint64_t> buckets_{kBucketsMin};
  std::atomic<std::uint64_t> used_{0};
};

}  // namespace ramfold::store
