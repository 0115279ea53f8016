// SPDX-License-Identifier: GPL-2.0-or-later
// What Contents is made of, and the steps its three sides (put, get and drop, recovery) share.
// Threads: as in contents.hpp.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>

#include "base/counters.hpp"
#include "store/arena/arena.hpp"
#include "store/codec/forms.hpp"
#include "store/content_source.hpp"
#include "store/files.hpp"
#include "store/groups.hpp"
#include "store/header_table.hpp"
#include "store/index/index.hpp"
#include "store/readers.hpp"
#include "store/twins.hpp"
#include "store/usage.hpp"

namespace ramfold::store {

// recovering: no put, drops free nothing. sweeping: no put, drops free. The order matters for a
// count that falls to 0 while the sweep passes: see Parts::release_if_unused.
enum class Phase : std::uint8_t { recovering, sweeping, ready };

constexpr Shape shape_of(Where where) noexcept { return {where.form(), where.transpose()}; }

struct Parts {
  std::unique_ptr<HeaderTable> headers;
  std::shared_ptr<GroupTable> groups;  // each GroupUse has it, too
  std::unique_ptr<Arena> arena;
  std::unique_ptr<Index> index;
  Usage& usage;  // of `groups`
  Twins twins;
  Readers readers;  // of bytes that may move
  HashFunction hash_for_tests = nullptr;
  std::atomic<Phase> phase{Phase::recovering};
  bool has_counted_references = false;  // finish_recovery() came so far; its caller's
  std::atomic<bool> has_reformer{false};
  Counter similarity_bytes;
  Counter corrupt;
  Counter collisions;
  Counter miscounted;
  std::array<std::atomic<std::uint64_t>, kGroupsMax / 64> stopped_groups{};  // a bit each

  static Result<std::unique_ptr<Parts>> open(const StoreFiles& files, HashFunction hash);

  std::uint64_t hash(const PageHasher& hasher, const std::byte* page) const noexcept {
    return hash_for_tests == nullptr ? hasher(page) : hash_for_tests(page, hasher.seed());
  }
  bool knows(ContentId id) const noexcept { return id.value != 0 && id.value < headers->limit(); }
  // Its bytes can be looked at, and nobody has found them damaged.
  bool readable(Where where) const noexcept { return where.sound(arena->size()) && !where.bad(); }
  // Where the bytes of `reference` are, if a patch or delta of this group may refer to it: a
  // readable content of the same group that needs no reference itself.
  std::optional<Where> may_refer(ContentId reference, GroupId group) const noexcept;
  // The page of a content whose `where` was seen to be so and is sound; false when it does not
  // decode. For a patch or delta that includes a reference that is none: not live, of another
  // group, or one itself. REQUIRES: a section of `readers` since before `where` was loaded, or that
  // nothing moves.
  bool decode(ContentId id, Where where, std::byte* out) const noexcept;
  // The bytes of a content that is none of those, by reference or in the thread's scratch page;
  // nullptr when it cannot serve as a reference in this group. REQUIRES: as above.
  const std::byte* reference_page(ContentId id, GroupId group) const noexcept;
  // The decoded bytes match the checksum in the header (I3).
  bool matches_checksum(ContentId id, const std::byte* page) const noexcept;
  // Puts a content out of use for sharing. Its readers will see `corrupt` from now on.
  void condemn(ContentId id, Where seen) noexcept;
  // The same for the reference of a content that did not decode, if it is the reference that is
  // damaged.
  void condemn_damaged(ContentId reference, ContentId of) noexcept;
  // See Contents::drop. Not for kZeroContent.
  Booked drop(GroupId group, ContentId id) noexcept;
  // I5. What the id's header says may be another content's a moment later when the caller's id is
  // wrong; nothing that is decided by it does harm then.
  bool belongs(ContentId id, GroupId group) const noexcept {
    return knows(id) && headers->group(id) == group;
  }
  // Its count is, or may be, below the truth: it is kept, and so is all of its group.
  void note_underflow(GroupId group, ContentId id) noexcept;
  bool is_stopped(GroupId group) const noexcept {
    const std::size_t word = group.value / 64;
    return word < stopped_groups.size() &&
           (stopped_groups[word].load(std::memory_order_acquire) >> (group.value % 64) & 1) != 0;
  }
  // Enters references taken or given up in the statistics.
  void account(Where where, GroupId group, std::int64_t references) noexcept;
  // The same as drop() for a reference that was taken but never entered in the usage.
  void drop_uncounted(ContentId id) noexcept;
  // Frees a content whose count is 0, unless somebody else does.
  void release_if_unused(ContentId id) noexcept;
  // What a patch or delta held: its reference has one dependent less.
  void drop_dependence(ContentId reference) noexcept;
};

}  // namespace ramfold::store
