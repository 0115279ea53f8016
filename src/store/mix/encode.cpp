// SPDX-License-Identifier: GPL-2.0-or-later
// The cheapest way through the page, by what the steps cost: first with guesses, then once more
// with what was learnt from the first.
#include <cstring>
#include <limits>
#include <memory>

#include "store/mix/matches.hpp"
#include "store/mix/mix.hpp"
#include "store/mix/model.hpp"
#include "store/mix/prices.hpp"
#include "store/scratch.hpp"

namespace ramfold::store::mix {
namespace {

constexpr unsigned kPasses = 2;
// A copy of so many bytes is taken without looking at what else there is.
constexpr unsigned kLong = 64;
// Literals in its stead are priced anew for so many of a copy's bytes.
constexpr unsigned kLooked = 12;

struct Step {
  std::uint16_t length = 0;
  std::uint16_t distance = 0;  // of a copy; of the recent ones, which
  Kind kind = Kind::literal;
};

class Encoder {
 public:
  static constexpr bool kLearns = true;

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
  // Bytes so far, also those that did not fit.
  std::size_t length() const noexcept { return length_; }
  // Bytes written; 0: they did not fit. Behind them the decoder reads zeros.
  std::uint32_t finish() noexcept {
    for (unsigned bytes = 0; bytes <= 4; ++bytes) {
      // The least number in [low, high] of which all but the upper `bytes` bytes are zeros.
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
  void begin(const Window& window) {
    window_ = window;
    matches_.find(window);
    std::array<unsigned, 256> seen{};
    for (unsigned at = 0; at < kPage; ++at) ++seen[window.page[at]];
    for (unsigned at = 0; at < kPage; ++at) {
      const int p = static_cast<int>(seen[window.page[at]]);
      literals_[at] = std::min<Price>(price_of(std::min(p, kOne - 1), 1), 9 * kBitPrice) * 9 / 10 +
                      kBitPrice / 2;
    }
  }
  void set_literal_price(unsigned at, Price price) noexcept { literals_[at] = price; }
  // By what bits cost in this model. Ends at the page's end; kept until the next call.
  std::span<const Step> parse(Model& model);

 private:
  struct Node {
    Price price;
    Step step;
    State state;
  };

  void price_lengths(Model& model) noexcept;
  void price_distances(Model& model) noexcept;
  Price length_price(Kind kind, unsigned length) const noexcept {
    return lengths_[kind == Kind::copy ? 0 : 1][length];
  }
  Price distance_price(unsigned length, unsigned distance) const noexcept {
    const unsigned slot = slot_of(distance - 1);
    return distance_slots_[std::min(length - kLengthMin, 3u)][slot] +
           (extra_bits(slot) > 3 ? lower_[(distance - 1) & 7] : 0);
  }

  Window window_{};
  Matches matches_;
  std::array<Price, kPage> literals_;
  std::array<std::array<Price, kPage + 1>, 2> lengths_;
  std::array<std::array<Price, 32>, 4> distance_slots_;  // with plain bits
  std::array<Price, 8> lower_;
  std::array<Node, kPage + 1> nodes_;
  std::array<Step, kPage> steps_;
};

State after(State state, Step step) noexcept {
  switch (step.kind) {
    case Kind::literal: state.literal(); break;
    case Kind::copy: state.copy(step.distance); break;
    case Kind::again: state.again(step.distance); break;
  }
  return state;
}

template <typename F>
Price priced(F&& code) noexcept {
  Counter counter;
  code(counter);
  return counter.sum();
}

void Parser::price_lengths(Model& model) noexcept {
  for (const Kind kind : {Kind::copy, Kind::again}) {
    auto& prices = lengths_[kind == Kind::copy ? 0 : 1];
    Price of_slot = 0;
    unsigned slot_before = ~0u;
    for (unsigned length = kLengthMin; length <= kPage; ++length) {
      if (length >= kLengthMin + 16) {
        const unsigned slot = slot_of(length - kLengthMin - 16);
        if (slot == slot_before) {
          prices[length] = of_slot;
          continue;
        }
        slot_before = slot;
      }
      of_slot = priced([&](Counter& c) { model.length(c, kind, length); });
      prices[length] = of_slot;
    }
  }
}

void Parser::price_distances(Model& model) noexcept {
  for (unsigned l = 0; l < 4; ++l) {
    for (unsigned slot = 0; slot_base(slot) < 2 * kPage; ++slot) {
      const unsigned extra = extra_bits(slot);
      const Price all =
          priced([&](Counter& c) { model.distance(c, kLengthMin + l, slot_base(slot) + 1); });
      const Price lower = extra > 3 ? priced([&](Counter& c) { model.lower(c, 0); }) : 0;
      distance_slots_[l][slot] = all - lower;
    }
  }
  for (unsigned i = 0; i < 8; ++i) lower_[i] = priced([&](Counter& c) { model.lower(c, i); });
}

std::span<const Step> Parser::parse(Model& model) {
  price_lengths(model);
  price_distances(model);
  for (Node& node : nodes_) node.price = std::numeric_limits<Price>::max();
  nodes_[0].price = 0;
  nodes_[0].state = State(window_.reference);
  for (unsigned at = 0; at < kPage; ++at) {
    Node& here = nodes_[at];
    if (here.price == std::numeric_limits<Price>::max()) continue;
    // The cheapest way to here is known by now.
    if (at != 0) here.state = after(nodes_[at - here.step.length].state, here.step);
    const State state = here.state;
    const auto reach = [&](unsigned length, Price price, Step step) {
      Node& there = nodes_[at + length];
      if (price >= there.price) return;
      there.price = price;
      there.step = step;
    };
    const auto price_kind = [&](Kind kind) {
      return here.price + priced([&](Counter& c) { model.kind(c, state, at, kind); });
    };
    const unsigned most = kPage - at;
    // Of the longer lengths every eighth, and the last.
    const auto each_length = [&](unsigned first, unsigned last, auto&& take) {
      for (unsigned n = first; n <= last; n += n < 16 ? 1 : std::clamp(last - n, 1u, 8u)) take(n);
    };
    bool jumped = false;
    const Price again = price_kind(Kind::again);
    for (unsigned i = 0; i < kRecent; ++i) {
      const unsigned distance = state.recent[i];
      if (distance > at + window_.reference) continue;
      const std::uint8_t* const to = window_.page + at;
      const unsigned length = equal_bytes(to - distance, to, most);
      if (length < kLengthMin) continue;
      const Price price = again + priced([&](Counter& c) { model.which(c, state, i); });
      const auto take = [&](unsigned n) {
        reach(n, price + length_price(Kind::again, n),
              {static_cast<std::uint16_t>(n), static_cast<std::uint16_t>(i), Kind::again});
      };
      if (length >= kLong) {
        take(length);
        at += length - 1;
        jumped = true;
        break;
      }
      each_length(kLengthMin, length, take);
    }
    if (jumped) continue;
    const Price copy = price_kind(Kind::copy);
    unsigned next = kLengthMin;
    for (const Match match : matches_.at(at)) {
      const auto take = [&](unsigned n) {
        reach(n, copy + length_price(Kind::copy, n) + distance_price(n, match.distance),
              {static_cast<std::uint16_t>(n), match.distance, Kind::copy});
      };
      if (match.length >= kLong) {
        take(match.length);
        at += match.length - 1u;
        jumped = true;
        break;
      }
      each_length(next, match.length, take);
      next = match.length + 1u;
    }
    if (jumped) continue;
    reach(1, price_kind(Kind::literal) + literals_[at], {1, 0, Kind::literal});
  }
  std::size_t first = steps_.size();
  for (unsigned at = kPage; at > 0; at -= nodes_[at].step.length) steps_[--first] = nodes_[at].step;
  return std::span(steps_).subspan(first);
}

struct Scratch {
  std::array<std::uint8_t, 2 * kPage> window;
  Parser parser;
  Model prices;
  Model model;
};

// Takes these steps. `look(at)` is called at every byte, before it is taken.
template <typename F>
void take_steps(Encoder& out, Model& model, const Window& window, std::span<const Step> steps,
                F&& look) {
  State state(window.reference);
  unsigned at = 0;
  for (const Step& step : steps) {
    for (unsigned i = 0; i < std::min<unsigned>(step.length, kLooked); ++i) look(state, at + i);
    model.kind(out, state, at, step.kind);
    switch (step.kind) {
      case Kind::literal:
        model.literal(out, window, state, at, window.page[at]);
        state.literal();
        break;
      case Kind::copy:
        model.length(out, step.kind, step.length);
        model.distance(out, step.length, step.distance);
        state.copy(step.distance);
        break;
      case Kind::again:
        model.which(out, state, step.distance);
        state.again(step.distance);
        model.length(out, step.kind, step.length);
        break;
    }
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
  Parser& parser = scratch.parser;
  parser.begin(window);
  std::construct_at(&scratch.prices);
  for (unsigned pass = 1;; ++pass) {
    const std::span<const Step> steps = parser.parse(scratch.prices);
    std::construct_at(&scratch.model);
    Encoder encoder(out);
    if (pass == kPasses) {
      take_steps(encoder, scratch.model, window, steps, [](const State&, unsigned) {});
      return encoder.finish();
    }
    take_steps(encoder, scratch.model, window, steps, [&](const State& state, unsigned place) {
      parser.set_literal_price(place, priced([&](Counter& c) {
                                 scratch.model.literal(c, window, state, place, window.page[place]);
                               }));
    });
    // The next pass gains a hundredth or two.
    if (encoder.length() > out.size() + out.size() / 16) return 0;
    std::swap(scratch.prices, scratch.model);
  }
}

}  // namespace ramfold::store::mix
