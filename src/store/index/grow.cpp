// SPDX-License-Identifier: GPL-2.0-or-later
// Growth of the index: one segment at a time, by a page or by a split.
#include <sys/mman.h>
#include <algorithm>

#include "base/check.hpp"
#include "store/index/index.hpp"

namespace ramfold::store {

// Gets memory for the first `pages` pages of a segment; an error when there is none.
Status Index::back_with_memory(std::uint32_t segment, std::size_t pages) noexcept {
  if (::madvise(buckets_of(segment), pages * kPageSize, MADV_POPULATE_WRITE) != 0) {
    return fail_errno("memory for the store's index");
  }
  return {};
}

Status Index::grow(std::uint64_t hash) {
  const MutexLock growing(grow_mutex_);
  const std::uint32_t segment = segment_of(hash);  // stays so: only growth moves a hash
  std::uint32_t count = 0;
  {
    const MutexLock lock(lock_of(segment));
    count = segments_[segment].buckets.load(std::memory_order_relaxed);
    const Bucket* buckets = buckets_of(segment);
    if (buckets[first_bucket(hash, count)].used < Bucket::kEntries ||
        buckets[second_bucket(hash, count)].used < Bucket::kEntries) {
      return {};  // another thread made the segment grow, or removed an entry
    }
  }
  const bool is_largest = count == (kSegmentPagesMax - 1) * kBucketsPerPage;
  return is_largest ? split(segment) : add_page(segment);
}

Status Index::add_page(std::uint32_t index) {
  Segment& segment = segments_[index];
  const std::size_t pages = segment.buckets.load(std::memory_order_relaxed) / kBucketsPerPage + 1;
  auto backed = back_with_memory(index, pages);
  if (!backed) return backed;
  pages_.fetch_add(1, std::memory_order_relaxed);
  const MutexLock lock(lock_of(index));
  take_out(index);
  segment.buckets.store(static_cast<std::uint32_t>(pages * kBucketsPerPage),
                        std::memory_order_relaxed);
  put_back(index);
  return {};
}

Status Index::split(std::uint32_t index) {
  Segment& old = segments_[index];
  const std::uint32_t added = segment_count_.load(std::memory_order_relaxed);
  if (added == segments_max_) return fail("the store's index is full", ENOSPC);
  const std::uint32_t depth = old.depth;
  if ((std::uint64_t{1} << depth) > directory_mask_.load(std::memory_order_relaxed)) {
    auto doubled = double_directory();
    if (!doubled) return doubled;
  }
  auto backed = back_with_memory(added, kSegmentPagesMin);
  if (!backed) return backed;
  const std::size_t pages = old.buckets.load(std::memory_order_relaxed) / kBucketsPerPage;
  constexpr auto kBucketsMin = static_cast<std::uint32_t>(kSegmentPagesMin * kBucketsPerPage);
  {
    const MutexLock lock(lock_of(index));
    take_out(index);
    Segment& young = segments_[added];
    young.buckets.store(kBucketsMin, std::memory_order_relaxed);
    young.depth = depth + 1;
    young.pattern = old.pattern | (1u << depth);
    old.buckets.store(kBucketsMin, std::memory_order_relaxed);
    old.depth = depth + 1;
    // No thread sees the young segment before the directory names it, so its lock is not needed.
    put_back(index);
    put_back(added);
    const std::uint64_t size = std::uint64_t{directory_mask_.load(std::memory_order_relaxed)} + 1;
    for (std::uint64_t at = young.pattern; at < size; at += std::uint64_t{1} << (depth + 1)) {
      directory_[at].store(added, std::memory_order_release);
    }
  }
  segment_count_.store(added + 1, std::memory_order_relaxed);
  pages_.fetch_add(2 * kSegmentPagesMin - pages, std::memory_order_relaxed);
  (void)::madvise(buckets_of(index) + kBucketsMin, (pages - kSegmentPagesMin) * kPageSize,
                  MADV_DONTNEED);
  return {};
}

// The upper half becomes a copy of the lower half. So lookups find the same segment with the old
// mask and with the new one.
Status Index::double_directory() {
  const std::uint64_t size = std::uint64_t{directory_mask_.load(std::memory_order_relaxed)} + 1;
  if (size == std::uint64_t{1} << kDepthMax) return fail("the store's index is full", ENOSPC);
  for (std::uint64_t at = 0; at < size; ++at) {
    directory_[size + at].store(directory_[at].load(std::memory_order_relaxed),
                                std::memory_order_relaxed);
  }
  directory_mask_.store(static_cast<std::uint32_t>(2 * size - 1), std::memory_order_release);
  return {};
}

Status Index::reserve(std::uint64_t entries) {
  const MutexLock growing(grow_mutex_);
  ENSURE(entries_.load(std::memory_order_relaxed) == 0);
  constexpr std::uint64_t kPerPage = kBucketsPerPage * Bucket::kEntries;
  // Less than the load at which a segment grows.
  constexpr std::uint64_t kPerPageReserved = kPerPage * 17 / 20;
  // As few segments as possible without a split, each with as many pages as it needs.
  unsigned depth = 0;
  while ((entries >> depth) > (kSegmentPagesMax - 1) * kPerPageReserved && depth < kDepthMax &&
         (std::uint64_t{2} << depth) <= segments_max_) {
    ++depth;
  }
  const std::uint32_t count = 1u << depth;
  const std::uint64_t pages =
      std::clamp<std::uint64_t>(((entries >> depth) + kPerPageReserved - 1) / kPerPageReserved,
                                kSegmentPagesMin, kSegmentPagesMax - 1);
  for (std::uint32_t segment = 0; segment < count; ++segment) {
    auto backed = back_with_memory(segment, pages);
    if (!backed) return backed;
  }
  for (std::uint32_t index = 0; index < count; ++index) {
    const MutexLock lock(lock_of(index));
    Segment& segment = segments_[index];
    segment.pattern = index;
    segment.depth = depth;
    segment.buckets.store(static_cast<std::uint32_t>(pages * kBucketsPerPage),
                          std::memory_order_relaxed);
    directory_[index].store(index, std::memory_order_relaxed);
  }
  directory_mask_.store(count - 1, std::memory_order_release);
  segment_count_.store(count, std::memory_order_relaxed);
  pages_.store(count * pages, std::memory_order_relaxed);
  return {};
}

// Moves all entries of a segment to moving_, with their hashes from the headers, and empties the
// segment. Leaves out an entry whose header has another hash now: the header was damaged.
void Index::take_out(std::uint32_t index) noexcept {
  constexpr std::size_t kAhead = 24;  // headers fetched ahead
  const Segment& segment = segments_[index];
  moving_.clear();
  Bucket* buckets = buckets_of(index);
  const std::uint32_t count = segment.buckets.load(std::memory_order_relaxed);
  for (std::uint32_t b = 0; b < count; ++b) {
    for (std::uint32_t i = 0; i < buckets[b].used; ++i) {
      moving_.push_back({buckets[b].tags[i], buckets[b].ids[i]});
    }
    buckets[b].used = 0;
  }
  std::size_t kept = 0;
  for (std::size_t i = 0; i < moving_.size(); ++i) {
    if (i + kAhead < moving_.size()) headers_.prefetch(ContentId{moving_[i + kAhead].id});
    const std::uint32_t id = moving_[i].id;
    const std::uint64_t hash = headers_.hash(ContentId{id});
    if (!covers(segment, hash) || tag_of(hash) != moving_[i].hash) continue;
    moving_[kept++] = {hash, id};
  }
  entries_.fetch_sub(moving_.size() - kept, std::memory_order_relaxed);
  moving_.resize(kept);
}

// Places the entries of moving_ that the segment covers.
void Index::put_back(std::uint32_t index) noexcept {
  for (const Entry& entry : moving_) {
    if (!covers(segments_[index], entry.hash)) continue;
    if (place(index, entry.hash, entry.id)) continue;
    entries_.fetch_sub(1, std::memory_order_relaxed);
    unindexed_.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace ramfold::store
