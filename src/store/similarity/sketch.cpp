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

void keep_if_small(std::uint64_t hash, Sketch::Smallest& kept) noexcept {
  auto& h = kept.hashes;
  std::size_t at = kept.count;
  while (at > 0 && h[at - 1] >= hash) --at;
  if (at == Sketch::kOfFamily || (at < kept.count && h[at] == hash)) return;
  if (kept.count < Sketch::kOfFamily) ++kept.count;
  for (std::size_t i = kept.count - 1; i > at; --i) h[i] = h[i - 1];
  h[at] = hash;
}

// Keeps a hash if it is one of the smallest so far; most hashes are rejected by one comparison.
class Sieve {
 public:
  explicit Sieve(Sketch::Smallest& kept) noexcept : kept_(kept) {}
  void operator()(std::uint64_t hash) noexcept {
    if (hash >= worst_) return;
    keep_if_small(hash, kept_);
    if (kept_.count == Sketch::kOfFamily) worst_ = kept_.hashes.back();
  }

 private:
  Sketch::Smallest& kept_;
  std::uint64_t worst_ = ~std::uint64_t{0};
};

}  // namespace

Sketcher::Sketcher(std::uint64_t seed) noexcept {
  const auto next = [&] { return mixed(seed += 0x9e3779b97f4a7c15u); };
  for (std::uint64_t& key : low_keys_) key = next() | 1;
  for (std::uint64_t& key : bytes_keys_) key = next() | 1;
  for (std::uint32_t& key : rolling_keys_) key = static_cast<std::uint32_t>(next());
  for (std::size_t i = 0; i < kWindow; ++i) {
    rolling_of_zeros_ = (rolling_of_zeros_ << 1) + rolling_keys_[0];
  }
}

Sketcher::~Sketcher() {
  ::explicit_bzero(low_keys_.data(), sizeof low_keys_);
  ::explicit_bzero(bytes_keys_.data(), sizeof bytes_keys_);
  ::explicit_bzero(rolling_keys_.data(), sizeof rolling_keys_);
}

Sketch Sketcher::operator()(const PageCopy& page) const noexcept {
  Sketch sketch;
  add_low(page, sketch.low);
  add_bytes(page, sketch.bytes);
  return sketch;
}

void Sketcher::add_low(const PageCopy& page, Sketch::Smallest& to) const noexcept {
  static_assert(std::endian::native == std::endian::little);
  Sieve sieve(to);
  std::uint64_t window = 0;  // all bits that count, so different windows have different hashes
  unsigned not_zero = 0;     // a bit for each word of the window
  for (std::size_t at = 0; at < kPageSize; at += 8) {
    std::uint16_t word = 0;
    std::memcpy(&word, &page.bytes[at], sizeof word);
    window = window >> 16 | std::uint64_t{word} << 48;
    not_zero = (not_zero << 1 | unsigned{word != 0}) & 0xf;
    const std::uint64_t hash = mixed((window ^ low_keys_[0]) * low_keys_[1]);
    if (at + 8 >= kWindow && (not_zero & (not_zero - 1)) != 0) sieve(hash);
  }
}

void Sketcher::add_bytes(const PageCopy& page, Sketch::Smallest& to) const noexcept {
  constexpr unsigned kShift = 27;  // the bits from here on depend on the whole window; they are 0
  Sieve sieve(to);
  std::uint32_t rolling = 0;
  std::uint32_t last = rolling_of_zeros_;  // a repeated pattern is hashed once
  for (std::size_t at = 0; at < kPageSize; ++at) {
    rolling = (rolling << 1) + rolling_keys_[std::to_integer<std::size_t>(page.bytes[at])];
    if (rolling >> kShift != 0 || at + 1 < kWindow) continue;  // 0 for one window of 32
    if (rolling == last || rolling == rolling_of_zeros_) continue;
    last = rolling;
    std::uint64_t hash = 0;
    for (std::size_t i = 0; i < bytes_keys_.size(); ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, &page.bytes[at + 1 - kWindow + 8 * i], sizeof word);
      hash = (hash ^ word) * bytes_keys_[i];
      hash ^= hash >> 32;
    }
    sieve(mixed(hash));
  }
}

}  // namespace ramfold::store
