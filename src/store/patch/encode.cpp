// SPDX-License-Identifier: GPL-2.0-or-later
// One pass over the page, greedy with a look at the next byte. Where the page goes on as the
// reference does at the current distance, only what differs costs time: at the starting distance
// that is known for all bytes beforehand. The index of the reference is built when something is
// first looked for elsewhere.
#include <emmintrin.h>
#include <algorithm>
#include <bit>
#include <cstring>

#include "store/patch/patch.hpp"
#include "store/patch/writer.hpp"
#include "store/scratch.hpp"

namespace ramfold::store::patch {
namespace {

constexpr unsigned kWindow = 2 * kPage;  // the reference, then the page
constexpr unsigned kSlack = 8;           // loads of 8 bytes begin anywhere in the window
constexpr unsigned kKey = 4;             // bytes that are hashed
constexpr unsigned kHashBits = 12;
constexpr unsigned kTriesMax = 8;  // places looked at for one position
constexpr unsigned kLongEnough =
    96;  // a match of this length is taken without looking for a better one
constexpr std::uint16_t kNowhere = 0xffff;

struct EncoderScratch {
  alignas(64) std::byte window[kWindow + kSlack];
  std::uint64_t differs[kPage / 64 + 1];  // a bit a byte, page against reference at the same offset
  std::uint16_t head[1 << kHashBits];
  std::uint16_t chain[kWindow];
};

template <typename T>
T load(const std::byte* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

struct Match {
  unsigned length = 0;
  unsigned distance = 0;
  // Bytes that taking it saves against a literal.
  int gain() const noexcept {
    return static_cast<int>(length) - (Writer::is_near(distance, length) ? 2 : 3);
  }
};

class Encoder {
 public:
  Encoder(const PageCopy& page, const PageCopy& reference, std::span<std::byte> out) noexcept
      : s_(thread_scratch<EncoderScratch>()), writer_(out) {
    std::memcpy(s_.window, reference.bytes.data(), kPage);
    std::memcpy(s_.window + kPage, page.bytes.data(), kPage);
    std::memset(s_.window + kWindow, 0, kSlack);
    mark_differences();
  }

  std::uint32_t run() noexcept {
    while (at_ < kWindow && !writer_.is_full()) {
      if (!go_on_at_distance() && !jump()) ++at_;
    }
    end_literal();
    // What a patch leaves out is a copy; one byte at least keeps it a patch.
    if (writer_.is_empty()) writer_.copy(kPage);
    return writer_.finish();
  }

 private:
  void mark_differences() noexcept {
    for (unsigned word = 0; word < kPage / 64; ++word) {
      std::uint64_t same = 0;
      for (unsigned part = 0; part < 4; ++part) {
        const unsigned at = 64 * word + 16 * part;
        const __m128i a = _mm_load_si128(reinterpret_cast<const __m128i*>(s_.window + at));
        const __m128i b = _mm_load_si128(reinterpret_cast<const __m128i*>(s_.window + kPage + at));
        const auto equal = static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(a, b)));
        same |= std::uint64_t{equal} << 16 * part;
      }
      s_.differs[word] = ~same;
    }
    s_.differs[kPage / 64] = 1;  // the end
  }

  // Bytes from `at` that equal those `distance` before them; a copy from the reference ends with
  // it.
  unsigned same_at(unsigned at, unsigned distance) const noexcept {
    if (distance == kStartDistance) {
      const unsigned offset = at - kPage;
      unsigned word = offset / 64;
      std::uint64_t bits = s_.differs[word] >> offset % 64;
      if (bits != 0) return static_cast<unsigned>(std::countr_zero(bits));
      do ++word;
      while (s_.differs[word] == 0);
      return 64 * word + static_cast<unsigned>(std::countr_zero(s_.differs[word])) - offset;
    }
    const unsigned from = at - distance;
    const unsigned most = from < kPage ? std::min(kWindow - at, kPage - from) : kWindow - at;
    return match_length(s_.window + at, s_.window + from, most);
  }
  static unsigned match_length(const std::byte* a, const std::byte* b, unsigned most) noexcept {
    for (unsigned n = 0; n < most; n += 8) {
      const std::uint64_t differs = load<std::uint64_t>(a + n) ^ load<std::uint64_t>(b + n);
      if (differs != 0)
        return std::min(most, n + static_cast<unsigned>(std::countr_zero(differs)) / 8);
    }
    return most;
  }

  // A copy at the current distance, with a fix after it where one is known or can be made. False
  // when neither is worth a step.
  bool go_on_at_distance() noexcept {
    const unsigned same = same_at(at_, distance_);
    const unsigned next = at_ + same;
    if (next == kWindow) {
      end_literal();
      at_ = literal_ = kWindow;  // the rest of a page needs no step
      return true;
    }
    const bool in_literal = literal_ != at_;
    if ((!in_literal || same >= 3) && fix(same, next)) return true;
    if (same < (in_literal ? 3u : 2u)) return false;
    end_literal();
    writer_.copy(same);
    move_to(next);
    return true;
  }

  bool fix(unsigned same, unsigned next) noexcept {
    const unsigned from = next - distance_;
    const unsigned source_end = from < kPage ? kPage : kWindow;
    if (next + kFieldMax > kWindow || from + kFieldMax > source_end || distance_ < kFieldMax)
      return false;
    const std::uint64_t there = load<std::uint64_t>(s_.window + from);
    const std::uint64_t here = load<std::uint64_t>(s_.window + next);
    for (unsigned which = 0; which < kAmountsMax; ++which) {
      const Amount& amount = writer_.amount(which);
      if (amount.width == 0) break;
      if ((((there + amount.value) ^ here) & amount.mask) != 0) continue;
      const unsigned width = amount.width;
      end_literal();
      writer_.fix(which, same);
      move_to(next + width);
      return true;
    }
    for (unsigned width = 1; width <= kFieldMax; ++width) {
      const unsigned after = next + width;
      if (after - distance_ >= source_end) break;
      const unsigned resumes = after == kWindow ? kWindow : same_at(after, distance_);
      if (resumes < (width <= 4 ? 4u : 6u) && after + resumes < kWindow) continue;
      end_literal();
      writer_.fix_by_new({(here - there) & field_mask(width), field_mask(width), width}, same);
      move_to(after);
      return true;
    }
    return false;
  }

  // A match at another distance. False when there is none, or a better one begins a byte later.
  bool jump() noexcept {
    const Match match = find(at_);
    // Within a literal, what comes after the match is another literal and costs a byte more.
    if (match.length == 0 || (literal_ != at_ && match.gain() < 2)) return false;
    if (match.length < kLongEnough && at_ + 1 < kWindow && find(at_ + 1).gain() > match.gain())
      return false;
    end_literal();
    const bool to_the_end = at_ + match.length == kWindow;  // which needs no length
    writer_.copy_from(match.distance, to_the_end ? kFarLengthMin : match.length);
    distance_ = match.distance;
    move_to(at_ + match.length);
    return true;
  }

  Match find(unsigned at) noexcept {
    if (at + kKey > kWindow) return {};
    index_up_to(at);
    Match best;
    best.length = kKey - 1;
    const auto key = load<std::uint32_t>(s_.window + at);
    unsigned tries = kTriesMax;
    for (std::uint16_t place = s_.head[hash(key)]; place != kNowhere && tries != 0;
         place = s_.chain[place], --tries) {
      if (load<std::uint32_t>(s_.window + place) != key) continue;
      const Match match{same_at(at, at - place), at - place};
      if (match.length >= kKey && (best.distance == 0 || match.gain() > best.gain())) best = match;
      if (best.length >= kLongEnough) break;
    }
    return best.distance == 0 ? Match{} : best;
  }

  static unsigned hash(std::uint32_t key) noexcept { return key * 2654435761u >> (32 - kHashBits); }

  void index_up_to(unsigned at) noexcept {
    if (indexed_ == 0) {
      std::memset(s_.head, 0xff, sizeof s_.head);
      for (; indexed_ + kKey <= kPage; ++indexed_) index(indexed_);
      indexed_ = kPage;
      // Where the page equals the reference so far, the reference is found.
      if (distance_ == kStartDistance) indexed_ = literal_;
    }
    for (; indexed_ < at; ++indexed_) index(indexed_);
  }
  void index(unsigned place) noexcept {
    std::uint16_t& head = s_.head[hash(load<std::uint32_t>(s_.window + place))];
    s_.chain[place] = head;
    head = static_cast<std::uint16_t>(place);
  }

  void end_literal() noexcept {
    if (literal_ != at_) writer_.literal(s_.window + literal_, at_ - literal_);
    literal_ = at_;
  }
  void move_to(unsigned at) noexcept { at_ = literal_ = at; }

  EncoderScratch& s_;
  Writer writer_;
  unsigned at_ = kPage;       // all places are those of the window
  unsigned literal_ = kPage;  // begin of the bytes that no step covers yet
  unsigned distance_ = kStartDistance;
  unsigned indexed_ = 0;
};

}  // namespace

std::uint32_t encode(const PageCopy& page, const PageCopy& reference,
                     std::span<std::byte> out) noexcept {
  out = out.first(std::min(out.size(), kPatchMax));
  const std::uint32_t length = Encoder(page, reference, out).run();
  if (length != 0 || out.size() < kPatchMax) return length;
  Writer whole(out);  // noise, with copies that cost more than they saved
  whole.literal(page.bytes.data(), kPage);
  return whole.finish();
}

}  // namespace ramfold::store::patch
