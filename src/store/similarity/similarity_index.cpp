// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/similarity/similarity_index.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/check.hpp"

namespace ramfold::store {

// Bits of a hash: the lowest `level_` bits, or one more, choose the bucket. The bits above them are
// the entry's tag, with a 1 above as an end marker. A split sorts entries by the lowest bit of the
// tag, and then removes that bit. So a tag becomes shorter each time the table doubles. An entry
// with too few bits left would match too many hashes, and is forgotten; that happens to a
// thousandth of all entries.
struct alignas(64) SimilarityIndex::Bucket {
  static constexpr unsigned kEntries = 10;
  static constexpr unsigned kTagBits = 15;
  static constexpr std::uint16_t kTagMin = 1u << 5;  // smaller tags have fewer than five bits

  std::array<std::uint32_t, kEntries> ids;  // 0: empty
  std::array<std::uint16_t, kEntries> tags;
  std::uint32_t next_victim;

  // `rest`: the hash without the bits that choose the bucket.
  static std::uint16_t tag_of(std::uint64_t rest) noexcept {
    constexpr unsigned kMarker = 1u << kTagBits;
    return static_cast<std::uint16_t>((rest & (kMarker - 1)) | kMarker);
  }
  bool holds(unsigned at, std::uint16_t tag) const noexcept {
    if (ids[at] == 0) return false;
    const unsigned known = std::bit_floor(unsigned{tags[at]});
    return ((tags[at] ^ tag) & (known - 1)) == 0;
  }
  void set(unsigned at, std::uint16_t tag, std::uint32_t id) noexcept {
    ids[at] = id;
    tags[at] = tag;
  }
  void forget(unsigned at) noexcept { set(at, 0, 0); }
  // Takes the entry of the same hash, or an empty entry, or, with Push::yes, the next entry in
  // turn.
  void add(std::uint16_t tag, std::uint32_t id, Push push) noexcept {
    unsigned at = kEntries;
    for (unsigned i = 0; i < kEntries; ++i) {
      if (holds(i, tag)) {
        at = i;
        break;
      }
      if (ids[i] == 0) at = i;
    }
    if (at == kEntries) {
      if (push == Push::no) return;
      at = next_victim;
      next_victim = (at + 1) % kEntries;
    }
    set(at, tag, id);
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

SimilarityIndex::Place SimilarityIndex::place_of(std::uint64_t hash) const noexcept {
  const std::uint64_t whole = std::uint64_t{1} << level_;
  const std::uint64_t low = hash & (whole - 1);
  const bool is_split = low + whole < buckets_count_;
  const std::uint64_t at = is_split ? hash & (2 * whole - 1) : low;
  return {memory_.as<Bucket>() + at, Bucket::tag_of(hash >> (level_ + (is_split ? 1 : 0)))};
}

template <typename F>
void SimilarityIndex::for_smallest(const Sketch& sketch, std::size_t of_family,
                                   F&& each) const noexcept {
  for (std::size_t i = 0; i < of_family; ++i) {
    for (const Sketch::Smallest* family : {&sketch.low, &sketch.bytes}) {
      if (i < family->count) each(place_of(family->hashes[i]), i);
    }
  }
}

// With equal votes, the id of the smaller hash comes first: a small hash is more likely to be among
// the two smallest hashes of another content.
SimilarityIndex::Candidates SimilarityIndex::find(const Sketch& sketch) const noexcept {
  struct Voted {
    std::uint32_t id;
    unsigned votes;
  };
  std::array<Voted, Sketch::kHashesMax> found;  // enough: at most one id for each hash
  std::size_t count = 0;
  const auto vote = [&](std::uint32_t id) {
    for (std::size_t i = 0; i < count; ++i) {
      if (found[i].id != id) continue;
      ++found[i].votes;
      return;
    }
    found[count++] = {id, 1};
  };
  {
    const MutexLock lock(mutex_);
    std::array<Place, Sketch::kHashesMax> places;
    std::size_t places_count = 0;
    for_smallest(sketch, Sketch::kOfFamily, [&](Place place, std::size_t) {
      __builtin_prefetch(place.bucket);
      places[places_count++] = place;
    });
    for (std::size_t i = 0; i < places_count; ++i) {
      const Bucket& bucket = *places[i].bucket;
      unsigned at = 0;
      while (at < Bucket::kEntries && !bucket.holds(at, places[i].tag)) ++at;
      if (at < Bucket::kEntries) vote(bucket.ids[at]);
    }
  }
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
  if (sketch.empty()) return;
  const MutexLock lock(mutex_);
  ++contents_count_;
  if (contents_count_ * kBytesPerContent >= (buckets_count_ + 1) * sizeof(Bucket)) split_one();
  for_smallest(sketch, kEntered, [&](Place place, std::size_t rank) {
    place.bucket->add(place.tag, id.value, rank == 0 ? Push::yes : Push::no);
  });
}

void SimilarityIndex::remove(const Sketch& sketch, ContentId id) noexcept {
  if (sketch.empty()) return;
  const MutexLock lock(mutex_);
  ENSURE(contents_count_ != 0);
  --contents_count_;
  for_smallest(sketch, kEntered, [&](Place place, std::size_t) {
    for (unsigned at = 0; at < Bucket::kEntries; ++at) {
      if (place.bucket->ids[at] == id.value && place.bucket->holds(at, place.tag)) {
        place.bucket->forget(at);
      }
    }
  });
  if (contents_count_ * kBytesPerContentMax < buckets_count_ * sizeof(Bucket)) merge_one();
}

// The next bucket in turn gives about half of its entries to a new bucket at the end.
void SimilarityIndex::split_one() noexcept {
  if (buckets_count_ == buckets_max_) return;
  const std::uint64_t whole = std::uint64_t{1} << level_;
  Bucket& from = memory_.as<Bucket>()[buckets_count_ - whole];
  Bucket& to = memory_.as<Bucket>()[buckets_count_];
  for (unsigned i = 0; i < Bucket::kEntries; ++i) {
    if (from.ids[i] == 0) continue;
    const auto tag = static_cast<std::uint16_t>(from.tags[i] >> 1);
    if (tag < Bucket::kTagMin) {
      from.forget(i);
    } else if ((from.tags[i] & 1) == 0) {
      from.tags[i] = tag;
    } else {
      to.set(i, tag, from.ids[i]);
      from.forget(i);
    }
  }
  ++buckets_count_;
  if (buckets_count_ == 2 * whole) ++level_;
}

// The entries of the last bucket go back to the bucket that it was split from, as far as there is
// room.
void SimilarityIndex::merge_one() noexcept {
  if (buckets_count_ == std::uint64_t{1} << kLevelMin) return;
  if (buckets_count_ == std::uint64_t{1} << level_) --level_;
  --buckets_count_;
  Bucket& from = memory_.as<Bucket>()[buckets_count_];
  Bucket& to = memory_.as<Bucket>()[buckets_count_ - (std::uint64_t{1} << level_)];
  const auto longer = [](std::uint16_t tag, unsigned bit) {
    return tag >> Bucket::kTagBits != 0 ? Bucket::tag_of(unsigned{tag} << 1 | bit)
                                        : static_cast<std::uint16_t>(unsigned{tag} << 1 | bit);
  };
  for (std::uint16_t& tag : to.tags) tag = longer(tag, 0);
  for (unsigned i = 0; i < Bucket::kEntries; ++i) {
    if (from.ids[i] != 0) to.add(longer(from.tags[i], 1), from.ids[i], Push::no);
    from.forget(i);
  }
  const std::uint64_t end = buckets_count_ * sizeof(Bucket);
  if (end % kPageSize == 0) memory_.discard(ByteCount{end}, ByteCount{kPageSize});
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
