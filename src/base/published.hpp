// SPDX-License-Identifier: GPL-2.0-or-later
// A small value that is replaced as a whole while other threads read it. A reader gets one whole
// value, never parts of two. It waits only while a writer is between its few stores.
// Threads: any; concurrent store() calls wait for each other.
//
// A sequence lock (Boehm, "Can seqlocks get along with programming language memory models?", 2012).
// The words are atomics, so reads are no data race. The number is odd while a value is being
// stored. A reader reads again if the number was odd, or changed during the read.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/thread_annotations.hpp"

namespace ramfold {

template <typename T>
class Published {
  static_assert(std::is_trivially_copyable_v<T> && std::is_default_constructible_v<T>);

 public:
  explicit Published(const T& value = T{}) noexcept { put(value); }
  Published(const Published&) = delete;
  Published& operator=(const Published&) = delete;

  T load() const noexcept {
    for (;;) {
      const std::uint64_t before = number_.load(std::memory_order_acquire);
      Words words;
      for (std::size_t i = 0; i < kWords; ++i) words[i] = words_[i].load(std::memory_order_acquire);
      const std::uint64_t after = number_.load(std::memory_order_relaxed);
      if (before != after || before % 2 != 0) continue;
      Bytes bytes;
      std::memcpy(bytes.data(), words.data(), bytes.size());
      return std::bit_cast<T>(bytes);
    }
  }

  void store(const T& value) noexcept {
    const MutexLock lock(writing_);
    number_.fetch_add(1, std::memory_order_acquire);
    put(value);
    number_.fetch_add(1, std::memory_order_release);
  }

 private:
  static constexpr std::size_t kWords = (sizeof(T) + 7) / 8;
  using Bytes = std::array<std::byte, sizeof(T)>;
  using Words = std::array<std::uint64_t, kWords>;

  void put(const T& value) noexcept REQUIRES(writing_) {
    Words words{};
    const auto bytes = std::bit_cast<Bytes>(value);
    std::memcpy(words.data(), bytes.data(), bytes.size());
    for (std::size_t i = 0; i < kWords; ++i) words_[i].store(words[i], std::memory_order_release);
  }

  Mutex writing_{"Published"};
  std::atomic<std::uint64_t> number_{0};
  std::array<std::atomic<std::uint64_t>, kWords> words_{};
};

}  // namespace ramfold
