// SPDX-License-Identifier: GPL-2.0-or-later
// A sketch finds pages that resemble each other. It holds the smallest hashes of two families of
// 32-byte windows of a page. Two pages that have windows in common often have one of these hashes
// in common, too.
//   low    a window is four 8-byte words, at any word of the page; only the lower 16 bits of each
//          word count. The upper bits are what differs most between guests: the addresses of the
//          kernel, of a library or of a heap, which are multiples of a page at least. A window with
//          fewer than two words whose lower bits are not zero is left out.
//   bytes  a window is 32 bytes as they are, at any byte where their rolling hash satisfies a
//          condition (at one byte of 32). So equal bytes are found at different places. Zeros are
//          left out.
// Each family finds pages that the other does not: one alone finds two thirds of what both find.
// Threads: pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/page_copy.hpp"

namespace ramfold::store {

struct Sketch {
  static constexpr std::size_t kOfFamily = 8;
  static constexpr std::size_t kHashesMax = 2 * kOfFamily;

  // Ascending, all different.
  struct Smallest {
    std::array<std::uint64_t, kOfFamily> hashes;
    std::size_t count = 0;
  };
  Smallest low;
  Smallest bytes;

  bool empty() const noexcept { return low.count + bytes.count == 0; }
};

// Makes sketches. All hashes, the rolling one too, are keyed by the secret seed of a group. So a
// guest cannot make a page that gets chosen hashes, and sketches of two groups have nothing in
// common.
class Sketcher {
 public:
  explicit Sketcher(std::uint64_t seed) noexcept;
  ~Sketcher();  // wipes the keys
  Sketcher(const Sketcher&) = delete;
  Sketcher& operator=(const Sketcher&) = delete;
  Sketch operator()(const PageCopy& page) const noexcept;

 private:
  static constexpr std::size_t kWindow = 32;

  void add_low(const PageCopy& page, Sketch::Smallest& to) const noexcept;
  void add_bytes(const PageCopy& page, Sketch::Smallest& to) const noexcept;

  std::array<std::uint64_t, 2> low_keys_;
  std::array<std::uint64_t, kWindow / 8> bytes_keys_;
  std::array<std::uint32_t, 256> rolling_keys_;
  std::uint32_t rolling_of_zeros_ = 0;
};

}  // namespace ramfold::store
