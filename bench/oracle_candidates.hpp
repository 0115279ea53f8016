// SPDX-License-Identifier: GPL-2.0-or-later
// Finds, for a page of a set, the other pages that have most in common with it, with an index of
// all common features. It is far too large and slow for a store. A page is known by *features*:
// each of its aligned 64-byte blocks; each of them with only the lower 16 bits of every 8-byte word
// (what is left when pointers differ by where something was loaded); and its 32-byte windows that a
// rolling hash picks, which find bytes that have shifted. Each feature that two pages share is a
// vote.
// Threads: the index is read only once it is made; each thread has a Votes of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "bench/guest_pages.hpp"

namespace ramfold::bench {

class CandidateIndex {
 public:
  static constexpr std::size_t kByVotes = 20;
  static constexpr std::size_t kCandidates = 24;  // the rest: same place, then neighbours

  explicit CandidateIndex(const GuestPages& set) : set_(set), first_place_(set.pages.size()) {
    for (std::uint32_t guest = 0; guest < set.guests.size(); ++guest) {
      for (std::uint32_t frame = 0; frame < set.guests[guest].size(); ++frame) {
        const std::uint32_t page = set.guests[guest][frame];
        if (page == GuestPages::kZeroPage) continue;
        if (first_place_[page].guest == kNowhere) first_place_[page] = {guest, frame};
      }
    }
    std::vector<std::uint64_t> features;
    for (std::uint32_t page = 0; page < set.pages.size(); ++page) {
      features_of(set.pages[page], features);
      for (const std::uint64_t feature : features) entries_.push_back({feature, page});
    }
    std::ranges::sort(entries_);
  }

  struct Votes {
    explicit Votes(const CandidateIndex& index) : of_page(index.set_.pages.size()) {}
    std::vector<std::uint16_t> of_page;
    std::vector<std::uint32_t> named;
    std::vector<std::uint64_t> features;
  };
  // kCandidates of them where the set has so many pages, the likeliest first; never `page` itself.
  std::vector<std::uint32_t> candidates(std::uint32_t page, Votes& votes) const {
    vote(page, votes);
    std::ranges::sort(votes.named, [&](std::uint32_t a, std::uint32_t b) {
      return votes.of_page[a] != votes.of_page[b] ? votes.of_page[a] > votes.of_page[b] : a < b;
    });
    std::vector<std::uint32_t> best(
        votes.named.begin(),
        votes.named.begin() + static_cast<std::ptrdiff_t>(std::min(votes.named.size(), kByVotes)));
    for (const std::uint32_t named : votes.named) votes.of_page[named] = 0;
    votes.named.clear();
    add_neighbours(page, best);
    return best;
  }

 private:
  static constexpr std::uint32_t kNowhere = ~std::uint32_t{0};
  // A feature that more pages have tells little; of its holders the nearest vote.
  static constexpr std::ptrdiff_t kHoldersEachSide = 256;
  struct Entry {
    std::uint64_t feature;
    std::uint32_t page;
    auto operator<=>(const Entry&) const = default;
  };
  struct Place {
    std::uint32_t guest = kNowhere;
    std::uint32_t frame = 0;
  };

  void vote(std::uint32_t page, Votes& votes) const {
    features_of(set_.pages[page], votes.features);
    for (const std::uint64_t feature : votes.features) {
      const auto own = std::lower_bound(entries_.begin(), entries_.end(), Entry{feature, page});
      const auto count = [&](auto holder, auto end) {
        for (std::ptrdiff_t i = 0; i < kHoldersEachSide && holder != end; ++i, ++holder) {
          if (holder->feature != feature) return;
          if (holder->page == page) continue;
          if (votes.of_page[holder->page]++ == 0) votes.named.push_back(holder->page);
        }
      };
      count(own, entries_.end());
      count(std::make_reverse_iterator(own), entries_.rend());
    }
  }

  // What the other guests hold in the same frame, then the frames beside it.
  void add_neighbours(std::uint32_t page, std::vector<std::uint32_t>& to) const {
    const auto add = [&](std::uint32_t other) {
      if (to.size() < kCandidates && other != GuestPages::kZeroPage && other != page &&
          std::ranges::find(to, other) == to.end()) {
        to.push_back(other);
      }
    };
    const auto [guest, frame] = first_place_[page];
    for (std::uint32_t other = 0; other < set_.guests.size(); ++other) {
      if (other != guest && frame < set_.guests[other].size()) add(set_.guests[other][frame]);
    }
    const std::size_t pages_count = set_.pages.size();
    for (std::size_t away = 1; to.size() < kCandidates && away < pages_count; ++away) {
      if (page >= away) add(static_cast<std::uint32_t>(page - away));
      if (page + away < pages_count) add(static_cast<std::uint32_t>(page + away));
    }
  }

  static void features_of(const PageCopy& page, std::vector<std::uint64_t>& features) {
    features.clear();
    blocks_of(page, features);
    windows_of(page, features);
    std::ranges::sort(features);
    features.erase(std::unique(features.begin(), features.end()), features.end());
  }

  static void blocks_of(const PageCopy& page, std::vector<std::uint64_t>& features) {
    constexpr std::size_t kBlock = 64;
    for (std::size_t at = 0; at < kPageSize; at += kBlock) {
      std::uint64_t words[kBlock / 8];
      std::memcpy(words, &page.bytes[at], kBlock);
      if (std::ranges::all_of(words, [](std::uint64_t word) { return word == 0; })) continue;
      features.push_back(XXH3_64bits_withSeed(words, kBlock, 1));
      for (std::uint64_t& word : words) word &= 0xffff;
      if (std::ranges::all_of(words, [](std::uint64_t word) { return word == 0; })) continue;
      features.push_back(XXH3_64bits_withSeed(words, kBlock, 2));
    }
  }

  static void windows_of(const PageCopy& page, std::vector<std::uint64_t>& features) {
    constexpr std::size_t kWindow = 32;
    constexpr std::uint64_t kPicked = 0x1f;  // one of 32
    static const std::array<std::byte, kWindow> zeros{};
    std::uint64_t rolling = 0;  // its highest bit depends on the last 64 bytes, bit 31 on 32
    for (std::size_t at = 0; at < kPageSize; ++at) {
      rolling = (rolling << 1) +
                (std::to_integer<std::uint64_t>(page.bytes[at]) + 1) * 0x9e37'79b9'7f4a'7c15u;
      if (at + 1 < kWindow || ((rolling >> 27) & kPicked) != 0) continue;
      const std::byte* window = &page.bytes[at + 1 - kWindow];
      if (std::memcmp(window, zeros.data(), kWindow) == 0) continue;
      features.push_back(XXH3_64bits_withSeed(window, kWindow, 3));
    }
  }

  const GuestPages& set_;
  std::vector<Place> first_place_;
  std::vector<Entry> entries_;
};

}  // namespace ramfold::bench
