// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/twins.hpp"

#include <algorithm>
#include <bit>

namespace ramfold::store {
namespace {

// Upper half: the hash's upper half (its lower bits choose the bucket). Lower half: bits of the
// origin, and a 1, because 0 is a free entry.
std::uint64_t entry_of(std::uint64_t hash, std::uint64_t origin) noexcept {
  const std::uint64_t page = (origin * 0x9e37'79b9'7f4a'7c15u) >> 32;
  return (hash >> 32 << 32) | page | 1;
}
bool same_hash(std::uint64_t a, std::uint64_t b) noexcept { return a >> 32 == b >> 32; }

}  // namespace

Result<Twins> Twins::make(ByteCount arena_max) {
  const std::uint64_t pages = arena_max.value >> kPageShift;
  const std::uint64_t buckets = std::bit_floor(std::max(pages / kWays, kBucketsMin));
  auto memory = sys::Mapping::anonymous(ByteCount{buckets * kWays * sizeof(std::uint64_t)});
  if (!memory) return std::unexpected(memory.error());
  return Twins(std::move(*memory), buckets);
}

Twins::Twins(sys::Mapping memory, std::uint64_t buckets_max) noexcept
    : memory_(std::move(memory)),
      entries_(memory_.as<std::atomic<std::uint64_t>>()),
      buckets_max_(buckets_max) {}

Twins::Twins(Twins&& other) noexcept : Twins(std::move(other.memory_), other.buckets_max_) {}

bool Twins::asked_before(std::uint64_t hash, std::uint64_t origin) noexcept {
  const std::uint64_t buckets = buckets_.load(std::memory_order_relaxed);
  std::atomic<std::uint64_t>* const bucket = entries_ + (hash & (buckets - 1)) * kWays;
  const std::uint64_t own = entry_of(hash, origin);
  std::atomic<std::uint64_t>* free = nullptr;
  for (std::uint64_t i = 0; i < kWays; ++i) {
    std::uint64_t seen = bucket[i].load(std::memory_order_relaxed);
    if (seen == own) return false;
    if (seen == 0) {
      if (free == nullptr) free = &bucket[i];
    } else if (same_hash(seen, own) &&
               bucket[i].compare_exchange_strong(seen, 0, std::memory_order_relaxed)) {
      used_.fetch_sub(1, std::memory_order_relaxed);
      return true;
    }
  }
  if (free == nullptr) {
    bucket[(own >> 1) % kWays].store(own, std::memory_order_relaxed);
    return false;
  }
  std::uint64_t none = 0;
  if (!free->compare_exchange_strong(none, own, std::memory_order_relaxed)) return false;
  const std::uint64_t used = used_.fetch_add(1, std::memory_order_relaxed) + 1;
  if (used * 4 > buckets * kWays * 3 && buckets < buckets_max_) {
    std::uint64_t expected = buckets;
    buckets_.compare_exchange_strong(expected, buckets * 2, std::memory_order_relaxed);
  }
  return false;
}

void Twins::forget() noexcept {
  if (used_.exchange(0, std::memory_order_relaxed) == 0) return;
  const std::uint64_t buckets = buckets_.exchange(kBucketsMin, std::memory_order_relaxed);
  memory_.discard(ByteCount{0}, ByteCount{buckets * kWays * sizeof(std::uint64_t)});
}

ByteCount Twins::bytes() const noexcept {
  if (used_.load(std::memory_order_relaxed) == 0) return ByteCount{0};
  return ByteCount{buckets_.load(std::memory_order_relaxed) * kWays * sizeof(std::uint64_t)};
}

}  // namespace ramfold::store
