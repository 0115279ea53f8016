// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/similarity/similarity_index.hpp"

#include <algorithm>
#include <utility>

#include "base/check.hpp"

namespace ramfold::store {

// Bits of a hash: those up to the level are the bucket; 24 from bit 6 on, the tag, hold the next
// ones for a split, and tell entries of one bucket apart by what is left.
struct alignas(64) SimilarityIndex::Bucket {
  static constexpr unsigned kEntries = 9;
  static constexpr unsigned kTagBytes = 3;

  std::array<std::uint32_t, kEntries> ids;  // 0: empty
  std::array<std::uint8_t, kEntries * kTagBytes> tags;
  std::uint8_t next_victim;

  static std::uint32_t tag_of(std::uint64_t hash) noexcept { return hash >> kLevelMin & 0xff'ffff; }

  std::uint32_t tag(unsigned at) const noexcept {
    const std::uint8_t* bytes = &tags[at * kTagBytes];
    return bytes[0] | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16;
  }
  void set(unsigned at, std::uint32_t tag, std::uint32_t id) noexcept {
    ids[at] = id;
    for (unsigned i = 0; i < kTagBytes; ++i) {
      tags[at * kTagBytes + i] = static_cast<std::uint8_t>(tag >> 8 * i);
    }
  }
  bool holds(unsigned at, std::uint32_t tag_wanted) const noexcept {
    return ids[at] != 0 && tag(at) == tag_wanted;
  }
  // In the place of the same hash's last content, or an empty one, or of whose turn it is.
  void add(std::uint32_t tag_new, std::uint32_t id) noexcept {
    unsigned at = kEntries;
    for (unsigned i = 0; i < kEntries; ++i) {
      if (holds(i, tag_new)) {
        at = i;
        break;
      }
      if (ids[i] == 0) at = i;
    }
    if (at == kEntries) {
      at = next_victim;
      next_victim = static_cast<std::uint8_t>((at + 1) % kEntries);
    }
    set(at, tag_new, id);
  }
};

Result<std::unique_ptr<SimilarityIndex>> SimilarityIndex::make(std::uint32_t contents_max) {
  static_assert(sizeof(Bucket) == 64);
  const std::uint64_t buckets_max =
      std::max(std::uint64_t{1} << kLevelMin, contents_max * kBytesPerContent / sizeof(Bucket));
  auto memory = sys::Mapping::anonymous(ByteCount{buckets_max * sizeof(Bucket)});
  if (!memory) return std::unexpected(memory.error());
  return std::unique_ptr<SimilarityIndex>(new SimilarityIndex(std::move(*memory), buckets_max));
}

SimilarityIndex::SimilarityIndex(sys::Mapping memory, std::uint64_t buckets_max) noexcept
    : memory_(std::move(memory)), buckets_max_(buckets_max) {}

SimilarityIndex::Bucket& SimilarityIndex::bucket_of(std::uint64_t hash) const noexcept {
  const std::uint64_t whole = std::uint64_t{1} << level_;
  std::uint64_t at = hash & (2 * whole - 1);
  if (at >= buckets_count_) at &= whole - 1;  // not split yet
  return memory_.as<Bucket>()[at];
}

SimilarityIndex::Candidates SimilarityIndex::find(const Sketch& sketch) const noexcept {
  struct Voted {
    std::uint32_t id;
    unsigned votes;
  };
  std::array<Voted, Sketch::kHashesMax> found;  // a bucket has a hash once
  std::size_t count = 0;
  {
    const MutexLock lock(mutex_);
    for (std::size_t i = 0; i < sketch.count; ++i) __builtin_prefetch(&bucket_of(sketch.hashes[i]));
    for (std::size_t i = 0; i < sketch.count; ++i) {
      const Bucket& bucket = bucket_of(sketch.hashes[i]);
      const std::uint32_t tag = Bucket::tag_of(sketch.hashes[i]);
      for (unsigned at = 0; at < Bucket::kEntries; ++at) {
        if (!bucket.holds(at, tag)) continue;
        const auto end = found.begin() + static_cast<std::ptrdiff_t>(count);
        const auto known = std::find_if(found.begin(), end,
                                        [&](const Voted& v) { return v.id == bucket.ids[at]; });
        if (known != end) {
          ++known->votes;
        } else {
          found[count++] = {bucket.ids[at], 1};
        }
        break;
      }
    }
  }
  // Of equals the one with the smaller hash first: it is the likelier to be among a content's two
  // smallest.
  for (std::size_t i = 1; i < count; ++i) {
    for (std::size_t k = i; k > 0 && found[k].votes > found[k - 1].votes; --k)
      std::swap(found[k], found[k - 1]);
  }
  Candidates candidates;
  candidates.count = count;
  for (std::size_t i = 0; i < count; ++i) candidates.ids[i] = ContentId{found[i].id};
  return candidates;
}

void SimilarityIndex::insert(const Sketch& sketch, ContentId id) noexcept {
  ENSURE(id != kZeroContent);
  if (sketch.count == 0) return;
  const MutexLock lock(mutex_);
  ++contents_count_;
  if (contents_count_ * kBytesPerContent >= (buckets_count_ + 1) * sizeof(Bucket)) split_one();
  for (std::size_t i = 0; i < std::min(kEntered, sketch.count); ++i) {
    bucket_of(sketch.hashes[i]).add(Bucket::tag_of(sketch.hashes[i]), id.value);
  }
}

void SimilarityIndex::remove(const Sketch& sketch, ContentId id) noexcept {
  if (sketch.count == 0) return;
  const MutexLock lock(mutex_);
  ENSURE(contents_count_ != 0);
  --contents_count_;
  for (std::size_t i = 0; i < std::min(kEntered, sketch.count); ++i) {
    Bucket& bucket = bucket_of(sketch.hashes[i]);
    const std::uint32_t tag = Bucket::tag_of(sketch.hashes[i]);
    for (unsigned at = 0; at < Bucket::kEntries; ++at) {
      if (bucket.ids[at] == id.value && bucket.holds(at, tag)) bucket.set(at, 0, 0);
    }
  }
}

// The next bucket in turn gives half of its entries to a new one at the end.
void SimilarityIndex::split_one() noexcept {
  const std::uint64_t whole = std::uint64_t{1} << level_;
  const std::uint32_t next_bit = std::uint32_t{1} << (level_ - kLevelMin);
  if (buckets_count_ == buckets_max_) return;
  Bucket& from = memory_.as<Bucket>()[buckets_count_ - whole];
  Bucket& to = memory_.as<Bucket>()[buckets_count_];
  for (unsigned i = 0; i < Bucket::kEntries; ++i) {
    if (from.ids[i] == 0 || (from.tag(i) & next_bit) == 0) continue;
    to.set(i, from.tag(i), from.ids[i]);
    from.set(i, 0, 0);
  }
  ++buckets_count_;
  if (buckets_count_ == 2 * whole) ++level_;
}

std::uint64_t SimilarityIndex::contents_count() const noexcept {
  const MutexLock lock(mutex_);
  return contents_count_;
}

ByteCount SimilarityIndex::memory() const noexcept {
  const MutexLock lock(mutex_);
  return ByteCount{buckets_count_ * sizeof(Bucket)};
}

}  // namespace ramfold::store
