// SPDX-License-Identifier: GPL-2.0-or-later
// Counters and latency histograms that workers publish and metrics/control read: relaxed atomics,
// no allocation, fixed size. Nothing points back from them.
// Threads: any thread may add; a read is a snapshot that may be torn between fields, never within
// one.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace ramfold {

class Counter {
 public:
  void add(std::uint64_t n = 1) noexcept { value_.fetch_add(n, std::memory_order_relaxed); }
  void sub(std::uint64_t n = 1) noexcept { value_.fetch_sub(n, std::memory_order_relaxed); }
  void set(std::uint64_t n) noexcept { value_.store(n, std::memory_order_relaxed); }
  std::uint64_t get() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

// Log-linear buckets over nanoseconds: 8 steps an octave, so a quantile is within 12.5 % of the
// truth.
class LatencyHistogram {
 public:
  static constexpr std::size_t kSteps = 8;
  static constexpr std::size_t kBuckets = 40 * kSteps;

  void record(std::uint64_t ns) noexcept {
    buckets_[bucket_of(ns)].fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(ns, std::memory_order_relaxed);
    std::uint64_t seen = max_.load(std::memory_order_relaxed);
    while (ns > seen && !max_.compare_exchange_weak(seen, ns, std::memory_order_relaxed)) {
    }
  }
  std::uint64_t count() const noexcept {
    std::uint64_t n = 0;
    for (const auto& b : buckets_) n += b.load(std::memory_order_relaxed);
    return n;
  }
  std::uint64_t sum_ns() const noexcept { return sum_.load(std::memory_order_relaxed); }
  std::uint64_t max_ns() const noexcept { return max_.load(std::memory_order_relaxed); }
  // Upper edge in ns of the bucket that holds quantile q (0..1]; 0 when nothing was recorded.
  std::uint64_t quantile_ns(double q) const noexcept {
    const std::uint64_t total = count();
    if (total == 0) return 0;
    const auto rank = std::max<std::uint64_t>(
        1, static_cast<std::uint64_t>(q * static_cast<double>(total) + 0.5));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      seen += buckets_[i].load(std::memory_order_relaxed);
      if (seen >= rank) return std::min(edge_of(i), max_ns());
    }
    return max_ns();
  }

  static constexpr std::size_t bucket_of(std::uint64_t ns) noexcept {
    if (ns < kSteps) return static_cast<std::size_t>(ns);
    const auto octave = static_cast<std::size_t>(std::bit_width(ns)) - 4;  // 8..15 is octave 0
    const std::size_t step = static_cast<std::size_t>(ns >> octave) - kSteps;
    return std::min(kBuckets - 1, kSteps + octave * kSteps + step);
  }
  static constexpr std::uint64_t edge_of(std::size_t bucket) noexcept {
    if (bucket < kSteps) return bucket;
    const std::size_t octave = (bucket - kSteps) / kSteps;
    const std::size_t step = (bucket - kSteps) % kSteps;
    return ((kSteps + step + 1) << octave) - 1;
  }

 private:
  std::array<std::atomic<std::uint64_t>, kBuckets> buckets_{};
  std::atomic<std::uint64_t> max_{0};
  std::atomic<std::uint64_t> sum_{0};
};

}  // namespace ramfold
