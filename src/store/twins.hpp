// SPDX-License-Identifier: GPL-2.0-or-later
// Which pages that were not stored have been asked about, so that the second of two equal ones is
// known for that while the first is still in its guest (Admit::shared).
//
// A set-associative table of 8 bytes a page: some bits of the hash, and which page it was. It
// forgets: a full bucket loses an entry to the next, and half of the entries go as it doubles. Who
// is forgotten asks again in its next pass. It may be wrong, once in about a billion pages, or when
// the first page has changed meanwhile: then a page is stored that nobody shares.
//
// Threads: any; no locks. Memory: none before the first call, then twice what its entries take, at
// most 8 bytes for every page that the arena has room for.
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

  // A page with this hash asks. True: another one did, and is forgotten; false: this one is kept.
  // `origin` differs between any two pages that could ask at a time, and is the same for the same.
  bool asked_before(std::uint64_t hash, std::uint64_t origin) noexcept;
  // Forgets all, and gives the memory back. What is asked meanwhile may be lost.
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
