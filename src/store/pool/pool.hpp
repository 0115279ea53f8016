// SPDX-License-Identifier: GPL-2.0-or-later
// The pool of one trust group: a memory file of raw pages that QEMUs of the group map and read. A
// QEMU gets a descriptor that can only read; the file belongs to the daemon's user and has mode
// 0444, so a QEMU of another user cannot open it for writing.
//
// The life of a slot. A slot is written once, into a hole, and is freed by punching.
//   hole      nothing is known to be in it
//   taken     it has memory, and is being filled
//   home      a header names it
//   spare     a second copy of the page of a home, because the home has kMappingsMax mappings
//   retired   nobody maps it anew. When it has no mapping, it is punched
//   punching  this moment
//   frozen    two headers name it; it stays until the next recovery
// A mapping is counted from before the command to map it is sent, until the owner of the pages
// knows: the page is not mapped, no such command is under way, and nobody has pinned the page
// through the mapping (D1, D10, D12). A retired slot with no counted mapping is punched, and is a
// hole only after the kernel has said that no memory is left in it.
//
// A QEMU that maps the file and reads a hole makes a page of zeros there, at the cost of its own
// memory cgroup. Nothing relies on holes that QEMUs have not touched.
//
// After a restart no slot is given out and none is punched before mappings_known().
//
// Damage: where a slot is not in the state that its caller relies on, nothing is changed and the
// call says so. The caller then stops the group (Parts::miscount).
//
// Threads: any; recovery functions as they say. No lock is held over a system call.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/result.hpp"
#include "base/thread_annotations.hpp"
#include "base/types.hpp"
#include "store/pool/slot.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class Pool {
 public:
  // More mappings of one frame make the kernel's walk over them long, and a memory error costly.
  static constexpr std::uint16_t kMappingsMax = 256;
  static constexpr std::size_t kRunMax = 64;  // slots: 256 KiB are mapped as one range

  struct Identity {
    GroupId group{};
    std::uint64_t store_id = 0;
    std::uint64_t pool_id = 0;
    friend bool operator==(const Identity&, const Identity&) = default;
  };

  // A pool without pages. `size`: a multiple of 4096.
  static Result<std::unique_ptr<Pool>> create(const Identity& identity, ByteCount size);
  // A pool after a restart. EINVAL: the file is not this pool, or QEMUs might write to it.
  static Result<std::unique_ptr<Pool>> adopt(sys::Fd file, const Identity& identity,
                                             ByteCount size);

  const Identity& identity() const noexcept { return identity_; }
  const sys::Fd& file() const noexcept { return file_; }
  // A descriptor for a QEMU: the file is opened anew, for reading.
  Result<sys::Fd> read_only() const;
  // There is such a slot.
  bool has(PoolSlot slot) const noexcept { return exists(slot); }
  std::byte* data(PoolSlot slot) const noexcept {
    return data_.data() + std::size_t{slot.value} * kPageSize;
  }

  // Fills `out` with slots that have memory and are taken: adjacent ones where possible, in rising
  // order within each run. Errors: ENOSPC, ENOMEM, EAGAIN before mappings_known(), E2BIG for more
  // than kRunMax; then no slot is taken. EUCLEAN: damage.
  Status allocate_run(std::span<PoolSlot> out) EXCLUDES(mutex_);
  // A taken slot becomes the home of a content; or is retired, because nobody needs it. False: it
  // is not taken.
  [[nodiscard]] bool settle(PoolSlot slot, ContentId owner) noexcept EXCLUDES(mutex_);
  [[nodiscard]] bool give_back(PoolSlot slot) noexcept EXCLUDES(mutex_);
  // A taken slot becomes the spare of `home`, with one mapping. An older spare is punched when its
  // mappings end. no_home: `home` is not that of `owner`, and `slot` was given back.
  enum class Spare : std::uint8_t { settled, no_home, not_taken };
  [[nodiscard]] Spare settle_spare(PoolSlot slot, PoolSlot home, ContentId owner) noexcept
      EXCLUDES(mutex_);
  // The header of `owner` does not name its home any more. False: it is not the home of `owner`,
  // and nothing has changed.
  [[nodiscard]] bool retire(PoolSlot home, ContentId owner) noexcept EXCLUDES(mutex_);

  // Counts one more mapping of the home of `owner`, or of its spare; returns the one. Empty: both
  // have kMappingsMax mappings, so a new spare is needed; or it is not the home of `owner`; or the
  // mappings are not known.
  std::optional<PoolSlot> map(PoolSlot home, ContentId owner) noexcept EXCLUDES(mutex_);
  // A mapping ended, for which see above. False: none was counted.
  [[nodiscard]] bool unmap(PoolSlot slot) noexcept EXCLUDES(mutex_);
  // The home, or its spare, has mappings; or the mappings are not known.
  bool is_mapped(PoolSlot home) noexcept EXCLUDES(mutex_);

  struct Home {
    PoolSlot slot;
    ContentId owner;
  };
  // The next homes without a mapping, after those of the last call; after the last slot comes the
  // first one again. Looks at up to `looks` slots, and subtracts those it has looked at. Returns
  // how many homes it found.
  std::size_t unmapped_homes(std::span<Home> out, std::uint32_t& looks) noexcept EXCLUDES(mutex_);
  // Punches retired slots without a mapping. False: another slot stood in their list. It left the
  // list, and keeps its page.
  bool punch_retired() noexcept EXCLUDES(mutex_);

  // Recovery: a header names this slot. False: another header does, too; see freeze().
  [[nodiscard]] bool claim(PoolSlot slot, ContentId owner) noexcept EXCLUDES(mutex_);
  void freeze(PoolSlot slot) noexcept EXCLUDES(mutex_);
  // Recovery: a page maps this slot. False: there is no such slot, or the mappings are known.
  [[nodiscard]] bool note_mapping(PoolSlot slot) noexcept EXCLUDES(mutex_);
  // Recovery, after the last claim() and note_mapping(): retires every slot with memory that nobody
  // claimed. From now on slots are given out and punched. One caller at a time.
  Status mappings_known() EXCLUDES(mutex_);
  // Another process will use the file: no slot is given out or punched any more.
  void hand_over() noexcept EXCLUDES(mutex_);

  // Memory behind the file, and the part of it that headers name.
  ByteCount allocated() const noexcept;
  ByteCount stored() const noexcept;
  std::uint64_t mappings() const noexcept { return mappings_.load(std::memory_order_relaxed); }
  ByteCount map_bytes() const noexcept;

 private:
  enum class State : std::uint8_t { hole, taken, home, spare, retired, punching, frozen };
  struct Slot {
    std::uint32_t owner;  // of a home: the content
    std::uint32_t link;   // of a home: its spare; of a spare: its home; of a listed slot: the next
    std::uint16_t mappings;
    State state;
    bool listed;  // in the list of slots to punch
  };
  static_assert(sizeof(Slot) == 12);
  static constexpr std::uint32_t kPunchMax = 256;         // slots that one batch punches
  static constexpr std::uint32_t kSearchMax = 64 * 1024;  // slots that a search looks at

  Pool(sys::Fd file, const Identity& identity, sys::Mapping data, sys::Mapping slots,
       sys::Mapping used) noexcept;
  static Result<std::unique_ptr<Pool>> open(sys::Fd file, const Identity& identity, ByteCount size);

  bool exists(PoolSlot slot) const noexcept { return slot.value != 0 && slot.value < slots_max_; }
  bool is_taken(PoolSlot slot) const noexcept REQUIRES(mutex_) {
    return exists(slot) && slots_[slot.value].state == State::taken;
  }
  bool is_used(std::uint32_t slot) const noexcept REQUIRES(mutex_) {
    return (used_[slot / 64] >> (slot % 64) & 1) != 0;
  }
  bool is_home(PoolSlot slot, ContentId owner) const noexcept REQUIRES(mutex_) {
    return exists(slot) && slots_[slot.value].state == State::home &&
           slots_[slot.value].owner == owner.value;
  }
  // Changes the state of a slot, and what is counted by state.
  void set(std::uint32_t slot, State state) noexcept REQUIRES(mutex_);
  // The first of `n` adjacent holes; 0: none was found.
  std::uint32_t find_run(std::uint32_t n) noexcept REQUIRES(mutex_);
  void retire_now(std::uint32_t slot) noexcept REQUIRES(mutex_);
  void list_if_unmapped(std::uint32_t slot) noexcept REQUIRES(mutex_);
  void unlink_spare(std::uint32_t home) noexcept REQUIRES(mutex_);
  bool take_holes(std::span<PoolSlot> out) noexcept EXCLUDES(mutex_);
  // `intact` becomes false where another slot stands in the list.
  std::size_t take_retired(std::span<std::uint32_t> out, bool& intact) noexcept EXCLUDES(mutex_);
  bool punch(std::uint32_t first, std::uint32_t count) const noexcept;

  sys::Fd file_;
  Identity identity_;
  sys::Mapping data_;
  sys::Mapping slot_memory_;
  sys::Mapping used_memory_;
  std::uint32_t slots_max_;

  Mutex mutex_{"store::Pool"};
  Slot* slots_ GUARDED_BY(mutex_);
  std::uint64_t* used_ GUARDED_BY(mutex_);         // a bit for each slot that is no hole
  bool known_ GUARDED_BY(mutex_) = false;          // since mappings_known()
  std::uint32_t to_punch_ GUARDED_BY(mutex_) = 0;  // the first of the list
  std::uint32_t search_ GUARDED_BY(mutex_) = 1;    // where the next search begins
  std::uint32_t walk_ GUARDED_BY(mutex_) = 1;      // of unmapped_homes()
  std::atomic<std::uint32_t> top_{1};              // slots from here on were never used
  std::atomic<std::uint64_t> backed_{0};
  std::atomic<std::uint64_t> homes_{0};
  std::atomic<std::uint64_t> mappings_{0};
};

}  // namespace ramfold::store
