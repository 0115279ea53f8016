// SPDX-License-Identifier: GPL-2.0-or-later
// Contents in pools: moves them there, and counts who maps them. The steps of a move are those of
// every change of place (docs/store-format.md).
#include <array>
#include <cstring>
#include <utility>

#include "base/check.hpp"
#include "base/test_points.hpp"
#include "store/contents.hpp"
#include "store/parts.hpp"

namespace ramfold::store {
namespace {

static_assert(Contents::kShareRunMax == Pool::kRunMax && Pool::kRunMax <= Moving::kLeftMax);

// Moves the contents of one call into the pool. REQUIRES: Moving::mutex as long as it lives.
class Sharer {
 public:
  Sharer(Parts& parts, GroupId group, Pool& pool) noexcept
      : parts_(parts), group_(group), pool_(pool) {}

  void run(std::span<const ContentId> ids, std::span<Result<PoolSlot>> out);

 private:
  Status allocate(std::span<PoolSlot> out);
  void give_back(PoolSlot slot) noexcept {
    if (!pool_.give_back(slot)) parts_.miscount(group_);
  }
  Result<Where> look(ContentId id) const noexcept;
  Status move(ContentId id, Where from, PoolSlot to) noexcept;
  Result<PoolSlot> map(ContentId id);

  Parts& parts_;
  GroupId group_;
  Pool& pool_;
};

Status Sharer::allocate(std::span<PoolSlot> out) {
  Status allocated = pool_.allocate_run(out);
  if (!allocated && allocated.error().code == EUCLEAN) parts_.miscount(group_);
  return allocated;
}

Result<Where> Sharer::look(ContentId id) const noexcept {
  const HeaderTable& headers = *parts_.headers;
  if (!parts_.belongs(id, group_)) return fail("no content of this group", EINVAL);
  const Where where = headers.where(id);
  if (!parts_.readable(where) || !headers.is_intact(id, where)) {
    return fail("the content's header is damaged", EUCLEAN);
  }
  return where;
}

void Sharer::run(std::span<const ContentId> ids, std::span<Result<PoolSlot>> out) {
  struct Move {
    std::size_t of;
    Where from;
  };
  std::array<Move, Pool::kRunMax> moves{};
  std::array<PoolSlot, Pool::kRunMax> slots;
  std::size_t count = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto where = look(ids[i]);
    bool comes_again = false;
    for (std::size_t k = 0; k < count; ++k) comes_again |= ids[moves[k].of] == ids[i];
    if (!where) {
      out[i] = std::unexpected(where.error());
    } else if (where->place() == Place::pool || comes_again) {
      out[i] = PoolSlot{};
    } else if (parts_.pages_of(ids[i]) < 2) {
      out[i] = fail("the content is not shared", EPERM);
    } else {
      out[i] = PoolSlot{};
      moves[count++] = {i, *where};
    }
  }
  const auto taken = std::span(slots).first(count);
  const Status allocated = count == 0 ? Status{} : allocate(taken);
  for (std::size_t k = 0; k < count; ++k) {
    const std::size_t i = moves[k].of;
    const Status moved = allocated ? move(ids[i], moves[k].from, slots[k]) : Status(allocated);
    if (!moved) out[i] = std::unexpected(moved.error());
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (out[i]) out[i] = map(ids[i]);
  }
}

Status Sharer::move(ContentId id, Where from, PoolSlot slot) noexcept {
  HeaderTable& headers = *parts_.headers;
  PageCopy page;
  if (!parts_.decode(id, from, page.bytes.data()) ||
      !parts_.matches_checksum(id, page.bytes.data())) {
    give_back(slot);
    if (from.has_reference()) parts_.condemn_damaged(headers.reference(id), id);
    parts_.condemn(id, from);
    return fail("the stored bytes do not decode to the page", EIO);
  }
  std::byte* const to = pool_.data(slot);
  std::memcpy(to, page.bytes.data(), kPageSize / 2);
  TEST_POINT("store.pool.write");
  std::memcpy(to + kPageSize / 2, page.bytes.data() + kPageSize / 2, kPageSize / 2);
  if (!parts_.matches_checksum(id, to)) {
    give_back(slot);
    return fail("the bytes in the pool are not the page", EIO);
  }
  // A home before a header names it: from the switch on, a drop may retire it.
  if (!pool_.settle(slot, id)) {
    parts_.miscount(group_);
    return fail("the slots of the pool do not add up", EUCLEAN);
  }
  const Where next = Where::in_pool(slot);
  TEST_POINT("store.pool.filled");
  if (!headers.switch_where(id, from, next)) {  // marked bad meanwhile
    if (!pool_.retire(slot, id)) parts_.miscount(group_);
    return fail("the content was found damaged at this moment", EAGAIN);
  }
  TEST_POINT("store.pool.switch");
  parts_.account_switch(id, group_, from, next, 0);
  headers.notes(id).set_stage(Stage::stored);
  headers.add_reference(id);
  parts_.moving.mutex.is_held();
  parts_.moving.left.push_back(
      {id, group_, from, from.has_reference() ? headers.reference(id) : kZeroContent});
  return {};
}

// Counts a mapping. When the home has the most mappings that it may have, a second slot gets a copy
// of the page.
Result<PoolSlot> Sharer::map(ContentId id) {
  const auto where = look(id);
  if (!where) return std::unexpected(where.error());
  if (where->place() != Place::pool) return fail("the content could not be moved", EAGAIN);
  const PoolSlot home = where->slot();
  if (const auto mapped = pool_.map(home, id)) return *mapped;
  if (!parts_.matches_checksum(id, pool_.data(home))) {
    parts_.condemn(id, *where);
    return fail("the bytes in the pool are not the page", EIO);
  }
  PoolSlot spare;
  if (const Status taken = allocate({&spare, 1}); !taken) {
    return std::unexpected(taken.error());
  }
  std::memcpy(pool_.data(spare), pool_.data(home), kPageSize);
  if (!parts_.matches_checksum(id, pool_.data(spare))) {
    give_back(spare);
    return fail("the bytes in the pool are not the page", EIO);
  }
  const Pool::Spare settled = pool_.settle_spare(spare, home, id);
  if (settled == Pool::Spare::not_taken) parts_.miscount(group_);
  if (settled != Pool::Spare::settled) return fail("the slot is not the content's", EUCLEAN);
  return spare;
}

}  // namespace

Status Parts::adopt_pools(std::vector<PoolFile> files) {
  const ByteCount size = pool_bytes_for(arena->size());
  for (PoolFile& kept : files) {
    // The pool of a group that is gone may still be kept. A file that is not the pool of its group
    // is not used; contents whose bytes were in it are corrupt.
    const auto pool_id = groups->pool_id(kept.group);
    if (!pool_id) continue;
    auto pool = Pool::adopt(std::move(kept.file), pool_identity(kept.group, *pool_id), size);
    if (pool) {
      (void)pools.replace(kept.group, std::move(*pool));
    } else if (pool.error().code != EINVAL) {
      return std::unexpected(pool.error());
    }
  }
  return {};
}

std::uint32_t Parts::pages_of(ContentId id) const noexcept {
  const std::uint32_t dependents = headers->notes(id).dependents();
  const std::uint32_t count = headers->count(id);
  if (dependents == ContentNotes::kDependentsMax || count >= HeaderTable::kPinned) return 0;
  const std::uint32_t others = dependents + (holds.has(id) ? 1 : 0);
  return count < others ? 0 : count - others;
}

void Parts::account_switch(ContentId id, GroupId group, Where from, Where to,
                           std::uint32_t held) noexcept {
  const auto words = static_cast<std::int64_t>(headers->count(id)) - held -
                     headers->notes(id).dependents() - (holds.has(id) ? 1 : 0);
  usage.remove_content(group, from.form(), from.extent().length);
  usage.add_references(group, from.form(), -words);
  usage.add_content(group, to.form(), to.extent().length);
  usage.add_references(group, to.form(), words);
}

Result<Contents::PoolFiles> Contents::pool(GroupId group, MakePool make) {
  Parts& parts = *parts_;
  // An older daemon that took the store back would take a content in a pool for a damaged one.
  if (parts.headers->superblock().version == kFormatWithoutPools)
    return fail("a store of this version has no pools; the next one after an `off` has", ENOTSUP);
  const auto pool_id = parts.groups->pool_id(group);
  if (!pool_id) return fail("the group's entry is damaged", EUCLEAN);
  const MutexLock lock(parts.moving.mutex);
  const Pool::Identity identity = parts.pool_identity(group, *pool_id);
  const Pool* pool = parts.pools.find(group);
  if (pool == nullptr || pool->identity() != identity) {
    if (make == MakePool::no) return fail("the group has no pool", ENOENT);
    if (parts.phase.load(std::memory_order_acquire) != Phase::ready) {
      return fail("the store is recovering", EAGAIN);
    }
    // A VM that is not counted may map pages of a pool that this daemon was not given.
    if (parts.holds.covers(group)) return fail("a VM of the group is not counted", EAGAIN);
    auto made = Pool::create(identity, pool_bytes_for(parts.arena->size()));
    if (!made) return std::unexpected(made.error());
    pool = made->get();
    const auto old = parts.pools.replace(group, std::move(*made));  // of a group that is gone
    if (old != nullptr) parts.readers.wait();
  }
  auto kept = pool->file().duplicate();
  if (!kept) return std::unexpected(kept.error());
  auto read_only = pool->read_only();
  if (!read_only) return std::unexpected(read_only.error());
  return PoolFiles{{group, std::move(*kept), identity.pool_id}, std::move(*read_only)};
}

Result<std::vector<PoolFile>> Contents::pool_files() const {
  Parts& parts = *parts_;
  const MutexLock lock(parts.moving.mutex);
  std::vector<PoolFile> files;
  for (std::uint32_t i = 0; i < parts.groups->limit(); ++i) {
    const GroupId group{static_cast<std::uint16_t>(i)};
    const Pool* const pool = parts.pools.find(group);
    if (pool == nullptr || parts.groups->pool_id(group) != pool->identity().pool_id) continue;
    auto file = pool->file().duplicate();
    if (!file) return std::unexpected(file.error());
    files.push_back({group, std::move(*file), pool->identity().pool_id});
  }
  return files;
}

void Contents::share_run(GroupId group, std::span<const ContentId> ids,
                         std::span<Result<PoolSlot>> out) {
  ENSURE(ids.size() == out.size() && ids.size() <= kShareRunMax);
  Parts& parts = *parts_;
  const auto refuse = [&](const char* why, int code) {
    for (auto& result : out) result = fail(why, code);
  };
  if (parts.groups->hasher(group) == nullptr) return refuse("there is no such group", EINVAL);
  const MutexLock lock(parts.moving.mutex);
  if (parts.phase.load(std::memory_order_acquire) != Phase::ready) {
    return refuse("the store is recovering", EAGAIN);
  }
  if (parts.is_stopped(group)) return refuse("the group's references do not add up", EUCLEAN);
  Pool* const pool = parts.pools.find(group);
  if (pool == nullptr) return refuse("the group has no pool", ENOENT);
  parts.settle();
  Sharer(parts, group, *pool).run(ids, out);
  parts.settle();
}

bool Contents::is_shared(GroupId group, ContentId id) const noexcept {
  return parts_->belongs(id, group) && parts_->pages_of(id) >= 2;
}

Booked Contents::unmap(GroupId group, PoolSlot slot) noexcept {
  Pool* const pool = parts_->pools.find(group);
  if (pool != nullptr && pool->unmap(slot)) return Booked::done;
  // A mapping was given up twice. So the count of some slot is too low, and a guest may map a slot
  // that would be punched.
  parts_->miscount(group);
  return Booked::refused;
}

Result<Booked> Contents::note_mapping(GroupId group, ContentId id, PoolSlot slot) noexcept {
  Parts& parts = *parts_;
  Pool* const pool = parts.pools.find(group);
  if (pool == nullptr || !pool->has(slot)) return fail("there is no such slot", ENOENT);
  if (!pool->note_mapping(slot)) {
    parts.miscount(group);  // a page maps a slot, and is not counted
    return fail("too many pages map the slot, or it is too late to note it", EOVERFLOW);
  }
  if (!parts.belongs(id, group)) return Booked::refused;
  if (parts.headers->where(id).bits() == Where::in_pool(slot).bits()) return Booked::done;
  return parts.matches_checksum(id, pool->data(slot)) ? Booked::done : Booked::refused;
}

Status Contents::mappings_known(GroupId group) {
  if (parts_->phase.load(std::memory_order_acquire) != Phase::ready) {
    return fail("the store is recovering", EAGAIN);
  }
  if (has_uncounted(group)) return fail("a VM of the group is not counted", EAGAIN);
  Pool* const pool = parts_->pools.find(group);
  return pool == nullptr ? Status{} : pool->mappings_known();
}

}  // namespace ramfold::store
