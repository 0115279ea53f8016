// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/codec/lz4_compare.hpp"

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace ramfold::store::lz4 {
namespace {

// What calls a function with one of these is `inlined`, up to the one that is chosen at run time:
// then all of it is compiled for the same processor.
#define RAMFOLD_AVX2 __attribute__((target("avx2,bmi2")))
#define RAMFOLD_AVX512 __attribute__((target("avx512vl,avx512bw,avx2,bmi2")))
#define RAMFOLD_INLINED [[gnu::always_inline]] inline

// A sequence: a token, literals, a distance of 2 bytes; then the match, which is a copy of earlier
// bytes of the page. The token has the number of literals and the length of the match, less
// kMatchMin; a number of kMore goes on in bytes of its own.
constexpr unsigned kMore = 15;
constexpr unsigned kMatchMin = 4;
// The format's rules for the end of a block (lz4_Block_format.md, "End of block conditions"), as
// liblz4's decoder checks them.
constexpr std::size_t kLastLiterals = 5;    // bytes of the page behind the last match, at least
constexpr std::size_t kLastMatchRoom = 12;  // bytes of the page behind the last match's begin
constexpr std::size_t kSequenceRoom = 8;    // bytes of the block behind a sequence's literals

// A short sequence has a token without kMore, and a distance that is no more than the bytes of the
// page before the sequence. Where so much is left of block and page, it is not the last one, and
// loads of whole vectors stay within both.
constexpr std::size_t kVector = 32;
constexpr std::size_t kLiteralsMax = kMore - 1;
constexpr std::size_t kShortMax = kLiteralsMax + kMatchMin + (kMore - 1);  // bytes of the page
constexpr std::size_t kShortBlockMax = 1 + kLiteralsMax + 2;               // bytes of the block
constexpr std::size_t kBlockRoom = 1 + std::max(kLiteralsMax + kSequenceRoom, kVector);
constexpr std::size_t kPageRoom =
    std::max({kVector, kLiteralsMax + kLastMatchRoom, kShortMax + kLastLiterals});
static_assert(kShortMax <= kVector);

// For each token, how many bytes of the page a short sequence is; 0: the sequence is not short.
constexpr auto kShortLengths = [] {
  std::array<std::uint8_t, 256> lengths{};
  for (unsigned literals = 0; literals < kMore; ++literals) {
    for (unsigned more = 0; more < kMore; ++more) {
      lengths[literals << 4 | more] = static_cast<std::uint8_t>(literals + kMatchMin + more);
    }
  }
  return lengths;
}();

enum class Found : std::uint8_t { nothing_yet, equal, unknown };

// The block before `in` decodes to what lies between `page` and `to`. So the page itself has the
// bytes that a match copies.
struct Walk {
  const std::byte* in;
  const std::byte* end;
  const std::byte* page;
  const std::byte* to;
  Found found;

  explicit Walk(const Comparison& c) noexcept
      : in(c.block.data()),
        end(in + c.block.size()),
        page(c.block.empty() ? nullptr : c.page->bytes.data()),
        to(page),
        found(c.block.empty() ? Found::unknown : Found::nothing_yet) {}

  bool goes_on() const noexcept { return found == Found::nothing_yet; }
  std::size_t left() const noexcept { return static_cast<std::size_t>(end - in); }
  std::size_t done() const noexcept { return static_cast<std::size_t>(to - page); }
  std::size_t room() const noexcept { return kPageSize - done(); }
  bool is_roomy() const noexcept { return left() >= kBlockRoom && room() >= kPageRoom; }
};

// A length goes on in the next bytes. False: the block ends before.
bool read_length(Walk& w, std::size_t& length) noexcept {
  if (length != kMore) return true;
  for (unsigned more = 255; more == 255;) {
    if (w.in == w.end) return false;
    more = std::to_integer<unsigned>(*w.in++);
    length += more;
  }
  return true;
}

// Any one sequence.
Found step(Walk& w) noexcept {
  if (w.in == w.end) return Found::unknown;
  const auto token = std::to_integer<unsigned>(*w.in++);
  std::size_t literals = token >> 4;
  if (!read_length(w, literals)) return Found::unknown;
  if (literals > w.left() || literals > w.room()) return Found::unknown;
  if (std::memcmp(w.in, w.to, literals) != 0) return Found::unknown;
  w.in += literals;
  w.to += literals;
  if (w.left() < kSequenceRoom || w.room() < kLastMatchRoom)
    return w.in == w.end && w.room() == 0 ? Found::equal : Found::unknown;
  const std::size_t distance =
      std::to_integer<std::size_t>(w.in[0]) | std::to_integer<std::size_t>(w.in[1]) << 8;
  w.in += 2;
  if (distance == 0 || distance > w.done()) return Found::unknown;
  std::size_t length = token & 15;
  if (!read_length(w, length)) return Found::unknown;
  length += kMatchMin;
  if (length > w.room() || w.room() - length < kLastLiterals) return Found::unknown;
  if (std::memcmp(w.to, w.to - distance, length) != 0) return Found::unknown;
  w.to += length;
  return Found::nothing_yet;
}

// Is a short sequence right? Byte i of the page is literal i; behind the literals, it is byte i of
// the match, which lies before it in the page. Reads a vector of each.
struct Sequence {
  const std::byte* bytes;
  const std::byte* literals;
  const std::byte* match;
  unsigned literal_count;
  unsigned length;
};

struct Avx2 {
  RAMFOLD_AVX2 static __m256i load(const std::byte* at) noexcept {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  }
  // Bit i is set where byte i is equal.
  RAMFOLD_AVX2 static unsigned equal_bytes(__m256i a, __m256i b) noexcept {
    return static_cast<unsigned>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b)));
  }
  RAMFOLD_AVX2 static bool is_right(const Sequence& s) noexcept {
    const __m256i bytes = load(s.bytes);
    const unsigned literal = equal_bytes(bytes, load(s.literals));
    const unsigned match = equal_bytes(bytes, load(s.match));
    const unsigned right = match ^ _bzhi_u32(literal ^ match, s.literal_count);
    return _bzhi_u32(~right, s.length) == 0;
  }
};

struct Avx512 {
  RAMFOLD_AVX512 static bool is_right(const Sequence& s) noexcept {
    const __mmask32 literals = _bzhi_u32(~0U, s.literal_count);
    const __mmask32 all = _bzhi_u32(~0U, s.length);
    const __m256i right = _mm256_mask_loadu_epi8(Avx2::load(s.match), literals, s.literals);
    return _mm256_mask_cmpneq_epi8_mask(all, Avx2::load(s.bytes), right) == 0;
  }
};

// Goes on by one short sequence, without a branch on its lengths, which cannot be predicted.
// False: the sequence is not short, or differs; nothing was done. REQUIRES: as is_roomy().
template <class Set>
RAMFOLD_INLINED bool short_step(const std::byte*& in, const std::byte*& to,
                                const std::byte* page) noexcept {
  const auto token = std::to_integer<std::size_t>(*in);
  const unsigned length = kShortLengths[token];
  if (length == 0) [[unlikely]]
    return false;
  const std::size_t literals = token >> 4;
  std::uint16_t distance = 0;
  std::memcpy(&distance, in + 1 + literals, sizeof distance);
  // A distance of 0 becomes the largest number.
  if (std::size_t{distance} - 1 >= static_cast<std::size_t>(to - page)) [[unlikely]]
    return false;
  if (!Set::is_right({to, in + 1, to - distance, static_cast<unsigned>(literals), length}))
      [[unlikely]]
    return false;
  in += 1 + literals + sizeof distance;
  to += length;
  return true;
}

// So many short steps may follow each other.
std::size_t short_steps(const Walk& w) noexcept {
  if (!w.is_roomy()) return 0;
  return 1 + std::min((w.left() - kBlockRoom) / kShortBlockMax, (w.room() - kPageRoom) / kShortMax);
}

template <class Set>
RAMFOLD_INLINED void any_step(Walk& w) noexcept {
  if (!w.is_roomy() || !short_step<Set>(w.in, w.to, w.page)) w.found = step(w);
}

template <class Set>
RAMFOLD_INLINED void walk(Walk& w) noexcept {
  while (w.goes_on()) any_step<Set>(w);
}

// Prefetches two blocks, a line with every second step of a walk. So few lines are under way at a
// time; many would hold up the loads of the walk.
class Ahead {
 public:
  explicit Ahead(const Pair& next) noexcept
      : at_(next[0].block.data()), end_(at_ + next[0].block.size()), then_(next[1].block) {}
  void step() noexcept {
    if (at_ < end_) {
      __builtin_prefetch(at_);
      at_ += kStep;
    } else if (!then_.empty()) {
      begin_second();
    }
  }
  void rest() noexcept {
    while (at_ < end_ || !then_.empty()) step();
  }

 private:
  static constexpr std::size_t kStep = 32;
  void begin_second() noexcept {
    at_ = then_.data();
    end_ = at_ + then_.size();
    then_ = {};
  }
  const std::byte* at_;
  const std::byte* end_;
  std::span<const std::byte> then_;
};

// While both go on by short sequences. Registers are few: the loop is a function of its own.
template <class Set>
RAMFOLD_INLINED void walk_short(Walk& a, Walk& b, Ahead& ahead) noexcept {
  const std::byte* const page_a = a.page;
  const std::byte* const page_b = b.page;
  for (bool is_short = true; is_short;) {
    std::size_t steps = std::min(short_steps(a), short_steps(b));
    if (steps == 0) return;
    const std::byte* in_a = a.in;
    const std::byte* in_b = b.in;
    const std::byte* to_a = a.to;
    const std::byte* to_b = b.to;
    for (; steps != 0; --steps) {
      is_short = false;
      if (!short_step<Set>(in_a, to_a, page_a)) break;
      if (!short_step<Set>(in_b, to_b, page_b)) break;
      is_short = true;
      ahead.step();
    }
    a.in = in_a;
    b.in = in_b;
    a.to = to_a;
    b.to = to_b;
  }
}
[[gnu::noinline]] RAMFOLD_AVX2 void walk_short_avx2(Walk& a, Walk& b, Ahead& ahead) noexcept {
  walk_short<Avx2>(a, b, ahead);
}
[[gnu::noinline]] RAMFOLD_AVX512 void walk_short_avx512(Walk& a, Walk& b, Ahead& ahead) noexcept {
  walk_short<Avx512>(a, b, ahead);
}

template <class Set, auto kWalkShort>
RAMFOLD_INLINED void walk(Walk& a, Walk& b, Ahead& ahead) noexcept {
  while (a.goes_on() && b.goes_on()) {
    kWalkShort(a, b, ahead);
    any_step<Set>(a);
    any_step<Set>(b);
  }
  walk<Set>(a);
  walk<Set>(b);
}
RAMFOLD_AVX2 void walk_avx2(Walk& a, Walk& b, Ahead& ahead) noexcept {
  walk<Avx2, walk_short_avx2>(a, b, ahead);
}
RAMFOLD_AVX512 void walk_avx512(Walk& a, Walk& b, Ahead& ahead) noexcept {
  walk<Avx512, walk_short_avx512>(a, b, ahead);
}

Vectors best_vectors() noexcept {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2")) return Vectors::none;
  const bool has_avx512 = __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  return has_avx512 ? Vectors::avx512 : Vectors::avx2;
}

}  // namespace

Vectors vectors_here() noexcept {
  static const Vectors here = best_vectors();
  return here;
}

void compare(Pair& pair, const Pair& next, Vectors vectors) noexcept {
  Ahead ahead(next);
  if (vectors != Vectors::none) {
    Walk a(pair[0]);
    Walk b(pair[1]);
    (vectors == Vectors::avx512 ? walk_avx512 : walk_avx2)(a, b, ahead);
    pair[0].equal = a.found == Found::equal;
    pair[1].equal = b.found == Found::equal;
  }
  ahead.rest();
}

}  // namespace ramfold::store::lz4
