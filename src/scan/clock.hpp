// SPDX-License-Identifier: GPL-2.0-or-later
// The clock: which class a page is in, by its history, and what is done with it. Pure: it asks
// nobody. An epoch is a pass of the scan over the VM. Of each epoch a page has two bits of history:
//
//   modified    a guard was lifted, or the hash changed. The word's age counts the epochs since.
//   referenced  the guest touched the page. scan/history.hpp counts the epochs since; only pages
//               that were asked about have it.
// Threads: values.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "guest/page_state.hpp"

namespace ramfold::scan {

// The classes of the paper (Difference Engine, section 4.3), by which of the bits were set in the
// last `need` epochs. All are of resident pages; the fourth class is in the store (kAllowed).
enum class PageClass : std::uint8_t { recently_modified, referenced, not_referenced };

struct Allowed {
  PageClass page_class;
  bool may_map;    // may map the pool of its group, if it equals a content that others name
  bool may_leave;  // shared with equal pages, or stored in the form that pays: lz4, zstd, a patch
};
// What a page of each class may become.
//
//   recently modified            left alone
//   not modified, but referenced left where it is, or made to map the pool: then it stays readable.
//                                To fold it would make the guest fault at once
//   not referenced               may leave: shared, patched and compressed
//   not referenced for long      is a hole by then. The store's contents that nobody reads for long
//                                get the densest forms (store/reform)
inline constexpr std::array kAllowed{
    Allowed{PageClass::recently_modified, false, false},
    Allowed{PageClass::referenced, true, false},
    Allowed{PageClass::not_referenced, true, true},
};
constexpr bool may_leave(PageClass page_class) noexcept {
  for (const Allowed& row : kAllowed) {
    if (row.page_class == page_class) return row.may_leave;
  }
  return false;
}

constexpr bool may_map(PageClass page_class) noexcept {
  for (const Allowed& row : kAllowed) {
    if (row.page_class == page_class) return row.may_map;
  }
  return false;
}

// What is known of a page's *referenced* bits.
struct Touches {
  enum class Known : std::uint8_t {
    nothing,    // nobody asks about pages of this VM
    not_asked,  // pages of this VM are asked about, and this one was not lately
    touched,    // lately
    untouched   // in the last `epochs` epochs
  };
  Known known = Known::nothing;
  unsigned epochs = 0;
};

// A page as the scan sees it now.
struct SeenPage {
  PageIndex page;
  bool mapped = false;   // it is in QEMU's page table: touched since it was last forgotten
  bool guarded = false;  // write-protected
};

enum class Verdict : std::uint8_t { leave, observe, fold, again, age };

// The age of a page that was found unchanged, `epochs` after the last look at it. Age 0: it came or
// changed at some time since then, so only this epoch counts.
constexpr unsigned aged(guest::Word word, unsigned epochs) noexcept {
  return std::min(word.age() == 0 ? 1 : word.age() + epochs, guest::Word::kAgeMax);
}

// A page is cold when its bytes did not change over `need` passes:
//
//   need = min(passes * 2^backoff, passes_max, Word::kAgeMax)
//
// The word's `backoff` counts how often the page came back soon after it was folded. Where it is
// known whether pages are referenced, a cold page was not referenced over `need` passes either.
struct ColdRule {
  // A page that came back is asked about before it leaves again. If nobody asks, which a VM's
  // budget can bring about, it waits kUnasked times as long as the back-off wants.
  static constexpr unsigned kUnasked = 8;

  unsigned passes = 2;
  unsigned passes_max = guest::Word::kAgeMax;  // == passes: no back-off. REQUIRES: >= passes
  unsigned epochs = 1;                         // since the last look at the page, this one included
  bool maps = false;                           // pages may map the pool

  PageClass class_of(guest::Word word, Touches touches) const noexcept;
  Verdict judge(guest::Word word, const SeenPage& seen, Touches touches) const noexcept;
  // The page stays for now, and may map the pool if it equals a content that others name. A clean
  // page is known to be unmodified, however short the time since it came back.
  bool stays_and_may_map(guest::Word word, const SeenPage& seen, Touches touches) const noexcept;
  // The page is not folded, and its back-off asks for more than `passes` passes.
  bool holds_back(guest::Word word) const noexcept;
  // So many epochs after this look, a page that stays as it is becomes cold; at least 1.
  unsigned epochs_to_cold(guest::Word word) const noexcept;

 private:
  unsigned need(guest::Word word) const noexcept;
  // Epochs without a change, as far as is known when the look has ended.
  unsigned unmodified(guest::Word word) const noexcept;
};

// The page was folded, and a fault has brought it back.
constexpr bool came_back(guest::Word word) noexcept {
  return word.tag() == guest::Tag::clean || word.backoff() != 0;
}

}  // namespace ramfold::scan
