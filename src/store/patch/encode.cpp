// SPDX-License-Identifier: GPL-2.0-or-later
// One greedy pass over the page, with a look at the next byte. Where the page equals the bytes at
// the current distance, only differing bytes cost time; at the starting distance the differing
// bytes are known beforehand. The index of the reference is built when a match is first looked for
// at another distance.
#include <algorithm>
#include <bit>

#include "store/patch/match_index.hpp"
#include "store/patch/patch.hpp"
#include "store/patch/window.hpp"
#include "store/patch/writer.hpp"
#include "store/scratch.hpp"

namespace ramfold::store::patch {
namespace {

constexpr unsigned kTriesMax = 8;     // places of the index that are tried for one position
constexpr unsigned kLongEnough = 96;  // a match of this length is taken without further tries
constexpr unsigned kLongCopy = 16;    // bytes of copies of this length are not indexed again

struct EncoderScratch {
  Window window;
  MatchIndex index;
};

struct Match {
  unsigned length = 0;
  unsigned distance = 0;
  // How many bytes the match saves against a literal.
  int gain() const noexcept {
    return static_cast<int>(length) - (Writer::is_near(distance, length) ? 2 : 3);
  }
};

class Encoder {
 public:
  Encoder(const PageCopy& page, const PageCopy& reference, std::span<std::byte> out) noexcept
      : Encoder(thread_scratch<EncoderScratch>(), out) {
    window_.fill(page, reference);
  }

  std::uint32_t run() noexcept {
    while (at_ < kWindow && !writer_.is_full()) {
      if (!go_on_at_distance() && !jump()) ++at_;
    }
    end_literal();
    // The end of the page needs no step if it is a copy at the current distance. But a patch has at
    // least one byte.
    if (writer_.is_empty()) writer_.copy(kPage);
    return writer_.finish();
  }

 private:
  Encoder(EncoderScratch& scratch, std::span<std::byte> out) noexcept
      : window_(scratch.window), index_(scratch.index), writer_(out) {}

  // Writes a copy at the current distance, with a fix after it if an amount is known or can be
  // made. False when neither is worth a step.
  bool go_on_at_distance() noexcept {
    const unsigned same = window_.same_at(at_, distance_);
    const unsigned next = at_ + same;
    if (next == kWindow) {
      end_literal();
      at_ = literal_ = kWindow;  // the rest of a page needs no step
      return true;
    }
    const bool in_literal = literal_ != at_;
    if ((!in_literal || same >= 3) && fix(same, next)) return true;
    if (same < (in_literal ? 3u : 2u)) return false;
    begin_copy(same);
    writer_.copy(same);
    move_to(next);
    return true;
  }

  bool fix(unsigned same, unsigned next) noexcept {
    const unsigned from = next - distance_;
    const unsigned source_end = from < kPage ? kPage : kWindow;
    if (next + kFieldMax > kWindow || from + kFieldMax > source_end || distance_ < kFieldMax)
      return false;
    const auto there = window_.load_at<std::uint64_t>(from);
    const auto here = window_.load_at<std::uint64_t>(next);
    if (const unsigned which = writer_.find_amount(there, here); which < kAmountsMax) {
      const unsigned width = writer_.amount(which).width;
      begin_copy(same);
      writer_.fix(which, same);
      move_to(next + width);
      return true;
    }
    const unsigned width = width_until_same(next, from, source_end);
    if (width == 0) return false;
    begin_copy(same);
    writer_.fix_by_new({(here - there) & field_mask(width), field_mask(width), width}, same);
    move_to(next + width);
    return true;
  }

  // The least width of a field behind which the page equals the source again: for at least 4 bytes
  // behind a field of 1 to 4 bytes, for at least 6 behind one of 5 to 8. 0: there is none.
  unsigned width_until_same(unsigned next, unsigned from, unsigned source_end) const noexcept {
    unsigned equal = window_.equal16(next, from);
    if (next + 16 > kWindow)
      equal |= ~0u << (kWindow - next);  // behind the page all counts as equal
    if (from + 16 > source_end && distance_ != kStartDistance)
      equal &= ~(~0u << (source_end - from));
    const unsigned four = equal & equal >> 1 & equal >> 2 & equal >> 3;
    const unsigned six = four & equal >> 4 & equal >> 5;
    const unsigned resumes = (four & 0b1'1110) | (six & 0b1'1110'0000);
    return resumes == 0 ? 0 : static_cast<unsigned>(std::countr_zero(resumes));
  }

  // Writes a match at another distance. False when there is none, or when a better one begins a
  // byte later.
  bool jump() noexcept {
    const Match match = ahead_at_ == at_ ? ahead_ : find(at_);
    // In the middle of a literal, a match splits it into two, and the second one costs a byte more.
    if (match.length == 0 || (literal_ != at_ && match.gain() < 2)) return false;
    if (match.length < kLongEnough && at_ + 1 < kWindow) {
      ahead_ = find(at_ + 1);
      ahead_at_ = at_ + 1;
      if (ahead_.gain() > match.gain()) return false;
    }
    const unsigned before = same_before(match.distance);
    const unsigned length = before + match.length;
    at_ -= before;
    begin_copy(length);
    const bool to_the_end = at_ + length == kWindow;  // then the least length is enough
    writer_.copy_from(match.distance, to_the_end ? kFarLengthMin : length);
    distance_ = match.distance;
    move_to(at_ + length);
    return true;
  }

  // How many bytes of the pending literal, before `at_`, the match may be extended by. The index
  // does not have all places, so a match may begin before the place at which it was found.
  unsigned same_before(unsigned distance) const noexcept {
    const unsigned from = at_ - distance;
    const unsigned source = from < kPage ? from : from - kPage;  // bytes before it in its page
    const unsigned most = std::min({at_ - literal_, source, MatchIndex::kEighths - 1});
    unsigned n = 0;
    while (n < most && *window_.at(at_ - n - 1) == *window_.at(from - n - 1)) ++n;
    return n;
  }

  Match find(unsigned at) noexcept {
    if (at + MatchIndex::kKey > kWindow) return {};
    index_up_to(at);
    const auto key = window_.load_at<std::uint32_t>(at);
    Match best;
    int gain = 0;
    const auto consider = [&](unsigned distance) {
      if (window_.load_at<std::uint32_t>(at - distance) != key) return;
      const Match match{window_.same_at(at, distance), distance};
      if (match.length < MatchIndex::kKey || match.gain() <= gain) return;
      best = match;
      gain = match.gain();
    };
    // First the same offset of the reference, whose entry may be far back in its chain.
    if (distance_ != kStartDistance) consider(kStartDistance);
    unsigned tries = kTriesMax;
    for (std::uint16_t place = index_.latest(key);
         place != MatchIndex::kNowhere && tries != 0 && best.length < kLongEnough;
         place = index_.before(place), --tries) {
      consider(at - place);
    }
    return best;
  }

  void index_up_to(unsigned at) noexcept {
    if (indexed_ == 0) {
      index_.begin_with_reference(window_);
      // While the distance is the starting one, the page up to here is like the reference, and its
      // bytes are found there.
      indexed_ = distance_ == kStartDistance ? literal_ : kPage;
    }
    if (indexed_ >= at) return;
    index_.add(window_, indexed_, at);
    indexed_ = at;
  }

  // Writes the pending literal. The bytes of a long copy are not indexed, because their source is.
  void begin_copy(unsigned length) noexcept {
    if (literal_ != at_) end_literal();
    if (indexed_ == 0 || length < kLongCopy) return;
    index_up_to(at_);
    indexed_ = at_ + length - (MatchIndex::kKey - 1);
  }
  void end_literal() noexcept {
    if (literal_ != at_) writer_.literal(window_.at(literal_), at_ - literal_);
    literal_ = at_;
  }
  void move_to(unsigned at) noexcept { at_ = literal_ = at; }

  Window& window_;
  MatchIndex& index_;
  Writer writer_;
  unsigned at_ = kPage;       // a place in the window
  unsigned literal_ = kPage;  // [literal_, at_) is the pending literal
  unsigned distance_ = kStartDistance;
  unsigned indexed_ = 0;
  Match ahead_;  // the match at ahead_at_, once it was searched
  unsigned ahead_at_ = 0;
};

}  // namespace

std::uint32_t encode(const PageCopy& page, const PageCopy& reference,
                     std::span<std::byte> out) noexcept {
  out = out.first(std::min(out.size(), kPatchMax));
  const std::uint32_t length = Encoder(page, reference, out).run();
  if (length != 0 || out.size() < kPatchMax) return length;
  Writer whole(out);  // the patch is longer than one literal: its copies cost more than they saved
  whole.literal(page.bytes.data(), kPage);
  return whole.finish();
}

}  // namespace ramfold::store::patch
