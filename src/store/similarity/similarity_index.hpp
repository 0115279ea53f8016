// SPDX-License-Identifier: GPL-2.0-or-later
// Finds contents that may resemble a page, by the page's sketch. Volatile, and it forgets entries:
// without an entry a reference is not found, which costs memory, but no data is lost.
//
// Linear hashing over 64-byte buckets with 10 entries: an id, and up to 15 bits of a hash. A
// content is entered under the two smallest hashes of each family of its sketch, and looked up
// under eight. The ids that are found most often are tried first. A hash has one entry, of the
// content that was entered last: more contents for a hash would take more tries, and find no better
// references. The table grows by one bucket at a time to 16 bytes for every content in it (at least
// 4 KiB). It shrinks when it has more than 32 bytes for every content, because contents leave when
// they get a reference. 16 bytes are too few for all entries. So in a full bucket only the smallest
// hash of a family replaces an entry.
//
// Threads: any.
// Locks: one mutex, a leaf, held for at most sixteen buckets. Under it, memory is touched for the
// first time when the table grows, and given back when it shrinks. A thread that must not wait for
// that does not call insert() or remove(): the id of a freed content may stay, see below.
// Invariants: none about the ids that are found. The content of an id may have gone, or be another
// one, or be of another group. The caller checks that it is live, its group and its form.
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
  static constexpr std::uint64_t kBytesPerContentMax = 32;  // with more, the table shrinks

  // Reserves address space for contents_max contents. Memory is taken as contents come.
  static Result<std::unique_ptr<SimilarityIndex>> make(std::uint32_t contents_max);

  struct Candidates {
    std::array<ContentId, kCandidatesMax> ids;  // the likeliest first
    std::size_t count = 0;

    std::span<const ContentId> all() const& noexcept { return std::span(ids).first(count); }
    std::span<const ContentId> all() && = delete;  // a loop over it would outlive it
  };
  Candidates find(const Sketch& sketch) const noexcept;

  // Does nothing for a sketch without hashes. REQUIRES: `id` is not zero, and is not in the index
  // (it would be found twice).
  void insert(const Sketch& sketch, ContentId id) noexcept;
  // Entries may have been forgotten meanwhile. REQUIRES: insert() was called with the same sketch
  // and id.
  void remove(const Sketch& sketch, ContentId id) noexcept;

  std::uint64_t contents_count() const noexcept;
  ByteCount memory() const noexcept;  // of the table

 private:
  static constexpr std::size_t kEntered = 2;  // hashes of a family
  static constexpr unsigned kLevelMin = 6;    // 64 buckets
  struct Bucket;
  enum class Push : bool { no, yes };  // yes: in a full bucket, replace an entry
  struct Place {
    Bucket* bucket;
    std::uint16_t tag;
  };

  SimilarityIndex(sys::Mapping memory, std::uint64_t buckets_max) noexcept;
  Place place_of(std::uint64_t hash) const noexcept REQUIRES(mutex_);
  // Calls each(place, rank) for up to `of_family` hashes of each family: the smallest of both
  // families first, then the second smallest, and so on.
  template <typename F>
  void for_smallest(const Sketch& sketch, std::size_t of_family, F&& each) const noexcept
      REQUIRES(mutex_);
  void split_one() noexcept REQUIRES(mutex_);
  void merge_one() noexcept REQUIRES(mutex_);

  const sys::Mapping memory_;
  const std::uint64_t buckets_max_;
  mutable Mutex mutex_{"SimilarityIndex"};
  std::uint64_t buckets_count_ GUARDED_BY(mutex_) = std::uint64_t{1} << kLevelMin;
  unsigned level_ GUARDED_BY(mutex_) = kLevelMin;  // 2^level_ <= buckets_count_ < 2^(level_ + 1)
  std::uint64_t contents_count_ GUARDED_BY(mutex_) = 0;
};

}  // namespace ramfold::store
