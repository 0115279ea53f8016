// SPDX-License-Identifier: GPL-2.0-or-later
// Finds the contents that may equal a page, by the page's hash. Volatile: recovery rebuilds it from
// the headers.
//
// Extendible hashing over segments. A segment is an array of 64-byte buckets with 12 entries each;
// an entry is an 8-bit tag and an id. Every hash has two buckets in its segment, and its entry goes
// to the emptier one. When both buckets of a hash are full, the segment grows by a page, from 4 to
// 7 pages; after that it is split into two segments of 4 pages. So the load stays between 3/4 and
// 19/20: 5.6 to 7.3 bytes for each entry. Only that one segment is locked meanwhile.
//
// Threads: any.
// Locks: striped mutexes for the segments, and one mutex for growth. A segment's mutex is never
// held over a system call; the one for growth is, in insert() and reserve() only.
// Invariants: an id is removed before it is reused. An entry may be missing; then a duplicate is
// not found. A found id is only a candidate: hash and group are checked in its header.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "base/thread_annotations.hpp"
#include "base/types.hpp"
#include "store/header_table.hpp"
#include "store/index/bucket.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class Index {
 public:
  // At most this many contents with equal hashes are looked at. Different pages rarely have equal
  // XXH3 hashes.
  static constexpr std::size_t kCandidatesMax = 4;

  // REQUIRES: `headers` outlives this object.
  static Result<std::unique_ptr<Index>> make(HeaderTable& headers, std::uint32_t contents_max);

  // Contents with this hash in this group, each with a reference taken for the caller.
  struct Candidates {
    std::array<ContentId, kCandidatesMax> ids;
    std::size_t count = 0;
  };
  Candidates find(std::uint64_t hash, GroupId group) noexcept;

  // Makes room for this many entries, so that inserting them needs no growth. REQUIRES: the index
  // is empty, and other threads at most call remove() for ids that are not in it.
  Status reserve(std::uint64_t entries);

  // Prefetch memory for find(): first the buckets, then the headers of the ids in them.
  void prefetch_buckets(std::uint64_t hash) const noexcept;
  void prefetch_headers(std::uint64_t hash) noexcept;

  enum class OnEqual : std::uint8_t { report, insert_anyway };
  // Enters `id`. With `report`, when there is a content with the same hash and group, returns that
  // content with a reference taken, and enters nothing. An id for which there is no room is not
  // entered, and counted in unindexed().
  std::optional<ContentId> insert(std::uint64_t hash, GroupId group, ContentId id,
                                  OnEqual on_equal);
  // Does nothing when `id` is not in the index.
  void remove(std::uint64_t hash, ContentId id) noexcept;

  ByteCount bytes() const noexcept;
  std::uint64_t entries() const noexcept { return entries_.load(std::memory_order_relaxed); }
  std::uint64_t unindexed() const noexcept { return unindexed_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::size_t kSegmentPagesMin = 4;
  static constexpr std::size_t kSegmentPagesMax = 8;  // reserved; a segment of 8 splits at once
  static constexpr std::size_t kSegmentBytes = kSegmentPagesMax * kPageSize;
  static constexpr std::size_t kBucketsPerPage = kPageSize / sizeof(Bucket);
  static constexpr unsigned kDepthMax = 21;
  static constexpr std::size_t kStripes = 256;

  struct Segment {
    std::atomic<std::uint32_t> buckets;
    std::uint32_t pattern;  // the low `depth` bits of every hash in the segment
    std::uint32_t depth;
  };
  struct Entry {
    std::uint64_t hash;
    std::uint32_t id;
  };
  struct alignas(64) Stripe {
    Mutex mutex{"Index::Stripe"};
  };

  Index(HeaderTable& headers, std::uint32_t segments_max, sys::Mapping segments,
        sys::Mapping directory, sys::Mapping buckets);

  Bucket* buckets_of(std::uint32_t segment) const noexcept {
    return reinterpret_cast<Bucket*>(buckets_.data() + segment * kSegmentBytes);
  }
  Mutex& lock_of(std::uint32_t segment) noexcept
      RETURN_CAPABILITY(stripes_[segment % kStripes].mutex) {
    return stripes_[segment % kStripes].mutex;
  }
  std::uint32_t segment_of(std::uint64_t hash) const noexcept;
  bool covers(const Segment& segment, std::uint64_t hash) const noexcept;
  template <typename Action>
  auto with_segment(std::uint64_t hash, Action&& action) noexcept;
  void collect(std::uint32_t segment, std::uint64_t hash, GroupId group, std::size_t limit,
               Candidates& found) noexcept;
  bool place(std::uint32_t segment, std::uint64_t hash, std::uint32_t id) noexcept;
  bool make_room(std::uint32_t segment, Bucket& full) noexcept;

  Status grow(std::uint64_t hash) EXCLUDES(grow_mutex_);
  Status add_page(std::uint32_t segment) REQUIRES(grow_mutex_);
  Status split(std::uint32_t segment) REQUIRES(grow_mutex_);
  Status double_directory() REQUIRES(grow_mutex_);
  Status back_with_memory(std::uint32_t segment, std::size_t pages) noexcept;
  void take_out(std::uint32_t segment) noexcept REQUIRES(grow_mutex_);
  void put_back(std::uint32_t segment) noexcept REQUIRES(grow_mutex_);

  HeaderTable& headers_;
  const std::uint32_t segments_max_;
  sys::Mapping segment_memory_;
  sys::Mapping directory_memory_;
  sys::Mapping buckets_;
  Segment* segments_;
  std::atomic<std::uint32_t>* directory_;
  std::atomic<std::uint32_t> directory_mask_{0};
  std::unique_ptr<std::array<Stripe, kStripes>> stripe_memory_;
  Stripe* stripes_;

  Mutex grow_mutex_ ACQUIRED_BEFORE(&Stripe::mutex){"Index::grow"};
  std::vector<Entry> moving_ GUARDED_BY(grow_mutex_);

  std::atomic<std::uint32_t> segment_count_{0};
  std::atomic<std::uint64_t> pages_{0};
  std::atomic<std::uint64_t> entries_{0};
  std::atomic<std::uint64_t> unindexed_{0};
};

}  // namespace ramfold::store
