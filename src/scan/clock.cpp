// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan/clock.hpp"

namespace ramfold::scan {

using guest::Tag;
using guest::Word;

unsigned ColdRule::need(Word word) const noexcept {
  return std::min({passes << word.backoff(), passes_max, Word::kAgeMax});
}

bool ColdRule::holds_back(Word word) const noexcept {
  const Tag tag = word.tag();
  const bool candidate = tag == Tag::none || tag == Tag::observed || tag == Tag::clean;
  return candidate && need(word) > passes;
}

unsigned ColdRule::unmodified(Word word) const noexcept {
  // Of a page without a word nothing is known.
  return word.tag() == Tag::none ? 0 : aged(word, epochs);
}

unsigned ColdRule::epochs_to_cold(Word word) const noexcept {
  const unsigned needed = need(word);
  return needed - std::min(unmodified(word), needed - 1);
}

PageClass ColdRule::class_of(Word word, Touches touches) const noexcept {
  const unsigned needed = need(word);
  const unsigned unmodified = this->unmodified(word);
  if (unmodified < needed) return PageClass::recently_modified;
  switch (touches.known) {
    case Touches::Known::nothing: break;
    case Touches::Known::not_asked:
      if (came_back(word) && unmodified < std::min(kUnasked * needed, Word::kAgeMax))
        return PageClass::referenced;
      break;
    case Touches::Known::touched: return PageClass::referenced;
    case Touches::Known::untouched:
      if (touches.epochs < needed) return PageClass::referenced;
      break;
  }
  return PageClass::not_referenced;
}

bool ColdRule::stays_and_may_map(Word word, const SeenPage& seen, Touches touches) const noexcept {
  if (!maps) return false;
  const PageClass page_class = class_of(word, touches);
  if (word.tag() == Tag::clean) {
    return seen.guarded && (word.age() == 0 || !may_leave(page_class));
  }
  return word.tag() == Tag::observed && !may_leave(page_class) && may_map(page_class);
}

Verdict ColdRule::judge(Word word, const SeenPage& seen, Touches touches) const noexcept {
  const bool cold = may_leave(class_of(word, touches));
  switch (word.tag()) {
    case Tag::none: return cold ? Verdict::fold : Verdict::observe;
    case Tag::observed:
      if (cold) return Verdict::fold;
      // Nobody has touched it since it was forgotten, so nobody has changed it.
      return touches.known == Touches::Known::untouched && touches.epochs != 0 ? Verdict::age
                                                                               : Verdict::observe;
    case Tag::clean:
      if (!seen.guarded) return Verdict::observe;
      // It has just come back, so it was touched. It is mapped rather than folded again.
      if (maps && word.age() == 0) return Verdict::age;
      return cold ? Verdict::again : Verdict::age;
    case Tag::folded:
      // The page is there although the word says folded: a crash came between word and punch. While
      // it is guarded, it equals its content (T4).
      return seen.guarded ? Verdict::again : Verdict::leave;
    case Tag::mapped:
    case Tag::poisoned: break;
  }
  return Verdict::leave;
}

}  // namespace ramfold::scan
