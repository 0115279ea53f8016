// SPDX-License-Identifier: GPL-2.0-or-later
// The pages of a set of bench/corpus: every distinct page that is not zero, once, and for each the
// pages that resemble it. The search is offline and slow; the store's fast search is measured
// against it. Threads: one.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/page_copy.hpp"

namespace ramfold::bench {

struct GuestPages {
  std::vector<PageCopy> pages;  // distinct, none zero, in the order in which the guests hold them
  std::uint64_t nonzero_count = 0;  // with the duplicates
  // guests[g][frame]: which of `pages` the guest holds there, or kZeroPage.
  std::vector<std::vector<std::uint32_t>> guests;
  static constexpr std::uint32_t kZeroPage = ~std::uint32_t{0};
};

inline void add_ram_file(const std::string& path, GuestPages& to,
                         std::unordered_map<std::uint64_t, std::uint32_t>& seen) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat facts{};
  if (fd < 0 || fstat(fd, &facts) != 0) throw std::runtime_error(path + ": cannot be read");
  const auto size = static_cast<std::size_t>(facts.st_size);
  auto& frames = to.guests.emplace_back(size / kPageSize, GuestPages::kZeroPage);
  for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0;) {
    const off_t end = lseek(fd, at, SEEK_HOLE);
    for (; at < end; at += static_cast<off_t>(kPageSize)) {
      PageCopy page;
      if (pread(fd, page.bytes.data(), kPageSize, at) != static_cast<ssize_t>(kPageSize)) break;
      if (is_zero(page)) continue;
      ++to.nonzero_count;
      const auto [known, is_new] = seen.try_emplace(XXH3_64bits(page.bytes.data(), kPageSize),
                                                    static_cast<std::uint32_t>(to.pages.size()));
      if (is_new) to.pages.push_back(page);
      frames[static_cast<std::size_t>(at) / kPageSize] = known->second;
    }
    if (static_cast<std::size_t>(end) >= size) break;
  }
  close(fd);
}

inline GuestPages load_set(const std::string& directory) {
  std::vector<std::string> paths;
  for (const auto& file : std::filesystem::directory_iterator(directory)) {
    if (file.path().extension() == ".ram") paths.push_back(file.path());
  }
  if (paths.empty()) throw std::runtime_error(directory + ": no guest's RAM in it");
  std::ranges::sort(paths);
  GuestPages set;
  std::unordered_map<std::uint64_t, std::uint32_t> seen;
  for (const std::string& path : paths) add_ram_file(path, set, seen);
  return set;
}

// For each page up to `kCandidates` others of the set, the most similar by votes first: a page is
// known by the 8 smallest hashes of its distinct 64-byte blocks, and each hash names up to 16
// pages.
class Resemblance {
 public:
  static constexpr std::size_t kCandidates = 4;

  explicit Resemblance(const std::vector<PageCopy>& pages) {
    sketches_.reserve(pages.size());
    for (std::uint32_t i = 0; i < pages.size(); ++i) {
      sketches_.push_back(sketch_of(pages[i]));
      for (const std::uint64_t hash : sketches_.back()) {
        auto& holders = holders_[hash];
        if (hash != kNone && holders.size() < 16) holders.push_back(i);
      }
    }
  }

  std::vector<std::uint32_t> candidates(std::uint32_t page) const {
    std::vector<std::pair<int, std::uint32_t>> votes;
    for (const std::uint64_t hash : sketches_[page]) {
      if (hash == kNone) continue;
      for (const std::uint32_t holder : holders_.at(hash)) {
        if (holder == page) continue;
        const auto known = std::ranges::find(votes, holder, &std::pair<int, std::uint32_t>::second);
        if (known != votes.end()) {
          --known->first;
        } else {
          votes.emplace_back(-1, holder);
        }
      }
    }
    std::ranges::sort(votes);
    std::vector<std::uint32_t> best;
    for (const auto& [_, holder] : votes) {
      if (best.size() < kCandidates) best.push_back(holder);
    }
    return best;
  }

 private:
  using Sketch = std::array<std::uint64_t, 8>;
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};

  static Sketch sketch_of(const PageCopy& page) {
    constexpr std::size_t kBlock = 64;
    static const std::array<std::byte, kBlock> zeros{};
    std::vector<std::uint64_t> hashes;
    for (std::size_t at = 0; at < kPageSize; at += kBlock) {
      if (std::memcmp(&page.bytes[at], zeros.data(), kBlock) == 0) continue;
      hashes.push_back(XXH3_64bits(&page.bytes[at], kBlock));
    }
    std::ranges::sort(hashes);
    hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
    Sketch sketch;
    sketch.fill(kNone);
    for (std::size_t i = 0; i < std::min(hashes.size(), sketch.size()); ++i) sketch[i] = hashes[i];
    return sketch;
  }

  std::vector<Sketch> sketches_;
  std::unordered_map<std::uint64_t, std::vector<std::uint32_t>> holders_;
};

}  // namespace ramfold::bench
