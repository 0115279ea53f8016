// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/similarity/sketch.hpp"

#include <bit>
#include <cstring>

namespace ramfold::store {
namespace {

constexpr std::uint64_t mixed(std::uint64_t x) noexcept {
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
  return x ^ (x >> 32);
}

void keep_if_small(std::uint64_t hash, Sketch& sketch) noexcept {
  auto& h = sketch.hashes;
  std::size_t at = 0;
  while (at < sketch.count && h[at] < hash) ++at;
  if (at == Sketch::kHashesMax || (at < sketch.count && h[at] == hash)) return;
  if (sketch.count < Sketch::kHashesMax) ++sketch.count;
  for (std::size_t i = sketch.count - 1; i > at; --i) h[i] = h[i - 1];
  h[at] = hash;
}

}  // namespace

Sketcher::Sketcher(std::uint64_t seed) noexcept {
  for (std::uint64_t& key : keys_) key = mixed(seed += 0x9e3779b97f4a7c15u) | 1;
}

Sketch Sketcher::operator()(const PageCopy& page) const noexcept {
  static_assert(std::endian::native == std::endian::little);
  Sketch sketch;
  std::uint64_t worst = ~std::uint64_t{0};  // of those kept, once there are enough
  for (std::size_t block = 0; block < kPageSize; block += kBlock) {
    std::uint64_t sum = 0;  // of products with keys: two blocks agree by chance once in 2^48
    for (std::size_t i = 0; i < keys_.size(); ++i) {
      std::uint16_t low = 0;
      std::memcpy(&low, &page.bytes[block + 8 * i], sizeof low);
      sum += low * keys_[i];
    }
    const std::uint64_t hash = mixed(sum);
    if (sum == 0 || hash >= worst) continue;
    keep_if_small(hash, sketch);
    if (sketch.count == Sketch::kHashesMax) worst = sketch.hashes.back();
  }
  return sketch;
}

}  // namespace ramfold::store
