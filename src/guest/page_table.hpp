// SPDX-License-Identifier: GPL-2.0-or-later
// The page table of one VM: an array of words in a memory file that the keeper holds (sparse: RAM
// that was never folded or observed costs nothing), an array of owners that need not survive, and
// the discard bitmap shared with the agent. The only writer of page state.
//
// Threads: all functions may be called from any thread. Only the owner of a page changes its word.
// Lost wake-ups: a fault that may not take a page from its owner marks the page contended and drops
// the event. The owner's release() reports the mark, and the owner must then UFFDIO_WAKE the page.
// Damage: memory can change by itself or by somebody's stray write. So a word carries a check
// (guest/word_check.hpp). When it does not hold, load() returns a DamagedWord, and every caller
// must handle that.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "agent/wire.h"
#include "base/result.hpp"
#include "guest/page_state.hpp"
#include "guest/word_check.hpp"
#include "sys/memory.hpp"

namespace ramfold::guest {

enum class Taken { owned, busy };
enum class Released { quiet, contended };
// illegal: there is no such transition. moved: the word is not the one that was seen. In both cases
// nothing was written. Only a page's owner writes its word, so both are a bug or damage; see
// Vm::advance.
enum class Advanced { done, illegal, moved };

class PageTable {
 public:
  // A table for `pages` pages over `words`, a memory file of words_size(pages) bytes, and `shared`,
  // the memory shared with the agent, of shared_size(pages) bytes. The caller keeps both
  // descriptors. `seed`: of the words' check (word_seed()).
  static Result<PageTable> open(sys::BorrowedFd words, sys::BorrowedFd shared, PageCount pages,
                                std::uint64_t seed);
  static ByteCount words_size(PageCount pages) noexcept;
  static ByteCount shared_size(PageCount pages) noexcept;
  // Of the owners, in the daemon's own memory: the most, and what they take now.
  static ByteCount owners_size(PageCount pages) noexcept;
  ByteCount owners_in_memory() const noexcept;

  PageCount pages() const noexcept { return pages_; }
  rf_shared& shared() const noexcept { return *shared_.as<rf_shared>(); }

  LoadedWord load(PageIndex p) const noexcept {
    return check_.open(p, word(p).load(std::memory_order_acquire));
  }
  // REQUIRES: the caller owns p as `by`; `seen` is the word it loaded since.
  [[nodiscard]] Advanced advance(PageIndex p, Word seen, Word next, Owner by) noexcept;
  // Replaces a damaged word. `to`: `none` for a page that is resident or discarded, else
  // `poisoned`, because nobody knows the bytes of the hole.
  // REQUIRES: as above.
  [[nodiscard]] Advanced repair(PageIndex p, DamagedWord seen, Tag to, Owner by) noexcept;

  Owner owner(PageIndex p) const noexcept;
  // idle -> folding, by the way down; false when somebody owns it.
  [[nodiscard]] bool take_for_fold(PageIndex p) noexcept;
  // idle or folding (which aborts that fold) -> filling, by a fault or a detach; busy: marked
  // contended.
  [[nodiscard]] Taken take_for_fill(PageIndex p) noexcept;
  // idle -> filling only. Leaves another owner alone, and does not mark the page contended. For
  // fills for which no thread of the VM waits.
  [[nodiscard]] bool take_idle_for_fill(PageIndex p) noexcept;
  // folding -> punching: the commit. False: a fault took the page; it must not be punched.
  [[nodiscard]] bool commit(PageIndex p) noexcept;
  // folding -> idle; false when a fault took the page meanwhile (it is no longer the caller's).
  bool give_up_fold(PageIndex p) noexcept;
  // idle -> mapping, idle -> restoring; false when somebody owns it. No fault takes the page away.
  [[nodiscard]] bool take_for_mapping(PageIndex p) noexcept;
  [[nodiscard]] bool take_for_restoring(PageIndex p) noexcept;
  // punching, filling, mapping or restoring -> idle.
  [[nodiscard]] Released release(PageIndex p) noexcept;

  // T5. The hole at p is zero whatever its word says.
  bool discarded(PageIndex p) const noexcept;
  // REQUIRES: the caller owns p and its word says "zero" for a hole. May leave the bit set when a
  // discard is under way; it is then cleared another time.
  void clear_discard(PageIndex p) noexcept;

 private:
  PageTable(sys::Mapping words, sys::Mapping owners, sys::Mapping shared, PageCount pages,
            WordCheck check) noexcept;

  bool take_idle(PageIndex p, Owner by) noexcept;
  Advanced replace(PageIndex p, std::uint64_t stored, Word next) noexcept;
  std::atomic_ref<std::uint64_t> word(PageIndex p) const noexcept {
    return std::atomic_ref<std::uint64_t>(words_.as<std::uint64_t>()[p.value]);
  }
  std::atomic_ref<std::uint8_t> owner_byte(PageIndex p) const noexcept {
    return std::atomic_ref<std::uint8_t>(owners_.as<std::uint8_t>()[p.value]);
  }
  std::atomic_ref<std::uint64_t> discard_word(PageIndex p) const noexcept;

  sys::Mapping words_;
  sys::Mapping owners_;
  sys::Mapping shared_;
  PageCount pages_;
  WordCheck check_;
};

}  // namespace ramfold::guest
