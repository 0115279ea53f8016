// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/index/index.hpp"

#include <sys/mman.h>
#include <algorithm>

#include "base/check.hpp"

namespace ramfold::store {

Result<std::unique_ptr<Index>> Index::make(HeaderTable& headers, std::uint32_t contents_max) {
  // After a split a segment has about 2,500 of 5,376 entries. Room for a segment for every 1,024
  // contents is enough, with 16 more for a small store, whose few segments vary.
  const std::uint32_t segments_max =
      std::min(contents_max / 1024 + 16, std::uint32_t{1} << kDepthMax);
  auto segments = sys::Mapping::anonymous(ByteCount{segments_max * sizeof(Segment)});
  if (!segments) return std::unexpected(segments.error());
  auto directory = sys::Mapping::anonymous(ByteCount{sizeof(std::uint32_t) << kDepthMax});
  if (!directory) return std::unexpected(directory.error());
  auto buckets = sys::Mapping::anonymous(ByteCount{segments_max * kSegmentBytes});
  if (!buckets) return std::unexpected(buckets.error());
  // A huge page would also back the reserved parts of segments.
  (void)::madvise(buckets->data(), buckets->size(), MADV_NOHUGEPAGE);
  std::unique_ptr<Index> index(new Index(headers, segments_max, std::move(*segments),
                                         std::move(*directory), std::move(*buckets)));
  auto backed = index->back_with_memory(0, kSegmentPagesMin);
  if (!backed) return std::unexpected(backed.error());
  index->segments_[0].buckets.store(kSegmentPagesMin * kBucketsPerPage, std::memory_order_relaxed);
  index->segment_count_.store(1, std::memory_order_relaxed);
  index->pages_.store(kSegmentPagesMin, std::memory_order_relaxed);
  return index;
}

Index::Index(HeaderTable& headers, std::uint32_t segments_max, sys::Mapping segments,
             sys::Mapping directory, sys::Mapping buckets)
    : headers_(headers),
      segments_max_(segments_max),
      segment_memory_(std::move(segments)),
      directory_memory_(std::move(directory)),
      buckets_(std::move(buckets)),
      segments_(segment_memory_.as<Segment>()),
      directory_(directory_memory_.as<std::atomic<std::uint32_t>>()),
      stripe_memory_(std::make_unique<std::array<Stripe, kStripes>>()),
      stripes_(stripe_memory_->data()) {
  moving_.reserve(kSegmentPagesMax * kBucketsPerPage * Bucket::kEntries);
}

std::uint32_t Index::segment_of(std::uint64_t hash) const noexcept {
  const std::uint32_t mask = directory_mask_.load(std::memory_order_acquire);
  return directory_[hash & mask].load(std::memory_order_acquire);
}

bool Index::covers(const Segment& segment, std::uint64_t hash) const noexcept {
  return (hash & ((std::uint64_t{1} << segment.depth) - 1)) == segment.pattern;
}

// Runs action(segment) under the lock of the segment that covers the hash. The directory is read
// without a lock, so the segment may have been split before its lock is taken. Then the directory
// is read again.
template <typename Action>
auto Index::with_segment(std::uint64_t hash, Action&& action) noexcept {
  for (;;) {
    const std::uint32_t segment = segment_of(hash);
    const MutexLock lock(lock_of(segment));
    if (covers(segments_[segment], hash)) return action(segment);
  }
}

void Index::collect(std::uint32_t segment, std::uint64_t hash, GroupId group, std::size_t limit,
                    Candidates& found) noexcept {
  const std::uint32_t count = segments_[segment].buckets.load(std::memory_order_relaxed);
  const std::uint32_t places[2] = {first_bucket(hash, count), second_bucket(hash, count)};
  for (std::size_t i = 0; i < (places[0] == places[1] ? 1 : 2); ++i) {
    const Bucket& bucket = buckets_of(segment)[places[i]];
    for (unsigned hits = bucket.matches(tag_of(hash)); hits != 0; hits &= hits - 1) {
      const ContentId id{bucket.ids[static_cast<std::size_t>(__builtin_ctz(hits))]};
      if (found.count == limit) return;
      if (headers_.take(id, hash, group)) found.ids[found.count++] = id;
    }
  }
}

Index::Candidates Index::find(std::uint64_t hash, GroupId group) noexcept {
  return with_segment(hash, [&](std::uint32_t segment) {
    Candidates found;
    collect(segment, hash, group, kCandidatesMax, found);
    return found;
  });
}

void Index::prefetch_buckets(std::uint64_t hash) const noexcept {
  const std::uint32_t segment = segment_of(hash);
  const std::uint32_t count = segments_[segment].buckets.load(std::memory_order_relaxed);
  __builtin_prefetch(&buckets_of(segment)[first_bucket(hash, count)]);
  __builtin_prefetch(&buckets_of(segment)[second_bucket(hash, count)]);
}

void Index::prefetch_headers(std::uint64_t hash) noexcept {
  with_segment(hash, [&](std::uint32_t segment) {
    const std::uint32_t count = segments_[segment].buckets.load(std::memory_order_relaxed);
    for (const std::uint32_t place : {first_bucket(hash, count), second_bucket(hash, count)}) {
      const Bucket& bucket = buckets_of(segment)[place];
      for (unsigned hits = bucket.matches(tag_of(hash)); hits != 0; hits &= hits - 1) {
        headers_.prefetch(ContentId{bucket.ids[static_cast<std::size_t>(__builtin_ctz(hits))]});
      }
    }
    return true;
  });
}

bool Index::place(std::uint32_t segment, std::uint64_t hash, std::uint32_t id) noexcept {
  const std::uint32_t count = segments_[segment].buckets.load(std::memory_order_relaxed);
  Bucket* const buckets = buckets_of(segment);
  Bucket& first = buckets[first_bucket(hash, count)];
  Bucket& second = buckets[second_bucket(hash, count)];
  const bool is_full = first.used == Bucket::kEntries && second.used == Bucket::kEntries;
  if (is_full && !make_room(segment, first) && !make_room(segment, second)) return false;
  Bucket& roomy = second.used < first.used ? second : first;
  roomy.add(tag_of(hash), id);
  return true;
}

// Moves one entry of a full bucket to the other bucket of its hash, if that has room.
bool Index::make_room(std::uint32_t segment, Bucket& full) noexcept {
  const std::uint32_t count = segments_[segment].buckets.load(std::memory_order_relaxed);
  Bucket* const buckets = buckets_of(segment);
  for (const std::uint32_t id : full.ids) headers_.prefetch(ContentId{id});
  for (std::size_t i = 0; i < Bucket::kEntries; ++i) {
    const std::uint32_t id = full.ids[i];
    const std::uint64_t hash = headers_.hash(ContentId{id});
    if (tag_of(hash) != full.tags[i]) continue;  // a damaged header: the entry stays
    Bucket* const first = &buckets[first_bucket(hash, count)];
    Bucket* const second = &buckets[second_bucket(hash, count)];
    if (first != &full && second != &full) continue;
    Bucket& other = first == &full ? *second : *first;
    if (other.used == Bucket::kEntries) continue;
    other.add(tag_of(hash), id);
    full.remove(tag_of(hash), id);
    return true;
  }
  return false;
}

std::optional<ContentId> Index::insert(std::uint64_t hash, GroupId group, ContentId id,
                                       OnEqual on_equal) {
  enum class Outcome : std::uint8_t { placed, equal, full };
  // Each growth adds at least a sixth of the buckets, or halves the load. A hash without room after
  // that many growths shares both buckets with 24 nearly equal hashes; it is not entered.
  constexpr int kGrowthsMax = 5;
  for (int growths = 0;; ++growths) {
    Candidates equal;
    const Outcome outcome = with_segment(hash, [&](std::uint32_t segment) {
      if (on_equal == OnEqual::report) collect(segment, hash, group, 1, equal);
      if (equal.count != 0) return Outcome::equal;
      return place(segment, hash, id.value) ? Outcome::placed : Outcome::full;
    });
    if (outcome == Outcome::equal) return equal.ids[0];
    if (outcome == Outcome::placed) {
      entries_.fetch_add(1, std::memory_order_relaxed);
      return std::nullopt;
    }
    if (growths == kGrowthsMax || !grow(hash)) {
      unindexed_.fetch_add(1, std::memory_order_relaxed);
      return std::nullopt;
    }
  }
}

void Index::remove(std::uint64_t hash, ContentId id) noexcept {
  const bool removed = with_segment(hash, [&](std::uint32_t segment) {
    const std::uint32_t count = segments_[segment].buckets.load(std::memory_order_relaxed);
    Bucket* buckets = buckets_of(segment);
    return buckets[first_bucket(hash, count)].remove(tag_of(hash), id.value) ||
           buckets[second_bucket(hash, count)].remove(tag_of(hash), id.value);
  });
  if (removed) entries_.fetch_sub(1, std::memory_order_relaxed);
}

ByteCount Index::bytes() const noexcept {
  const std::uint64_t directory =
      (std::uint64_t{directory_mask_.load(std::memory_order_relaxed)} + 1) * sizeof(std::uint32_t);
  const std::uint64_t segments = segment_count_.load(std::memory_order_relaxed) * sizeof(Segment);
  return ByteCount{pages_.load(std::memory_order_relaxed) * kPageSize + directory + segments};
}

}  // namespace ramfold::store
