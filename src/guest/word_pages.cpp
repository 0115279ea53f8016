// SPDX-License-Identifier: GPL-2.0-or-later
// The memory behind a page table's words: 8 bytes a page that was ever observed. A guest that
// touches much RAM and gives it back would leave the daemon with the words of all of it.
//
// A page of the file is punched only while its 512 guest pages have one owner, this thread. Only
// the owner of a page changes its word, so no word can come to name a content between the look at
// it and the punch. A thread that reads a word without owning the page sees the old word or `none`;
// both are true.
#include "base/check.hpp"
#include "base/test_points.hpp"
#include "guest/vm.hpp"

namespace ramfold::guest {
namespace {

// A damaged word may have said that a hole holds something.
bool may_go(const LoadedWord& word) noexcept {
  return word && (word->tag() == Tag::none || word->tag() == Tag::observed);
}

}  // namespace

bool Vm::free_words(PageIndex first) noexcept {
  ENSURE(first.value % kWordsAPage == 0);
  const PageIndex end{std::min(first.value + kWordsAPage, pages().value)};
  // Where the file has a hole there is nothing to do, and the owners are not touched.
  if (first >= end || backed_from(first.value) >= end.value) return false;
  const auto all_may_go = [&] {
    for (PageIndex p = first; p < end; p = p + PageCount{1}) {
      if (!may_go(table_.load(p))) return false;
    }
    return true;
  };
  if (!all_may_go()) return false;
  PageIndex owned = first;
  while (owned < end && table_.take_idle_for_fill(owned)) owned = owned + PageCount{1};
  bool freed = false;
  if (owned == end && all_may_go()) {
    TEST_POINT("words.free");
    freed = sys::punch(files_.words, ByteCount{first.value * sizeof(Word)}, ByteCount{kPageSize})
                .has_value();
  }
  for (PageIndex p = first; p < owned; p = p + PageCount{1}) release(p);
  return freed;
}

}  // namespace ramfold::guest
