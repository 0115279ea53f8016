// SPDX-License-Identifier: GPL-2.0-or-later
// The encoder: finds the cheapest steps for the page, with the estimated prices of prices.hpp, and
// codes them. A second pass with learnt prices would save a hundredth of the bytes, for twice the
// time.
#include <cstring>
#include <limits>
#include <memory>

#include "store/mix/matches.hpp"
#include "store/mix/mix.hpp"
#include "store/mix/model.hpp"
#include "store/mix/prices.hpp"
#include "store/mix/primer.hpp"
#include "store/mix/steps.hpp"
#include "store/scratch.hpp"

namespace ramfold::store::mix {
namespace {

// A copy of this length is taken without a look at other steps.
constexpr unsigned kLong = 64;

class Encoder {
 public:
  static constexpr bool kCodes = true;

  explicit Encoder(std::span<std::byte> out) noexcept : out_(out) {}
  unsigned bit(int p, unsigned bit) noexcept {
    const std::uint32_t middle = low_ + ((high_ - low_) >> 12) * static_cast<std::uint32_t>(p);
    if (bit != 0) {
      high_ = middle;
    } else {
      low_ = middle + 1;
    }
    while (((low_ ^ high_) >> 24) == 0) {
      put(high_ >> 24);
      low_ <<= 8;
      high_ = high_ << 8 | 0xff;
    }
    return bit;
  }
  // Returns the bytes written; 0: they did not fit. Behind them the decoder reads zeros.
  std::uint32_t finish() noexcept {
    for (unsigned bytes = 0; bytes <= 4; ++bytes) {
      // The least number in [low, high] whose bytes behind the first `bytes` are zeros.
      const std::uint64_t unit = std::uint64_t{1} << (32 - 8 * bytes);
      const std::uint64_t value = (low_ + unit - 1) / unit * unit;
      if (value > high_) continue;
      for (unsigned i = 0; i < bytes; ++i) put(static_cast<std::uint32_t>(value >> (24 - 8 * i)));
      break;
    }
    if (length_ > out_.size()) return 0;
    while (length_ > 1 && out_[length_ - 1] == std::byte{0}) --length_;
    if (length_ == 0) put(0);
    return length_ > out_.size() ? 0 : static_cast<std::uint32_t>(length_);
  }

 private:
  void put(std::uint32_t byte) noexcept {
    if (length_ < out_.size()) out_[length_] = static_cast<std::byte>(byte & 0xff);
    ++length_;
  }

  std::span<std::byte> out_;
  std::size_t length_ = 0;
  std::uint32_t low_ = 0;
  std::uint32_t high_ = ~std::uint32_t{0};
};

class Parser {
 public:
  // The cheapest steps for the page. The result is valid until the next call.
  std::span<const Step> parse(const Window& window);

 private:
  struct Node {
    Price price;
    Step step;
    State state;
  };
  static constexpr Price kUnreached = std::numeric_limits<Price>::max();

  void price_literals() noexcept;
  void reach(unsigned from, Price price, Step step) noexcept {
    Node& there = nodes_[from + step.length];
    if (price >= there.price) return;
    there.price = price;
    there.step = step;
  }
  // Enter the copies that begin at this place: at recent distances, or at others. Return the length
  // of a copy that is taken without a look at other steps; else 0.
  unsigned reach_again(unsigned at, const Node& here) noexcept;
  unsigned reach_copies(unsigned at, const Node& here) noexcept;

  Window window_{};
  Matches matches_;
  std::array<Price, kPage> literals_;
  std::array<Node, kPage + 1> nodes_;
  std::array<Step, kPage> steps_;
};

// The price of a literal goes by the frequency of its byte in the page (prices.hpp).
void Parser::price_literals() noexcept {
  std::array<unsigned, 256> seen{};
  for (unsigned at = 0; at < kPage; ++at) ++seen[window_.page[at]];
  std::array<Price, 256> prices{};
  for (unsigned byte = 0; byte < 256; ++byte) prices[byte] = literal_price(seen[byte]);
  for (unsigned at = 0; at < kPage; ++at) literals_[at] = prices[window_.page[at]];
}

// Calls take(n) for all lengths up to 16; then for every eighth length, and the last.
template <typename F>
void each_length(unsigned first, unsigned last, F&& take) {
  for (unsigned n = first; n <= last; n += n < 16 ? 1 : std::clamp(last - n, 1u, 8u)) take(n);
}

unsigned Parser::reach_again(unsigned at, const Node& here) noexcept {
  for (unsigned i = 0; i < kRecent; ++i) {
    const unsigned distance = here.state.recent[i];
    if (distance > at + window_.reference) continue;
    const std::uint8_t* const to = window_.page + at;
    const unsigned length = equal_bytes(to - distance, to, kPage - at);
    const auto take = [&](unsigned n) {
      reach(at, here.price + again_price(i) + length_price(n),
            {static_cast<std::uint16_t>(n), static_cast<std::uint16_t>(i), Kind::again});
    };
    if (length >= kLong) {
      take(length);
      return length;
    }
    each_length(kLengthMin, length, take);
  }
  return 0;
}

unsigned Parser::reach_copies(unsigned at, const Node& here) noexcept {
  unsigned next = kLengthMin;
  for (const Match match : matches_.at(at)) {
    const Price price = here.price + copy_price(match.distance);
    const auto take = [&](unsigned n) {
      reach(at, price + length_price(n),
            {static_cast<std::uint16_t>(n), match.distance, Kind::copy});
    };
    if (match.length >= kLong) {
      take(match.length);
      return match.length;
    }
    each_length(next, match.length, take);
    next = match.length + 1u;
  }
  return 0;
}

std::span<const Step> Parser::parse(const Window& window) {
  window_ = window;
  matches_.begin(window);
  price_literals();
  for (Node& node : nodes_) node.price = kUnreached;
  nodes_[0].price = 0;
  nodes_[0].state = State(window.reference);
  for (unsigned at = 0; at < kPage; ++at) {
    Node& here = nodes_[at];
    if (here.price == kUnreached) continue;
    // The cheapest steps to this place are known now.
    if (at != 0) here.state = after(nodes_[at - here.step.length].state, here.step);
    unsigned taken = reach_again(at, here);
    if (taken == 0) taken = reach_copies(at, here);
    if (taken != 0) {
      at += taken - 1;
      continue;
    }
    reach(at, here.price + kLiteralPrice + literals_[at], {1, 0, Kind::literal});
  }
  std::size_t first = steps_.size();
  for (unsigned at = kPage; at > 0; at -= nodes_[at].step.length) steps_[--first] = nodes_[at].step;
  return std::span(steps_).subspan(first);
}

struct Scratch {
  std::array<std::uint8_t, 2 * kPage> window;
  Parser parser;
  Primer primer;
  Model model;
};

void take_steps(Encoder& out, Model& model, const Window& window, std::span<const Step> steps) {
  State state(window.reference);
  unsigned at = 0;
  for (const Step step : steps) {
    take(out, model, window, state, at, step);
    state = after(state, step);
    at += step.length;
  }
}

}  // namespace

std::uint32_t encode(const std::byte* page, const std::byte* reference,
                     std::span<std::byte> out) noexcept {
  auto& scratch = thread_scratch<Scratch>();
  std::uint8_t* const at = scratch.window.data() + kPage;
  if (reference != nullptr) std::memcpy(scratch.window.data(), reference, kPage);
  std::memcpy(at, page, kPage);
  const Window window{at, reference == nullptr ? 0 : kPage};
  const std::span<const Step> steps = scratch.parser.parse(window);
  std::construct_at(&scratch.model);
  if (reference != nullptr) scratch.primer.teach(scratch.model, scratch.window.data());
  Encoder encoder(out);
  take_steps(encoder, scratch.model, window, steps);
  return encoder.finish();
}

}  // namespace ramfold::store::mix
