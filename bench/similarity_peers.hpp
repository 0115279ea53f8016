// SPDX-License-Identifier: GPL-2.0-or-later
// Other methods to find similar pages, to compare the store's with. Each gets one page at a time:
// look() returns the pages to try, the likeliest first; enter() makes the page of the last look()
// findable. Their tables are those of the standard library. So their size is given as the least
// that holds the same entries, a hash and a page each. Threads: one.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/page_copy.hpp"

namespace ramfold::bench {

constexpr std::size_t kBlock = 64;
constexpr std::uint64_t kEntryBytes = sizeof(std::uint64_t) + sizeof(std::uint32_t);

// Difference Engine, section 4.2, as it ran there: HashSimilarityDetector(2,1) with one candidate.
// Two blocks at places chosen at random, the same for every page; each one's hash is a key of the
// index, and names the page that came last.
class RandomBlocks {
 public:
  static constexpr const char* kName = "two random blocks";
  static constexpr std::size_t kBlocks = 2;

  RandomBlocks(std::uint64_t seed, std::size_t) {
    std::mt19937_64 random(seed);
    std::uniform_int_distribution<std::size_t> block(0, kPageSize / kBlock - 1);
    places_[0] = block(random) * kBlock;
    do {
      places_[1] = block(random) * kBlock;
    } while (places_[1] == places_[0]);
  }
  void look(const PageCopy& page, std::vector<std::uint32_t>& found) {
    for (std::size_t i = 0; i < kBlocks; ++i) {
      // A block is looked for where it was: the place is part of the key.
      keys_[i] = XXH3_64bits_withSeed(&page.bytes[places_[i]], kBlock, i);
      const auto known = last_.find(keys_[i]);
      if (known == last_.end() || std::ranges::find(found, known->second) != found.end()) continue;
      found.push_back(known->second);
    }
  }
  void enter(std::uint32_t page) {
    for (const std::uint64_t key : keys_) last_[key] = page;
  }
  std::uint64_t bytes() const { return last_.size() * kEntryBytes; }

 private:
  std::array<std::size_t, kBlocks> places_{};
  std::array<std::uint64_t, kBlocks> keys_{};
  std::unordered_map<std::uint64_t, std::uint32_t> last_;
};

// The 8 smallest hashes of a page's different blocks; each names up to 16 pages, and those that are
// named most often are tried. What Resemblance (guest_pages.hpp) does offline.
class SmallestBlocks {
 public:
  static constexpr const char* kName = "8 smallest of 64-byte blocks";
  static constexpr std::size_t kHashes = 8;
  static constexpr std::size_t kHolders = 16;
  static constexpr std::size_t kTried = 4;

  SmallestBlocks(std::uint64_t seed, std::size_t) : seed_(seed) {}
  void look(const PageCopy& page, std::vector<std::uint32_t>& found) {
    static const std::array<std::byte, kBlock> zeros{};
    hashes_.clear();
    for (std::size_t at = 0; at < kPageSize; at += kBlock) {
      if (std::memcmp(&page.bytes[at], zeros.data(), kBlock) == 0) continue;
      hashes_.push_back(XXH3_64bits_withSeed(&page.bytes[at], kBlock, seed_));
    }
    std::ranges::sort(hashes_);
    hashes_.erase(std::unique(hashes_.begin(), hashes_.end()), hashes_.end());
    hashes_.resize(std::min(hashes_.size(), kHashes));
    votes_.clear();
    for (const std::uint64_t hash : hashes_) {
      const auto known = holders_.find(hash);
      if (known == holders_.end()) continue;
      for (const std::uint32_t holder : known->second) vote(holder);
    }
    std::ranges::sort(votes_);
    for (const auto& [_, holder] : votes_) {
      if (found.size() < kTried) found.push_back(holder);
    }
  }
  void enter(std::uint32_t page) {
    for (const std::uint64_t hash : hashes_) {
      auto& holders = holders_[hash];
      if (holders.size() == kHolders) continue;
      holders.push_back(page);
      ++entries_;
    }
  }
  std::uint64_t bytes() const { return entries_ * kEntryBytes; }

 private:
  void vote(std::uint32_t page) {
    const auto known = std::ranges::find(votes_, page, &std::pair<int, std::uint32_t>::second);
    if (known != votes_.end()) {
      --known->first;
    } else {
      votes_.emplace_back(-1, page);
    }
  }

  std::uint64_t seed_;
  std::vector<std::uint64_t> hashes_;
  std::vector<std::pair<int, std::uint32_t>> votes_;  // negative: the most come first
  std::unordered_map<std::uint64_t, std::vector<std::uint32_t>> holders_;
  std::uint64_t entries_ = 0;
};

}  // namespace ramfold::bench
