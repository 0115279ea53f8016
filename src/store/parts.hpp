// SPDX-License-Identifier: GPL-2.0-or-later
// The parts of Contents, and the steps that put, get, drop, recovery and the reformer share.
// Threads: as in contents.hpp.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "base/counters.hpp"
#include "base/thread_annotations.hpp"
#include "store/arena/arena.hpp"
#include "store/codec/forms.hpp"
#include "store/content_source.hpp"
#include "store/files.hpp"
#include "store/groups.hpp"
#include "store/header_table.hpp"
#include "store/holds.hpp"
#include "store/index/index.hpp"
#include "store/pool/pools.hpp"
#include "store/readers.hpp"
#include "store/twins.hpp"
#include "store/usage.hpp"

namespace ramfold::store {

//   recovering  no put; a drop frees nothing
//   sweeping    no put; a drop frees
//   ready       everything
// For a count that falls to 0 during the sweep, see Parts::release_if_unused.
enum class Phase : std::uint8_t { recovering, sweeping, ready };

constexpr Shape shape_of(Where where) noexcept { return {where.form(), where.transpose()}; }

// Changes of `where` that are under way. The reformer changes forms, and moves contents within the
// arena. Other threads move contents into a pool and back (store/pool). One thread does so at a
// time: it holds the mutex from before it loads a `where` until it has changed it.
struct Moving {
  static constexpr std::size_t kLeftMax = 64;
  // The old place and reference of a changed content, until no reader can use them. It holds a
  // reference count on the content.
  struct Left {
    ContentId id;
    GroupId group{};
    Where where;
    ContentId reference = kZeroContent;
  };

  Mutex mutex{"Moving"};
  std::vector<Left> left GUARDED_BY(mutex);  // has room for kLeftMax
};

struct Parts {
  std::unique_ptr<HeaderTable> headers;
  std::shared_ptr<GroupTable> groups;  // shared with each GroupUse
  std::unique_ptr<Arena> arena;
  std::unique_ptr<Index> index;
  Pools pools;
  Moving moving;
  Usage& usage;  // of `groups`
  Twins twins;
  Readers readers;  // sections of threads that read encoded bytes, which may move
  HashFunction hash_for_tests = nullptr;
  std::atomic<Phase> phase{Phase::recovering};
  bool has_counted_references = false;  // by finish_recovery(); only its caller uses this
  Holds holds{};
  std::atomic<bool> has_reformer{false};
  Counter similarity_bytes;
  Counter corrupt;
  Counter collisions;
  Counter miscounted;
  std::array<std::atomic<std::uint64_t>, kGroupsMax / 64> stopped_groups{};  // a bit for each group

  // Takes the pools that are those of their groups; closes the other files. Errors: ENOMEM.
  Status adopt_pools(std::vector<PoolFile> files);
  Pool::Identity pool_identity(GroupId group, std::uint64_t pool_id) const noexcept {
    return {group, headers->superblock().store_id, pool_id};
  }
  static Result<std::unique_ptr<Parts>> open(const StoreFiles& files, HashFunction hash);

  std::uint64_t hash(const PageHasher& hasher, const std::byte* page) const noexcept {
    return hash_for_tests == nullptr ? hasher(page) : hash_for_tests(page, hasher.seed());
  }
  bool knows(ContentId id) const noexcept { return id.value != 0 && id.value < headers->limit(); }
  // The bytes may be read, and are not marked as damaged.
  bool readable(Where where) const noexcept { return where.sound(arena->size()) && !where.bad(); }
  // The `where` of `reference`, if contents of this group may refer to it: it is readable, of the
  // same group, and needs no reference itself. Empty otherwise.
  std::optional<Where> may_refer(ContentId reference, GroupId group) const noexcept;
  // The bytes of a sound `where`. nullptr: they are in a pool that the group does not have.
  // REQUIRES: the caller is in a section of `readers`, or has a use of the group.
  const std::byte* data(GroupId group, Where where) const noexcept {
    if (where.place() == Place::arena) [[likely]]
      return arena->data(where.extent());
    const Pool* const pool = pools.find(group);
    return pool == nullptr ? nullptr : pool->data(where.slot());
  }
  // Prefetches all lines of the bytes at once. REQUIRES: as data().
  void prefetch(GroupId group, Where where) const noexcept {
    const std::byte* const at = data(group, where);
    if (at != nullptr) Arena::prefetch(at, where.extent().length);
  }
  // True: guests map the slot of the content, or its second slot, or the mappings are not known
  // yet.
  // REQUIRES: as data().
  bool is_mapped(GroupId group, Where where) const noexcept {
    Pool* const pool = pools.find(group);
    return pool != nullptr && pool->is_mapped(where.slot());
  }
  // Decodes the page of a content; `where` was loaded from its header and is sound. False when the
  // bytes do not decode, or when the content's reference fails may_refer() or does not decode.
  // REQUIRES: the caller is in a section of `readers` since before it loaded `where`; or no
  // contents move meanwhile.
  bool decode(ContentId id, Where where, std::byte* out) const noexcept;
  // The page of a content that others of this group may refer to: in the arena, or in the thread's
  // scratch page. nullptr when it fails may_refer() or does not decode. REQUIRES: as decode().
  const std::byte* reference_page(ContentId id, GroupId group) const noexcept;
  // The decoded bytes match the checksum in the header (I3).
  bool matches_checksum(ContentId id, const std::byte* page) const noexcept;
  // Marks a content bad: it is shared no more, and get() returns `corrupt` from now on.
  void condemn(ContentId id, Where seen) noexcept;
  // Condemns `reference` if it is damaged. Called when the content `of`, which refers to it, did
  // not decode.
  void condemn_damaged(ContentId reference, ContentId of) noexcept;
  // See Contents::drop. Not for kZeroContent.
  Booked drop(GroupId group, ContentId id) noexcept;
  // Checks I5. When the caller's id is wrong, the id may get another content right after the check;
  // the callers do no harm then.
  bool belongs(ContentId id, GroupId group) const noexcept {
    return knows(id) && headers->group(id) == group;
  }
  // The content's count is, or may be, too low: from now on nothing of its group is freed.
  void note_underflow(GroupId group, ContentId id) noexcept;
  // Nothing is put into the group, and nothing of it is freed, before the next recovery.
  void stop(GroupId group) noexcept;
  // What was counted of the group does not add up: counts that, and stops the group.
  void miscount(GroupId group) noexcept {
    miscounted.add();
    stop(group);
  }
  // Gives a slot back that a content of the group, or what was to become one, had for itself. Where
  // no such slot is in use nothing changes and the group is stopped: something of it is damaged.
  void free(Extent at, GroupId group) noexcept;
  // The same for a place of the content `of`. A slot of a pool is retired, and punched later.
  void free_place(Where where, GroupId group, ContentId of) noexcept;
  // Waits until no reader can use the places in moving.left. Then frees them, and gives up what
  // their contents hold. REQUIRES: moving.mutex.
  void settle() noexcept;
  // How many counted pages name the content. It is 0 when that is not known, because too many
  // contents refer to it. REQUIRES: moving.mutex, and nothing is left to settle(); otherwise the
  // reformer's own counts are among them.
  std::uint32_t pages_of(ContentId id) const noexcept;
  // Moves contents of pools that fewer than two pages name, and nobody maps, back to the arena;
  // punches retired slots; drops the pools of groups that are gone. Looks at `looks` slots of each
  // pool.
  void tend_pools(std::uint32_t looks) noexcept;
  void bring_back(Pool& pool, std::uint32_t looks) noexcept;
  bool bring_back(Pool& pool, Pool::Home home) noexcept;
  // In the statistics, moves a content and the references of its pages to its new form. `held`: the
  // caller's own counts of the content, which are no pages. A drop that is under way may still
  // count for the old form. So the sums by form are exact only while no drop is under way.
  void account_switch(ContentId id, GroupId group, Where from, Where to,
                      std::uint32_t held) noexcept;
  bool is_stopped(GroupId group) const noexcept {
    const std::size_t word = group.value / 64;
    return word < stopped_groups.size() &&
           (stopped_groups[word].load(std::memory_order_acquire) >> (group.value % 64) & 1) != 0;
  }
  // Adds references (negative: given up) to the statistics of a content with this `where`.
  void account(Where where, GroupId group, std::int64_t references) noexcept;
  // The same as drop(), for a reference that account() never counted.
  void drop_uncounted(ContentId id) noexcept;
  // Frees a content whose count is 0, unless another thread does.
  void release_if_unused(ContentId id) noexcept;
  // A content that refers to `reference` goes, or changes its form: gives up its hold on
  // `reference`.
  void drop_dependence(ContentId reference) noexcept;
};

}  // namespace ramfold::store
