// SPDX-License-Identifier: GPL-2.0-or-later
// RAM made of pages that a test knows.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "estimate/ram_source.hpp"

namespace ramfold::test {

// Bytes that no codec makes smaller.
inline PageCopy noise(std::uint32_t seed) {
  std::mt19937_64 random(seed);
  PageCopy page;
  for (std::size_t at = 0; at < kPageSize; at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random();
    std::memcpy(&page.bytes[at], &word, sizeof word);
  }
  return page;
}
inline PageCopy zeros() { return PageCopy{}; }
// The page with `count` bytes changed, far apart.
inline PageCopy changed(PageCopy page, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) page.bytes[i * kPageSize / count] ^= std::byte{0x55};
  return page;
}

class FakeRam : public estimate::RamSource {
 public:
  explicit FakeRam(std::vector<PageCopy> pages) : pages_(std::move(pages)) {}

  PageCount size() const noexcept override { return PageCount{pages_.size()}; }
  PageCount present() const noexcept override { return size(); }
  Status each(const estimate::PageVisitor& visit) override {
    for (std::uint64_t i = 0; i < pages_.size(); ++i) {
      if (!visit(PageIndex{i}, pages_[i])) break;
    }
    return {};
  }
  bool read(PageIndex page, PageCopy& into) override {
    into = pages_.at(page.value);
    return true;
  }

 private:
  std::vector<PageCopy> pages_;
};

}  // namespace ramfold::test
