// SPDX-License-Identifier: GPL-2.0-or-later
// The state of one guest page: an 8-byte word that outlives the daemon, and the owner, a byte that
// does not. Rules T1-T5 of docs/design.md say what a word means; this file says how a word may
// change, and which owner may change it. The Promela model in tests/model is checked against the
// tables below.
// Threads: values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/types.hpp"

namespace ramfold::guest {

// What the word says. Only `folded` and `poisoned` speak of a hole (T3); all else reads as zero
// there.
enum class Tag : std::uint8_t {
  none,      // nothing known
  observed,  // payload: hash bits of the page at its last scan
  clean,     // resident, guarded and equal to the content in the payload (T4)
  folded,    // a hole whose bytes are the content in the payload
  mapped,    // the guest's address maps a copy of the content in the pool, or is about to (T2). A
             // hole of the RAM file is zero, where that is mapped
  poisoned,  // a hole whose bytes cannot be read back (D14)
};
inline constexpr std::size_t kTags = 6;

// Who may change the page. A page is guarded, lifted, filled, punched and its word changed only by
// its owner; word and residency are looked up after taking ownership (D3). `folding` may be taken
// away by a fault at any moment, so it guards and reads but writes no word and lifts no guard: for
// that the way down commits to `punching` first, also when in the end it does not punch.
enum class Owner : std::uint8_t { idle, folding, punching, filling, mapping, restoring };
inline constexpr std::size_t kOwners = 6;

struct Transition {
  Tag from;
  Tag to;
  Owner by;
};
// Every change of a word's tag. A change that keeps the tag (age, back-off, new hash bits) is legal
// for any owner when it keeps the content too.
inline constexpr std::array kTransitions{
    Transition{Tag::none, Tag::observed, Owner::punching},    // first scan
    Transition{Tag::none, Tag::folded, Owner::punching},      // fold without waiting (dense policy)
    Transition{Tag::observed, Tag::folded, Owner::punching},  // fold, after the commit
    Transition{Tag::clean, Tag::folded, Owner::punching},     // fold again: no encoding
    Transition{Tag::folded, Tag::clean, Owner::filling},      // read fault, after COPY with MODE_WP
    Transition{Tag::folded, Tag::none, Owner::filling},      // write fault after COPY; discard seen
    Transition{Tag::clean, Tag::none, Owner::filling},       // write event, before the lift
    Transition{Tag::observed, Tag::none, Owner::filling},    // the same; discard seen
    Transition{Tag::folded, Tag::poisoned, Owner::filling},  // content corrupt
    Transition{Tag::poisoned, Tag::none, Owner::filling},    // discarded by QEMU
    Transition{Tag::clean, Tag::none, Owner::punching},      // found unguarded by a scan
    Transition{Tag::none, Tag::mapped, Owner::mapping},      // before the agent maps the pool
    Transition{Tag::observed, Tag::mapped, Owner::mapping},  // the same
    Transition{Tag::clean, Tag::mapped, Owner::mapping},     // the same; it keeps its content
    Transition{Tag::mapped, Tag::none, Owner::mapping},      // the agent did not map it
    Transition{Tag::mapped, Tag::none, Owner::restoring},    // the RAM file is mapped again
};

struct OwnerChange {
  Owner from;
  Owner to;
};
inline constexpr std::array kOwnerChanges{
    OwnerChange{Owner::idle, Owner::folding},      // a run begins
    OwnerChange{Owner::idle, Owner::filling},      // a fault, a detach
    OwnerChange{Owner::folding, Owner::filling},   // a fault aborts a fold that has not committed
    OwnerChange{Owner::folding, Owner::punching},  // the commit, the point of no return
    OwnerChange{Owner::folding, Owner::idle},      // given up
    OwnerChange{Owner::punching, Owner::idle},     // done
    OwnerChange{Owner::filling, Owner::idle},      // done
    OwnerChange{Owner::idle, Owner::mapping},      // the pool is to be mapped
    OwnerChange{Owner::mapping, Owner::idle},      // done, or given up
    OwnerChange{Owner::idle, Owner::restoring},    // the RAM file is to be mapped again
    OwnerChange{Owner::restoring, Owner::idle},    // done, or given up
};

constexpr bool is_legal(Tag from, Tag to, Owner by) noexcept {
  if (from == to) return by != Owner::idle;
  for (const Transition& t : kTransitions) {
    if (t.from == from && t.to == to && t.by == by) return true;
  }
  return false;
}
constexpr bool is_legal(Owner from, Owner to) noexcept {
  for (const OwnerChange& c : kOwnerChanges) {
    if (c.from == from && c.to == to) return true;
  }
  return false;
}

// The word, as everybody but the page table sees it. Bits: 0-17 zero (in the table's memory the
// check, guest/word_check.hpp), 18-20 tag, 21-23 back-off, 24-31 age, 32-63 payload.
class Word {
 public:
  static constexpr unsigned kBackoffMax = 7;
  static constexpr unsigned kAgeMax = 255;
  static constexpr unsigned kCheckBits = 18;

  constexpr Word() noexcept = default;
  constexpr explicit Word(std::uint64_t bits) noexcept : bits_(bits) {}

  constexpr std::uint64_t bits() const noexcept { return bits_; }
  constexpr Tag tag() const noexcept { return static_cast<Tag>((bits_ >> 18) & 7); }
  // How often the page came back soon after it was folded. It must stay unchanged for `passes <<
  // backoff` passes before it is folded again.
  constexpr unsigned backoff() const noexcept { return (bits_ >> 21) & 7; }
  // observed, clean: passes without a change (saturating). folded: low bits of the pass it was
  // folded in.
  constexpr unsigned age() const noexcept { return (bits_ >> 24) & 255; }
  constexpr std::uint32_t payload() const noexcept {
    return static_cast<std::uint32_t>(bits_ >> 32);
  }

  constexpr bool names_content() const noexcept {
    return tag() == Tag::clean || tag() == Tag::folded || tag() == Tag::mapped;
  }
  // REQUIRES: names_content().
  constexpr ContentId content() const noexcept { return ContentId{payload()}; }

  constexpr Word becomes(Tag tag, std::uint32_t payload, unsigned age,
                         unsigned backoff) const noexcept {
    return Word{(static_cast<std::uint64_t>(tag) << 18) | (std::uint64_t{backoff & 7} << 21) |
                (std::uint64_t{age & 255} << 24) | (std::uint64_t{payload} << 32)};
  }
  constexpr Word becomes(Tag tag, ContentId content, unsigned age,
                         unsigned backoff) const noexcept {
    return becomes(tag, content.value, age, backoff);
  }
  constexpr Word with_age(unsigned age) const noexcept {
    return becomes(tag(), payload(), age, backoff());
  }
  constexpr Word cleared() const noexcept { return becomes(Tag::none, 0u, 0, backoff()); }

  friend constexpr bool operator==(Word, Word) noexcept = default;

 private:
  std::uint64_t bits_ = 0;
};
static_assert(sizeof(Word) == 8);
static_assert(sizeof(ContentId) == 4, "a content fits into the payload");
static_assert(Word{}.tag() == Tag::none, "a sparse table of zeros says that nothing is known");

}  // namespace ramfold::guest
