// SPDX-License-Identifier: GPL-2.0-or-later
#include <cstring>
#include <memory>

#include "store/mix/mix.hpp"
#include "store/mix/model.hpp"
#include "store/mix/primer.hpp"
#include "store/scratch_pool.hpp"

namespace ramfold::store::mix {
namespace {

// The arithmetic decoder. Behind the last byte it reads zeros.
class Decoder {
 public:
  static constexpr bool kCodes = true;

  explicit Decoder(std::span<const std::byte> in) noexcept : at_(in.data()), end_(at_ + in.size()) {
    for (int i = 0; i < 4; ++i) code_ = code_ << 8 | next();
  }
  unsigned bit(int p, unsigned) noexcept {
    const std::uint32_t middle = low_ + ((high_ - low_) >> 12) * static_cast<std::uint32_t>(p);
    const bool is_one = code_ <= middle;
    // No branch: it would often be mispredicted.
    const std::uint32_t mask = -std::uint32_t{is_one};
    high_ = (middle & mask) | (high_ & ~mask);
    low_ = (low_ & mask) | ((middle + 1) & ~mask);
    while (((low_ ^ high_) >> 24) == 0) {
      low_ <<= 8;
      high_ = high_ << 8 | 0xff;
      code_ = code_ << 8 | next();
    }
    return is_one;
  }

 private:
  std::uint32_t next() noexcept { return at_ == end_ ? 0 : std::to_integer<std::uint32_t>(*at_++); }

  const std::byte* at_;
  const std::byte* end_;
  std::uint32_t low_ = 0;
  std::uint32_t high_ = ~std::uint32_t{0};
  std::uint32_t code_ = 0;
};

// Not initialised, so that it takes memory only when it is used.
struct Scratch {
  Scratch* next = nullptr;
  std::array<std::uint8_t, 2 * kPage> window;
  union {
    Primer primer;
  };
  union {
    Model model;
  };
  Scratch() {}
};

}  // namespace

void prepare_to_decode() { ScratchPool<Scratch>::prepare(); }

bool decode(std::span<const std::byte> bytes, const std::byte* reference, std::byte* out) noexcept {
  const ScratchPool<Scratch>::Lease lease;
  Scratch& scratch = *lease;
  std::uint8_t* const page = scratch.window.data() + kPage;
  if (reference != nullptr) std::memcpy(scratch.window.data(), reference, kPage);
  const Window window{page, reference == nullptr ? 0 : kPage};
  std::construct_at(&scratch.model);
  Model& model = scratch.model;
  if (reference != nullptr) scratch.primer.teach(model, scratch.window.data());
  Decoder in(bytes);
  State state(window.reference);
  for (unsigned at = 0; at < kPage;) {
    const Kind kind = model.kind(in, state, at, Kind::literal);
    if (kind == Kind::literal) {
      page[at] = static_cast<std::uint8_t>(model.literal(in, window, state, at, 0));
      state.literal();
      ++at;
      continue;
    }
    unsigned length = 0;
    if (kind == Kind::again) {
      state.again(model.which(in, state, 0));
      length = model.length(in, kind, 0);
    } else {
      length = model.length(in, kind, 0);
      state.copy(model.distance(in, length, 0));
    }
    const unsigned distance = state.recent[0];
    if (length > kPage - at || distance > at + window.reference) return false;
    // Byte by byte, because source and target may overlap.
    const std::uint8_t* from = page + at - distance;
    for (const unsigned end = at + length; at < end;) page[at++] = *from++;
  }
  std::memcpy(out, page, kPage);
  return true;
}

}  // namespace ramfold::store::mix
