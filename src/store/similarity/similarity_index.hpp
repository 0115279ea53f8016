// SPDX-License-Identifier: GPL-2.0-or-later
// From the sketch of a page to contents that may resemble it. Volatile and forgetful: it is a help
// to find references, and what it does not know costs memory, never a byte.
//
// Linear hashing over 64-byte buckets of 10 entries (an id and up to 15 bits of a hash). A content
// is entered under the two smallest hashes of each family of its sketch and looked up under eight;
// the ids that come up most often are tried first. A hash names the content that was entered last
// under it: more to choose from finds no better references, only more to try. The table grows by
// one bucket at a time to 16 bytes for every content in it (and 4 KiB at least), and shrinks when
// these have become 32, as most contents leave that find a reference. Sixteen are too few for all
// entries, so only the smallest hash of a family pushes another's out of a full bucket.
//
// Threads: any. Locks: one mutex, a leaf, held for sixteen buckets at most; but memory that the
// table grows into is touched under it, and given back when it shrinks. A thread that must not wait
// for that does not call insert() or remove(): an id that has gone does no harm, see below.
// Invariants: none about what is found. An id may have gone, or be another content by now, or be of
// another group: the taker checks that it lives, its group and its form, and that the patch is
// worth it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.hpp"
#include "base/thread_annotations.hpp"
#include "base/types.hpp"
#include "store/similarity/sketch.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class SimilarityIndex {
 public:
  static constexpr std::size_t kCandidatesMax = Sketch::kHashesMax;
  static constexpr std::uint64_t kBytesPerContent = 16;
  static constexpr std::uint64_t kBytesPerContentMax = 32;  // it has become too large

  // Address space for so many contents; memory comes as they do.
  static Result<std::unique_ptr<SimilarityIndex>> make(std::uint32_t contents_max);

  struct Candidates {
    std::array<ContentId, kCandidatesMax> ids;  // the likeliest first
    std::size_t count = 0;

    std::span<const ContentId> all() const& noexcept { return std::span(ids).first(count); }
    std::span<const ContentId> all() && = delete;  // a loop over it would outlive it
  };
  Candidates find(const Sketch& sketch) const noexcept;

  // REQUIRES: `id` is not zero and not in already (it would be found twice). Sketches without a
  // hash do nothing.
  void insert(const Sketch& sketch, ContentId id) noexcept;
  // REQUIRES: insert() was called with these two. Entries that were forgotten meanwhile do no harm.
  void remove(const Sketch& sketch, ContentId id) noexcept;

  std::uint64_t contents_count() const noexcept;
  ByteCount memory() const noexcept;  // of the table

 private:
  static constexpr std::size_t kEntered = 2;  // hashes of a family
  static constexpr unsigned kLevelMin = 6;    // 64 buckets
  struct Bucket;
  enum class Push : bool { no, yes };  // out another's entry when the bucket is full
  struct Place {
    Bucket* bucket;
    std::uint16_t tag;
  };

  SimilarityIndex(sys::Mapping memory, std::uint64_t buckets_max) noexcept;
  Place place_of(std::uint64_t hash) const noexcept REQUIRES(mutex_);
  // each(place, rank) for so many hashes of each family: the smallest of both first.
  template <typename F>
  void for_smallest(const Sketch& sketch, std::size_t of_family, F&& each) const noexcept
      REQUIRES(mutex_);
  void split_one() noexcept REQUIRES(mutex_);
  void merge_one() noexcept REQUIRES(mutex_);

  const sys::Mapping memory_;
  const std::uint64_t buckets_max_;
  mutable Mutex mutex_;
  std::uint64_t buckets_count_ GUARDED_BY(mutex_) = std::uint64_t{1} << kLevelMin;
  unsigned level_ GUARDED_BY(mutex_) = kLevelMin;  // 2^level_ <= buckets_count_ < 2^(level_ + 1)
  std::uint64_t contents_count_ GUARDED_BY(mutex_) = 0;
};

}  // namespace ramfold::store
