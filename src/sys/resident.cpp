// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/resident.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace ramfold::sys {

ByteCount resident(const Mapping& mapping) noexcept {
  std::array<unsigned char, 4096> pages;
  constexpr std::size_t kStep = pages.size() * kPageSize;
  std::uint64_t count = 0;
  for (std::size_t at = 0; at < mapping.size(); at += kStep) {
    const std::size_t size = std::min(kStep, mapping.size() - at);
    if (::mincore(mapping.data() + at, size, pages.data()) != 0) return {};
    const std::size_t asked = (size + kPageSize - 1) / kPageSize;
    for (std::size_t i = 0; i < asked; ++i) count += pages[i] & 1u;
  }
  return ByteCount{count * kPageSize};
}

}  // namespace ramfold::sys
